//! The plugin killed, and failed, at each of its steps: requests to the kernel by
//! netlink, runs of nft, and changes of files below `dataDir` and `runDir`.
//!
//! A call is run once to list its steps, and then once for each with a fault there. To be
//! killed before the answer to a request is received is to be killed after the request
//! was carried out.
//!
//! - Killed: others come and go, every element of the kernel is somebody's, nothing
//!   acknowledged is lost, the same call succeeds when it is repeated, and a DEL leaves
//!   everything as it was before.
//! - Failed: an ADD that says so has changed nothing, a DEL or GC that says so has not
//!   forgotten anything; whoever succeeds all the same has done everything.
//!
//! Steps that others may see are tried in each run, and of the others each third; where
//! `PORTCLAIM_CRASHES` is set, all of them, and in every way.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use libtest_mimic::Trial;
use portclaim::lease::Claim;
use serde_json::{Value, json};

use crate::{
    chain::{Call, Container, Network, annotated},
    fault::{self, FILES, Fault, NETLINK, NFT, Step},
    held::{Held, claims, forwarded, leases, leases_of},
    node::Node,
    tool::ctl,
};

/// Of steps that nobody else sees, each so many-th is tried.
const STRIDE: u32 = 3;

/// The call that is tried, always of the container `web`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    /// ADD where there is no table yet.
    First,
    /// ADD beside another container, of UDP too.
    Second,
    /// ADD that asks for other ports than the one before.
    Repeated,
    /// ADD where somebody flushed the ruleset.
    Flushed,
    /// ADD of a pod with a claim that is new.
    Claimed,
    Del,
    Gc,
}

/// What there is of the node's ports.
type State = (Vec<Held>, String);

/// A node with a call that is tried again and again.
struct Scene {
    node: Node,
    network: Network,
    tried: Tried,
    /// A bystander.
    other: Container,
    /// Another one, who comes and goes.
    next: Container,
    web: Container,
    /// The number of the claim that is used.
    round: Cell<u32>,
    /// Whether each call makes a new generation of the database.
    is_long: bool,
    /// What there is when only the bystander is there.
    without: State,
}

fn mappings(port: u16) -> Value {
    json!([
        { "hostPort": port, "containerPort": 80 },
        { "hostPort": port, "containerPort": 53, "protocol": "udp" },
    ])
}

fn container(id: &str, number: u16) -> Container {
    let mut container = Container::on_paper(id, number);
    // One family is enough, and half the questions.
    container.result["ips"].as_array_mut().expect("it has addresses").truncate(1);
    container
}

impl Scene {
    fn new(tried: Tried, names: &[&str]) -> Self {
        let backend = if names == NFT { "nft" } else { "netlink" };
        let network = Network::bridge("podnet", true).version("1.1.0");
        let mut scene = Self {
            node: Node::new(false),
            network: network.option("backend", json!(backend)),
            tried,
            other: container("other", 3),
            next: container("next", 4),
            web: container("web", 2).in_pod("games", "web", "1"),
            round: Cell::default(),
            is_long: names == FILES,
            without: State::default(),
        };
        if tried != Tried::First {
            scene.add(&scene.other, 7070).run(&scene.node).succeeded();
        }
        scene.come_and_go();
        scene.without = scene.state();
        scene
    }

    fn add(&self, container: &Container, port: u16) -> Call {
        self.network.add(&self.node, container, mappings(port))
    }

    fn state(&self) -> State {
        (leases(&self.node), self.node.traces())
    }

    /// Makes everything what it is before the call.
    fn prepare(&self) {
        self.round.set(self.round.get() + 1);
        match self.tried {
            Tried::First | Tried::Flushed => _ = self.node.host.nft("flush ruleset"),
            Tried::Second | Tried::Claimed => {}
            Tried::Repeated | Tried::Del | Tried::Gc => {
                _ = self.add(&self.web, 8080).run(&self.node).succeeded();
            }
        }
        if self.is_long {
            // What was written for others is written anew when they may read it, or no more.
            let is_open = !self.round.get().is_multiple_of(2);
            let mode = Permissions::from_mode(if is_open { 0o2750 } else { 0o700 });
            fs::set_permissions(self.node.data_dir(), mode).expect("it is there");
        }
    }

    fn is_add(&self) -> bool {
        !matches!(self.tried, Tried::Del | Tried::Gc)
    }

