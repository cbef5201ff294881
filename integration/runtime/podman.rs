//! Debian's podman with its CNI backend, with everything of its own below the
//! node's folder and in the node's namespace. There is no daemon: each call is a
//! process, and each container has a `conmon` that watches it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Pid;

use super::{cgroup::Cgroup, image, power, record::Plugins};
use crate::{
    chain::{Container, Network},
    namespace::{Namespace, output},
    node::Node,
};

/// podman, until it is dropped, with all of its containers.
pub struct Podman {
    /// Where it runs.
    pub node: Node,
    cgroup: Cgroup,
    /// Its plugins, and how it called them.
    pub plugins: Plugins,
}

impl Podman {
    /// One whose containers are on this network, with the image.
    pub fn new(node: Node, network: &Network) -> Self {
        let folder = node.folder("podman");
        fs::create_dir(&folder).expect("the node's folder is writable");
        let file = |name: &str| folder.join(name).display().to_string();
        fs::create_dir(file("net.d")).expect("it was made here");
        let conflist = folder.join("net.d/10-podnet.conflist");
        fs::write(conflist, network.conflist(&node).to_string()).expect("it was made here");
        let plugins = Plugins::below(&folder, &node);
        let config = format!(
            r#"[containers]
apparmor_profile = "unconfined"
log_driver = "none"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}"]
network_config_dir = "{conflists}"
default_network = "{name}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "runc"
static_dir = "{fixed}"
tmp_dir = "{tmp}"
"#,
            plugins = plugins.folder().display(),
            conflists = file("net.d"),
            name = network.name,
            fixed = file("static"),
            tmp = file("tmp"),
        );
        fs::write(folder.join("containers.conf"), config).expect("it was made here");
        let cgroup = Cgroup::new(&node);
        let podman = Self { node, cgroup, plugins };
        let archive = image::archive().display().to_string();
        podman.succeed(&["load", "--quiet", "--input", &archive]);
        podman
    }

    fn file(&self, name: &str) -> PathBuf {
        self.node.folder("podman").join(name)
    }

    /// A call, ready to be spawned inside the node.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/run/tmp");
        command.env("CONTAINERS_CONF", self.file("containers.conf"));
        command.arg("--root").arg(self.file("root")).arg("--runroot").arg(self.file("runroot"));
        command.args(arguments);
        command
    }

    /// What a call prints that succeeds, and what it complains of if it does not.
    pub fn call(&self, arguments: &[&str]) -> Result<String, String> {
        self.output(&mut self.command(arguments))
    }

    fn output(&self, command: &mut Command) -> Result<String, String> {
        let output = self.node.host.enter(|| output(command, b""));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// What a call prints that must succeed.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        self.call(arguments).unwrap_or_else(|error| panic!("podman {arguments:?}: {error}"))
    }

    /// A call that starts a container with this name, and options of `podman run`.
    pub fn run_command(&self, name: &str, options: &[&str]) -> Command {
        let cgroup = self.cgroup.path();
        let ours = ["run", "--detach", "--name", name, "--cgroup-parent", &cgroup];
        self.command(&[&ours, options, &[image::NAME]].concat())
    }

    /// Starts a container.
    pub fn run(&self, name: &str, options: &[&str]) -> Result<Container, String> {
        let id = self.output(&mut self.run_command(name, options))?;
        Ok(Container::on_paper(&id, 0))
    }

    /// The first process of a container that runs.
    #[track_caller]
    pub fn process(&self, name: &str) -> Pid {
        let printed = self.succeed(&["inspect", "--format", "{{.State.Pid}}", name]);
        printed.parse().ok().and_then(Pid::from_raw).expect("it runs")
    }

    /// The namespace of a container that runs.
    #[track_caller]
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace::of_process(self.process(name))
    }

    /// All that no power cut survives goes: every process, and what was in memory.
    /// The database stays.
    pub fn power_off(&mut self) {
        power::cut(&self.node, &self.cgroup, &self.plugins);
        for name in ["runroot", "tmp"] {
            fs::remove_dir_all(self.file(name)).expect("nothing of it is in use");
        }
        for add in self.plugins.calls_of("ADD") {
            let id = add.variable("CNI_CONTAINERID").expect("ADD has one");
            // Of one that was stopped there is none.
            let _ = fs::remove_dir_all(Path::new("/run/runc").join(id));
        }
    }

    /// Stops and removes a container.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        self.succeed(&["rm", "--force", "--time", "0", name]);
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let removed = self.call(&["rm", "--all", "--force", "--time", "0"]);
        if !std::thread::panicking() {
            removed.expect("all containers can be removed");
        }
    }
}
