//! What planning costs, by how much of a pool is leased: the allocator alone, on
//! what the store holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use portclaim::{
    allocator::{Pool, Situation, plan},
    host,
    lease::{
        Attachment, ContainerAddresses, Forwarding, GroupName, HostAddress, HostPort, Lease, Port,
        PortSet, Protocol, Strategy,
    },
    request::{Choice, ContainerPort, Dynamic, Request},
    store::Store,
};

use crate::{
    Extent, progress,
    report::{Report, Target},
    statistic::Samples,
};

/// Milliseconds, for the median.
const TARGET: Target = Target(5.0);
/// The pool: 50,000 ports.
const POOL: &str = "10001-60000";
/// How many ports a container asks for.
const PORTS: u16 = 64;
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Measures plans at each number of leases, for each strategy.
pub fn measure(extent: &Extent, report: &mut Report) {
    let mut rows = Vec::new();
    for &leased in extent.leased {
        progress(&format!("plans with {leased} ports leased"));
        rows.extend(plans(leased, extent.samples));
    }
    report.table(
        "Planning 64 ports in a pool of 50,000",
        "strategy | leased | median | target | 90th percentile",
        rows,
        "The allocator alone, asking an open store; without lock, copy and commit.",
    );
}

fn attachment(number: usize) -> Attachment {
    Attachment {
        network: "bench".parse().unwrap(),
        container: format!("c{number}").parse().unwrap(),
        interface: "eth0".parse().unwrap(),
    }
}

/// A row for each strategy.
fn plans(leased: usize, samples: u32) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().to_owned(), host::boot_id().unwrap());
    let pool: PortSet = POOL.parse().unwrap();
    let mut ports: Vec<Port> = pool.iter().collect();
    fastrand::Rng::with_seed(1).shuffle(&mut ports);
    let mut lock = store.lock(LOCK_TIMEOUT).unwrap();
    let mut draft = lock.begin().unwrap();
    for (number, ports) in ports[..leased].chunks(usize::from(PORTS)).enumerate() {
        let taken = ports.iter().map(|port| Lease {
            host: HostPort { protocol: Protocol::Tcp, port: *port, address: HostAddress::Any },
            container_port: *port,
            name: None,
            group: Some(group()),
            claim: None,
            rest: None,
        });
        let forwarding = Forwarding {
            attachment: attachment(number),
            pod: None,
            container: ContainerAddresses::default(),
            link: None,
            sandbox: None,
            health: None,
            since: 0,
            leases: taken.collect(),
        };
        draft.insert(&forwarding).unwrap();
    }
    draft.commit().unwrap();
    let view = store.read().unwrap();
    let pool = Pool {
        ports: pool,
        excluded: 0,
        cooldown: Duration::from_mins(1),
        claim_ttl: Duration::ZERO,
        is_remembered: false,
    };
    let pools = BTreeMap::from([(group(), pool)]);
    let (owner, in_use) = (attachment(leased), BTreeSet::new());
    let situation = Situation {
        attachment: Some(&owner),
        namespace: None,
        previous: &[],
        pools: &pools,
        in_use: &in_use,
        now: Duration::ZERO,
    };
    let strategies = [
        ("random", Strategy::Random),
        ("sequential", Strategy::Sequential),
        ("least-recently-used", Strategy::LeastRecentlyUsed),
    ];
    let row = |(name, strategy)| {
        let requests = requests(strategy);
        let mut rng = fastrand::Rng::with_seed(2);
        let sample = |_| {
            let start = Instant::now();
            let plan = plan(&requests, situation, &*view, &mut rng);
            let elapsed = start.elapsed();
            assert_eq!(plan.unwrap().leases.len(), usize::from(PORTS));
            elapsed
        };
        let samples: Samples = (0..samples).map(sample).collect();
        let [median, p90] = [samples.median(), samples.p90()].map(|time| time.as_secs_f64() * 1e3);
        format!("{name} | {leased} | {} | {p90:.2} ms", TARGET.cells(median, " ms"))
    };
    strategies.map(row).into()
}

fn group() -> GroupName {
    "default".parse().unwrap()
}

fn requests(strategy: Strategy) -> Vec<Request> {
    let request = |port| Request {
        name: None,
        container: ContainerPort::Number(Port::new(port).unwrap()),
        protocols: Protocol::Tcp.into(),
        address: HostAddress::Any,
        count: 1,
        choice: Choice::Dynamic(Dynamic {
            group: group(),
            strategy,
            from: None,
            preferred: None,
            claim: None,
        }),
    };
    (1..=PORTS).map(request).collect()
}
