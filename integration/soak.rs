//! Pods that come and go for a long time, and what they leave: nothing.
//!
//! Each has a real namespace on a bridge, a port by number, a port of a small pool
//! that rests after it, and a claim that the pods of one name share over time. Some
//! live at a time, each is asked on UDP, which leaves flows, and each is given up
//! as containerd does it. Behind the first few and behind the last, when all are
//! gone, these must be equal: the ruleset, published files, unused claims, addresses
//! taken, flows, and links of the node. The store must be small and tidy, and a call
//! take no more memory than at first.
//!
//! `PORTCLAIM_SOAK` is the number of pods, 150 by default. How long a call takes is
//! measured by `scripts/bench`.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::json;

use crate::{
    chain::{Call, Container, Network, annotated},
    held::{Held, assert_nothing_held, assert_tidy, claims, leases_of},
    node::{Family, Node},
    traffic::{Echo, Flow, PATIENCE},
};

/// Pods before the first look.
const WARM_UP: usize = 16;
/// Pods that live at a time.
const LIVING: usize = 4;
/// Names that pods have in turn.
const NAMES: usize = 8;
/// Fewer than pods that come and go.
const POOL: &str = "10000-10031";

/// The subnet is large enough for no address to come twice: `bridge` makes the host's
/// neighbour table forget the last owner's link only seconds later.
fn network() -> Network {
    let pool = json!({ "default": { "ports": POOL } });
    Network::bridge("podnet", true).subnets(&SUBNETS).option("groups", pool)
}

const SUBNETS: [&str; 2] = ["10.88.0.0/16", "fd00:88::/64"];
/// The store is written anew when its file has grown by a MiB, in bytes.
const STORE_LIMIT: u64 = 2 << 20;

/// A pod that lives.
struct Pod {
    container: Container,
    _server: Echo,
}

/// A node, and who lives on it.
struct Soak {
    node: Node,
    living: VecDeque<Pod>,
    /// The port of each name.
    claimed: BTreeMap<String, u16>,
    /// Pods so far.
    count: usize,
}

impl Soak {
    fn new() -> Self {
        let node = Node::new(false);
        Self { node, living: VecDeque::new(), claimed: BTreeMap::new(), count: 0 }
    }

    /// So many pods come, and as many go.
    fn run(&mut self, pods: usize) {
        for _ in 0..pods {
            self.start();
            if self.living.len() > LIVING {
                self.stop();
            }
        }
        while !self.living.is_empty() {
            self.stop();
        }
    }

    fn start(&mut self) {
        let name = format!("arena-{}", self.count % NAMES);
        let uid = format!("uid-{}", self.count);
        let mut container =
            Container::new(&format!("{:064x}", self.count)).in_pod("games", &name, &uid);
        let number = 5000 + u16::try_from(self.count % NAMES).expect("there are few names");
        let ports = json!([
            { "name": "game", "containerPort": 7777, "protocol": "udp", "claim": name },
            { "name": "any", "containerPort": 7777, "protocol": "tcp+udp" },
        ]);
        let mut runtime = annotated(&[("ports", &ports.to_string())]);
        runtime["portMappings"] = json!([{ "hostPort": number, "containerPort": 7777,
                                           "protocol": "udp", "hostIP": Family::V4.node() }]);
        network().attach_with(&self.node, &mut container, runtime).succeeded();
        let server = Echo::start(container.namespace(), Protocol::Udp, 7777, &container.id);
        let held = leases_of(&self.node, &container);
        let port = |name| {
            let of_name = |it: &&Held| it.name.as_deref() == Some(name);
            held.iter().find(of_name).expect("it got all it asked for").host_port
        };
        let claimed = *self.claimed.entry(name).or_insert(port("game"));
        assert_eq!(port("game"), claimed, "the same port as ever");
        for (families, port) in
            [(&Family::ALL[..], claimed), (&Family::ALL, port("any")), (&[Family::V4], number)]
        {
            for family in families {
                let flow = Flow::new(&self.node.outside, (family.node(), port).into());
                let answer = flow.ask(PATIENCE).map(|it| it.server);
                assert_eq!(answer.as_deref(), Some(&*container.id), "{port} {family:?}");
            }
        }
        self.living.push_back(Pod { container, _server: server });
        self.count += 1;
    }

