//! Plugins that are killed: runtimes do that to calls that take too long.
//!
//! sled, opened by short-lived processes, was left corrupt for good after 75 to
//! 1,037 kills; that is why the store consists of generations. Here, processes are
//! killed at random moments of ADD and DEL, several at once: of containers with
//! port mappings, of pods that claim a block and whose sandboxes follow each other
//! without waiting for the DELs of those before, and of pods that all want one
//! claim. After that
//!
//! - the store opens, and every lease whose ADD was acknowledged is in it, and in
//!   the kernel after the next ADD;
//! - no port is held twice, or in two claims, or held by others while it is claimed;
//! - every claim that an acknowledged ADD used is there, with the same port as ever,
//!   and is in use by exactly those who hold its ports;
//! - DEL of everything leaves nothing but unused claims, which a reboot leaves, too.
//!
//! `PORTCLAIM_CRASHES` is the number of processes, 150 by default. The seed is
//! printed, and `PORTCLAIM_SEED` sets it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    process::Stdio,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use libtest_mimic::Trial;
use portclaim::lease::{Claim, ClaimKey};
use serde_json::{Value, json};

use crate::{
    chain::{Call, Container, Network, annotated},
    held::{Held, assert_nothing_held, assert_tidy, claims, forwarded, leases, leases_of},
    node::Node,
};

const THREADS: u16 = 4;
const SUBJECTS_PER_THREAD: u16 = 6;
/// Sandboxes that a pod has one after the other, and in turn again.
const SANDBOXES: u16 = 3;
/// Of so many processes one is let live, and the others get a random part of the
/// time that it took.
const SURVIVOR: u64 = 8;

/// A container or a pod, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject(u16);

/// What a subject asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Ports by number, and others.
    Mappings,
    /// A pod that keeps ports under a claim of its own.
    Claim,
    /// A pod that wants the claim of others as well.
    Shared,
}

impl Subject {
    fn kind(self) -> Kind {
        [Kind::Mappings, Kind::Claim, Kind::Shared][usize::from(self.0 % 3)]
    }

    fn sandboxes(self) -> u16 {
        if self.kind() == Kind::Mappings { 1 } else { SANDBOXES }
    }

    fn sandbox(self, at: u16) -> Container {
        let number = self.0 * SANDBOXES + at;
        let container = Container::on_paper(&format!("c{number}"), number);
        match self.kind() {
            Kind::Mappings => container,
            Kind::Claim | Kind::Shared => {
                let name = format!("pod{}", self.0);
                container.in_pod("games", &name, &name)
            }
        }
    }

    /// The IPv4 address of a sandbox.
    fn address(self, at: u16) -> Ipv4Addr {
        let [high, low] = (self.0 * SANDBOXES + at).to_be_bytes();
        Ipv4Addr::new(10, 99, high, low)
    }

    fn runtime(self) -> Value {
        let claim = match self.kind() {
            Kind::Mappings => {
                return json!({ "portMappings": [
                    { "hostPort": 8000 + self.0, "containerPort": 80 },
                    { "containerPort": 53, "protocol": "udp" },
                    { "containerPort": 443 },
                ] });
            }
            Kind::Claim => format!("pod{}", self.0),
            Kind::Shared => "shared".to_owned(),
        };
        let ports = r#"[
            { "name": "game", "containerPort": 7777, "protocol": "tcp+udp" },
            { "name": "media", "containerPort": 5000, "protocol": "udp", "count": 4 }
        ]"#;
        annotated(&[("claim", &claim), ("ports", ports)])
    }

    fn lease_count(self) -> usize {
        if self.kind() == Kind::Mappings { 3 } else { 6 }
    }
}

fn subjects() -> impl Iterator<Item = Subject> {
    (0..THREADS * SUBJECTS_PER_THREAD).map(Subject)
}

/// What is known of a subject from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// Which of its sandboxes may hold ports; none: it may hold nothing.
    holders: BTreeSet<Option<u16>>,
    /// What it holds, if the last ADD of all succeeded.
    leases: Option<Vec<Held>>,
}

impl Known {
    fn nothing() -> Self {
        Self { holders: [None].into(), leases: None }
    }
}

/// The ports that claims had when they were first seen, the lowest of each.
type Claimed = Mutex<BTreeMap<ClaimKey, u16>>;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Success,
    Killed,
    /// The claim is held by somebody else.
    Waits,
}

