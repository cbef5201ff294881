//! A machine to install on: a node whose folders are its own, as after `debootstrap`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use crate::{
    node::Node,
    tool::{self, Ran},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The folders to which something is installed. `/run` last: others lie in it.
const FOLDERS: [&str; 6] =
    ["/opt", "/etc/cni", "/etc/systemd/system", "/usr/local/bin", "/var/lib", "/run"];

/// Where the binaries are that are to be installed: `/run` hides where they were.
const BINARIES: &str = "/mnt";

/// Everything that is on it is seen in `files`.
pub struct Machine {
    pub node: Node,
}

impl Machine {
    /// One on which nothing is installed.
    pub fn new() -> Self {
        Self::of(Node::new(false))
    }

    /// One on which one more folder is empty.
    pub fn without(folder: &str) -> Self {
        let mut node = Node::new(false);
        node.own(folder);
        Self::of(node)
    }

    fn of(mut node: Node) -> Self {
        node.host.sysctl("ipv4/ip_local_port_range", "40000 50000");
        node.bind(binaries(), BINARIES);
        for folder in FOLDERS {
            node.own(folder);
        }
        Self { node }
    }

    /// One with this conflist.
    pub fn with_conflist(name: &str, text: &str) -> Self {
        let machine = Self::new();
        machine.write(&format!("/etc/cni/net.d/{name}"), text);
        machine
    }

    /// Where a path of the machine is for the tests.
    pub fn at(&self, path: &str) -> PathBuf {
        self.node.folder("machine").join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// All files, but for those in the folder of conflists and in the database.
    pub fn files(&self) -> Vec<String> {
        let mut files = Node::files(&self.node.folder("machine"));
        files
            .retain(|file| !file.starts_with("etc/cni/") && !file.starts_with("var/lib/portclaim"));
        files
    }

    /// The files in the folder of conflists.
    pub fn conflists(&self) -> Vec<String> {
        Node::files(&self.at("/etc/cni/net.d"))
    }

    /// A program of the machine, ready to be run on it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.node.command(program.as_ref());
        command.env_clear().env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Runs a program of the machine.
    pub fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Ran {
        tool::run(&self.node, self.command(program).args(arguments))
    }

    /// Runs `scripts/install` with the binaries under test.
    pub fn install(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(Path::new(ROOT).join("scripts/install"));
        command.args(["--from", BINARIES]).args(arguments);
        tool::run(&self.node, &mut command)
    }
}

/// A folder with the two binaries under test, without what is for debuggers.
pub fn binaries() -> &'static Path {
    static STRIPPED: OnceLock<TempDir> = OnceLock::new();
    let folder = STRIPPED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for binary in [env!("CARGO_BIN_EXE_portclaim"), env!("CARGO_BIN_EXE_portclaimctl")] {
            let name = Path::new(binary).file_name().unwrap();
            let mut strip = Command::new("strip");
            strip.arg(binary).arg("-o").arg(folder.path().join(name));
            assert!(strip.status().unwrap().success(), "{strip:?}");
        }
        folder
    });
    folder.path()
}
