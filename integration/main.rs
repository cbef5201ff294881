//! The plugin as runtimes see it: real processes, real traffic, in namespaces.
//!
//! Needs root, and makes namespaces of its own for everything: see `sandbox`.
//! `cargo test --test integration -- forward::ptp` runs what has that in its name.

// A test that cannot go on has failed, and the panic says where.
#![allow(clippy::unwrap_used)]

use std::{env, num::NonZero, thread};

use libtest_mimic::{Arguments, Trial};

mod admission;
mod asking;
mod author;
mod boundary;
mod browser;
mod chain;
mod claim;
mod concurrency;
mod conflist;
mod crash;
mod example;
mod fault;
mod flow;
mod forwarding;
mod held;
mod http;
mod install;
mod instance;
mod lease;
mod migration;
mod module;
mod namespace;
mod node;
mod operator;
mod protocol;
mod publication;
mod readme;
mod recovery;
mod registry;
mod render;
mod runtime;
mod sandbox;
mod sctp;
mod see;
mod soak;
mod step;
mod takeover;
mod tool;
mod traffic;
mod transfer;
mod upgrade;
mod upkeep;
mod variation;

fn main() {
    sandbox::enter();
    let trials = [
        forwarding::trials(),
        boundary::trials(),
        flow::trials(),
        variation::trials(),
        protocol::trials(),
        lease::trials(),
        admission::trials(),
        asking::trials(),
        claim::trials(),
        takeover::trials(),
        author::trials(),
        publication::trials(),
        upgrade::trials(),
        upkeep::trials(),
        concurrency::trials(),
        crash::trials(),
        step::trials(),
        module::trials(),
        soak::trials(),
        readme::trials(),
        recovery::trials(),
        registry::trials(),
        instance::trials(),
        browser::trials(),
        render::trials(),
        transfer::trials(),
        operator::trials(),
        runtime::trials(),
        see::trials(),
        install::trials(),
        example::trials(),
        migration::trials(),
    ];
    let mut arguments = Arguments::from_args();
    // Most of the time is spent waiting for answers that must not come.
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    arguments.test_threads.get_or_insert(2 * cores);
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}

/// One trial for each test of an area; every test makes its own node.
fn trials<const N: usize>(area: &str, tests: [(&str, fn()); N]) -> Vec<Trial> {
    let trial = |(name, test): (&str, fn())| {
        Trial::test(format!("{area}::{name}"), move || {
            test();
            Ok(())
        })
    };
    tests.map(trial).into()
}

/// A number that whoever runs the suite may set.
fn from_env(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}")))
}
