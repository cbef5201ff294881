//! Generations are destroyed, machines boot and disks fill up.
//!
//! Whatever happens, the store is read as it was at some commit of this boot or
//! not at all, what cannot be read is kept, and a failed commit changes nothing. One
//! generation, or the end of one journal, may be destroyed; what is in the journals
//! before is not lost.

use std::{fs::OpenOptions, io::Write, os::unix::fs::symlink};

use super::*;
use crate::store::tree::Tree;

/// A store of three commits of an attachment each: generation 1, which is durable; the
/// second in its journal and in generation 2; the third in the journal of that. The last
/// writer was killed after it had committed.
fn three(dir: &Path) -> Store {
    let store = store(dir);
    for (name, port) in [("a", 8080), ("b", 8081), ("c", 8082)] {
        commit(&store, |draft| draft.insert(&forwarding(name, &[port])));
    }
    forget_working_copy(&store);
    store
}

fn held(store: &Store) -> Vec<String> {
    let all = store.read().unwrap().forwardings().unwrap();
    all.into_iter().map(|held| held.attachment.container.to_string()).collect()
}

fn overwrite(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
}

fn truncate(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// One byte in the middle is not what it was.
fn flip(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    overwrite(path, &content);
}

fn flip_at(path: &Path, offset: usize) {
    let mut content = fs::read(path).unwrap();
    content[offset] ^= 1;
    overwrite(path, &content);
}

/// Every file of a directory and of those in it, with its content.
fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().file_type() {
            kind if kind.is_symlink() => {
                let target = fs::read_link(&path).unwrap();
                files.push((path, target.into_os_string().into_encoded_bytes()));
            }
            kind if kind.is_dir() => files.extend(snapshot(&path)),
            _ => files.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn a_damaged_generation_is_set_aside_for_the_one_before() {
    type Damage = fn(&Path);
    const LOST: &[&str] = &["a", "b"];
    const ALL: &[&str] = &["a", "b", "c"];
    let damages: [(&str, &[&str], Damage); 13] = [
        ("garbage", ALL, |dir| overwrite(&dir.join("db"), &vec![0xa5; 70_000])),
        ("empty", ALL, |dir| truncate(&dir.join("db"), 0)),
        ("short", ALL, |dir| {
            let length = dir.join("db").metadata().unwrap().len();
            truncate(&dir.join("db"), length - 1);
        }),
        ("one bit", ALL, |dir| flip(&dir.join("db"))),
        ("no database", ALL, |dir| fs::remove_file(dir.join("db")).unwrap()),
        ("no seal", ALL, |dir| fs::remove_file(dir.join("seal")).unwrap()),
        ("torn seal", ALL, |dir| truncate(&dir.join("seal"), 20)),
        ("a file", LOST, |dir| {
            fs::remove_dir_all(dir).unwrap();
            overwrite(dir, b"");
        }),
        ("no journal", LOST, |dir| fs::remove_file(dir.join("journal")).unwrap()),
        ("empty journal", LOST, |dir| truncate(&dir.join("journal"), 0)),
        ("one bit of the journal", LOST, |dir| flip(&dir.join("journal"))),
        ("start of the journal", LOST, |dir| flip_at(&dir.join("journal"), 0)),
        ("all", LOST, |dir| {
            for name in ["db", "seal", "journal"] {
                flip_at(&dir.join(name), 4);
            }
        }),
    ];
    for (name, left, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let store = three(dir.path());
        damage(&store.dir.join("generation.2"));

        // A reader falls back and leaves everything where it is.
        let before = snapshot(&store.dir);
        assert_eq!(held(&store), left, "{name}");
        let mut lock = store.lock(LONG).unwrap();
        drop(lock.begin().unwrap());
        assert_eq!(snapshot(&store.dir), before, "{name}");

        let mut draft = lock.begin().unwrap();
        assert!(draft.begins_lineage(), "{name}");
        draft.insert(&forwarding("d", &[8083])).unwrap();
        draft.commit().unwrap();
        assert_eq!(held(&store), [left, &["d"]].concat(), "{name}");
        let expected = ["current", "damaged.2", "durable", "generation.1", "generation.3"];
        assert_eq!(listing(&store), expected, "{name}");
    }
}

/// Whoever holds the lock has not to copy, and finds everything in memory.
#[test]
fn the_working_copy_outlives_damage() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("no database", |dir| fs::remove_file(dir.join("db")).unwrap()),
        ("one bit of the database", |dir| flip(&dir.join("db"))),
        ("one bit of the journal", |dir| flip(&dir.join("journal"))),
        ("no commits", |dir| truncate(&dir.join("journal"), 28)),
        ("a commit less", |dir| {
            let length = dir.join("journal").metadata().unwrap().len();
            truncate(&dir.join("journal"), length - 1);
        }),
    ];
    for (name, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let store = three(dir.path());
        commit(&store, |draft| draft.insert(&forwarding("d", &[8083])));
        let lineage = store.read().unwrap().lineage();
        damage(&store.dir.join("generation.2"));
        // Who only looks takes nothing from who comes next.
        assert_eq!(held_by_writer(&store).len(), 4, "{name}");
        commit(&store, |draft| {
            assert_eq!(draft.forwardings()?.len(), 4, "{name}");
            draft.insert(&forwarding("e", &[8084]))
        });
        let is_in_journal = listing(&store).contains(&"generation.2".to_owned())
            && !listing(&store).contains(&"generation.3".to_owned());
        assert_eq!(is_in_journal, name.ends_with("database"), "{name}");
        if !is_in_journal {
            forget_working_copy(&store);
            assert_eq!(held(&store), ["a", "b", "c", "d", "e"], "{name}");
        }
        assert_eq!(store.lock(LONG).unwrap().begin().unwrap().lineage(), lineage, "{name}");
    }
}

