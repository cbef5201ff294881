//! A pod, as a kubelet asks containerd for it.

use rustix::process::Pid;
use serde_json::Value;

use super::{
    containerd::Containerd,
    cri::{
        Client, ContainerConfig, ContainerId, ContainerMetadata, CreateContainerRequest, Empty,
        Failure, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata,
        PodSandboxRequest, PodSandboxStatusRequest, PodSandboxStatusResponse, PortMapping,
        Protocol, RunPodSandboxRequest, RunPodSandboxResponse,
    },
    image,
};
use crate::{chain::Container, namespace::Namespace};

/// What a pod is to be.
#[derive(Clone, Debug)]
pub struct Pod(PodSandboxConfig);

impl Pod {
    /// A pod of namespace `shop` that asks for nothing.
    pub fn new(name: &str) -> Self {
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "shop".to_owned(),
            attempt: 0,
        };
        Self(PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            ..PodSandboxConfig::default()
        })
    }

    /// The pod with an annotation under `hostport.io/`, switched on.
    pub fn annotated(mut self, key: &str, value: &str) -> Self {
        self.0.annotations.insert("hostport.io/enabled".to_owned(), "true".to_owned());
        self.0.annotations.insert(format!("hostport.io/{key}"), value.to_owned());
        self
    }

    /// The pod with a `hostPort` in one of its containers.
    pub fn port(mut self, protocol: Protocol, host_ip: &str, host: u16, container: u16) -> Self {
        self.0.port_mappings.push(PortMapping {
            protocol: protocol.into(),
            container_port: container.into(),
            host_port: host.into(),
            host_ip: host_ip.to_owned(),
        });
        self
    }

    /// The pod as its next sandbox is asked for.
    pub fn again(mut self) -> Self {
        self.0.metadata.as_mut().expect("a pod has a name").attempt += 1;
        self
    }

    /// Makes its sandbox.
    pub fn run(&self, containerd: &Containerd) -> Result<Sandbox, Failure> {
        self.run_in(&containerd.cgroup.path(), &containerd.client())
    }

    /// The same in a cgroup, by a client that may have a deadline, or outlive containerd.
    pub fn run_in(&self, cgroup: &str, client: &Client) -> Result<Sandbox, Failure> {
        let linux = LinuxPodSandboxConfig { cgroup_parent: cgroup.to_owned() };
        let config = PodSandboxConfig { linux: Some(linux), ..self.0.clone() };
        let request = RunPodSandboxRequest { config: Some(config.clone()) };
        let response: RunPodSandboxResponse = client.call("RunPodSandbox", &request)?;
        Ok(Sandbox { client: client.clone(), id: response.pod_sandbox_id, config })
    }
}

/// A pod that runs, until it is removed.
#[derive(Debug)]
pub struct Sandbox {
    client: Client,
    /// Its ID, which is `CNI_CONTAINERID`.
    pub id: String,
    config: PodSandboxConfig,
}

impl Sandbox {
    fn request(&self) -> PodSandboxRequest {
        PodSandboxRequest { pod_sandbox_id: self.id.clone() }
    }

    /// Starts a container in it that runs this.
    #[track_caller]
    pub fn start_container(&self, command: &[&str]) {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".to_owned() }),
            image: Some(ImageSpec { image: image::NAME.to_owned() }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let created: ContainerId =
            self.client.call("CreateContainer", &request).expect("it can be made");
        self.client.call::<Empty>("StartContainer", &created).expect("it can be started");
    }

    /// Stops it, which takes its network, and may be done twice.
    #[track_caller]
    pub fn stop(&self) {
        self.client.call::<Empty>("StopPodSandbox", &self.request()).expect("it can be stopped");
    }

    /// Stops and removes it.
    #[track_caller]
    pub fn remove(self) {
        self.stop();
        self.client.call::<Empty>("RemovePodSandbox", &self.request()).expect("it can be removed");
    }

    /// What there is to know of it.
    #[track_caller]
    pub fn status(&self) -> PodSandboxStatusResponse {
        let request = PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        self.client.call("PodSandboxStatus", &request).expect("it is there")
    }

    /// Its network namespace.
    #[track_caller]
    pub fn namespace(&self) -> Namespace {
        let status = self.status();
        let info: Value = serde_json::from_str(&status.info["info"]).expect("it is JSON");
        let process = info["pid"].as_i64().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        Namespace::of_process(process.expect("it runs"))
    }

    /// As the other parts of the suite know it.
    pub fn container(&self) -> Container {
        Container::on_paper(&self.id, 0)
    }
}
