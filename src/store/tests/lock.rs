//! Who waits for the lock, how long, and who keeps it.

use super::*;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    sync::Mutex,
    thread,
    time::Instant,
};

#[test]
fn waiting_ends_at_the_deadline_and_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let held = store.lock(LONG).unwrap();
    let start = Instant::now();
    let refused = store.lock(Duration::from_millis(50)).unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(matches!(refused, StoreError::Locked { .. }));
    assert_eq!(
        refused.to_string(),
        format!("cannot lock {} within 50ms", store.dir.join("lock").display())
    );

    // The waiter that gave up takes the lock when it comes, and drops it at once.
    drop(held);
    drop(store.lock(LONG).unwrap());
}

#[test]
fn a_waiter_gets_the_lock_when_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let held = store.lock(LONG).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| store.lock(LONG).map(drop));
        assert!(matches!(store.lock(Duration::ZERO), Err(StoreError::Locked { .. })));
        drop(held);
        waiter.join().unwrap().unwrap();
    });
}

/// The plugin is killed while its `nft` still runs: until that has ended, the
/// kernel may change, so nobody else may have the lock.
#[test]
fn a_child_keeps_the_lock_of_a_killed_parent() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let _lock = store(Path::new(&dir)).lock(LONG).unwrap();
        let mut grandchild = Command::new("cat").stdout(Stdio::null()).spawn().unwrap();
        println!("\nlocked");
        grandchild.wait().unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = child("lock::a_child_keeps_the_lock_of_a_killed_parent", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line == "locked"));
    child.kill().unwrap();
    let stdin = child.stdin.take();
    child.wait().unwrap();
    let store = store(dir.path());
    assert!(matches!(store.lock(Duration::from_millis(50)), Err(StoreError::Locked { .. })));
    // The end of its input ends the grandchild, and with it the lock.
    drop(stdin);
    drop(store.lock(LONG).unwrap());
}

/// Whoever gives the lock back wakes one waiter, the one that came first.
#[test]
fn waiters_sleep_until_it_is_their_turn() {
    const WAITERS: usize = 50;
    /// Woken at each release, a waiter in the middle would have slept 25 times.
    const TOLERATED: u32 = 5;
    let Some(dir) = std::env::var_os(CHILD) else {
        // The threads of other tests wait for locks as well.
        let dir = tempfile::tempdir().unwrap();
        let test = "lock::waiters_sleep_until_it_is_their_turn";
        let child = child(test, dir.path()).output().unwrap();
        assert!(child.status.success(), "{child:?}");
        return;
    };
    let store = store(Path::new(&dir));
    let held = store.lock(LONG).unwrap();
    let inode = File::open(store.dir.join("lock")).unwrap().metadata().unwrap().ino();
    let served = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let (store, served) = (&store, &served);
        for number in 0..WAITERS {
            scope.spawn(move || {
                let _lock = store.lock(LONG).unwrap();
                served.lock().unwrap().push((number, most_sleeps_of_waiters()));
            });
            let deadline = Instant::now() + LONG;
            while waiters(inode) <= number {
                assert!(Instant::now() < deadline, "{number} does not wait");
                thread::yield_now();
            }
        }
        drop(held);
    });
    let served = served.into_inner().unwrap();
    let order: Vec<_> = served.iter().map(|(number, _)| *number).collect();
    assert_eq!(order, (0..WAITERS).collect::<Vec<_>>());
    assert!(served.iter().all(|(_, sleeps)| *sleeps <= TOLERATED), "{served:?}");
}

/// How many wait for the lock of this file.
fn waiters(inode: u64) -> usize {
    let file = format!(":{inode} ");
    let waits = |line: &&str| line.contains("-> FLOCK") && line.contains(&file);
    fs::read_to_string("/proc/locks").unwrap().lines().filter(waits).count()
}

/// How often one of the threads that wait has gone to sleep, at most; 0 without any.
fn most_sleeps_of_waiters() -> u32 {
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    // A thread may end at any time.
    let statuses = threads.filter_map(|path| fs::read_to_string(path.join("status")).ok());
    let of_waiters = statuses.filter(|status| status.starts_with("Name:\tlock\n"));
    let sleeps = of_waiters.map(|status| {
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse().unwrap()
    });
    sleeps.max().unwrap_or(0)
}