    fn asked(&self) -> Value {
        if self.tried != Tried::Claimed {
            return json!({ "portMappings": mappings(9090) });
        }
        let claim = format!("claim{}", self.round.get());
        annotated(&[("claim", &claim), ("ports", "game=7777/tcp+udp,query=7778")])
    }

    fn call(&self) -> Call {
        match self.tried {
            Tried::Del => self.network.del(&self.node, &self.web),
            Tried::Gc => {
                let valid = json!([{ "containerID": "other", "ifname": "eth0" }]);
                self.network.gc(&self.node, valid)
            }
            _ => self.network.add_with(&self.node, &self.web, self.asked()),
        }
    }

    /// Asserts that the call has done all it had to.
    #[track_caller]
    fn assert_done(&self, what: &str) {
        if self.is_add() {
            let check = self.network.check_with(&self.node, &self.web, self.asked());
            check.run(&self.node).succeeded();
        } else {
            assert_eq!(leases_of(&self.node, &self.web), [], "{what}");
        }
    }

    fn come_and_go(&self) {
        self.add(&self.next, 6060).run(&self.node).succeeded();
        self.network.del(&self.node, &self.next).run(&self.node).succeeded();
    }

    /// The steps of the call.
    fn steps(&self, names: &'static [&'static str]) -> Vec<Step> {
        self.prepare();
        let (outcome, steps) = fault::steps(&self.node, &self.call(), names);
        outcome.succeeded();
        self.assert_done("no fault");
        self.network.del(&self.node, &self.web).run(&self.node).succeeded();
        steps
    }

    /// Puts everything back, and asserts that this is possible.
    #[track_caller]
    fn end(&self, is_repeated: bool, what: &str) {
        self.come_and_go();
        if is_repeated {
            self.call().run(&self.node).succeeded();
            self.assert_done(what);
        }
        self.network.del(&self.node, &self.web).run(&self.node).succeeded();
        // A file that cannot be removed does not keep a container from going.
        if !self.is_add() && self.node.published().iter().any(|file| file.contains("/web/")) {
            ctl(&self.node, &self.network, &["restore"]).succeeded();
        }
        assert_eq!(self.state(), self.without, "{what}");
    }

    /// Every element of the kernel is somebody's, and no port is twice in the store.
    #[track_caller]
    fn assert_owned(&self, what: &str) {
        let mut owned = BTreeSet::new();
        for held in leases(&self.node) {
            let port = (held.protocol, held.host_port);
            assert!(owned.insert(port.clone()), "{what}: {port:?} is held twice");
        }
        for port in forwarded(&self.node, &self.network).into_keys() {
            assert!(owned.contains(&port), "{what}: {port:?} is forwarded and nobody's");
        }
    }

    /// What a call does that ends with an error: nothing. But where the table was flushed,
    /// it may have been healed.
    #[track_caller]
    fn assert_unchanged(&self, before: &State, claims_before: &[Claim], what: &str) {
        let (leases, traces) = self.state();
        assert_eq!(leases, before.0, "{what}");
        assert_eq!(claims(&self.node), claims_before, "{what}");
        let is_flushed = matches!(self.tried, Tried::First | Tried::Flushed);
        if self.is_add() && !is_flushed {
            assert_eq!(traces, before.1, "{what}");
        }
    }

    fn kill(&self, step: &Step, is_repeated: bool) -> bool {
        let what = format!("{:?} killed at {step:?}", self.tried);
        self.prepare();
        let before = claims(&self.node);
        let (outcome, has_come) = Fault::Kill.inject(&self.node, &self.call(), step);
        if !has_come {
            outcome.succeeded();
        }
        self.assert_owned(&what);
        let after = claims(&self.node);
        assert!(before.iter().all(|claim| after.contains(claim)), "{what}: {before:?}, {after:?}");
        assert_ports_differ(&after, &what);
        self.end(is_repeated, &what);
        has_come
    }

    fn fail(&self, step: &Step, fault: Fault, is_repeated: bool) -> bool {
        self.prepare();
        let (before, claims_before) = (self.state(), claims(&self.node));
        let (outcome, has_come) = fault.inject(&self.node, &self.call(), step);
        let what = format!("{:?}, {fault:?} at {step:?}: {outcome:?}", self.tried);
        // The newline after the reply is written by itself.
        let is_cut = serde_json::from_str::<Value>(&outcome.stdout)
            .is_ok_and(|reply| reply.get("msg").is_none());
        if outcome.status.success() || is_cut {
            self.assert_done(&what);
        } else {
            let error = outcome.failed();
            if NETLINK.contains(&step.name) {
                // The first question is for the way to the container.
                let codes = if step.at == 1 { [5, 104] } else { [104, 104] };
                assert!(codes.contains(&error.code), "{what}");
            }
            // Where nothing works any more, nothing can be put back.
            if let Fault::Error(_) = fault {
                self.assert_unchanged(&before, &claims_before, &what);
            }
        }
        self.assert_owned(&what);
        self.end(is_repeated, &what);
        has_come
    }
}

