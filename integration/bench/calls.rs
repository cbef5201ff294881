//! What ADD, CHECK and DEL cost, by how much there is already.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Extent, memory,
    plugin::{Call, Mapping, Plugin},
    progress,
    report::{Report, Target},
    site::{Container, Site},
    statistic::Samples,
};

const ADD_TARGET: Target = Target(0.16);
const CHECK_TARGET: Target = Target(0.25);
const DEL_TARGET: Target = Target(0.2);

/// A container of which there is none among the existing ones.
const SAMPLE: Container = Container(60_000);
/// Its host port, likewise.
const SAMPLE_PORT: u16 = 8080;

/// How many containers a burst adds.
const BURST: u16 = 100;
/// How many ports each of them has.
const BURST_PORTS: u16 = 3;

/// The verbs, in the order of a container's life, and what is wanted of them.
pub const VERBS: [(&str, Option<Target>); 3] =
    [("ADD", Some(ADD_TARGET)), ("CHECK", Some(CHECK_TARGET)), ("DEL", Some(DEL_TARGET))];

/// What was measured of each plugin.
type Measured = [Samples; Plugin::ALL.len()];

/// Measures single calls at each size, and bursts.
pub fn measure(extent: &Extent, report: &mut Report) {
    let sites = Plugin::ALL.map(Site::new);
    // The first call makes the shared chains. portmap's first calls at once each find
    // none, and all but one of them fail to make them.
    lives(&sites, 0);
    progress(&format!("{BURST} containers at once"));
    let rows = bursts(&sites, extent.bursts);
    let mut single = Vec::new();
    let mut peaks = Vec::new();
    let mut existing = 0;
    for &size in extent.sizes {
        progress(&format!("calls at {size} mappings: adding those"));
        for site in &sites {
            site.grow(existing, size, Mapping::tcp);
        }
        existing = size;
        progress(&format!("calls at {size} mappings: measuring"));
        single.push((size, lives(&sites, extent.samples)));
        peaks.push((size, memory::peaks(&sites, SAMPLE, Mapping::tcp(SAMPLE_PORT))));
    }
    let single = VERBS.iter().enumerate().flat_map(|(verb, (name, target))| {
        single
            .iter()
            .map(move |(size, measured)| row(&format!("{name} | {size}"), *target, &measured[verb]))
    });
    report.table(
        "One call",
        "call | existing mappings | ratio | target | portclaim | portmap",
        single.collect(),
        "One static TCP port of an IPv4 container; existing mappings belong to a container \
         each. portmap's CHECK is run without ip6tables in PATH: with it, Debian's fails for \
         every container that has an IPv4 address.",
    );
    report.table(
        "100 containers at once, 3 ports each",
        "calls | ratio | target | portclaim | portmap",
        rows,
        "Until the last is done. portclaim chooses the ports, portmap is given them.",
    );
    memory::report(&peaks, report);
}

fn row(first: &str, target: Option<Target>, [portclaim, portmap]: &Measured) -> String {
    let ratio = Target::cells_of(target, portclaim.ratio(portmap), "");
    format!("{first} | {ratio} | {portclaim} | {portmap}")
}

/// The same container on each node, again and again, from ADD to DEL.
fn lives(sites: &[Site; 2], samples: u32) -> [Measured; VERBS.len()] {
    let mut measured: [Measured; VERBS.len()] = Default::default();
    // The first makes what all later ones find.
    for sample in 0..=samples {
        let mut order = [0, 1];
        order.rotate_left(sample as usize % 2);
        for (verb, (name, _)) in VERBS.iter().enumerate() {
            for plugin in order {
                let site = &sites[plugin];
                let mut call = Call::new(name, site, SAMPLE, &[Mapping::tcp(SAMPLE_PORT)]);
                if *name == "CHECK" {
                    call = call.without_ip6tables();
                }
                let time = site.run(call);
                if sample > 0 {
                    measured[verb][plugin].push(time);
                }
            }
        }
    }
    measured
}

fn bursts(sites: &[Site; 2], count: u32) -> Vec<String> {
    let verbs = ["ADD", "DEL"];
    let mut measured: [Measured; 2] = Default::default();
    for _ in 0..count {
        for (verb, measured) in verbs.iter().zip(&mut measured) {
            for (site, samples) in sites.iter().zip(measured) {
                samples.push(burst(site, verb));
            }
        }
    }
    verbs.iter().zip(&measured).map(|(verb, measured)| row(verb, None, measured)).collect()
}

fn burst(site: &Site, verb: &str) -> Duration {
    let barrier = Barrier::new(usize::from(BURST) + 1);
    let calls = (0..BURST).map(|container| {
        let mappings: Vec<_> = (0..BURST_PORTS)
            .map(|index| match site.plugin {
                Plugin::Portclaim => Mapping { container_port: 80 + index, ..Mapping::tcp(0) },
                Plugin::Portmap => Mapping::tcp(SAMPLE_PORT + container * BURST_PORTS + index),
            })
            .collect();
        Call::new(verb, site, Container(SAMPLE.0 + container), &mappings)
    });
    site.host.enter(|| {
        let start = thread::scope(|scope| {
            for call in calls {
                scope.spawn(|| {
                    barrier.wait();
                    match site.plugin {
                        Plugin::Portclaim => drop(call.run()),
                        // Its calls meet in iptables.
                        Plugin::Portmap => call.run_until_it_succeeds(),
                    }
                });
            }
            barrier.wait();
            Instant::now()
        });
        // The scope has ended with the last of them.
        start.elapsed()
    })
}