/// Who has another work directory commits, and then the journal is damaged.
#[test]
fn a_working_copy_that_others_went_on_from_is_not_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let elsewhere = store.clone().working_in(dir.path().join("elsewhere"));
    drop(store.lock(LONG).unwrap().begin().unwrap());
    let journal = store.dir.join("generation.2/journal");
    let mut end = 0;
    for (name, port) in [("d", 8083), ("e", 8084)] {
        end = usize::try_from(journal.metadata().unwrap().len()).unwrap();
        commit(&elsewhere, |draft| draft.insert(&forwarding(name, &[port])));
    }
    fs::remove_dir_all(dir.path().join("elsewhere")).unwrap();
    flip_at(&journal, end + 20);
    // The generation before does not go on from there: both journals are cut.
    let lineage = store.read().unwrap().lineage();
    let mut lock = store.lock(LONG).unwrap();
    let draft = lock.begin().unwrap();
    assert_eq!(draft.forwardings().unwrap().len(), 4);
    assert_ne!(draft.lineage(), lineage);
}

/// The first generation of a boot, and one that was made of the working copy alone, have
/// none before them that leads to them.
#[test]
fn there_is_a_generation_to_fall_back_on_after_two_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let next = Store { boot: NEXT_BOOT.to_owned(), ..store };
    let damage_current = || flip(&next.dir.join("current/db"));
    for (name, port) in [("d", 8080), ("e", 8081), ("f", 8082)] {
        commit(&next, |draft| draft.insert(&forwarding(name, &[port])));
    }
    forget_working_copy(&next);
    damage_current();
    assert_eq!(held(&next), ["d", "e", "f"]);

    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    commit(&store, |draft| draft.insert(&forwarding("d", &[8083])));
    flip(&store.dir.join("current/journal"));
    for (name, port) in [("e", 8084), ("f", 8085)] {
        commit(&store, |draft| draft.insert(&forwarding(name, &[port])));
    }
    forget_working_copy(&store);
    flip(&store.dir.join("current/db"));
    assert_eq!(held(&store), ["a", "b", "c", "d", "e", "f"]);
}

/// A disk that damaged the generation that the next boot begins with.
#[test]
fn claims_outlive_damage_and_a_boot() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let hold = |draft: &mut Draft, first| draft.insert_module(&block("m", first, 1));
    commit(&store, |draft| hold(draft, 9000));
    commit(&store, |draft| hold(draft, 9001));
    flip(&store.dir.join("durable/db"));
    let next = rebooted(&store);
    let reader = next.read().unwrap();
    assert_eq!(reader.forwardings().unwrap(), []);
    assert!(reader.holders(Protocol::Tcp, port(8080)).unwrap().is_empty());
    for first in [9000, 9001] {
        assert_eq!(reader.holders(Protocol::Tcp, port(first)).unwrap().len(), 1, "{first}");
    }
}

