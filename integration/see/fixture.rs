//! A node with something to see: its conflist, and what its store holds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use portclaim::{
    lease::{
        Attachment, Claim, ClaimKey, ContainerAddresses, Forwarding, HostPort, Lease, ModuleLease,
        Pod, Port, Protocol, Rest,
    },
    store::{Moment, Store},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{chain::Network, namespace, node::Node};

pub const CTL: &str = env!("CARGO_BIN_EXE_portclaimctl");
pub const DAY: u64 = 24 * 60 * 60;
/// The ID of the container of `shop/web-0`.
const WEB: &str = "3f2a17c0a5e94f0d8b6c3e1f7a9d2b4c6e8f0a1b3c5d7e9f2a4b6c8d0e1f3a5b";

/// A node, and where its tool finds what is to be seen.
pub struct Site {
    pub node: Node,
    pub conflist: PathBuf,
}

impl Site {
    /// A node on which nothing was ever held.
    pub fn new() -> Self {
        let node = Node::new(false);
        let conflist = node.folder("podnet.conflist");
        let site = Self { node, conflist };
        site.write(&network());
        site
    }

    /// A node on which there is one of everything.
    pub fn with_everything() -> Self {
        let site = Self::new();
        namespace::locking(|| everything(&store(&site.node)));
        site
    }

    /// Replaces the options of `network` in the conflist.
    pub fn write_options(&self, options: &Value) {
        let network = Network::bridge("podnet", true);
        let options = options.as_object().unwrap().iter();
        self.write(
            &options.fold(network, |network, (key, value)| network.option(key, value.clone())),
        );
    }

    /// Replaces the conflist.
    pub fn write(&self, network: &Network) {
        let list = json!({
            "cniVersion": "1.0.0",
            "name": network.name,
            "plugins": [{ "type": "bridge" }, network.config(&self.node)],
        });
        fs::write(&self.conflist, list.to_string()).unwrap();
    }

    /// The options by which the tool finds the conflist.
    pub fn options(&self) -> [&std::ffi::OsStr; 2] {
        ["--config".as_ref(), self.conflist.as_os_str()]
    }

    /// Runs the tool on the node.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = self.node.command(Path::new(CTL));
        command.args(args).args(self.options());
        self.node.host.enter(|| namespace::output(&mut command, b""))
    }
}

/// The network of these tests.
pub fn network() -> Network {
    Network::bridge("podnet", true)
        .option(
            "groups",
            json!({
                "games": { "ports": "7000-7009", "protocols": ["tcp", "udp"],
                           "namespaces": ["games-*", "arcade"], "strategy": "sequential" },
                "media": { "ports": "20000-20999", "protocols": ["udp"] },
            }),
        )
        .option("exclude", json!("7009,10000"))
        .option(
            "static",
            json!({ "portMappings": [{ "ports": "1-9999" }],
                    "annotations": [{ "ports": "53,5060", "namespaces": ["voice"] }],
                    "portClaims": false }),
        )
}

