//! Random commits, and after each perhaps a killed writer or a file that is damaged:
//! what was committed is there, or, where a journal is damaged and nobody has a working
//! copy, what was committed up to some time.

use super::*;

const ROUNDS: usize = 40;
const CONTAINERS: [&str; 4] = ["a", "b", "c", "d"];

/// What is held, in the order of the containers.
type Held = Vec<Forwarding>;

fn held(view: &View) -> Held {
    let held = view.forwardings().unwrap();
    let ports = held.iter().flat_map(|held| &held.leases).count();
    for held in &held {
        for lease in &held.leases {
            let holders = view.holders(lease.host.protocol, lease.host.port).unwrap();
            assert_eq!(holders, [(lease.host, held.attachment.clone().into())]);
        }
    }
    assert_eq!(view.held(Protocol::Tcp).unwrap().iter().count(), ports);
    held
}

fn wreck(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let at = fastrand::usize(..content.len());
    if fastrand::bool() {
        content[at] ^= 1 << fastrand::u8(..8);
    } else {
        content.truncate(at);
    }
    fs::write(path, content).unwrap();
}

#[test]
fn what_was_committed_is_there_or_a_beginning_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut states: Vec<Held> = vec![Held::new()];
    let mut since_damage = 0;
    for round in 0..ROUNDS {
        for _ in 0..fastrand::usize(1..6) {
            let number = fastrand::usize(..CONTAINERS.len());
            let (name, first) = (CONTAINERS[number], 1000 * (u16::try_from(number).unwrap() + 1));
            commit(&store, |draft| {
                if fastrand::u8(..3) == 0 {
                    return draft.remove(&owner(name), MOMENT).map(drop);
                }
                let ports: Vec<u16> = (first..).take(fastrand::usize(1..40)).collect();
                draft.insert(&forwarding(name, &ports))
            });
            states.push(held(&store.read().unwrap()));
            since_damage += 1;
        }
        let is_killed = fastrand::bool();
        if is_killed {
            forget_working_copy(&store);
        }
        // One fault at a time: there must be something to fall back on.
        let file = ["db", "seal", "journal"][fastrand::usize(..3)];
        let is_damaged = since_damage >= 2;
        if is_damaged {
            wreck(&store.dir.join("current").join(file));
            since_damage = 0;
        }
        let mut lock = store.lock(LONG).unwrap();
        let found = held(&lock.begin().unwrap());
        drop(lock);
        let what = format!("round {round}, {file} {is_damaged}, killed {is_killed}");
        if is_damaged && file == "journal" {
            assert!(states.contains(&found), "{what}");
        } else {
            assert_eq!(Some(&found), states.last(), "{what}");
        }
        // With a working copy, damage of the database is not noticed, and is there as long
        // as the generation is.
        if file != "journal" {
            forget_working_copy(&store);
        }
        commit(&store, |_| Ok(()));
        assert_eq!(held(&store.read().unwrap()), found, "{what}");
        states.push(found);
    }
}