/// A full disk is no reason to give up what stands in for a journal that is damaged.
#[test]
fn what_may_be_needed_is_not_given_up_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let is_given_up = || {
        fs::remove_file(store.dir.join("durable")).unwrap();
        symlink("generation.2", store.dir.join("durable")).unwrap();
        publish::make_room(&store.dir).unwrap()
    };
    flip(&store.dir.join("current/journal"));
    assert!(!is_given_up());
    flip(&store.dir.join("current/journal"));
    assert!(is_given_up());
}

/// Some clean up what was not read for long. Large records are files of their own, and
/// without them sled reads as if they had never been.
#[test]
fn a_working_copy_that_lacks_a_file_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let ports: Vec<u16> = (10_000..10_500).collect();
    commit(&store, |draft| draft.insert(&forwarding("d", &ports)));
    let work = store.work.as_ref().unwrap();
    let blobs = work.join(&names(work)[0]).join("blobs");
    assert!(!names(&blobs).is_empty());
    for name in names(&blobs) {
        fs::remove_file(blobs.join(name)).unwrap();
    }
    let look = || {
        let mut lock = store.lock(LONG).unwrap();
        lock.begin().unwrap().forwarding(&owner("d")).unwrap().is_some()
    };
    assert!(look());
}

/// What is in the working directory may be anybody's, or from another time.
#[test]
fn a_working_copy_of_something_else_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let work = store.work.as_ref().unwrap();
    let working = || {
        let names = names(work);
        let name = names.iter().find(|name| name.starts_with("working.")).unwrap();
        work.join(name)
    };
    drop(store.lock(LONG).unwrap().begin().unwrap());
    let (path, old) = (working(), dir.path().join("old"));
    fs::rename(&path, &old).unwrap();
    let put_back = |from: &Path| {
        fs::remove_dir_all(&path).unwrap();
        assert!(Command::new("cp").arg("-r").args([from, &path]).status().unwrap().success());
    };
    // Of before the last commit.
    commit(&store, |draft| draft.insert(&forwarding("d", &[8083])));
    put_back(&old);
    assert_eq!(held_by_writer(&store), ["a", "b", "c", "d"]);
    // Without its database, or with half of it.
    fs::remove_file(working().join("db")).unwrap();
    assert_eq!(held_by_writer(&store), ["a", "b", "c", "d"]);
    let length = working().join("db").metadata().unwrap().len();
    truncate(&working().join("db"), length / 2);
    for snapshot in names(&working()).iter().filter(|name| name.starts_with("snap")) {
        fs::remove_file(working().join(snapshot)).unwrap();
    }
    assert_eq!(held_by_writer(&store), ["a", "b", "c", "d"]);
    // Of another store.
    let other = super::store(&dir.path().join("other"));
    commit(&other, |draft| draft.insert(&forwarding("z", &[9000])));
    let others = other.work.as_ref().unwrap();
    put_back(&others.join(&names(others)[0]));
    assert_eq!(held_by_writer(&store), ["a", "b", "c", "d"]);
    // A file, or nobody's.
    fs::remove_dir_all(&path).unwrap();
    overwrite(&path, b"");
    assert_eq!(held_by_writer(&store), ["a", "b", "c", "d"]);
    // Of another boot, where the work directory is on a disk.
    let next = Store { boot: NEXT_BOOT.to_owned(), ..store.clone() };
    assert_eq!(held_by_writer(&next), [""; 0]);
    put_back(&old);
    commit(&next, |draft| draft.insert(&forwarding("e", &[8080])));
    flip(&next.dir.join("current/db"));
    assert_eq!(held_by_writer(&next), ["e"], "what the commit left is in memory");
}

/// What a writer finds who changes nothing.
fn held_by_writer(store: &Store) -> Vec<String> {
    let mut lock = store.lock(LONG).unwrap();
    let all = lock.begin().unwrap().forwardings().unwrap();
    all.into_iter().map(|held| held.attachment.container.to_string()).collect()
}

/// A killed writer leaves the first part of a commit; the next one overwrites it.
#[test]
fn an_unfinished_commit_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let journal = store.dir.join("generation.2/journal");
    let whole = fs::read(&journal).unwrap();
    commit(&store, |draft| draft.insert(&forwarding("d", &[8083])));
    let longer = fs::read(&journal).unwrap();
    for length in [whole.len() + 1, whole.len() + 7, whole.len() + 8, longer.len() - 1] {
        overwrite(&journal, &longer[..length]);
        forget_working_copy(&store);
        assert_eq!(held(&store), ["a", "b", "c"], "{length}");
        let before = snapshot(&store.dir);
        drop(store.lock(LONG).unwrap().begin().unwrap());
        assert_eq!(snapshot(&store.dir), before, "{length}");
        commit(&store, |draft| draft.insert(&forwarding("d", &[8083])));
        assert_eq!(held(&store), ["a", "b", "c", "d"], "{length}");
        assert_eq!(fs::read(&journal).unwrap(), longer, "{length}");
    }
    assert!(listing(&store).iter().all(|name| !name.starts_with("damaged")));
}

