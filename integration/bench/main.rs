//! portclaim against Debian's portmap, in one run and on one machine.
//!
//! Run by `scripts/bench`. Writes a report in Markdown to stdout and what it is
//! at to stderr. Everything happens in namespaces of its own (`sandbox`), but
//! for the store, which lies on a disk, as on a node.
//!
//! Whatever is compared is measured in turns, so that what else the machine
//! does meets all alike. A time is never a reason to fail; a plugin call that
//! fails, or a packet that does not arrive, is.

// A bench that cannot go on has failed, and the panic says where.
#![allow(clippy::unwrap_used)]

mod calls;
mod flow;
#[path = "../http.rs"]
mod http;
mod machine;
mod memory;
// Parts of the suite, of which not all is needed here.
#[allow(dead_code)]
#[path = "../namespace.rs"]
mod namespace;
mod plan;
mod plugin;
mod portmap;
mod registry;
mod report;
#[path = "../sandbox.rs"]
mod sandbox;
mod site;
mod soak;
mod statistic;
mod store;

use std::time::{Duration, Instant};

use report::Report;

/// How much is measured.
struct Extent {
    /// Existing mappings at which calls are measured, ascending.
    sizes: &'static [u16],
    /// Calls of each verb and plugin at each size.
    samples: u32,
    /// How often many containers are added at once.
    bursts: u32,
    /// Mappings at which new flows are measured, ascending.
    flow_sizes: &'static [u16],
    /// Batches of flows for each plugin and size.
    batches: u32,
    /// Leased ports at which plans are measured.
    leased: &'static [usize],
    /// Leases that are stored when calls and the store alone are measured, ascending.
    stored: &'static [u16],
    /// Containers that come and go.
    lives: u16,
    /// Mappings with which the registry is measured.
    held: u16,
    /// How often it is asked, and for how long each time.
    turns: u32,
    turn: Duration,
}

const FULL: Extent = Extent {
    sizes: &[0, 100, 500, 2000],
    samples: 31,
    bursts: 3,
    flow_sizes: &[1, 2000, 10_000],
    batches: 31,
    leased: &[0, 10_000, 20_000, 40_000, 49_900],
    stored: &[10, 1000, 10_000],
    lives: 2000,
    held: 500,
    turns: 10,
    turn: Duration::from_secs(1),
};

/// Shows that the bench works, and no more than that.
const QUICK: Extent = Extent {
    sizes: &[0, 100],
    samples: 5,
    bursts: 1,
    flow_sizes: &[1, 100],
    batches: 5,
    leased: &[0, 1000],
    stored: &[10, 100],
    lives: 20,
    held: 20,
    turns: 1,
    turn: Duration::from_millis(500),
};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let Some(arguments) = arguments.strip_prefix(&[store::ARGUMENT.to_owned()]) {
        return store::run(arguments);
    }
    let (mut extent, mut only) = (&FULL, None);
    for argument in arguments {
        match argument.as_str() {
            "--quick" => extent = &QUICK,
            // Cargo's, for every bench.
            "--bench" => {}
            "calls" | "flow" | "plan" | "store" | "soak" | "registry" => only = Some(argument),
            other => {
                eprintln!("usage: scripts/bench [--quick] [PART]; not known: {other}");
                std::process::exit(2);
            }
        }
    }
    sandbox::enter();
    let start = Instant::now();
    let mut report = Report::new(machine::describe());
    let is_wanted = |part| only.as_deref().is_none_or(|only| only == part);
    if is_wanted("calls") {
        calls::measure(extent, &mut report);
    }
    if is_wanted("flow") {
        flow::measure(extent, &mut report);
    }
    if is_wanted("plan") {
        plan::measure(extent, &mut report);
    }
    if is_wanted("store") {
        store::measure(extent, &mut report);
    }
    if is_wanted("soak") {
        soak::measure(extent, &mut report);
    }
    if is_wanted("registry") {
        registry::measure(extent, &mut report);
    }
    progress(&format!("{} s in all", start.elapsed().as_secs()));
    print!("{report}");
}

/// Tells whoever waits what is being done.
fn progress(what: &str) {
    eprintln!("bench: {what}");
}
