use std::thread;

use super::*;

fn tally(verb: Verb) -> Tally {
    let mut tally = Tally::default();
    tally.call(verb, Duration::from_micros(700));
    tally
}

/// How many calls of a verb are counted, whatever time they took.
fn calls(run_dir: &Path, verb: Verb) -> u64 {
    let totals = Totals::read(run_dir).unwrap();
    let of_verb =
        totals.iter().filter(|(it, _)| matches!(it, Counter::Calls(of, _) if *of == verb));
    of_verb.map(|(_, count)| count).sum()
}

fn files(run_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(run_dir.join(CALLS)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn all_that_a_call_tells_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    assert_eq!(Totals::read(&run_dir).unwrap(), Totals::default());
    tally(Verb::Del).leave(&run_dir, false);
    assert!(!run_dir.exists(), "only an ADD makes something");
    let mut call = tally(Verb::Add);
    call.wait(Duration::from_secs(20));
    let games = "games".parse().unwrap();
    call.port(Some(&games), Protocol::Udp);
    call.port(Some(&games), Protocol::Udp);
    call.port(None, Protocol::Tcp);
    call.tables(1);
    call.elements(0);
    call.leave(&run_dir, true);
    let mut refused = tally(Verb::Add);
    refused.refusal(Verb::Add, 100, "held");
    refused.leave(&run_dir, true);
    tally(Verb::Del).leave(&run_dir, false);
    let totals = Totals::read(&run_dir).unwrap();
    let counted: Vec<_> = totals.iter().map(|(it, count)| format!("{it}={count}")).collect();
    assert_eq!(
        counted,
        [
            "calls/ADD/1000=2",
            "calls/DEL/1000=1",
            "time/ADD=1400",
            "time/DEL=700",
            "waits/=1",
            "wait-time=20000000",
            "ports//tcp=1",
            "ports/games/udp=2",
            "refusals/ADD/100/held=1",
            "tables=1",
        ]
    );
    clear(&run_dir).unwrap();
    clear(&run_dir).unwrap();
    assert_eq!(Totals::read(&run_dir).unwrap(), Totals::default());
}

/// Logs fill, are added to the totals and go, while others write and read: each call
/// counts once, no reader sees a number go down, and little stays.
#[test]
fn each_call_counts_once_however_many_come_at_once() {
    const WRITERS: u64 = 4;
    const EACH: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    // They come faster than calls, which take milliseconds: two logs may
                    // be full before one is added up.
                    while let Err(error) = tally(Verb::Add).append(&dir.path().join(CALLS), true) {
                        assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
                    }
                }
            });
        }
        let mut last = 0;
        for _ in 0..200 {
            // Likewise: the totals may change each time that they are read.
            let Ok(totals) = Totals::read(dir.path()) else { continue };
            let now = totals.iter().map(|(_, count)| count).sum();
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
    });
    assert_eq!(calls(dir.path(), Verb::Add), WRITERS * EACH);
    let files = files(dir.path());
    assert_eq!(files.len(), 4, "the totals, two logs and the lock: {files:?}");
    assert!(!files.contains(&"log.0".to_owned()), "{files:?}");
    let size: u64 = files
        .iter()
        .map(|name| fs::metadata(dir.path().join(CALLS).join(name)).unwrap().len())
        .sum();
    assert!(size < 3 * FULL, "{size} bytes");
}

/// One was killed at any step of adding up: the next goes on from there.
#[test]
fn whoever_was_killed_spoils_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let calls_dir = dir.path().join(CALLS);
    tally(Verb::Add).leave(dir.path(), true);
    // Killed as it wrote, and as it made what comes next.
    append_to(&log(&calls_dir, 0), "\n{\"calls/ADD/500\":1").unwrap();
    create(&log(&calls_dir, 2)).unwrap();
    write_totals(&calls_dir, 0, &Growth::new()).unwrap();
    tally(Verb::Add).leave(dir.path(), true);
    assert_eq!(calls(dir.path(), Verb::Add), 2);
    // The log is full, and nobody has added it up.
    let mut count = 2;
    while append_to(&log(&calls_dir, 0), &format!("\n{}\n", Value::from(tally(Verb::Add).0)))
        .unwrap()
    {
        count += 1;
    }
    assert_eq!(calls(dir.path(), Verb::Add), count);
    // Behind the end of the full one there may be lines that were written twice.
    let mut full = OpenOptions::new().append(true).open(log(&calls_dir, 0)).unwrap();
    full.write_all(b"\n{\"calls/ADD/500\":1}\n").unwrap();
    tally(Verb::Add).leave(dir.path(), true);
    assert_eq!(calls(dir.path(), Verb::Add), count + 1);
    assert_eq!(first_log(&calls_dir).unwrap(), Some(1));
    // Added up, and not removed.
    fs::write(log(&calls_dir, 0), "\n{\"calls/ADD/500\":1}\n").unwrap();
    assert_eq!(calls(dir.path(), Verb::Add), count + 1);
}

#[test]
fn what_is_no_line_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    tally(Verb::Add).leave(dir.path(), true);
    let mut hostile =
        OpenOptions::new().append(true).open(log(&dir.path().join(CALLS), 0)).unwrap();
    let many: Vec<_> = (0..10_000).map(|n| format!("\"ports/g{n}/tcp\":1")).collect();
    for line in [
        &b"\xff\xfe{}\n"[..],
        b"[1]\n{\"calls/ADD/500\":-1}\n{\"calls/ADD/500\":\"1\"}\n{\"unheard-of\":1}\n",
        b"{\"tables\":18446744073709551615}\n{\"tables\":18446744073709551615}\n",
        b"{\"elements\":1",
    ] {
        hostile.write_all(line).unwrap();
    }
    tally(Verb::Add).leave(dir.path(), true);
    hostile.write_all(format!("{{{}}}\n", many.join(",")).as_bytes()).unwrap();
    let totals = Totals::read(dir.path()).unwrap();
    assert_eq!(calls(dir.path(), Verb::Add), 2);
    assert!(totals.iter().count() <= 4096);
    assert!(totals.iter().any(|it| it == (&Counter::Tables, u64::MAX)));
    // Nothing that can be used: no call fails, and nothing is counted.
    fs::write(dir.path().join(CALLS).join(TOTALS), "no number\n").unwrap();
    tally(Verb::Add).leave(dir.path(), true);
    assert!(Totals::read(dir.path()).is_err());
}

/// A user who may not write here may read, whatever the umask was.
#[test]
fn everybody_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    tally(Verb::Add).leave(&run_dir, true);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(run_dir.clone()), 0o755);
    assert_eq!(mode(run_dir.join(CALLS)), 0o755);
    for name in files(&run_dir) {
        assert_eq!(mode(run_dir.join(CALLS).join(&name)), 0o644, "{name}");
    }
}
