//! Debian's containerd, with everything of its own below the node's folder and in
//! the node's namespace: root, state, socket, conflist, plugins, cgroups.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{
    cgroup::Cgroup,
    cri::{Client, Empty, Failure, ListPodSandboxResponse, PodSandboxRequest, StatusResponse},
    image, power,
    record::Plugins,
    wait_until,
};
use crate::{
    chain::Network,
    namespace::{output, start},
    node::Node,
};

/// containerd, until it is dropped, with all of its pods.
pub struct Containerd {
    /// Where it runs.
    pub node: Node,
    /// None while it is down.
    process: Option<Child>,
    /// Where its plugins find `nft`.
    path: String,
    /// Where its pods are.
    pub cgroup: Cgroup,
    /// Its plugins, and how it called them.
    pub plugins: Plugins,
}

impl Containerd {
    /// Starts one whose pods are on this network, and gives it the image.
    pub fn start(node: Node, network: &Network) -> Self {
        let folder = node.folder("containerd");
        fs::create_dir(&folder).expect("the node's folder is writable");
        let file = |name: &str| folder.join(name);
        fs::create_dir(file("net.d")).expect("it was made here");
        let conflist = file("net.d").join("10-podnet.conflist");
        fs::write(conflist, network.conflist(&node).to_string()).expect("it was made here");
        let plugins = Plugins::below(&folder, &node);
        let text = |path: PathBuf| path.display().to_string();
        let config = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
# A machine may have no AppArmor, and root may be without CAP_SYS_RESOURCE.
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{conflists}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
            root = text(file("root")),
            state = text(file("state")),
            socket = text(file("socket")),
            opt = text(file("opt")),
            image = image::NAME,
            plugins = text(plugins.folder().to_owned()),
            conflists = text(file("net.d")),
        );
        fs::write(file("config.toml"), config).expect("it was made here");
        let path = "/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let cgroup = Cgroup::new(&node);
        let mut containerd = Self { node, process: None, path, cgroup, plugins };
        containerd.restart();
        containerd.ctr(&["images", "import", &text(image::archive().to_owned())]);
        containerd
    }

    /// Another folder before all others in which plugins find programs; from the next
    /// start on.
    pub fn with_programs_of(&mut self, folder: &Path) {
        self.path = format!("{}:{}", folder.display(), self.path);
    }

    /// SIGKILL, as if it had crashed. Its pods stay.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it has not been waited for");
            process.wait().expect("it has not been waited for");
        }
    }

    /// Starts it again, and waits until it says that pods can be started.
    pub fn restart(&mut self) {
        self.kill();
        let log = File::options().create(true).append(true).open(self.file("log"));
        let log = log.expect("the node's folder is writable");
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.file("config.toml")).env_clear().env("PATH", &self.path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(self.node.host.enter(|| start(&mut command)));
        wait_until("containerd is ready", || {
            let status = self.client().call::<StatusResponse>("Status", &Empty {});
            let conditions = status.ok().and_then(|it| it.status).map(|it| it.conditions);
            conditions.is_some_and(|all| !all.is_empty() && all.iter().all(|it| it.status))
        });
    }

    /// All that no power cut survives goes: every process, and what was in memory.
    /// The database stays.
    pub fn power_off(&mut self) {
        self.kill();
        power::cut(&self.node, &self.cgroup, &self.plugins);
        fs::remove_dir_all(self.file("state")).expect("nothing of it is in use");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.node.folder("containerd").join(name)
    }

    /// A client of its socket.
    pub fn client(&self) -> Client {
        Client::new(self.file("socket"))
    }

    /// What it logged that may tell whoever has to find out what went wrong.
    fn complaints(&self) -> String {
        let log = fs::read_to_string(self.file("log")).unwrap_or_default();
        log.lines().filter(|line| !line.contains("level=info")).collect::<Vec<_>>().join("\n")
    }

    fn ctr(&self, arguments: &[&str]) {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.file("socket")).args(["--namespace", "k8s.io"]);
        let output = output(command.args(arguments), b"");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {arguments:?}: {error}");
    }

    /// Stops and removes every pod that there is.
    fn clear(&self) -> Result<(), Failure> {
        let client = self.client();
        let pods = client.call::<ListPodSandboxResponse>("ListPodSandbox", &Empty {})?;
        for pod in pods.items {
            let request = PodSandboxRequest { pod_sandbox_id: pod.id };
            client.call::<Empty>("StopPodSandbox", &request)?;
            client.call::<Empty>("RemovePodSandbox", &request)?;
        }
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let cleared = self.clear();
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.complaints());
        } else {
            cleared.expect("all pods can be removed");
        }
    }
}
