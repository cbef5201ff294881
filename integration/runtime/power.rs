//! The end of all that no power cut survives.

use std::{fs, path::Path, process::Command};

use rustix::process::{Pid, Signal, kill_process};

use super::{cgroup::Cgroup, record::Plugins, wait_until};
use crate::node::Node;

/// Ends every process of a node's runtime, and takes away namespaces and mounts. The
/// runtime itself removes what else of it is in memory.
pub fn cut(node: &Node, cgroup: &Cgroup, plugins: &Plugins) {
    let folder = node.folder("").display().to_string();
    // Those who watch containers were told of folders or sockets.
    for process in processes_of(&folder).into_iter().chain(cgroup.processes()) {
        // It may have ended with another one.
        let _ = kill_process(process, Signal::KILL);
    }
    wait_until("all processes are gone", || {
        processes_of(&folder).is_empty() && cgroup.processes().is_empty()
    });
    let namespaces = plugins.calls_of("ADD");
    for namespace in namespaces.iter().filter_map(|call| call.variable("CNI_NETNS")) {
        let namespace = Path::new(namespace);
        if namespace.exists() {
            unmount(namespace);
            fs::remove_file(namespace).expect("it was the runtime's");
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").expect("there is a /proc");
    // The last first: one may lie in another.
    let folders = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
    folders.filter(|it| it.starts_with(&folder)).for_each(|it| unmount(Path::new(it)));
}

fn unmount(path: &Path) {
    let status = Command::new("umount").arg("--lazy").arg(path).status();
    assert!(status.is_ok_and(|it| it.success()), "umount {}", path.display());
}

/// The processes whose command lines name a folder.
fn processes_of(folder: &str) -> Vec<Pid> {
    let ids = fs::read_dir("/proc").expect("there is a /proc").flatten();
    let ids = ids.filter_map(|it| it.file_name().to_str().and_then(|id| id.parse().ok()));
    ids.filter(|id| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(folder)
    })
    .filter_map(Pid::from_raw)
    .collect()
}