#[track_caller]
fn assert_ports_differ(claims: &[Claim], what: &str) {
    let mut ports = BTreeSet::new();
    for port in claims.iter().flat_map(Claim::ports) {
        let port = (port.protocol.name(), port.port.number());
        assert!(ports.insert(port), "{what}: {port:?} is in two claims");
    }
}

/// Tries faults at the chosen steps of a call.
fn try_each(tried: Tried, names: &'static [&'static str], faults: fn(&Step) -> &'static [Fault]) {
    let is_long = crate::from_env("PORTCLAIM_CRASHES").is_some();
    let scene = Scene::new(tried, names);
    let steps = scene.steps(names);
    let (mut calls, mut met) = (0_u32, 0);
    for step in steps.iter().filter(|step| is_long || step.is_turn || step.at % STRIDE == 0) {
        let faults = faults(step);
        let kinds = u32::try_from(faults.len()).expect("they are few");
        for (kind, fault) in (0..).zip(faults) {
            if !is_long && !step.is_turn && step.at / STRIDE % kinds != kind {
                continue;
            }
            for is_repeated in [false, true] {
                if !is_long && (step.at + kind) % 2 != u32::from(is_repeated) {
                    continue;
                }
                calls += 1;
                let has_come = match fault {
                    Fault::Kill => scene.kill(step, is_repeated),
                    fault => scene.fail(step, *fault, is_repeated),
                };
                met += u32::from(has_come);
            }
        }
    }
    println!("{tried:?}: {met} faults in {calls} calls of {} steps", steps.len());
    // Threads may do more or less from call to call.
    assert!(met > 0 && met >= calls * 3 / 4, "{tried:?}: {met} of {calls}: {steps:?}");
}

fn killed(_: &Step) -> &'static [Fault] {
    &[Fault::Kill]
}

fn netlink_fails(step: &Step) -> &'static [Fault] {
    if step.name == "sendto" {
        &[
            Fault::Error("ENOBUFS"),
            Fault::Error("EPERM"),
            Fault::Error("EINTR"),
            Fault::ErrorForGood("EPERM"),
        ]
    } else {
        &[
            Fault::Error("EAGAIN"),
            Fault::Error("ENOBUFS"),
            Fault::Error("EINTR"),
            Fault::ErrorForGood("ENOBUFS"),
        ]
    }
}

fn files_fail(step: &Step) -> &'static [Fault] {
    // Replies are written, too.
    let once = if step.name == "write" { 2 } else { 3 };
    &[Fault::Error("ENOSPC"), Fault::Error("EIO"), Fault::ErrorForGood("EIO")][..once]
}

/// One trial for each.
pub fn trials() -> Vec<Trial> {
    let calls = [
        ("first", Tried::First),
        ("second", Tried::Second),
        ("repeated", Tried::Repeated),
        ("flushed", Tried::Flushed),
        ("claimed", Tried::Claimed),
        ("del", Tried::Del),
        ("gc", Tried::Gc),
    ];
    let mut trials = Vec::new();
    let mut add = |kind: &str, name, tried, names, faults| {
        trials.push(Trial::test(format!("step::{kind}::{name}"), move || {
            try_each(tried, names, faults);
            Ok(())
        }));
    };
    for (name, tried) in calls {
        add("netlink-killed", name, tried, NETLINK, killed as fn(&Step) -> _);
        add("netlink-fails", name, tried, NETLINK, netlink_fails);
        add("nft-killed", name, tried, NFT, killed);
        if matches!(tried, Tried::Repeated | Tried::Claimed | Tried::Del) {
            add("files-killed", name, tried, FILES, killed);
            add("files-fail", name, tried, FILES, files_fail);
        }
    }
    trials
}
