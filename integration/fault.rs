//! Faults at the steps of a call: `strace` kills the plugin at a system call, or makes that
//! fail, once or from there on. This needs nothing from the plugin, which may be built as
//! it likes.
//!
//! A step is the n-th system call of a name in its thread. Where several threads make
//! them, the first that comes so far is met.

use std::{collections::HashMap, fs, os::unix::process::ExitStatusExt as _};

use crate::{
    chain::{Call, Outcome},
    node::Node,
};

/// What speaks netlink, and does nothing else in the plugin.
pub const NETLINK: &[&str] = &["sendto", "recvfrom"];
/// Before nft is run, while it runs, and after.
pub const NFT: &[&str] = &["pipe2", "poll", "ppoll", "wait4"];
/// What changes files.
pub const FILES: &[&str] = &[
    "copy_file_range",
    "fallocate",
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "pwrite64",
    "pwritev",
    "rename",
    "renameat",
    "renameat2",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "write",
    "writev",
];
/// Of these, what only changes something for others where it is in the database.
const WRITES: [&str; 5] = ["copy_file_range", "pwrite64", "pwritev", "write", "writev"];
/// What neither makes anything visible nor takes it away.
const PREPARATIONS: [&str; 8] =
    ["fallocate", "fdatasync", "fsync", "mkdir", "mkdirat", "recvfrom", "sendto", "unlinkat"];
/// strace's name of the first message of a transaction.
const TRANSACTION: &str = "NFNL_MSG_BATCH_BEGIN";

/// One of the system calls that a call makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub name: &'static str,
    /// The how many-th of that name in its thread, from 1.
    pub at: u32,
    /// Whether others may see something else before than after it.
    pub is_turn: bool,
}

/// What is done to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The plugin is killed instead of it.
    Kill,
    /// It fails with this.
    Error(&'static str),
    /// All of that name fail with this from there on.
    ErrorForGood(&'static str),
}

/// The steps of a call that nothing is done to, and what came of it.
pub fn steps(node: &Node, call: &Call, names: &'static [&'static str]) -> (Outcome, Vec<Step>) {
    let (outcome, trace) = run(node, call, names, None);
    let [folder, data] = [node.folder(""), node.data_dir()].map(|it| it.display().to_string());
    let mut counts: HashMap<(&str, &str), u32> = HashMap::new();
    let mut steps: Vec<Step> = Vec::new();
    let mut was_transaction = false;
    for line in trace.lines() {
        let (thread, rest) = line.split_once(' ').expect("a line begins with its thread");
        // `name(…` begins a call; `<... name resumed>…` ends one that others interrupted.
        let Some((found, rest)) = rest.trim_start().split_once('(') else { continue };
        let Some(&name) = names.iter().find(|name| **name == found) else { continue };
        let at = counts.entry((thread, name)).or_default();
        *at += 1;
        // The reply, logs and settings of the kernel are other tests' matter.
        if FILES.contains(&name) && !rest.contains(&folder) {
            continue;
        }
        let is_transaction = rest.contains(TRANSACTION);
        let is_turn = if WRITES.contains(&name) {
            rest.contains(&data)
        } else {
            // The answer to a transaction comes next.
            is_transaction || was_transaction || !PREPARATIONS.contains(&name)
        };
        was_transaction = is_transaction;
        match steps.iter_mut().find(|step| (step.name, step.at) == (name, *at)) {
            Some(step) => step.is_turn |= is_turn,
            None => steps.push(Step { name, at: *at, is_turn }),
        }
    }
    (outcome, steps)
}

impl Fault {
    /// Runs a call with the fault at that step, and returns whether it came to that.
    pub fn inject(self, node: &Node, call: &Call, step: &Step) -> (Outcome, bool) {
        let Step { name, at, .. } = step;
        let injection = match self {
            Self::Kill => format!("inject={name}:signal=SIGKILL:when={at}"),
            Self::Error(error) => format!("inject={name}:error={error}:when={at}"),
            Self::ErrorForGood(error) => format!("inject={name}:error={error}:when={at}+"),
        };
        let (outcome, trace) = run(node, call, &[name], Some(&injection));
        let has_come = match self {
            Self::Kill => outcome.status.signal() == Some(9),
            Self::Error(_) | Self::ErrorForGood(_) => trace.contains("(INJECTED)"),
        };
        (outcome, has_come)
    }
}

/// Runs a call under strace, and returns what that has written of these system calls.
fn run(node: &Node, call: &Call, names: &[&str], injection: Option<&str>) -> (Outcome, String) {
    let file = node.folder("trace");
    let file = file.to_str().expect("the node's folder has a plain name");
    // Not every architecture has all of them.
    let names = format!("trace=?{}", names.join(",?"));
    let mut arguments = vec!["-f", "-qq", "-y", "-o", file, "-e", &names, "-e", "signal=none"];
    if let Some(injection) = injection {
        arguments.extend(["-e", injection]);
    }
    let outcome = call.run_by(node, "strace", &arguments);
    (outcome, fs::read_to_string(file).expect("strace writes its file"))
}
