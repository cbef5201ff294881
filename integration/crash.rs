//! Plugins that are killed: runtimes do that to calls that take too long.
//!
//! sled, opened by short-lived processes, was left corrupt for good after 75 to
//! 1,037 kills; that is why the store consists of generations. Here, processes are
//! killed at random moments of ADD and DEL, several at once, and after that
//!
//! - the store opens, and every lease whose ADD was acknowledged is in it, and in
//!   the kernel after the next ADD;
//! - no port is held twice;
//! - DEL of everything leaves nothing.
//!
//! `PORTCLAIM_CRASHES` is the number of processes, 150 by default. The seed is
//! printed, and `PORTCLAIM_SEED` sets it.

use std::{
    collections::{BTreeMap, HashSet},
    env,
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    chain::{Call, Container, Network},
    held::{Held, assert_nothing_held, assert_tidy, forwarded, leases, leases_of},
    node::Node,
};

const THREADS: u16 = 4;
const CONTAINERS_PER_THREAD: u16 = 6;
/// Of so many processes one is let live, and the others get a random part of the
/// time that it took.
const SURVIVOR: u64 = 8;

/// What is known of a container's leases from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// The last call was a DEL that succeeded, or there was none.
    Free,
    /// The last call was an ADD that succeeded.
    Held(Vec<Held>),
    /// The last call was killed.
    Unknown,
}

fn mappings(container: u16) -> Value {
    json!([
        { "hostPort": 8000 + container, "containerPort": 80 },
        { "containerPort": 53, "protocol": "udp" },
        { "containerPort": 443 },
    ])
}

fn from_env(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}")))
}

fn killed_at_any_moment() {
    let processes = from_env("PORTCLAIM_CRASHES").unwrap_or(150);
    let seed = from_env("PORTCLAIM_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PORTCLAIM_CRASHES={processes} PORTCLAIM_SEED={seed}");
    let node = Node::new(false);
    let network = Network::bridge("podnet", true);
    let mut known = BTreeMap::new();
    let mut killed = 0;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let rng = Rng::with_seed(seed.wrapping_add(thread.into()));
                let calls = processes.div_ceil(THREADS.into());
                let (node, network) = (&node, &network);
                scope.spawn(move || call_and_kill(node, network, thread, calls, rng))
            })
            .collect();
        for thread in threads {
            let (known_of_thread, killed_by_thread) = thread.join().expect("a right call");
            known.extend(known_of_thread);
            killed += killed_by_thread;
        }
    });
    println!("{killed} of {processes} killed");
    assert!(killed > processes / 2, "most of them were to be killed");
    assert_intact(&node, &known);
    let leases = leases(&node);
    for (protocol, port) in forwarded(&node, &network).into_keys() {
        let owned = leases.iter().any(|h| h.protocol == protocol && h.host_port == port);
        assert!(owned, "{port}/{protocol} is forwarded and nobody's");
    }

    // The next ADD of anybody puts right what the kernel lacks.
    let next = Container::on_paper("next", 9999);
    network.add(&node, &next, json!([{ "containerPort": 80 }])).run(&node).succeeded();
    assert_intact(&node, &known);
    let forwarded = forwarded(&node, &network);
    for (number, leases) in (0..).map_while(|n| Some((n, known.get(&container(n).id)?))) {
        let Known::Held(leases) = leases else { continue };
        for held in leases {
            let port = (held.protocol.clone(), held.host_port);
            let expected = SocketAddrV4::new(address(number), held.container_port);
            assert_eq!(forwarded.get(&port), Some(&expected), "{held:?}");
        }
    }

    network.del(&node, &next).run(&node).succeeded();
    for number in 0..THREADS * CONTAINERS_PER_THREAD {
        network.del(&node, &container(number)).run(&node).succeeded();
    }
    assert_nothing_held(&node, &network);
    assert_tidy(&node);
}

fn container(number: u16) -> Container {
    Container::on_paper(&format!("c{number}"), number)
}

/// The IPv4 address that `container` has.
fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 99, high, low)
}

/// Calls the plugin for containers of this thread only: a runtime makes one call
/// at a time for a container.
fn call_and_kill(
    node: &Node,
    network: &Network,
    thread: u16,
    calls: u64,
    mut rng: Rng,
) -> (BTreeMap<String, Known>, u64) {
    let first = thread * CONTAINERS_PER_THREAD;
    let mut known: BTreeMap<_, _> =
        (first..first + CONTAINERS_PER_THREAD).map(|n| (container(n).id, Known::Free)).collect();
    let (mut killed, mut longest_life) = (0, Duration::ZERO);
    for index in 0..calls {
        let number = first + rng.u16(..CONTAINERS_PER_THREAD);
        let container = container(number);
        let is_add = rng.bool();
        let call = if is_add {
            network.add(node, &container, mappings(number))
        } else {
            network.del(node, &container)
        };
        let survived = if index % SURVIVOR == 0 {
            let start = Instant::now();
            call.run(node).succeeded();
            // A little longer, so that the last moments of a call are met, too.
            longest_life = start.elapsed().mul_f32(1.1);
            true
        } else {
            run_for(&call, node, longest_life.mul_f32(rng.f32()))
        };
        killed += u64::from(!survived);
        let now = match (survived, is_add) {
            (false, _) => Known::Unknown,
            (true, true) => Known::Held(leases_of(node, &container)),
            (true, false) => Known::Free,
        };
        known.insert(container.id, now);
    }
    (known, killed)
}

/// Runs a call and kills it after that time; false if that came before its end.
fn run_for(call: &Call, node: &Node, life: Duration) -> bool {
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
    let failed = output.status.code().is_some_and(|code| code != 0);
    assert!(!failed, "it failed before it was killed: {output:?}");
    output.status.success()
}

#[track_caller]
fn assert_intact(node: &Node, known: &BTreeMap<String, Known>) {
    let leases = leases(node);
    let mut seen = HashSet::new();
    for held in &leases {
        assert!(seen.insert((&held.protocol, held.host_port)), "{held:?} is there twice");
    }
    for (id, known) in known {
        let held: Vec<_> = leases.iter().filter(|held| held.container == *id).cloned().collect();
        match known {
            Known::Free => assert_eq!(held, [], "{id}"),
            Known::Held(expected) => assert_eq!(&held, expected, "{id}"),
            // All of one ADD or nothing.
            Known::Unknown => assert!([0, 3].contains(&held.len()), "{id}: {held:?}"),
        }
    }
}

/// One trial.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 1] = [("killed", killed_at_any_moment)];
    crate::trials("crash", tests)
}