/// Journals end, and the generations that follow hold what was in them.
#[test]
fn a_long_journal_ends_with_another_generation() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let mut number = 0;
    while store.dir.join("generation.2").exists() {
        commit(&store, |draft| draft.insert(&forwarding("d", &[9000 + number])));
        number += 1;
    }
    let lineage = store.read().unwrap().lineage();
    let last = store.read().unwrap().forwardings().unwrap();
    assert_eq!(last[3], forwarding("d", &[9000 + number - 1]));
    forget_working_copy(&store);
    flip(&store.dir.join("generation.4/db"));
    assert_eq!(store.read().unwrap().forwardings().unwrap(), last);
    flip(&store.dir.join("generation.4/journal"));
    let without = store.read().unwrap().forwardings().unwrap();
    assert_eq!(without.len(), 4, "all but what was in that journal: {number}");
    assert_eq!(store.read().unwrap().lineage(), lineage);
}

#[test]
fn a_broken_link_leads_to_the_newest_generation() {
    for target in ["generation.9", "/etc", "../data/generation.2", "generation.02", ""] {
        let dir = tempfile::tempdir().unwrap();
        let store = three(dir.path());
        let current = store.dir.join("current");
        fs::remove_file(&current).unwrap();
        match target {
            "" => overwrite(&current, b""),
            target => symlink(target, &current).unwrap(),
        }
        assert_eq!(held(&store), ["a", "b", "c"], "{target:?}");
        commit(&store, |draft| draft.insert(&forwarding("d", &[8083])));
        assert_eq!(held(&store), ["a", "b", "c", "d"], "{target:?}");
        assert!(store.dir.join("generation.2").exists(), "{target:?}");
    }
}

#[test]
fn where_nothing_can_be_read_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    for generation in ["generation.1", "generation.2"] {
        flip(&store.dir.join(generation).join("db"));
    }
    let before = snapshot(&store.dir);
    let refused = store.read().unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused:?}");
    assert_eq!(
        refused.to_string(),
        format!(
            "the store in {0} is damaged: {0}/generation.2/db does not match its seal; \
             {0}/generation.1/db does not match its seal",
            store.dir.display()
        )
    );
    let mut lock = store.lock(LONG).unwrap();
    assert!(matches!(lock.begin().unwrap_err(), StoreError::Damaged { .. }));
    drop(lock);
    assert_eq!(snapshot(&store.dir), before);
}

#[test]
fn a_boot_ends_what_attachments_held_and_starts_from_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    commit(&store, |draft| draft.remove(&owner("a"), MOMENT).map(drop));
    let next = rebooted(&store);

    // Power cuts tear what was not synced, and the truth was durable.
    truncate(&store.dir.join("generation.2/db"), 10);
    truncate(&store.dir.join("generation.2/seal"), 0);
    let reader = next.read().unwrap();
    assert_eq!(reader.forwardings().unwrap(), []);
    assert_eq!(reader.holders(Protocol::Tcp, port(8080)).unwrap(), []);
    assert!(reader.held(Protocol::Tcp).unwrap().is_empty());
    assert!(reader.network_is_empty(&owner("a").network).unwrap());
    drop(reader);

    let durable = |store: &Store| fs::read_link(store.dir.join("durable")).unwrap();
    commit(&next, |draft| draft.insert(&forwarding("d", &[8080])));
    assert_eq!(held(&next), ["d"]);
    assert_eq!(durable(&next), Path::new("generation.3"));
    commit(&next, |draft| draft.insert(&forwarding("e", &[8081])));
    assert_eq!(held(&next), ["d", "e"]);
    assert_eq!(durable(&next), Path::new("generation.3"));
}

#[test]
fn what_does_not_belong_to_a_boot_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    commit(&store, |draft| {
        draft.database().tree(Tree::Meta).insert("kept", "1").unwrap();
        draft.insert(&forwarding("a", &[8080]))
    });
    let next = rebooted(&store);
    commit(&next, |draft| draft.insert(&forwarding("d", &[8080])));
    let mut lock = next.lock(LONG).unwrap();
    let draft = lock.begin().unwrap();
    assert!(draft.database().tree(Tree::Meta).contains_key("kept").unwrap());
}