fn killed_at_any_moment() {
    let processes = crate::from_env("PORTCLAIM_CRASHES").unwrap_or(150);
    let seed = crate::from_env("PORTCLAIM_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PORTCLAIM_CRASHES={processes} PORTCLAIM_SEED={seed}");
    let mut node = Node::new(false);
    let network = Network::bridge("podnet", true);
    let claimed = Claimed::default();
    let mut known = BTreeMap::new();
    let mut killed = 0;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let rng = Rng::with_seed(seed.wrapping_add(thread.into()));
                let calls = processes.div_ceil(THREADS.into());
                let (node, network, claimed) = (&node, &network, &claimed);
                scope.spawn(move || call_and_kill(node, network, claimed, thread, calls, rng))
            })
            .collect();
        for thread in threads {
            let (known_of_thread, killed_by_thread) = thread.join().expect("a right call");
            known.extend(known_of_thread);
            killed += killed_by_thread;
        }
    });
    println!("{killed} of {processes} killed");
    assert!(killed > processes / 3, "many of them were to be killed");
    let claimed = claimed.into_inner().expect("no thread has panicked");
    assert_intact(&node, &known, &claimed);
    let leases = leases(&node);
    for (protocol, port) in forwarded(&node, &network).into_keys() {
        let owned = leases.iter().any(|h| h.protocol == protocol && h.host_port == port);
        assert!(owned, "{port}/{protocol} is forwarded and nobody's");
    }

    // The next ADD of anybody puts right what the kernel lacks.
    let next = Container::on_paper("next", 9999);
    network.add(&node, &next, json!([{ "containerPort": 80 }])).run(&node).succeeded();
    assert_intact(&node, &known, &claimed);
    let forwarded = forwarded(&node, &network);
    for (subject, known) in &known {
        let Some(leases) = &known.leases else { continue };
        let at = known.holders.iter().flatten().next().expect("somebody holds them");
        for held in leases {
            let port = (held.protocol.clone(), held.host_port);
            let expected = SocketAddrV4::new(subject.address(*at), held.container_port);
            assert_eq!(forwarded.get(&port), Some(&expected), "{held:?}");
        }
    }

    network.del(&node, &next).run(&node).succeeded();
    for subject in subjects() {
        for at in 0..subject.sandboxes() {
            network.del(&node, &subject.sandbox(at)).run(&node).succeeded();
        }
    }
    assert_nothing_held(&node, &network);
    assert_tidy(&node);
    let nothing = known.keys().map(|subject| (*subject, Known::nothing())).collect();
    assert_intact(&node, &nothing, &claimed);
    node.reboot();
    assert_intact(&node, &nothing, &claimed);
}

/// Calls the plugin for subjects of this thread only: a runtime makes one call
/// at a time for a pod.
fn call_and_kill(
    node: &Node,
    network: &Network,
    claimed: &Claimed,
    thread: u16,
    calls: u64,
    mut rng: Rng,
) -> (BTreeMap<Subject, Known>, u64) {
    let first = thread * SUBJECTS_PER_THREAD;
    let mut known: BTreeMap<_, _> = (first..first + SUBJECTS_PER_THREAD)
        .map(|number| (Subject(number), Known::nothing()))
        .collect();
    let (mut killed, mut longest_life) = (0, Duration::ZERO);
    for index in 0..calls {
        let subject = Subject(first + rng.u16(..SUBJECTS_PER_THREAD));
        let at = rng.u16(..subject.sandboxes());
        let container = subject.sandbox(at);
        let is_add = rng.bool();
        let call = if is_add {
            network.add_with(node, &container, subject.runtime())
        } else {
            network.del(node, &container)
        };
        let may_wait = is_add && subject.kind() == Kind::Shared;
        let end = if index % SURVIVOR == 0 {
            let start = Instant::now();
            let outcome = call.run(node);
            // A little longer, so that the last moments of a call are met, too.
            longest_life = start.elapsed().mul_f32(1.1);
            if may_wait && !outcome.status.success() {
                outcome.failed_with(11);
                End::Waits
            } else {
                outcome.succeeded();
                End::Success
            }
        } else {
            run_for(&call, node, longest_life.mul_f32(rng.f32()), may_wait)
        };
        killed += u64::from(end == End::Killed);
        let known = known.get_mut(&subject).expect("it is of this thread");
        match (end, is_add) {
            (End::Waits, _) => {}
            (End::Killed, true) => {
                known.holders.insert(Some(at));
                known.leases = None;
            }
            (End::Killed, false) => {
                if known.holders.contains(&Some(at)) {
                    known.holders.insert(None);
                    known.leases = None;
                }
            }
            (End::Success, true) => {
                let leases = leases_of(node, &container);
                remember(claimed, claims(node), &container);
                *known = Known { holders: [Some(at)].into(), leases: Some(leases) };
            }
            (End::Success, false) => {
                if known.holders.remove(&Some(at)) {
                    known.holders.insert(None);
                    known.leases = None;
                }
            }
        }
    }
    (known, killed)
}

