//! A cgroup for the containers of one runtime. The machine has one tree of them,
//! which no namespace hides: what is made there is removed here.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{node::Node, traffic::PATIENCE};

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup that the runtime makes, in every hierarchy there is; dropping it ends
/// what still runs in it, after a panic, and removes it and those below it.
pub struct Cgroup {
    name: String,
}

impl Cgroup {
    /// The one of a node's only runtime.
    pub fn new(node: &Node) -> Self {
        let folder = node.folder("");
        let unique = folder.file_name().expect("the node's folder has a name").to_string_lossy();
        Self { name: format!("portclaim-{}", unique.trim_start_matches('.')) }
    }

    /// Its path, as runtimes take it.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// What runs in it.
    pub fn processes(&self) -> Vec<Pid> {
        let mut processes = Vec::new();
        for folder in self.folders() {
            collect(&folder, &mut processes);
        }
        processes
    }

    fn folders(&self) -> Vec<PathBuf> {
        let root = Path::new(ROOT);
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|it| it.path());
        hierarchies.chain([root.to_owned()]).map(|it| it.join(&self.name)).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for process in self.processes() {
            // It may end by itself.
            let _ = kill_process(process, Signal::KILL);
        }
        let deadline = Instant::now() + PATIENCE;
        for folder in self.folders() {
            // It may not be there; and who was killed does not leave it at once.
            while remove(&folder).is_err() && folder.exists() && Instant::now() < deadline {
                thread::yield_now();
            }
        }
    }
}

fn collect(folder: &Path, processes: &mut Vec<Pid>) {
    let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let ids = listed.lines().filter_map(|line| line.parse().ok());
    processes.extend(ids.filter_map(Pid::from_raw));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), processes);
        }
    }
}

/// A cgroup has files that cannot be removed, and go with their folder.
fn remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
