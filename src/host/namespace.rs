//! Whether a container's network namespace is still there, asking no runtime.
//!
//! A namespace lives as long as a process is in it, or a mount or descriptor keeps
//! it. Its number is given again when it is gone, often to the next one made. So a
//! number alone proves nothing; the path that the plugin was given does, and the
//! addresses that the container had:
//!
//! ```text
//! the path leads to it                                        there
//! another mount namespace has it mounted under that name      there
//! the path cannot be looked up, or was seen by another /proc  not known
//! a process is in one of its number, with such an address     there
//! else                                                        gone
//! ```
//!
//! What is not known is somebody's to decide and nobody's to remove. Limits: a
//! namespace whose path is gone, and which only a descriptor or a thread keeps, or
//! which has lost its addresses, is taken for gone.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{HostError, process};
use crate::lease::{ContainerAddresses, Sandbox};

const PROC: &str = "/proc";
/// `NSFS_MAGIC`.
const NSFS: u64 = 0x6e73_6673;

/// Whether a namespace is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    There,
    /// It is not.
    Gone,
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// The network namespace at a path, to be recognised later; none when there is
/// none, or the path says nothing to other processes.
#[must_use]
pub fn sandbox(path: &str) -> Option<Sandbox> {
    let of_process = |own: &str| Path::new(path).starts_with(Path::new(PROC).join(own));
    if !path.starts_with('/') || of_process("self") || of_process("thread-self") {
        return None;
    }
    let is_namespace =
        rustix::fs::statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type).ok() == Some(NSFS));
    if !is_namespace {
        return None;
    }
    let metadata = fs::metadata(path).ok()?;
    Some(Sandbox {
        path: path.to_owned(),
        device: metadata.dev(),
        inode: metadata.ino(),
        pid_namespace: pid_namespace().ok()?,
    })
}

fn pid_namespace() -> Result<u64, HostError> {
    let path = Path::new("/proc/self/ns/pid");
    let metadata = fs::metadata(path);
    Ok(metadata.map_err(|source| HostError::Read { path: path.to_owned(), source })?.ino())
}

/// What uses the network namespaces of the node, at one moment.
#[derive(Debug)]
pub struct Namespaces {
    pid_namespace: u64,
    /// A process in each, by device and number.
    processes: HashMap<(u64, u64), u32>,
    /// Where each is mounted, by number, in whatever mount namespace.
    mounts: HashMap<u64, Vec<PathBuf>>,
}

impl Namespaces {
    /// Looks at every process of `/proc`.
    pub fn look() -> Result<Self, HostError> {
        let mut found = Self {
            pid_namespace: pid_namespace()?,
            processes: HashMap::new(),
            mounts: HashMap::new(),
        };
        let mut seen = HashSet::new();
        for id in process::ids()? {
            let folder = Path::new(PROC).join(id.to_string());
            // Processes end at any time.
            if let Ok(net) = fs::metadata(folder.join("ns/net")) {
                found.processes.entry((net.dev(), net.ino())).or_insert(id);
            }
            let Ok(mount) = fs::metadata(folder.join("ns/mnt")) else { continue };
            if seen.insert(mount.ino()) {
                let mounts = fs::read_to_string(folder.join("mountinfo")).unwrap_or_default();
                for (inode, point) in mounts.lines().filter_map(namespace_mount) {
                    found.mounts.entry(inode).or_default().push(point.into());
                }
            }
        }
        Ok(found)
    }

    /// Whether the namespace of a container with these addresses is still there.
    #[must_use]
    pub fn presence(&self, sandbox: &Sandbox, addresses: &ContainerAddresses) -> Presence {
        let path = Path::new(&sandbox.path);
        let found = fs::metadata(path);
        if found.as_ref().is_ok_and(|f| (f.dev(), f.ino()) == (sandbox.device, sandbox.inode)) {
            return Presence::There;
        }
        if self.pid_namespace != sandbox.pid_namespace {
            let reason = "the plugin has seen it from another PID namespace";
            return Presence::Unknown(reason.to_owned());
        }
        let mounts = self.mounts.get(&sandbox.inode).map_or(&[][..], Vec::as_slice);
        let is_of_proc = path.starts_with(PROC);
        let has_name = |mount: &PathBuf| mount.file_name() == path.file_name();
        if !is_of_proc && mounts.iter().any(has_name) {
            return Presence::There;
        }
        if let Err(error) = found {
            use io::ErrorKind::{NotADirectory, NotFound};
            if !matches!(error.kind(), NotFound | NotADirectory) {
                return Presence::Unknown(format!("cannot look at {}: {error}", path.display()));
            }
            // Where runtimes keep namespaces is there before the first of them.
            let parent = if is_of_proc { Some(Path::new("/proc/self")) } else { path.parent() };
            if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
                return Presence::Unknown(format!("{} is not there", parent.display()));
            }
        }
        let Some(process) = self.processes.get(&(sandbox.device, sandbox.inode)) else {
            return Presence::Gone;
        };
        match has_address(*process, addresses) {
            Ok(true) => Presence::There,
            Ok(false) => Presence::Gone,
            Err(error) => Presence::Unknown(format!(
                "cannot see the addresses of process {process}, which may be in it: {error}"
            )),
        }
    }
}

/// Whether the network namespace of a process has one of these addresses.
fn has_address(process: u32, addresses: &ContainerAddresses) -> io::Result<bool> {
    let read = |name: &str| match fs::read_to_string(format!("{PROC}/{process}/net/{name}")) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text,
    };
    let has_v4 = match addresses.v4 {
        Some(address) => has_v4(&read("fib_trie")?, address),
        None => false,
    };
    let has_v6 = match addresses.v6 {
        Some(address) => has_v6(&read("if_inet6")?, address),
        None => false,
    };
    Ok(has_v4 || has_v6)
}

