//! Processes of the node, by `/proc`, for who looks after it.
//!
//! Limits: processes of others show their descriptors to root only, and those of
//! other process namespaces are not seen from inside one.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use super::HostError;
use crate::lease::Excerpt;

/// A process, as the kernel calls it. Shown as `nginx (pid 812)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its ID.
    pub id: u32,
    name: String,
    /// Its command line, with blanks between the words; in brackets the name of
    /// one that has none. None where that may not be read.
    pub command: Option<String>,
}

/// The IDs of all processes.
pub(super) fn ids() -> Result<Vec<u32>, HostError> {
    let path = Path::new("/proc");
    let failed = |source| HostError::Read { path: path.to_owned(), source };
    let mut ids = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        ids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    ids.sort_unstable();
    Ok(ids)
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.id)
    }
}

impl Process {
    /// A process with this ID that calls itself so. It may call itself anything:
    /// what is not printable is escaped.
    #[must_use]
    pub fn new(id: u32, name: &str) -> Self {
        Self { id, name: Excerpt::plain(name).to_string(), command: None }
    }

    fn of(id: u32) -> Self {
        let file = |name: &str| fs::read(format!("/proc/{id}/{name}")).ok();
        let words = file("cmdline").map(|line| {
            let words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
        });
        let name = file("comm").unwrap_or_default();
        let process = Self::new(id, String::from_utf8_lossy(&name).trim_end());
        let command =
            words.map(|words| if words.is_empty() { format!("[{}]", process.name) } else { words });
        Self { command, ..process }
    }
}

/// Whether this process is root's.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The processes that execute a program of this name (`comm`, 15 bytes at most).
pub fn processes_named(name: &str) -> Result<Vec<Process>, HostError> {
    let is_named = |id: &u32| {
        fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    Ok(ids()?.into_iter().filter(is_named).map(Process::of).collect())
}

/// The processes that hold a lock (flock) on a file, among those that can be seen;
/// none when there is no such file. The lock belongs to an open file, so a child
/// that has inherited it holds it too, also when who took it is gone: that is why
/// descriptors are looked at, and not `/proc/locks`, which names only the latter.
pub fn lock_holders(path: &Path) -> Result<Vec<Process>, HostError> {
    let file = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(|source| HostError::Read { path: path.to_owned(), source })?,
    };
    let holds = |id: &u32| locks(*id, path.file_name(), &file);
    Ok(ids()?.into_iter().filter(holds).map(Process::of).collect())
}

fn locks(id: u32, name: Option<&OsStr>, file: &Metadata) -> bool {
    let folder = Path::new("/proc").join(id.to_string());
    let descriptors = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
    descriptors.map(|entry| entry.path()).any(|descriptor| {
        // By its name first: to look at any other file may take long.
        let target = fs::read_link(&descriptor).unwrap_or_default();
        let is_file = target.file_name() == name
            && fs::metadata(&descriptor)
                .is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()));
        is_file && {
            let number = descriptor.file_name().unwrap_or_default();
            let info = fs::read_to_string(folder.join("fdinfo").join(number));
            info.unwrap_or_default()
                .lines()
                .any(|line| line.starts_with("lock:") && line.contains("FLOCK"))
        }
    })
}

/// The processes that have these sockets open, by the sockets' inodes, the lowest
/// number first. Those that cannot be looked into are left out.
#[must_use]
pub fn processes(inodes: &[u64]) -> BTreeMap<u64, Vec<Process>> {
    let mut found: BTreeMap<u64, Vec<Process>> = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    for id in ids().unwrap_or_default() {
        for inode in sockets_of(id).filter(|inode| inodes.contains(inode)) {
            let processes = found.entry(inode).or_default();
            if processes.iter().all(|known| known.id != id) {
                processes.push(Process::of(id));
            }
        }
    }
    for processes in found.values_mut() {
        processes.sort_unstable();
    }
    found
}

/// The inodes of the sockets that a process has open.
fn sockets_of(id: u32) -> impl Iterator<Item = u64> {
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?;
        let number = target.as_os_str().as_bytes().strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
        std::str::from_utf8(number).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, net::UdpSocket, os::fd::AsRawFd, process::Command};

    use fs2::FileExt;

    use super::*;

    #[test]
    fn who_holds_a_lock_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(lock_holders(&path).unwrap(), []);
        let file = File::create(&path).unwrap();
        assert_eq!(lock_holders(&path).unwrap(), [], "open and not locked");
        file.lock_exclusive().unwrap();
        let waiting = File::open(&path).unwrap();
        assert!(waiting.try_lock_exclusive().is_err());
        let holders = lock_holders(&path).unwrap();
        assert_eq!(
            holders.iter().map(|holder| holder.id).collect::<Vec<_>>(),
            [std::process::id()]
        );
        let command = holders[0].command.as_ref().unwrap();
        assert!(command.contains("portclaim"), "{command}");

        // As its nft outlives a plugin that was killed.
        let mut child = Command::new("sleep").arg("60").stdin(file).spawn().unwrap();
        let holders = lock_holders(&path).unwrap();
        let commands: Vec<_> = holders.iter().filter_map(|it| it.command.as_deref()).collect();
        assert_eq!(commands, ["sleep 60"]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lock_holders(&path).unwrap(), []);
    }

    #[test]
    fn processes_are_found_by_their_name() {
        let mut child = Command::new("sleep").arg("61").spawn().unwrap();
        let found = || {
            let found = processes_named("sleep").unwrap();
            found.into_iter().any(|process| {
                process.id == child.id() && process.command.as_deref() == Some("sleep 61")
            })
        };
        // Its name is that of this process until it executes the other.
        while !found() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_process_behind_a_socket_is_found() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap();
        let inode = text.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        let found = processes(&[inode, 0]);
        let pids: Vec<_> = found[&inode].iter().map(|process| process.id).collect();
        assert!(pids.contains(&std::process::id()), "{found:?}");
        assert!(processes(&[]).is_empty() && processes(&[0]).is_empty());
    }

    #[test]
    fn names_cannot_reach_the_terminal() {
        assert_eq!(Process::new(7, "\x1b[31mx").to_string(), "\\u{1b}[31mx (pid 7)");
    }
}