#[test]
fn a_damaged_durable_generation_is_replaced_by_what_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    flip(&store.dir.join("generation.1/db"));
    let next = rebooted(&store);
    assert_eq!(held(&next), [""; 0]);
    commit(&next, |draft| draft.insert(&forwarding("d", &[8080])));
    assert_eq!(listing(&next), ["current", "damaged.1", "durable", "generation.2", "generation.3"]);

    for generation in ["generation.2", "generation.3"] {
        fs::remove_file(next.dir.join(generation).join("seal")).unwrap();
    }
    assert!(matches!(next.read().unwrap_err(), StoreError::Damaged { .. }));
    assert!(matches!(store.read().unwrap_err(), StoreError::Damaged { .. }));
}

/// The plugin is killed, or the power fails, before the first commit is done.
#[test]
fn an_unfinished_first_commit_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    commit(&store, |draft| draft.insert(&forwarding("a", &[8080])));
    fs::remove_file(store.dir.join("durable")).unwrap();
    assert_eq!(held(&store), ["a"]);

    let next = rebooted(&store);
    truncate(&store.dir.join("generation.1/db"), 10);
    assert!(matches!(store.read().unwrap_err(), StoreError::Damaged { .. }));
    assert_eq!(held(&next), [""; 0]);
    fs::remove_file(store.dir.join("current")).unwrap();
    assert!(!store.exists().unwrap());
    commit(&next, |draft| draft.insert(&forwarding("b", &[8080])));
    assert_eq!(held(&next), ["b"]);
    assert_eq!(fs::read_link(next.dir.join("durable")).unwrap(), Path::new("generation.2"));
}

/// Killed between its two last steps, a writer leaves a whole generation that
/// nothing leads to; it was not acknowledged and is not used.
#[test]
fn what_killed_processes_leave_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let reader = store.read().unwrap();
    let work = store.work.as_ref().unwrap();
    for (dir, leftover) in [
        (&store.dir, "generation.3"),
        (&store.dir, "writing.1.0"),
        (&store.dir, "reading.1.0"),
        (work, "writing.1.0"),
        (work, "reading.1.0"),
    ] {
        fs::create_dir(dir.join(leftover)).unwrap();
        overwrite(&dir.join(leftover).join("db"), b"");
    }
    assert_eq!(held(&store), ["a", "b", "c"]);
    drop(store.lock(LONG).unwrap().begin().unwrap());
    let left = listing(&store);
    assert_eq!(left, ["current", "durable", "generation.1", "generation.2"]);
    let reading = format!("reading.{}.", std::process::id());
    let left = names(work);
    let [first, second] = &left[..] else { panic!("{left:?}") };
    assert!(first.starts_with(&reading) && second.starts_with("working."), "{left:?}");
    assert_eq!(reader.forwardings().unwrap().len(), 3);
}

/// Stores of several networks may have different folders and one `runDir`.
#[test]
fn who_works_in_the_same_place_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let other = Store { dir: dir.path().join("other"), ..store.clone() };
    let mut lock = store.lock(LONG).unwrap();
    let mut draft = lock.begin().unwrap();
    commit(&other, |draft| draft.insert(&forwarding("d", &[8080])));
    draft.insert(&forwarding("d", &[8083])).unwrap();
    draft.commit().unwrap();
    assert_eq!(held(&store), ["a", "b", "c", "d"]);
    assert_eq!(held(&other), ["d"]);
}

/// DEL must not depend on what it only works in.
#[test]
fn without_a_place_in_memory_the_disk_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let work = dir.path().join("file");
    overwrite(&work, b"");
    let store = Store { work: Some(work), ..store };
    commit(&store, |draft| draft.insert(&forwarding("d", &[8083])));
    assert_eq!(held(&store), ["a", "b", "c", "d"]);
}

/// A node that went back to an older portclaim must not take what it does not
/// understand for damage, and give out ports that are held.
#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let seal = store.dir.join("generation.2/seal");
    let text = fs::read_to_string(&seal).unwrap();
    overwrite(&seal, text.replacen("\"schema\":2", "\"schema\":3", 1).as_bytes());
    for refused in [
        store.read().map(drop).unwrap_err(),
        store.lock(LONG).unwrap().begin().map(drop).unwrap_err(),
    ] {
        assert!(matches!(refused, StoreError::Schema { found: 3, supported: 2, .. }));
    }
}