/// ```text
///            |-- 10.1.0.5
///               /32 host LOCAL
/// ```
fn has_v4(trie: &str, address: Ipv4Addr) -> bool {
    let leaf = format!("|-- {address}");
    let mut lines = trie.lines().map(str::trim);
    while lines.any(|line| line == leaf) {
        let mut routes = lines.clone().take_while(|line| line.starts_with('/'));
        if routes.any(|route| route.ends_with("LOCAL")) {
            return true;
        }
    }
    false
}

/// `fd00000000000000000000000000005 02 40 00 80 eth0`
fn has_v6(table: &str, address: Ipv6Addr) -> bool {
    let text = format!("{:032x}", u128::from(address));
    table.lines().any(|line| line.starts_with(&text))
}

/// The network namespace that a line of `mountinfo` mounts, and where:
/// `36 25 0:4 net:[4026532290] /run/netns/x rw shared:22 - nsfs nsfs rw`.
fn namespace_mount(line: &str) -> Option<(u64, &str)> {
    let mut fields = line.split(' ').skip(3);
    let inode = fields.next()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()?;
    Some((inode, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::namespace::{private, run};

    #[test]
    fn mounts_of_namespaces_are_found() {
        for (line, expected) in [
            (
                "36 25 0:4 net:[4026532290] /run/netns/x rw shared:22 - nsfs nsfs rw",
                Some((4_026_532_290, "/run/netns/x")),
            ),
            ("36 25 0:4 mnt:[4026532290] /run/x rw - nsfs nsfs rw", None),
            ("22 1 0:20 / /proc rw - proc proc rw", None),
            ("36 25 0:4 net:[] /x", None),
            ("", None),
        ] {
            assert_eq!(namespace_mount(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_namespace_is_not_remembered() {
        for path in ["", "/nowhere", "/etc/passwd", "/proc", "proc/1/ns/net", "/proc/self/ns/net"] {
            assert_eq!(sandbox(path), None, "{path}");
        }
        let path = format!("/proc/{}/ns/net", std::process::id());
        assert_eq!(sandbox(&path).unwrap().path, path);
    }

    const ADDRESSES: ContainerAddresses = ContainerAddresses {
        v4: Some(Ipv4Addr::new(10, 1, 0, 5)),
        v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5)),
    };

    fn presence(sandbox: &Sandbox) -> Presence {
        Namespaces::look().unwrap().presence(sandbox, &ADDRESSES)
    }

    #[test]
    fn a_namespace_is_there_until_it_is_gone() {
        private(|| {
            run("mount -t tmpfs tmpfs /run");
            run("ip netns add a");
            let a = sandbox("/run/netns/a").unwrap();
            assert_eq!(presence(&a), Presence::There);
            let foreign = Sandbox { pid_namespace: 1, ..a.clone() };
            assert_eq!(presence(&foreign), Presence::There, "the path is proof enough");

            // As it looks from beside the mount namespace of the runtime.
            run("mkdir /run/other");
            run("touch /run/other/a /run/other/b");
            run("mount --bind /run/netns/a /run/other/a");
            run("umount /run/netns/a");
            assert_eq!(presence(&a), Presence::There, "mounted under its name elsewhere");
            run("mount --bind /run/other/a /run/other/b");
            run("umount /run/other/a");
            assert_eq!(presence(&a), Presence::Gone, "another one has its number");
            assert!(matches!(presence(&foreign), Presence::Unknown(_)));

            run("umount /run/other/b");
            assert_eq!(presence(&a), Presence::Gone, "a plain file has its path");
            run("rm /run/netns/a");
            assert_eq!(presence(&a), Presence::Gone);
            run("umount -l /run/netns");
            run("rmdir /run/netns");
            let unknown = Presence::Unknown("/run/netns is not there".to_owned());
            assert_eq!(presence(&a), unknown);
        });
    }

    #[test]
    fn a_process_keeps_its_namespace() {
        private(|| {
            let mut sleeper = std::process::Command::new("unshare")
                .args(["--net", "sleep", "60"])
                .spawn()
                .unwrap();
            let path = format!("/proc/{}/ns/net", sleeper.id());
            let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
            // It unshares before it becomes `sleep`.
            while fs::metadata(&path).unwrap().ino() == own {
                std::thread::yield_now();
            }
            let sleeping = sandbox(&path).unwrap();
            assert_eq!(presence(&sleeping), Presence::There);
            run("mount -t tmpfs tmpfs /run");
            let lost = Sandbox { path: "/run/absent".to_owned(), ..sleeping.clone() };
            assert_eq!(presence(&lost), Presence::Gone, "another one has its number");
            let inside = |command: &str| run(&format!("nsenter --net={path} {command}"));
            inside("ip link set lo up");
            for [address, other] in [["10.1.0.5/24", "10.1.0.51/24"], ["fd00::5/64", "fd00::51/64"]]
            {
                inside(&format!("ip address add {other} dev lo"));
                assert_eq!(presence(&lost), Presence::Gone, "{other}");
                inside(&format!("ip address add {address} dev lo"));
                assert_eq!(presence(&lost), Presence::There, "{address}");
                inside(&format!("ip address del {address} dev lo"));
            }
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
            assert_eq!(presence(&sleeping), Presence::Gone);
        });
    }
}
