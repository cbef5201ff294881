//! Where the suite runs: mount, network and process namespaces of its own.
//!
//! The machine's own links, sysctls, `/run` and `/var/lib` stay untouched, and
//! everything that the tests leave behind goes with the process. What is missing
//! for that is named, with the Debian package that has it, and fails the suite.

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

/// Tells the process inside from the one outside.
const INSIDE: &str = "PORTCLAIM_TEST_INSIDE";

/// Fresh file systems over the folders that plugins and `ip netns` write to. The
/// shell stays as process 1: it reaps orphans, and lets Ctrl-C end the suite,
/// which process 1 itself would not notice. The mount and the end of the first
/// name make `/run/netns` what `ip netns add` wants, before threads race for it.
const SETUP: &str = "set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir /run/tmp
ip netns add first
ip netns delete first
\"$0\" \"$@\"";

/// The folders that `SETUP` hides: nothing that the suite executes may lie there.
const HIDDEN: [&str; 2] = ["/run", "/var/lib"];

/// Programs that the suite or the reference plugins execute, and their packages.
const PROGRAMS: [(&str, &str); 18] = [
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ip6tables", "iptables"),
    ("script", "bsdutils"),
    ("tar", "tar"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("podman", "podman"),
    ("strip", "binutils"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
];

/// Files without which no test means anything, and what to do about them.
const FILES: [(&str, &str); 7] = [
    ("/usr/lib/cni/bridge", "install the package containernetworking-plugins"),
    ("/usr/lib/cni/ptp", "install the package containernetworking-plugins"),
    ("/usr/lib/cni/host-local", "install the package containernetworking-plugins"),
    ("/usr/lib/cni/loopback", "install the package containernetworking-plugins"),
    ("/usr/bin/conmon", "install the package conmon"),
    ("/bin/busybox", "install the package busybox-static"),
    ("/proc/sys/net/bridge/bridge-nf-call-iptables", "load the kernel module br_netfilter"),
];

/// Returns inside; outside, starts the suite anew inside and does not return.
pub fn enter() {
    if env::var_os(INSIDE).is_some() {
        return;
    }
    let missing = missing();
    if !missing.is_empty() {
        for line in missing {
            eprintln!("integration: {line}");
        }
        std::process::exit(1);
    }
    let executable = env::current_exe().expect("the path of a running program is known");
    let error = Command::new("unshare")
        .args(["--mount", "--propagation=private", "--net", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "sh", "-c", SETUP])
        .arg(executable)
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .env("TMPDIR", "/run/tmp")
        .exec();
    eprintln!("integration: cannot execute unshare: {error}");
    std::process::exit(1);
}

fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("needs root, to make network namespaces: run it with sudo".to_owned());
    }
    for (program, package) in PROGRAMS {
        let found = Command::new("sh")
            .args(["-c", "command -v \"$0\"", program])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !found {
            missing.push(format!("{program} is not in PATH: install the package {package}"));
        }
    }
    for (file, remedy) in FILES {
        if !Path::new(file).exists() {
            missing.push(format!("{file} does not exist: {remedy}"));
        }
    }
    for file in [env!("CARGO_BIN_EXE_portclaim"), env!("CARGO_BIN_EXE_portclaimctl")] {
        if HIDDEN.iter().any(|folder| Path::new(file).starts_with(folder)) {
            missing.push(format!("{file} would be hidden: set CARGO_TARGET_DIR elsewhere"));
        }
    }
    missing
}