    fn stop(&mut self) {
        let Pod { container, .. } = self.living.pop_front().expect("somebody lives");
        network().detach(&self.node, &container);
        network().del(&self.node, &container).with("CNI_NETNS", "").run(&self.node).succeeded();
    }

    /// What is there when nobody lives.
    fn remains(&self) -> Remains {
        let node = &self.node;
        assert_nothing_held(node, &network());
        assert_tidy(node);
        let claims = claims(node);
        assert!(claims.iter().all(|claim| claim.holder.is_none()), "{claims:?}");
        let print = |program: &str, arguments: &[&str]| {
            let printed = node.host.output(Command::new(program).args(arguments), b"");
            assert!(printed.status.success(), "{program} {arguments:?}");
            String::from_utf8_lossy(&printed.stdout).into_owned()
        };
        let mut flows = String::new();
        for family in ["ipv4", "ipv6"] {
            flows += &print("conntrack", &["--dump", "--proto", "udp", "--family", family]);
        }
        assert_eq!(flows, "", "flows");
        let mut addresses = Node::files(&node.folder("ipam"));
        addresses.sort();
        Remains {
            claims: claims.into_iter().map(|it| (it.key.to_string(), it.port.number())).collect(),
            traces: node.traces(),
            links: print("ip", &["-brief", "link"]).lines().count(),
            addresses,
        }
    }

    /// The size of the store's current generation, in bytes.
    fn store_size(&self) -> u64 {
        let folder = self.node.data_dir().join("current");
        let files = Node::files(&folder);
        files.iter().map(|it| fs::metadata(folder.join(it)).expect("it is there").len()).sum()
    }

    /// The most memory that an ADD had resident, in KiB.
    fn memory(&self) -> u64 {
        let container = Container::on_paper("measured", 99);
        let mappings = json!([{ "hostPort": 8080, "containerPort": 80 }]);
        let add = network().add(&self.node, &container, mappings);
        let peak = (0..3).map(|_| peak_memory(&self.node, &add)).max();
        network().del(&self.node, &container).run(&self.node).succeeded();
        peak.expect("it was measured")
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Remains {
    claims: BTreeMap<String, u16>,
    traces: String,
    links: usize,
    addresses: Vec<String>,
}

/// `VmHWM`, read until the process is gone, in KiB.
fn peak_memory(node: &Node, call: &Call) -> u64 {
    node.host.enter(|| {
        let mut command = call.command(node);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the plugin can be executed");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin.write_all(&call.stdin).expect("it fits the pipe");
        drop(stdin);
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        while let Some(kib) = fs::read_to_string(&status).ok().as_deref().and_then(high_water) {
            peak = kib;
        }
        assert!(child.wait().expect("it was spawned").success());
        peak
    })
}

/// None once the process has given its memory back.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

fn nothing_is_left() {
    let pods = crate::from_env("PORTCLAIM_SOAK").unwrap_or(150);
    let pods = usize::try_from(pods).expect("it is a small number");
    println!("PORTCLAIM_SOAK={pods}");
    let mut soak = Soak::new();
    soak.run(WARM_UP);
    let (remains, memory) = (soak.remains(), soak.memory());
    soak.run(pods.saturating_sub(WARM_UP));
    assert_eq!(soak.remains(), remains);
    let (store, memory_now) = (soak.store_size(), soak.memory());
    println!("store: {store} bytes; memory of an ADD: {memory} KiB, then {memory_now} KiB");
    assert!(store <= STORE_LIMIT, "the store has {store} bytes");
    assert!(memory_now <= memory * 5 / 4, "an ADD takes {memory_now} instead of {memory} KiB");
}

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 1] = [("nothing-is-left", nothing_is_left)];
    crate::trials("soak", tests)
}