/// The store of a node.
pub fn store(node: &Node) -> Store {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    Store::new(node.data_dir(), boot_id.trim_end().to_owned())
        .working_in(node.run_dir().join("store"))
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// When the containers of `everything` came: three days and some hours ago, so that
/// their age does not change while a test runs.
pub fn since() -> u64 {
    now() - 3 * DAY - 5 * 60 * 60
}

fn lease(host: &str, container_port: u16) -> Lease {
    let (host, protocol) = host.split_once('/').unwrap();
    let (address, port) = host.rsplit_once(':').unwrap_or(("", host));
    Lease {
        host: HostPort {
            protocol: Protocol::from_name(protocol).unwrap(),
            port: port_of(port.parse().unwrap()),
            address: address.trim_matches(['[', ']']).parse().unwrap(),
        },
        container_port: port_of(container_port),
        name: None,
        group: None,
        claim: None,
        rest: None,
    }
}

fn port_of(number: u16) -> Port {
    Port::new(number).unwrap()
}

/// A lease of a group, under a claim where there is one.
fn drawn(host: &str, name: &str, group: &str, claim: Option<&str>) -> Lease {
    let lease = lease(host, 7777);
    Lease {
        name: name.parse().ok(),
        group: group.parse().ok(),
        claim: claim.map(|claim| claim.parse().unwrap()),
        // Longer than the test, and shown in hours.
        rest: Some(Rest { cooldown: 90 * 60 * 1000, is_remembered: false }),
        ..lease
    }
}

fn forwarding(
    (network, container): (&str, &str),
    pod: Option<(&str, &str)>,
    address: u8,
    leases: Vec<Lease>,
) -> Forwarding {
    Forwarding {
        attachment: Attachment {
            network: network.parse().unwrap(),
            container: container.parse().unwrap(),
            interface: "eth0".parse().unwrap(),
        },
        pod: pod.map(|(namespace, name)| Pod {
            namespace: namespace.parse().unwrap(),
            name: name.parse().unwrap(),
            uid: Some("0b9c7d5e-2f6a-4c1b-9d3e-5a7f8b0c2d4e".to_owned()),
        }),
        container: ContainerAddresses {
            v4: Some([10, 88, 0, address].into()),
            v6: format!("fd00:88::{address:x}").parse().ok(),
        },
        link: "cni0".parse().ok(),
        sandbox: None,
        health: None,
        since: since(),
        leases,
    }
}

fn claim(namespace: &str, name: (&str, &str), host: &str, count: u16, group: &str) -> Claim {
    let HostPort { protocol, port, address } = lease(host, 1).host;
    Claim {
        key: ClaimKey {
            namespace: namespace.parse().ok(),
            claim: name.0.parse().unwrap(),
            name: name.1.parse().unwrap(),
            protocol,
        },
        port,
        count,
        address,
        group: group.parse().unwrap(),
        ttl: 90 * DAY,
        holder: None,
        expires: None,
    }
}

fn block(module: &str, ports: (Protocol, u16, u16), group: &str, to: Option<&str>) -> ModuleLease {
    ModuleLease {
        module: module.parse().unwrap(),
        name: None,
        protocol: ports.0,
        port: port_of(ports.1),
        count: ports.2,
        group: group.parse().unwrap(),
        to: to.map(|to| to.parse().unwrap()),
        since: since(),
        rest: Rest { cooldown: 0, is_remembered: false },
    }
}

/// One of everything, in two generations: the second adds what came last.
fn everything(store: &Store) {
    let boot = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap();
    let moment = Moment { since_boot: boot, unix: now() };
    let arena = forwarding(
        ("podnet", "a0"),
        Some(("games-eu", "arena-0")),
        3,
        vec![
            drawn("7000/tcp", "game", "games", Some("arena-0")),
            drawn("7000/udp", "game", "games", Some("arena-0")),
            drawn("7002/udp", "voice", "games", None),
        ],
    );
    let mut lock = store.lock(Duration::from_secs(10)).unwrap();
    let mut draft = lock.begin().unwrap();
    for host in ["7000/tcp", "7000/udp"] {
        let claim = claim("games-eu", ("arena-0", "game"), host, 1, "games");
        draft.reserve(&Claim { holder: Some(arena.attachment.clone()), ..claim }).unwrap();
    }
    draft.insert(&arena).unwrap();
    let hours = 60 * 60;
    let unused = claim("games-eu", ("arena-1", "game"), "7001/udp", 1, "games");
    draft.reserve(&Claim { expires: Some(now() + 29 * DAY + hours), ..unused }).unwrap();
    draft.reserve(&claim("calls", ("relay", "rtp"), "20000/udp", 32, "media")).unwrap();
    let gone = claim("calls", ("old", "sip"), "[2001:db8::1]:20100/udp", 1, "media");
    draft.reserve(&Claim { expires: Some(now() - 1), ..gone }).unwrap();
    let rests = forwarding(
        ("podnet", "b0"),
        Some(("games-eu", "arena-9")),
        9,
        vec![drawn("7005/udp", "game", "games", None)],
    );
    draft.insert(&rests).unwrap();
    draft.remove(&rests.attachment, moment).unwrap();
    let database = vec![lease("192.0.2.1:5432/tcp", 5432)];
    draft.insert(&forwarding(("other", "db1"), None, 4, database)).unwrap();
    draft.commit().unwrap();

    let mut draft = lock.begin().unwrap();
    let web = vec![lease("8080/tcp", 80), drawn("10001/tcp", "http", "default", None)];
    let web = forwarding(("podnet", WEB), Some(("shop", "web-0")), 2, web);
    draft.insert(&web).unwrap();
    let mail = block("mail1", (Protocol::Tcp, 10100, 2), "default", None);
    let phone = block("phone1", (Protocol::Udp, 20200, 1), "media", Some("10.88.0.9:5060"));
    for module in [mail, phone] {
        draft.insert_module(&module).unwrap();
    }
    draft.commit().unwrap();
}

/// Names and addresses as long as they get.
pub fn everything_long(store: &Store) {
    let long = |letter: &str, length| letter.repeat(length);
    let host = "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:19805/sctp";
    let (namespace, pod) = (long("n", 63), [long("p", 63), long("q", 63), long("r", 63)].join("."));
    let (name, claimed) = (long("m", 63), long("c", 63));
    let leases = vec![drawn(host, &name, &long("g", 63), Some(&claimed))];
    let owner = (long("w", 255), long("0", 255));
    let owner = (owner.0.as_str(), owner.1.as_str());
    let mut held = forwarding(owner, Some((&namespace, &pod)), 2, leases);
    held.container =
        ContainerAddresses { v4: None, v6: "fd00:1111:2222:3333:4444:5555:6666:7777".parse().ok() };
    let reserved = claim(&namespace, (&claimed, &name), host, 1, &long("g", 63));
    namespace::locking(|| {
        let mut lock = store.lock(Duration::from_secs(10)).unwrap();
        let mut draft = lock.begin().unwrap();
        draft.reserve(&Claim { holder: Some(held.attachment.clone()), ..reserved }).unwrap();
        draft.insert(&held).unwrap();
        draft.commit().unwrap();
    });
}

/// That many leases, ten each of a pod's.
pub fn fill(node: &Node, leases: u16) {
    const EACH: u16 = 10;
    namespace::locking(|| {
        let store = store(node);
        let mut lock = store.lock(Duration::from_secs(10)).unwrap();
        let mut draft = lock.begin().unwrap();
        for pod in 0..leases / EACH {
            let (name, container) = (format!("web-{pod}"), format!("{pod:064x}"));
            let namespace = format!("team-{}", pod % 20);
            let ports = (0..EACH).map(|at| 10_000 + pod * EACH + at);
            let leases = ports.map(|port| drawn(&format!("{port}/tcp"), "http", "default", None));
            let [high, low] = pod.to_be_bytes();
            let mut held =
                forwarding(("podnet", &container), Some((&namespace, &name)), 2, leases.collect());
            held.container.v4 = Some([10, 88, high, low].into());
            draft.insert(&held).unwrap();
        }
        draft.commit().unwrap();
        // So much in one commit leaves a bloated file, which the next one rebuilds: a
        // store grows by one container at a time.
        lock.begin().unwrap().commit().unwrap();
    });
}
