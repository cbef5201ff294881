//! A node: what a plugin sees of a host, made of namespaces and folders.
//!
//! ```text
//! outside ──eth0── up0 ── node ── cni0 or veths ── containers
//! beyond  ──eth0── up1 ──┘
//! ```
//!
//! `outside` holds the clients of host ports, `beyond` a service of somebody else
//! that traffic passes the node on its way to.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::namespace::Namespace;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The name in the names of trials.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    fn pick(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }

    /// The node's address that its name stands for.
    pub fn node(self) -> IpAddr {
        self.pick(Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1))
    }

    /// The node's other address on the same link.
    pub fn other_node(self) -> IpAddr {
        self.pick(Ipv4Addr::new(192, 0, 2, 10), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10))
    }

    /// The address of `outside`.
    pub fn outside(self) -> IpAddr {
        self.pick(Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2))
    }

    /// The address of `beyond`.
    pub fn beyond(self) -> IpAddr {
        self.pick(Ipv4Addr::new(198, 51, 100, 2), Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2))
    }
}

/// The file of a node that has another boot than the machine.
pub const BOOT_ID: &str = "boot_id";
/// Where plugins read which boot this is.
pub const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A node; everything of it goes when it is dropped.
pub struct Node {
    /// The host's own namespace.
    pub host: Namespace,
    /// A neighbour on the first uplink.
    pub outside: Namespace,
    /// A neighbour on the second uplink.
    pub beyond: Namespace,
    folder: TempDir,
    /// What plugins see instead of what is there.
    mounts: Vec<(PathBuf, PathBuf)>,
}

impl Node {
    /// A node that forwards, with bridged packets shown to iptables and nftables
    /// or not.
    pub fn new(br_netfilter: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let host = Namespace::new("node");
        let outside = Namespace::new("outside");
        let beyond = Namespace::new("beyond");
        host.ip(&format!(
            "link add up0 type veth peer name eth0 netns {}\n\
             link add up1 type veth peer name eth0 netns {}\n\
             address add 192.0.2.1/24 dev up0\n\
             address add 192.0.2.10/24 dev up0\n\
             address add 2001:db8:2::1/64 dev up0\n\
             address add 2001:db8:2::10/64 dev up0 preferred_lft 0\n\
             address add 198.51.100.1/24 dev up1\n\
             address add 2001:db8:51::1/64 dev up1\n\
             link set up0 up\n\
             link set up1 up",
            outside.name(),
            beyond.name(),
        ));
        outside.ip("address add 192.0.2.2/24 dev eth0\n\
             address add 2001:db8:2::2/64 dev eth0\n\
             link set eth0 up\n\
             route add default via 192.0.2.1\n\
             route add default via 2001:db8:2::1");
        beyond.ip("address add 198.51.100.2/24 dev eth0\n\
             address add 2001:db8:51::2/64 dev eth0\n\
             link set eth0 up\n\
             route add default via 198.51.100.1\n\
             route add default via 2001:db8:51::1");
        let flag = if br_netfilter { "1" } else { "0" };
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/route_localnet", "0"),
            ("ipv4/conf/default/route_localnet", "0"),
            ("bridge/bridge-nf-call-iptables", flag),
            ("bridge/bridge-nf-call-ip6tables", flag),
        ] {
            host.sysctl(key, value);
        }
        Self { host, outside, beyond, folder, mounts: Vec::new() }
    }

    /// A folder of the node.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The plugin's database; not there before the plugin makes it.
    pub fn data_dir(&self) -> PathBuf {
        self.folder("data")
    }

    /// The plugin's published files; not there before the plugin makes them.
    pub fn run_dir(&self) -> PathBuf {
        self.folder("run")
    }

    /// Makes plugins believe that the machine was booted anew, and takes away what
    /// no boot survives: the ruleset and the published files.
    pub fn reboot(&mut self) {
        self.pretend_boot(&format!("{:08x}-0000-4000-8000-000000000000", fastrand::u32(..)));
        self.host.nft("flush ruleset");
        let _ = fs::remove_dir_all(self.run_dir());
    }

    /// Makes plugins believe that this boot is the one that runs.
    pub fn pretend_boot(&mut self, id: &str) {
        let boot_id = self.folder(BOOT_ID);
        fs::write(&boot_id, format!("{id}\n")).expect("the node's folder is writable");
        self.mounts.push((boot_id, KERNEL_BOOT_ID.into()));
    }

    /// Where plugins read which boot this is.
    pub fn boot_id(&self) -> PathBuf {
        let changed = self.folder(BOOT_ID);
        if changed.exists() { changed } else { KERNEL_BOOT_ID.into() }
    }

    /// Makes a folder of the machine look empty to plugins.
    pub fn hide(&mut self, folder: &str) {
        let empty = self.folder("empty");
        fs::create_dir(&empty).expect("the node's folder is writable");
        self.mounts.push((empty, folder.into()));
    }

    /// Makes a folder of the machine look like one of the node, empty at first, whose
    /// path is returned.
    pub fn own(&mut self, folder: &str) -> PathBuf {
        let own = self.folder("machine").join(folder.trim_start_matches('/'));
        fs::create_dir_all(&own).expect("the node's folder is writable");
        self.bind(&own, folder);
        own
    }

    /// Makes a folder of the machine look like this one.
    pub fn bind(&mut self, source: &Path, folder: &str) {
        self.mounts.push((source.to_owned(), folder.into()));
    }

    /// Makes plugins see the machine as it is.
    pub fn show(&mut self) {
        self.mounts.clear();
    }

    /// A command that sees the machine as the node shows it.
    pub fn command(&self, program: &Path) -> Command {
        const SHOW: &str = "set -e
            while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\"; shift 2; done
            shift; exec \"$@\"";
        if self.mounts.is_empty() {
            return Command::new(program);
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SHOW, "sh"]);
        for (source, target) in &self.mounts {
            command.args([source, target]);
        }
        command.arg("--").arg(program);
        command
    }

    /// What the node holds that a plugin may have put there, as text: ruleset and
    /// files. Equal before and after a call, if the call left nothing behind.
    pub fn traces(&self) -> String {
        format!("{}\n{}", self.host.nft("list ruleset"), self.published().join("\n"))
    }

    /// Removes what a call leaves to the next one to work on, as a killed one does.
    pub fn forget_working_copy(&self) {
        let folder = self.run_dir().join("store");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("working.") {
                fs::remove_dir_all(entry.path()).expect("it is the test's own");
            }
        }
    }

    /// The generation that holds.
    pub fn generation(&self) -> PathBuf {
        fs::canonicalize(self.data_dir().join("current")).expect("something was committed")
    }

    /// The published files, relative to `run_dir`, sorted: all that is there, but for
    /// what calls leave to be counted, and to the next one.
    pub fn published(&self) -> Vec<String> {
        let mut files = Self::files(&self.run_dir());
        files.retain(|file| !file.starts_with("calls/") && !file.starts_with("store/working."));
        files
    }

    /// The files at or below a folder, relative to it, sorted; none if it is not there.
    pub fn files(folder: &Path) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(current) = folders.pop() {
            for entry in fs::read_dir(&current).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                } else {
                    let path = entry.path();
                    let relative = path.strip_prefix(folder).expect("it lies below");
                    files.push(relative.to_string_lossy().into_owned());
                }
            }
        }
        files.sort();
        files
    }
}