/// Notes the ports of the claims that the container uses, or asserts that they are
/// what they were.
fn remember(claimed: &Claimed, claims: Vec<Claim>, container: &Container) {
    let mut claimed = claimed.lock().unwrap_or_else(PoisonError::into_inner);
    for claim in claims {
        if claim.holder.as_ref().is_some_and(|holder| holder.container.as_str() == container.id) {
            let port = claim.port.number();
            let first = *claimed.entry(claim.key.clone()).or_insert(port);
            assert_eq!(port, first, "{}", claim.key);
        }
    }
}

/// Runs a call and kills it after that time, if it has not ended before.
fn run_for(call: &Call, node: &Node, life: Duration, may_wait: bool) -> End {
    let mut child = node.host.enter(|| {
        let mut command = call.command(node);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the plugin can be executed")
    });
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // It fits the pipe: nothing waits for the plugin to read.
    stdin.write_all(&call.stdin).expect("the plugin is there");
    drop(stdin);
    // Not a wait for something: the moment of the kill is the point.
    thread::sleep(life);
    child.kill().expect("it has not been waited for");
    let output = child.wait_with_output().expect("it has not been waited for");
    match output.status.code() {
        None => End::Killed,
        Some(0) => End::Success,
        Some(_) => {
            let reply: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            assert!(may_wait && reply["code"] == 11, "it failed before it was killed: {output:?}");
            End::Waits
        }
    }
}

#[track_caller]
fn assert_intact(node: &Node, known: &BTreeMap<Subject, Known>, claimed: &BTreeMap<ClaimKey, u16>) {
    let (leases, claims) = (leases(node), claims(node));
    let mut seen = HashSet::new();
    for held in &leases {
        assert!(seen.insert((&held.protocol, held.host_port)), "{held:?} is there twice");
    }
    for (subject, known) in known {
        let of = |at: u16| {
            let id = subject.sandbox(at).id;
            leases.iter().filter(|held| held.container == id).cloned().collect::<Vec<_>>()
        };
        let holders: Vec<u16> = (0..subject.sandboxes()).filter(|at| !of(*at).is_empty()).collect();
        assert!(holders.len() <= 1, "{subject:?}: sandboxes {holders:?} hold ports");
        let holder = holders.first().copied();
        assert!(known.holders.contains(&holder), "{subject:?}: {holder:?}, not {known:?}");
        if let Some(at) = holder {
            // All of one ADD or nothing.
            assert_eq!(of(at).len(), subject.lease_count(), "{subject:?}");
            if let Some(leases) = &known.leases {
                assert_eq!(&of(at), leases, "{subject:?}");
            }
        }
    }
    assert_claims_are_whole(&claims, &leases);
    for (key, port) in claimed {
        let claim = claims.iter().find(|claim| claim.key == *key);
        assert_eq!(claim.map(|claim| claim.port.number()), Some(*port), "{key}");
    }
}

/// Claims and leases say the same of each other.
#[track_caller]
fn assert_claims_are_whole(claims: &[Claim], leases: &[Held]) {
    let mut ports = BTreeMap::new();
    for claim in claims {
        for port in claim.ports() {
            let other = ports.insert((port.protocol.name().to_owned(), port.port.number()), claim);
            assert!(other.is_none(), "{port} is in two claims: {other:?} and {claim:?}");
        }
    }
    for held in leases {
        let claim = ports.remove(&(held.protocol.clone(), held.host_port));
        let expected = claim.map(|it| (it.key.claim.as_str(), it.key.name.as_str()));
        let found = held.claim.as_deref().zip(held.name.as_deref());
        assert_eq!(found, expected, "{held:?}");
        let holder = claim.map(|claim| claim.holder.as_ref().map(|it| it.container.as_str()));
        assert!(holder.is_none_or(|it| it == Some(&held.container)), "{held:?}: {claim:?}");
    }
    for (port, claim) in ports {
        assert_eq!(claim.holder, None, "{port:?} is held by nobody");
    }
}

/// One trial.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 1] = [("killed", killed_at_any_moment)];
    crate::trials("crash", tests)
}
