//! Who waits for the lock, how long, and who keeps it.

use super::*;
use std::{
    io::{BufRead, BufReader},
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
    std::thread::scope(|scope| {
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
