//! Processes are killed in the middle, and nothing is lost.
//!
//! Runtimes kill plugins that take too long. sled 0.34, opened by processes that
//! are killed, stays corrupt after some hundred of them; this is the story that
//! the store's generations are there to end. Writers here commit pairs of
//! attachments and say so line by line, and are killed after a random line and a
//! random part of a commit. Readers look on all the while. In the end everything
//! that was acknowledged must be there, and at no time may a reader fail, see
//! one of a pair without the other, or see a port with two owners.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::Child,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use super::*;

const WRITERS: usize = 3;
const KILLS: usize = 12;
/// Few enough for writers to run into each other's.
const PORTS: std::ops::Range<u16> = 20_000..20_300;

/// What is known of a pair of attachments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Held,
    Gone,
    /// Its writer was killed in between.
    Unknown,
}

#[test]
fn killed_writers_lose_nothing_and_readers_see_whole_commits() {
    if let Some(dir) = std::env::var_os(CHILD) {
        write_until_killed(&store(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let done = AtomicBool::new(false);
    let (known, reads) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                check(&store.read().unwrap());
                reads += 1;
            }
            reads
        });
        let writers = [(); WRITERS].map(|()| scope.spawn(|| kill_writers(dir.path())));
        let known: BTreeMap<_, _> =
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        (known, reader.join().unwrap())
    });
    let held = check(&store.read().unwrap());
    for (pair, known) in &known {
        match known {
            Known::Held => assert!(held.contains(pair), "{pair} was lost"),
            Known::Gone => assert!(!held.contains(pair), "{pair} came back"),
            Known::Unknown => {}
        }
    }
    assert!(held.iter().all(|pair| known.contains_key(pair)));
    assert!(known.len() > WRITERS * KILLS && reads > 10, "{} pairs, {reads} reads", known.len());
    assert_eq!(listing(&store).iter().filter(|name| name.starts_with("damaged")).count(), 0);
}

/// Commits and acknowledges until killed: two pairs put down, one taken back.
fn write_until_killed(store: &Store) -> ! {
    let change = |verb: &str, pair: usize| {
        let pair = format!("{}.{pair}", std::process::id());
        println!("\ntry {verb} {pair}");
        commit(store, |draft| {
            for half in ["a", "b"] {
                let container = format!("{pair}.{half}");
                if verb == "remove" {
                    assert!(draft.remove(&owner(&container), MOMENT)?.is_some());
                } else {
                    let start = fastrand::u16(PORTS);
                    let mut ports = (start..PORTS.end).chain(PORTS.start..start);
                    let free = |number: &u16| {
                        draft.holders(Protocol::Tcp, port(*number)).unwrap().is_empty()
                    };
                    let free = ports.find(free).unwrap();
                    draft.insert(&forwarding(&container, &[free]))?;
                }
            }
            Ok(())
        });
        println!("\nok {verb} {pair}");
    };
    for pair in 0.. {
        change("insert", pair);
        if pair % 2 == 1 {
            change("remove", pair);
        }
    }
    unreachable!("there are more numbers than time")
}

/// Starts one writer after the other, kills each, and tells what they said.
fn kill_writers(dir: &Path) -> BTreeMap<String, Known> {
    let mut known = BTreeMap::new();
    for _ in 0..KILLS {
        let test = "crash::killed_writers_lose_nothing_and_readers_see_whole_commits";
        let mut writer = child(test, dir).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(writer.stdout.take().unwrap());
        let listener = thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                sender.send(line).unwrap();
            }
        });
        let mut left = fastrand::usize(1..8);
        while left > 0 {
            left -= learn(&lines.recv_timeout(LONG).unwrap(), &mut known);
        }
        // In the middle of what it does next: a commit takes some milliseconds.
        if let Ok(line) = lines.recv_timeout(Duration::from_micros(fastrand::u64(0..15_000))) {
            learn(&line, &mut known);
        }
        kill(&mut writer);
        for line in lines {
            learn(&line, &mut known);
        }
        listener.join().unwrap();
    }
    known
}

/// It must have been killed, and not have failed before.
fn kill(writer: &mut Child) {
    use std::os::unix::process::ExitStatusExt;
    writer.kill().unwrap();
    assert_eq!(writer.wait().unwrap().signal(), Some(libc::SIGKILL));
}

/// Takes in one line; 1 if it was one of the writer's and whole.
fn learn(line: &str, known: &mut BTreeMap<String, Known>) -> usize {
    let [word, verb, pair] = line.split(' ').collect::<Vec<_>>()[..] else { return 0 };
    let state = match (word, verb) {
        ("try", _) => Known::Unknown,
        ("ok", "insert") => Known::Held,
        ("ok", "remove") => Known::Gone,
        _ => return 0,
    };
    known.insert(pair.to_owned(), state);
    1
}

/// The pairs that are held, which must be whole, each port with its one owner.
fn check(view: &View) -> BTreeSet<String> {
    let all = view.forwardings().unwrap();
    let mut ports = BTreeSet::new();
    let mut halves = BTreeMap::<String, usize>::new();
    for held in &all {
        let (pair, _) = held.attachment.container.as_str().rsplit_once('.').unwrap();
        *halves.entry(pair.to_owned()).or_default() += 1;
        let [lease] = &held.leases[..] else { panic!("{held:?}") };
        assert!(ports.insert(lease.host), "{} has two owners", lease.host);
        let holders = view.holders(lease.host.protocol, lease.host.port).unwrap();
        assert_eq!(holders, [(lease.host, held.attachment.clone().into())]);
    }
    assert!(halves.values().all(|halves| *halves == 2), "{halves:?}");
    halves.into_keys().collect()
}
