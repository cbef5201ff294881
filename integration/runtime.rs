//! Real runtimes, and what they send: pods of Debian's containerd over CRI,
//! containers of Debian's podman with its CNI backend, and the calls of CRI-O,
//! which Debian 12 does not have.

mod cgroup;
mod containerd;
mod cri;
mod image;
mod on_containerd;
mod on_crio;
mod on_podman;
mod pod;
mod podman;
mod power;
mod record;

use std::{
    fs::{self, File, Permissions},
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use fs2::FileExt as _;
use libtest_mimic::Trial;
use portclaim::lease::Protocol;

use crate::{
    chain::Network,
    namespace::Namespace,
    node::{Family, Node},
    traffic::{PATIENCE, SILENCE, ask},
};

/// How long a runtime may take for what it does by itself.
const RUNTIME_PATIENCE: Duration = Duration::from_mins(1);

fn network() -> Network {
    Network::bridge("podnet", true)
}

/// Waits for something that a runtime does by itself.
#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + RUNTIME_PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {RUNTIME_PATIENCE:?}");
        // Both cores have better things to do than to ask.
        thread::sleep(Duration::from_millis(10));
    }
}

/// Asserts that a server is reached through a host port from the neighbour, on
/// every address of the node that it is meant for.
#[track_caller]
fn assert_reached(node: &Node, protocol: Protocol, families: &[Family], port: u16, server: &str) {
    for family in families {
        let answer = ask(&node.outside, protocol, (family.node(), port).into(), PATIENCE);
        let answer = answer.map(|it| it.server);
        assert_eq!(answer.as_deref(), Some(server), "{port}/{protocol} {family:?}");
    }
}

/// Asserts that nobody answers there.
#[track_caller]
fn assert_silent(from: &Namespace, protocol: Protocol, at: (IpAddr, u16)) {
    assert_eq!(ask(from, protocol, at.into(), SILENCE), None, "{at:?}/{protocol}");
}

/// The store's lock, held by somebody who does not let go of it until this is
/// dropped: every plugin waits.
struct Jam(#[expect(dead_code, reason = "closing it unlocks it")] File);

impl Jam {
    fn new(node: &Node) -> Self {
        fs::create_dir_all(node.data_dir()).expect("the node's folder is writable");
        let path = node.data_dir().join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(path);
        let file = file.expect("the node's folder is writable");
        file.lock_exclusive().expect("it can be locked");
        Self(file)
    }
}

/// An `nft` that can be made to hang.
struct Valve {
    folder: PathBuf,
}

impl Valve {
    fn new(node: &Node) -> Self {
        let folder = node.folder("valve");
        fs::create_dir(&folder).expect("the node's folder is writable");
        let valve = Self { folder };
        let text = format!(
            "#!/bin/sh\n\
             while [ -e {shut} ]; do echo >{waiting}; sleep 0.01; done\n\
             exec /usr/sbin/nft \"$@\"\n",
            shut = valve.file("shut").display(),
            waiting = valve.file("waiting").display(),
        );
        let nft = valve.file("nft");
        fs::write(&nft, text).expect("it was made here");
        fs::set_permissions(&nft, Permissions::from_mode(0o755)).expect("it was made here");
        valve
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn shut(&self) {
        fs::write(self.file("shut"), "").expect("it was made here");
    }

    fn is_waiting(&self) -> bool {
        self.file("waiting").exists()
    }

    fn open(&self) {
        fs::remove_file(self.file("shut")).expect("it was shut");
    }
}

/// One trial for each thing that people and kubelets do.
pub fn trials() -> Vec<Trial> {
    let areas = [
        crate::trials("runtime::containerd", on_containerd::TESTS),
        crate::trials("runtime::podman", on_podman::TESTS),
        crate::trials("runtime::crio", on_crio::TESTS),
    ];
    areas.into_iter().flatten().collect()
}
