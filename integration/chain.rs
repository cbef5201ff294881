//! A minimal libcni: runs a chain of plugins as a container runtime does.
//!
//! A chain is one of the reference plugins `bridge` and `ptp` with `host-local`,
//! and the plugin under test after it. Only what libcni does for a plugin is done
//! here: the environment, `prevResult`, `runtimeConfig` (CNI SPEC, section 3).

use std::{
    env,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{
    namespace::Namespace,
    node::{Family, Node},
};

/// The plugin under test.
const PLUGIN: &str = env!("CARGO_BIN_EXE_portclaim");

/// Where the reference plugins are.
const REFERENCE: &str = "/usr/lib/cni";

/// The `backend` of networks that are not given one; not set: the plugin's default.
const BACKEND: &str = "PORTCLAIM_BACKEND";

/// The newest version that the reference plugins of Debian 12 speak.
const REFERENCE_VERSION: &str = "1.0.0";

/// One execution of a plugin.
pub struct Call {
    plugin: PathBuf,
    /// The environment, nothing else.
    pub environment: Vec<(&'static str, String)>,
    /// What it reads.
    pub stdin: Vec<u8>,
}

impl Call {
    /// A call of the plugin under test that has only `CNI_COMMAND` set.
    pub fn new(command: &str, config: &Value) -> Self {
        Self {
            plugin: PLUGIN.into(),
            environment: vec![("CNI_COMMAND", command.to_owned()), ("CNI_PATH", REFERENCE.into())],
            stdin: config.to_string().into_bytes(),
        }
    }

    /// A call of a plugin by its type, for a container.
    pub fn of_type(kind: &str, command: &str, config: &Value, container: &Container) -> Self {
        let mut call = Self::new(command, config)
            .with("CNI_CONTAINERID", &container.id)
            .with("CNI_NETNS", &container.path())
            .with("CNI_IFNAME", INTERFACE);
        if kind != "portclaim" {
            call.plugin = Path::new(REFERENCE).join(kind);
        }
        if container.args.is_empty() { call } else { call.with("CNI_ARGS", &container.args) }
    }

    /// The call with a variable of the environment added, or replaced.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.retain(|(other, _)| *other != name);
        self.environment.push((name, value.to_owned()));
        self
    }

    /// The call with `nft` as the backend, for what is tried by way of that program.
    pub fn by_nft(mut self) -> Self {
        let mut config: Value = serde_json::from_slice(&self.stdin).expect("it is JSON");
        config["backend"] = "nft".into();
        self.stdin = config.to_string().into_bytes();
        self
    }

    /// The call of another file with the plugin in it.
    pub fn of(mut self, plugin: &Path) -> Self {
        plugin.clone_into(&mut self.plugin);
        self
    }

    /// The command, ready to be spawned inside the node.
    pub fn command(&self, node: &Node) -> std::process::Command {
        self.with_environment(node.command(&self.plugin))
    }

    fn with_environment(&self, mut command: std::process::Command) -> std::process::Command {
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Executes it in the node.
    pub fn run(&self, node: &Node) -> Outcome {
        self.outcome(node, self.command(node))
    }

    /// Has a program execute it in the node, which is given the plugin's path after its
    /// own arguments.
    pub fn run_by(&self, node: &Node, program: &str, arguments: &[&str]) -> Outcome {
        let mut command = node.command(Path::new(program));
        command.args(arguments).arg(&self.plugin);
        self.outcome(node, self.with_environment(command))
    }

    fn outcome(&self, node: &Node, mut command: std::process::Command) -> Outcome {
        let output = node.host.output(&mut command, &self.stdin);
        Outcome {
            status: output.status,
            stdout: String::from_utf8(output.stdout).expect("a reply is UTF-8"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Outcome {
    /// How the process ended.
    pub status: std::process::ExitStatus,
    /// The reply.
    pub stdout: String,
    /// The log.
    pub stderr: String,
}

/// An error as a plugin reports it (CNI SPEC, section 5, "Error").
#[derive(Debug)]
pub struct CniError {
    /// What went wrong, for programs.
    pub code: u64,
    /// What went wrong, in one sentence.
    pub message: String,
    /// What to do about it.
    pub details: String,
}

impl Outcome {
    /// The reply of a call that succeeds; null if it has none.
    #[track_caller]
    pub fn succeeded(&self) -> Value {
        assert!(self.status.success(), "{self:?}");
        if self.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error of a call that fails, which is all that it prints.
    #[track_caller]
    pub fn failed(&self) -> CniError {
        assert!(!self.status.success(), "{self:?}");
        let error: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let text = |key: &str| {
            let value = error[key].as_str().unwrap_or_else(|| panic!("no {key}: {self:?}"));
            value.to_owned()
        };
        assert!(!text("cniVersion").is_empty(), "{self:?}");
        assert!(!text("msg").is_empty(), "{self:?}");
        let code = error["code"].as_u64().unwrap_or_else(|| panic!("no code: {self:?}"));
        // The specification does not demand details, but codes of our own say nothing
        // to anybody without.
        let details = error["details"].as_str().unwrap_or_default().to_owned();
        assert!(code < 100 || !details.is_empty(), "no details: {self:?}");
        CniError { code, message: text("msg"), details }
    }

    /// The error of a call that fails with this code.
    #[track_caller]
    pub fn failed_with(&self, code: u64) -> CniError {
        let error = self.failed();
        assert_eq!(error.code, code, "{self:?}");
        error
    }
}

/// A container that a network may be given to.
pub struct Container {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// Its namespace; none for one that exists on paper only.
    pub namespace: Option<Namespace>,
    /// `CNI_ARGS`; empty: not set.
    args: String,
    /// The result of the plugins before the one under test.
    pub result: Value,
}

/// The interface of every container.
pub const INTERFACE: &str = "eth0";

impl Container {
    /// A container without interfaces.
    pub fn new(id: &str) -> Self {
        let namespace = Some(Namespace::new("container"));
        Self { id: id.to_owned(), namespace, args: String::new(), result: Value::Null }
    }

    /// A container on paper: enough for a plugin that never enters it, and no
    /// packet reaches it. Its addresses end with `number`.
    pub fn on_paper(id: &str, number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": INTERFACE, "sandbox": "/run/netns/on-paper" }],
            "ips": [
                { "address": format!("10.99.{high}.{low}/16"), "interface": 0 },
                { "address": format!("fd00:99::{number:x}/64"), "interface": 0 },
            ],
        });
        Self { id: id.to_owned(), namespace: None, args: String::new(), result }
    }

    /// The container with `CNI_ARGS`.
    pub fn with_args(mut self, args: &str) -> Self {
        args.clone_into(&mut self.args);
        self
    }

    /// The container as the sandbox of a pod.
    pub fn in_pod(self, namespace: &str, name: &str, uid: &str) -> Self {
        self.with_args(&format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
        ))
    }

    /// Its namespace, which it must have.
    pub fn namespace(&self) -> &Namespace {
        self.namespace.as_ref().expect("the container is not on paper")
    }

    /// `CNI_NETNS`.
    fn path(&self) -> String {
        let path = self.namespace.as_ref().map(Namespace::path);
        path.unwrap_or_else(|| Path::new("/run/netns/on-paper").into()).display().to_string()
    }
}

/// `runtimeConfig` with these annotations under `hostport.io/`, switched on.
pub fn annotated(annotations: &[(&str, &str)]) -> Value {
    let mut all = json!({ "hostport.io/enabled": "true", "example.org/other": "\u{202e}x" });
    for (key, value) in annotations {
        all[format!("hostport.io/{key}")] = (*value).into();
    }
    json!({ "io.kubernetes.cri.pod-annotations": all })
}

/// A network configuration list of two plugins.
#[derive(Clone)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// `cniVersion`.
    version: &'static str,
    /// The keys of the first plugin.
    first: Value,
    /// Where `host-local` takes addresses from.
    subnets: Vec<&'static str>,
    /// More keys of the plugin under test.
    options: Map<String, Value>,
}

impl Network {
    /// Containers on one bridge of the host. `hairpin` lets the bridge send a
    /// packet back where it came from, which `br_netfilter` makes necessary.
    pub fn bridge(name: &str, hairpin: bool) -> Self {
        Self::new(
            name,
            json!({ "type": "bridge", "bridge": "cni0", "isGateway": true,
                                "hairpinMode": hairpin }),
        )
    }

    /// Each container at the end of a link of its own.
    pub fn ptp(name: &str) -> Self {
        Self::new(name, json!({ "type": "ptp" }))
    }

    fn new(name: &str, first: Value) -> Self {
        let subnets = vec!["10.88.0.0/24", "fd00:88::/64"];
        Self { name: name.to_owned(), version: "1.0.0", first, subnets, options: Map::new() }
    }

    /// The same network under another name.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The network in another version.
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// The network with a key of the plugin under test.
    pub fn option(mut self, key: &str, value: Value) -> Self {
        self.options.insert(key.to_owned(), value);
        self
    }

    /// The network with `nft` as the backend, for what is tried by way of that program.
    pub fn by_nft(self) -> Self {
        self.option("backend", "nft".into())
    }

    /// The network with addresses of one family only.
    pub fn only(mut self, family: Family) -> Self {
        self.subnets.retain(|subnet| subnet.contains(':') == (family == Family::V6));
        self
    }

    /// The network with addresses of these subnets only.
    pub fn subnets(mut self, subnets: &[&'static str]) -> Self {
        self.subnets = subnets.into();
        self
    }

    /// The network with a key of the first plugin.
    pub fn first_option(mut self, key: &str, value: Value) -> Self {
        self.first[key] = value;
        self
    }

    /// What the plugin under test reads, without `prevResult` and `runtimeConfig`.
    pub fn config(&self, node: &Node) -> Value {
        let mut config = json!({
            "cniVersion": self.version,
            "name": self.name,
            "type": "portclaim",
            "capabilities": { "portMappings": true },
            "dataDir": node.data_dir(),
            "runDir": node.run_dir(),
        });
        if let Ok(backend) = env::var(BACKEND) {
            config["backend"] = backend.into();
        }
        for (key, value) in &self.options {
            config[key] = value.clone();
        }
        config
    }

    /// ADD of the plugin under test, with the result that the container has.
    pub fn add(&self, node: &Node, container: &Container, mappings: Value) -> Call {
        let mut runtime = json!({});
        runtime["portMappings"] = mappings;
        self.add_with(node, container, runtime)
    }

    /// The same with all of `runtimeConfig`.
    pub fn add_with(&self, node: &Node, container: &Container, runtime: Value) -> Call {
        let mut config = self.config(node);
        config["runtimeConfig"] = runtime;
        config["prevResult"] = container.result.clone();
        config["prevResult"]["cniVersion"] = self.version.into();
        Call::of_type("portclaim", "ADD", &config, container)
    }

    /// CHECK of the plugin under test.
    pub fn check(&self, node: &Node, container: &Container, mappings: Value) -> Call {
        self.add(node, container, mappings).with("CNI_COMMAND", "CHECK")
    }

    /// The same with all of `runtimeConfig`.
    pub fn check_with(&self, node: &Node, container: &Container, runtime: Value) -> Call {
        self.add_with(node, container, runtime).with("CNI_COMMAND", "CHECK")
    }

    /// DEL of the plugin under test, with nothing but the attachment.
    pub fn del(&self, node: &Node, container: &Container) -> Call {
        Call::of_type("portclaim", "DEL", &self.config(node), container)
    }

    /// GC of the plugin under test.
    pub fn gc(&self, node: &Node, valid: Value) -> Call {
        let mut config = self.config(node);
        config["cniVersion"] = "1.1.0".into();
        config["cni.dev/valid-attachments"] = valid;
        Call::new("GC", &config)
    }

    /// STATUS of the plugin under test.
    pub fn status(&self, node: &Node) -> Call {
        let mut config = self.config(node);
        config["cniVersion"] = "1.1.0".into();
        Call::new("STATUS", &config)
    }

    /// What the first plugin reads.
    fn first_config(&self, node: &Node) -> Value {
        let mut config = self.first.clone();
        config["cniVersion"] = self.version.min(REFERENCE_VERSION).into();
        config["name"] = self.name.clone().into();
        config["ipam"] = json!({
            "type": "host-local",
            "dataDir": node.folder("ipam"),
            "ranges": self.subnets.iter().map(|s| json!([{ "subnet": s }])).collect::<Value>(),
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        });
        config
    }

    /// The whole chain, for a runtime that reads it from a file.
    pub fn conflist(&self, node: &Node) -> Value {
        let mut ours = self.config(node);
        ours["capabilities"] = json!({
            "portMappings": true,
            "portClaims": true,
            "io.kubernetes.cri.pod-annotations": true,
        });
        json!({
            "cniVersion": self.version.min(REFERENCE_VERSION),
            "name": self.name,
            "plugins": [self.first_config(node), ours],
        })
    }

    fn first(&self, command: &str, node: &Node, container: &Container) -> Outcome {
        let config = self.first_config(node);
        let kind = config["type"].as_str().expect("a plugin has a type").to_owned();
        Call::of_type(&kind, command, &config, container).run(node)
    }

    /// ADD of the whole chain; the container remembers the first plugin's result.
    #[track_caller]
    pub fn attach(&self, node: &Node, container: &mut Container, mappings: Value) -> Outcome {
        container.result = self.first("ADD", node, container).succeeded();
        self.add(node, container, mappings).run(node)
    }

    /// The same with all of `runtimeConfig`.
    #[track_caller]
    pub fn attach_with(&self, node: &Node, container: &mut Container, runtime: Value) -> Outcome {
        container.result = self.first("ADD", node, container).succeeded();
        self.add_with(node, container, runtime).run(node)
    }

    /// DEL of the whole chain.
    #[track_caller]
    pub fn detach(&self, node: &Node, container: &Container) {
        self.del(node, container).run(node).succeeded();
        self.first("DEL", node, container).succeeded();
    }
}
