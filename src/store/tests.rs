//! The store as its callers see it. The parts have a story each:
//!
//! - `aside`: an operator begins anew.
//! - `basics`: what is put down is found again, by every question.
//! - `claim`: reservations outlive those who use them, and end.
//! - `module`: what services of the host hold outlives the boot.
//! - `release`: ports that were given back rest.
//! - `model`: random changes agree with maps in memory.
//! - `crash`: processes are killed in the middle, and nothing is lost.
//! - `damage`: generations are destroyed, and boots and disks come to their end.
//! - `former`: what an earlier version wrote is read.
//! - `wreck`: files are damaged at random, one at a time.
//! - `lock`: who waits, how long, and who keeps the lock.

mod aside;
mod basics;
mod claim;
mod crash;
mod damage;
mod former;
mod lock;
mod model;
mod module;
mod release;
mod wreck;

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::*;
use crate::lease::{
    Attachment, ContainerAddresses, Forwarding, HostAddress, HostPort, Lease, ModuleLease, Port,
    Protocol, Rest,
};

/// Long enough for a busy machine; only a failing test waits for so long.
const LONG: Duration = Duration::from_mins(1);
const BOOT: &str = "8f1c0f0e-6d5b-4c58-9a7e-000000000001";
const NEXT_BOOT: &str = "8f1c0f0e-6d5b-4c58-9a7e-000000000002";
/// For what is removed while nobody looks at the time.
const MOMENT: Moment = Moment { since_boot: Duration::ZERO, unix: 0 };
/// Tells a test that it runs as the child of another, and what it works on.
const CHILD: &str = "PORTCLAIM_STORE_TEST";

fn store(dir: &Path) -> Store {
    Store::new(dir.join("data"), BOOT.to_owned()).working_in(dir.join("work"))
}

/// The same store after the machine was booted.
fn rebooted(store: &Store) -> Store {
    Store::new(store.dir.clone(), NEXT_BOOT.to_owned())
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn owner(container: &str) -> Attachment {
    Attachment {
        network: "net".parse().unwrap(),
        container: container.parse().unwrap(),
        interface: "eth0".parse().unwrap(),
    }
}

fn lease(number: u16) -> Lease {
    let address = HostAddress::Any;
    let host = HostPort { protocol: Protocol::Tcp, port: port(number), address };
    Lease {
        host,
        container_port: port(80),
        name: None,
        group: Some("default".parse().unwrap()),
        claim: None,
        rest: None,
    }
}

fn forwarding(container: &str, ports: &[u16]) -> Forwarding {
    Forwarding {
        attachment: owner(container),
        pod: None,
        container: ContainerAddresses { v4: Some([10, 0, 0, 2].into()), v6: None },
        link: Some("cni0".parse().unwrap()),
        sandbox: None,
        health: None,
        since: 1,
        leases: ports.iter().copied().map(lease).collect(),
    }
}

/// A block of TCP ports of a module.
fn block(module: &str, first: u16, count: u16) -> ModuleLease {
    ModuleLease {
        module: module.parse().unwrap(),
        name: None,
        protocol: Protocol::Tcp,
        port: port(first),
        count,
        group: "default".parse().unwrap(),
        to: None,
        since: 1,
        rest: Rest { cooldown: 60_000, is_remembered: false },
    }
}

/// Commits one change under the lock.
fn commit(store: &Store, change: impl FnOnce(&mut Draft) -> Result<(), StoreError>) {
    let mut lock = store.lock(LONG).unwrap();
    let mut draft = lock.begin().unwrap();
    change(&mut draft).unwrap();
    draft.commit().unwrap();
}

/// The journal that the next boot begins with, and its length: right after a durable
/// commit, what a power cut leaves of it at least.
fn synced(store: &Store) -> (PathBuf, u64) {
    let journal = store.dir.join("durable/journal").canonicalize().unwrap();
    let length = journal.metadata().unwrap().len();
    (journal, length)
}

/// The power fails: what was appended since has become something else.
fn cut_power((journal, length): &(PathBuf, u64)) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).open(journal).unwrap();
    file.set_len(*length).unwrap();
    file.write_all(&vec![fastrand::u8(..); fastrand::usize(..200)]).unwrap();
}

/// A writer is killed, and the working copy goes with it.
fn forget_working_copy(store: &Store) {
    let work = store.work.as_ref().unwrap();
    for name in names(work).iter().filter(|name| name.starts_with("working.")) {
        fs::remove_dir_all(work.join(name)).unwrap();
    }
}

/// What is in the store's directory, without the lock.
fn listing(store: &Store) -> Vec<String> {
    names(&store.dir)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
    names.sort();
    names
}

/// This test binary, about to run one test as a child.
fn child(test: &str, argument: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("store::tests::{test}"), "--nocapture", "--quiet"]);
    command.env(CHILD, argument).stdin(Stdio::null());
    command
}
