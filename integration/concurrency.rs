//! Many at once: a node that starts, or drains, all of its pods.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    thread,
    time::{Duration, Instant},
};

use fs2::FileExt as _;
use libtest_mimic::Trial;
use portclaim::lease::Claim;
use serde_json::json;

use crate::{
    chain::{Container, Network, annotated},
    held::{assert_nothing_held, assert_tidy, claims, forwarded, leases},
    node::Node,
};

const CONTAINERS: u16 = 300;

fn three_hundred_at_once() {
    let node = Node::new(false);
    // Twice as slow a machine as any should still be in time.
    let network = Network::bridge("podnet", true).option("lockTimeout", json!("2m"));
    let containers: Vec<_> =
        (1..=CONTAINERS).map(|n| Container::on_paper(&format!("c{n}"), n)).collect();
    let mappings = json!([
        { "containerPort": 80 },
        { "containerPort": 443, "hostPort": 0, "protocol": "tcp" },
        { "containerPort": 5000, "protocol": "tcp" },
    ]);
    at_once(&containers, |container| {
        network.add(&node, container, mappings.clone()).run(&node).succeeded();
    });
    let leases = leases(&node);
    assert_eq!(leases.len(), usize::from(CONTAINERS) * 3);
    let ports: HashSet<_> = leases.iter().map(|held| held.host_port).collect();
    assert_eq!(ports.len(), leases.len(), "no port twice");
    let holders: HashSet<_> = leases.iter().map(|held| &held.container).collect();
    assert_eq!(holders.len(), containers.len());
    let forwarded: HashSet<_> =
        forwarded(&node, &network).into_keys().map(|(_, port)| port).collect();
    assert_eq!(forwarded, ports, "the kernel's and the store's");
    assert_tidy(&node);

    at_once(&containers, |container| {
        network.del(&node, container).run(&node).succeeded();
    });
    assert_nothing_held(&node, &network);
    assert_tidy(&node);
}

fn one_port_has_one_owner() {
    let node = Node::new(false);
    let network = Network::bridge("podnet", true).option("lockTimeout", json!("1m"));
    let containers: Vec<_> = (1..=12).map(|n| Container::on_paper(&format!("c{n}"), n)).collect();
    let mappings = json!([{ "hostPort": 8080, "containerPort": 80 }]);
    let won = at_once(&containers, |container| {
        let outcome = network.add(&node, container, mappings.clone()).run(&node);
        if !outcome.status.success() {
            outcome.failed_with(100);
        }
        outcome.status.success()
    });
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
    assert_eq!(leases(&node).len(), 1);
}

/// More pods than claims, and more claims than ports: each claim has one user, each
/// port one claim, and no port is left while a claim could have had it.
fn claims_in_a_full_pool() {
    const PODS: u16 = 90;
    const CLAIMS: u16 = 60;
    const PORTS: usize = 50;
    let node = Node::new(false);
    let network = Network::bridge("podnet", true)
        .option("lockTimeout", json!("2m"))
        .option("groups", json!({ "default": { "ports": "7000-7049", "cooldown": "0s" } }));
    let pods: Vec<_> = (0..PODS)
        .map(|n| Container::on_paper(&format!("c{n}"), n).in_pod("games", &format!("p{n}"), "u"))
        .collect();
    let add = |pod: &Container| {
        let number: u16 = pod.id[1..].parse().expect("it ends with its number");
        let claim = format!("claim{}", number % CLAIMS);
        let asked = annotated(&[("claim", &claim), ("ports", "game=7777")]);
        let outcome = network.add_with(&node, pod, asked).run(&node);
        if !outcome.status.success() {
            let code = outcome.failed().code;
            assert!([11, 101].contains(&code), "{outcome:?}");
        }
        outcome.status.success()
    };
    let assert_one_each = |of: &[Claim]| {
        let ports: HashSet<_> = of.iter().map(|claim| claim.port.number()).collect();
        assert_eq!((of.len(), ports.len()), (PORTS, PORTS), "{of:?}");
    };
    let won = at_once(&pods, add);
    assert_eq!(won.iter().filter(|won| **won).count(), PORTS);
    assert_one_each(&claims(&node));
    at_once(&pods, |pod| {
        network.del(&node, pod).run(&node).succeeded();
    });
    assert_nothing_held(&node, &network);
    // Who had no claim before finds none free now: all are kept.
    let before: HashMap<_, _> = claims(&node).into_iter().map(|it| (it.key, it.port)).collect();
    let won = at_once(&pods, add);
    assert_eq!(won.iter().filter(|won| **won).count(), PORTS);
    let after = claims(&node);
    assert_one_each(&after);
    assert_eq!(after.into_iter().map(|it| (it.key, it.port)).collect::<HashMap<_, _>>(), before);
}

/// A waiter was woken, and until it had a core to run on, one that came later had taken
/// the lock: of 50 that waited, some saw 95 of 100 later ones go before them.
fn in_order() {
    const WAITERS: u16 = 40;
    const LATER: u16 = 60;
    /// So many later ones may go before one that waited.
    const TOLERATED: usize = 5;
    let node = Node::new(false);
    // The lowest free port is the next one's.
    let network = Network::bridge("podnet", true)
        .option("lockTimeout", json!("2m"))
        .option("groups", json!({ "default": { "ports": "7000-7199", "strategy": "sequential" } }));
    let add = |number: u16| {
        let container = Container::on_paper(&format!("c{number}"), number);
        network.add(&node, &container, json!([{ "containerPort": 80 }])).run(&node).succeeded();
    };
    add(0);
    let lock = File::open(node.data_dir().join("lock")).unwrap();
    lock.lock_exclusive().unwrap();
    thread::scope(|scope| {
        for number in 1..=WAITERS {
            scope.spawn(move || add(number));
            wait_for_waiters(&lock, number.into());
        }
        drop(lock);
        for number in 1..=LATER {
            scope.spawn(move || add(WAITERS + number));
        }
    });
    let mut leases = leases(&node);
    leases.sort_by_key(|held| held.host_port);
    let order: Vec<u16> = leases.iter().map(|held| held.container[1..].parse().unwrap()).collect();
    let last = order.iter().rposition(|number| *number <= WAITERS).unwrap();
    let overtakers = order[..last].iter().filter(|number| **number > WAITERS).count();
    assert!(overtakers <= TOLERATED, "{overtakers} went before one that waited: {order:?}");
}

/// Waits until so many processes wait for the lock of a file, by what the kernel tells:
/// `3: -> FLOCK ADVISORY WRITE 4711 fe:00:1024 0 EOF`.
fn wait_for_waiters(file: &File, count: usize) {
    let inode = format!(":{} ", file.metadata().unwrap().ino());
    let waits = |line: &&str| line.contains("-> FLOCK") && line.contains(&inode);
    let deadline = Instant::now() + Duration::from_mins(1);
    while fs::read_to_string("/proc/locks").unwrap().lines().filter(waits).count() < count {
        assert!(Instant::now() < deadline, "{count} should wait");
        thread::yield_now();
    }
}

fn at_once<T: Send>(containers: &[Container], call: impl Fn(&Container) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> =
            containers.iter().map(|container| scope.spawn(|| call(container))).collect();
        threads.into_iter().map(|thread| thread.join().expect("every call is right")).collect()
    })
}

/// One trial for each.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 4] = [
        ("three-hundred", three_hundred_at_once),
        ("in-order", in_order),
        ("one-owner", one_port_has_one_owner),
        ("claims", claims_in_a_full_pool),
    ];
    crate::trials("concurrency", tests)
}
