//! How much memory the plugins take, and how large they are.

use std::fs;

use crate::{
    calls::VERBS,
    plugin::{Call, Mapping, Plugin},
    report::{Report, Target},
    site::{Container, Site},
};

const MEMORY_TARGET: Target = Target(10.0);
const SIZE_TARGET: Target = Target(3.0);
const MEGABYTE: f64 = 1e6;

/// Runs of each verb of which the largest counts.
const SAMPLES: u32 = 3;

/// The most memory that each plugin's own process had resident in any verb, in
/// bytes.
pub fn peaks(sites: &[Site; 2], container: Container, mapping: Mapping) -> [u64; 2] {
    let mut peaks = [0; 2];
    for _ in 0..SAMPLES {
        for (site, peak) in sites.iter().zip(&mut peaks) {
            for (verb, _) in VERBS {
                let call = Call::new(verb, site, container, &[mapping]);
                let memory = site.host.enter(|| call.without_ip6tables().peak_memory());
                *peak = memory.max(*peak);
            }
        }
    }
    peaks
}

/// Reports these, by the number of mappings there were, and the binaries.
pub fn report(peaks: &[(u16, [u64; 2])], report: &mut Report) {
    let row = |what: &str, target: Target, [portclaim, portmap]: [u64; 2]| {
        let [ours, theirs] = [portclaim, portmap].map(in_megabytes);
        format!("{what} | {:.2} | {} | {theirs:.2} MB", ours / theirs, target.cells(ours, " MB"))
    };
    let mut rows: Vec<_> = peaks
        .iter()
        .map(|(size, peaks)| row(&format!("memory, {size} mappings"), MEMORY_TARGET, *peaks))
        .collect();
    let sizes = Plugin::ALL.map(|plugin| {
        let path = plugin.path();
        fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len()
    });
    rows.push(row("binary", SIZE_TARGET, sizes));
    report.table(
        "Memory and size",
        "what | ratio | portclaim | target | portmap",
        rows,
        "The most that the plugin's own process had resident in ADD, CHECK and DEL.",
    );
}

#[allow(clippy::cast_precision_loss)] // Of some 20 MB, shown with two digits.
fn in_megabytes(bytes: u64) -> f64 {
    bytes as f64 / MEGABYTE
}