/// So does what another version's trees are about: it is not passed over.
#[test]
fn newer_trees_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = three(dir.path());
    let mut lock = store.lock(LONG).unwrap();
    let mut draft = lock.begin().unwrap();
    draft.database_mut().put(Tree::Meta, b"schema", b"4").unwrap();
    draft.commit().unwrap();
    drop(lock);
    let before = snapshot(&store.dir);
    for refused in [
        store.read().map(drop).unwrap_err(),
        store.lock(LONG).unwrap().begin().map(drop).unwrap_err(),
    ] {
        let message = refused.to_string();
        assert_eq!(message, "the database has schema 4, and 3 is the newest that is known here");
    }
    assert_eq!(snapshot(&store.dir), before);
}

/// A file system of 1 MiB, in a mount namespace of its own, is filled up.
#[test]
fn a_full_disk_fails_the_commit_and_nothing_else() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return fill_up(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let test = child("damage::a_full_disk_fails_the_commit_and_nothing_else", dir.path());
    let mut unshared = Command::new("unshare");
    unshared.args(["--mount", "--propagation", "private", "sh", "-ec"]);
    unshared.arg("mount -t tmpfs -o size=1m tmpfs \"$1\"; shift; exec \"$@\"").arg("sh");
    unshared.arg(dir.path()).arg(test.get_program()).args(test.get_args());
    unshared.env(CHILD, dir.path()).stdin(Stdio::null());
    let output = unshared.output().unwrap();
    assert!(output.status.success(), "needs root: {output:?}");
}

fn fill_up(dir: &Path) {
    let work = tempfile::tempdir().unwrap();
    let store = three(dir).working_in(work.path().to_owned());
    let give_back = |store: &Store| {
        let mut lock = store.lock(LONG)?;
        let mut draft = lock.begin()?;
        draft.remove(&owner("a"), MOMENT)?;
        draft.commit()
    };
    // Leases can be given back: the generation to fall back on makes room.
    let ballast = take_all_space(&store);
    let mut freed = 0;
    while give_back(&store).is_err() {
        freed += 4096;
        ballast.set_len(ballast.metadata().unwrap().len() - 4096).unwrap();
    }
    let current = store.dir.join(fs::read_link(store.dir.join("current")).unwrap());
    assert!(freed < current.join("db").metadata().unwrap().len(), "{freed}");
    // And be read, where there is no room at all.
    drop(ballast);
    let ballast = take_all_space(&store);
    assert_eq!(held(&store), ["b", "c"]);
    drop(ballast);
    fill_up_under(&store);
    assert_eq!(held(&store), ["b", "c", "d"]);
    // The first commit of a boot is durable, and takes other steps.
    let next = rebooted(&store).working_in(work.path().to_owned());
    fill_up_under(&next);
    assert_eq!(held(&next), ["d"]);
}

fn take_all_space(store: &Store) -> fs::File {
    let mut ballast = fs::File::create(store.dir.with_file_name("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    ballast
}

fn fill_up_under(store: &Store) {
    // With nothing to fall back on, there is nothing to give up for room.
    let linked = ["current", "durable"].map(|link| fs::read_link(store.dir.join(link)).unwrap());
    for name in listing(store).iter().filter(|name| name.starts_with("generation.")) {
        if !linked.contains(&name.into()) {
            fs::remove_dir_all(store.dir.join(name)).unwrap();
        }
    }
    let ballast = take_all_space(store);
    let before = snapshot(&store.dir);
    let mut length = ballast.metadata().unwrap().len();
    // From no space at all to enough, a page at a time: each step of a commit fails once.
    let mut failures = 0;
    loop {
        let mut lock = store.lock(LONG).unwrap();
        let committed = lock.begin().and_then(|mut draft| {
            // More than a page of the journal.
            draft.insert(&forwarding("d", &(8083..8283).collect::<Vec<_>>()))?;
            draft.commit()
        });
        let Err(e) = committed else { break };
        assert!(
            matches!(&e, StoreError::Io { source, .. } if source.raw_os_error() == Some(libc::ENOSPC)),
            "with {failures} pages: {e:?}"
        );
        drop(lock);
        assert_eq!(snapshot(&store.dir), before, "with {failures} pages");
        failures += 1;
        length -= 4096;
        ballast.set_len(length).unwrap();
    }
    assert!(failures > 5, "{failures}");
}
