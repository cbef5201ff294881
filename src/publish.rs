//! Files that tell a container and its operator which ports it has.
//!
//! ```text
//! <runDir>/pods/<namespace>/<pod>/ports.env, ports.json      with Kubernetes
//! <runDir>/containers/<containerID>/ports.env, ports.json    without
//! <runDir>/modules/<module>/ports.env, ports.json            of services of the host
//! ```
//!
//! Projections of the store: complete before ADD returns, replaced atomically,
//! gone after DEL. A pod's folder stays the same folder while its sandbox is
//! replaced, for it may be mounted. A pod with ports on several networks has the
//! files of the attachment that came last. The caller holds the store's lock.
//!
//! A pod may have mounted its folder writable: nothing in it is read, no link in
//! it is followed, and whatever stands in the way is replaced.

mod audit;
mod env;
mod module;

pub use module::{module_env, module_folder, publish_module};

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

pub use audit::{Fault, folders};
use serde::Serialize;

use crate::lease::{Attachment, ClaimName, Forwarding, GroupName, Lease, PortName};

/// A published file that could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct PublishError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The file for programs.
pub const JSON: &str = "ports.json";
const ENV: &str = "ports.env";
const PODS: &str = "pods";
const CONTAINERS: &str = "containers";
const MODULES: &str = "modules";
/// What a file is written to before it takes its place.
const NEW: &str = "ports.new";

/// The content of `ports.json`: one entry per host port and protocol.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    attachment: &'a Attachment,
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
    uid: Option<&'a str>,
    ports: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    protocol: &'static str,
    #[serde(rename = "hostIP")]
    host_ip: String,
    host_port: u16,
    container_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim: Option<&'a str>,
}

impl<'a> From<&'a Lease> for Entry<'a> {
    fn from(lease: &'a Lease) -> Self {
        Self {
            name: lease.name.as_ref().map(PortName::as_str),
            protocol: lease.host.protocol.name(),
            host_ip: lease.host.address.to_string(),
            host_port: lease.host.port.number(),
            container_port: lease.container_port.number(),
            group: lease.group.as_ref().map(GroupName::as_str),
            claim: lease.claim.as_ref().map(ClaimName::as_str),
        }
    }
}

/// The files of one container or module, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    folder: PathBuf,
    /// By their names, in the order in which they are written.
    files: [(&'static str, String); 2],
}

impl Publication {
    /// What is published of a container.
    #[must_use]
    pub fn of_container(run_dir: &Path, forwarding: &Forwarding) -> Self {
        let pod = forwarding.pod.as_ref();
        let document = Document {
            attachment: &forwarding.attachment,
            namespace: pod.map(|pod| pod.namespace.as_str()),
            pod: pod.map(|pod| pod.name.as_str()),
            uid: pod.and_then(|pod| pod.uid.as_deref()),
            ports: forwarding.leases.iter().map(Entry::from).collect(),
        };
        let env = env::render(&forwarding.leases);
        Self::new(folder(run_dir, forwarding), env, &document)
    }

    fn new(folder: PathBuf, env: String, document: &impl Serialize) -> Self {
        let json = serde_json::to_string_pretty(document);
        let json = json.expect("texts can be written as JSON") + "\n";
        Self { folder, files: [(ENV, env), (JSON, json)] }
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the files, in place of those that are there.
    pub fn write(&self, run_dir: &Path) -> Result<(), PublishError> {
        create_folder(run_dir, &self.folder)?;
        for (name, text) in &self.files {
            replace(&self.folder.join(name), text)?;
        }
        Ok(())
    }
}

/// Writes the files of a container, in place of those that are there.
pub fn publish(run_dir: &Path, forwarding: &Forwarding) -> Result<(), PublishError> {
    Publication::of_container(run_dir, forwarding).write(run_dir)
}

/// Removes the files of a container, and its folders if nothing else is in them.
pub fn withdraw(run_dir: &Path, forwarding: &Forwarding) -> Result<(), PublishError> {
    clear(run_dir, &folder(run_dir, forwarding))
}

/// Removes our files from a folder below `run_dir`, and it, and those above it, if
/// nothing else is in them.
pub fn clear(run_dir: &Path, folder: &Path) -> Result<(), PublishError> {
    // A call that was killed as it published may have left the last one.
    for name in [JSON, ENV, NEW] {
        let path = folder.join(name);
        remove(&path).at("remove", &path)?;
    }
    // Folders that are not empty, or mounted, are not ours to remove.
    for empty in folder.ancestors().take_while(|ancestor| *ancestor != run_dir) {
        if fs::remove_dir(empty).is_err() {
            break;
        }
    }
    Ok(())
}

/// Where the files of a container are, or of its pod, which may have several
/// attachments.
#[must_use]
pub fn folder(run_dir: &Path, forwarding: &Forwarding) -> PathBuf {
    match &forwarding.pod {
        Some(pod) => run_dir.join(PODS).join(pod.namespace.as_str()).join(pod.name.as_str()),
        None => run_dir.join(CONTAINERS).join(forwarding.attachment.container.as_str()),
    }
}

/// Creates the folder and those between it and `run_dir`, so that anyone may look
/// whatever the umask of the runtime is.
fn create_folder(run_dir: &Path, folder: &Path) -> Result<(), PublishError> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).at("create", folder)?;
    for created in folder.ancestors().take_while(|ancestor| *ancestor != run_dir) {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(created, mode).at("open to all", created)?;
    }
    Ok(())
}

/// Replaces the file by rename(2), so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> Result<(), PublishError> {
    let new = path.with_file_name(NEW);
    // The leftover of a call that was killed, whatever it is.
    remove(&new).at("remove", &new)?;
    if path.is_dir() {
        remove(path).at("remove", path)?;
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).open(&new).at("create", &new)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        _ = fs::remove_file(&new);
    }
    written.at("write", path)
}

/// Removes what is there, whatever it is, and follows no link. Absent is fine.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir_all(path),
        removed => removed,
    };
    match removed {
        // The latter where `runDir` itself is no folder: then nothing is there.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(())
        }
        removed => removed,
    }
}

/// Says what was attempted, and on what.
trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, PublishError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, PublishError> {
        self.map_err(|source| PublishError { action, path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{ContainerAddresses, HostAddress, HostPort, Port, Protocol};

    fn forwarding(container: &str, pod: Option<(&str, &str)>) -> Forwarding {
        let host = |port| HostPort {
            protocol: Protocol::Tcp,
            port: Port::new(port).unwrap(),
            address: HostAddress::Any,
        };
        Forwarding {
            attachment: Attachment {
                network: "net".parse().unwrap(),
                container: container.parse().unwrap(),
                interface: "eth0".parse().unwrap(),
            },
            pod: pod.map(|(namespace, name)| crate::lease::Pod {
                namespace: namespace.parse().unwrap(),
                name: name.parse().unwrap(),
                uid: Some("b2c1".to_owned()),
            }),
            container: ContainerAddresses::default(),
            link: None,
            sandbox: None,
            health: None,
            since: 0,
            leases: vec![
                Lease {
                    host: host(8080),
                    container_port: Port::new(80).unwrap(),
                    name: None,
                    group: None,
                    claim: None,
                    rest: None,
                },
                Lease {
                    host: host(10007),
                    container_port: Port::new(90).unwrap(),
                    name: Some("http-admin".parse().unwrap()),
                    group: Some("default".parse().unwrap()),
                    claim: Some("web-0".parse().unwrap()),
                    rest: None,
                },
            ],
        }
    }

    #[test]
    fn a_pods_files_say_all_and_go_with_their_folders() {
        let run_dir = tempfile::tempdir().unwrap();
        let forwarding = forwarding("abc", Some(("default", "web-0.example")));
        publish(run_dir.path(), &forwarding).unwrap();
        let folder = run_dir.path().join("pods/default/web-0.example");
        let json = fs::read_to_string(folder.join("ports.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let expected = serde_json::json!({
            "network": "net", "containerID": "abc", "ifname": "eth0",
            "namespace": "default", "pod": "web-0.example", "uid": "b2c1",
            "ports": [
                {"protocol": "tcp", "hostIP": "", "hostPort": 8080, "containerPort": 80},
                {"name": "http-admin", "protocol": "tcp", "hostIP": "", "hostPort": 10007,
                 "containerPort": 90, "group": "default", "claim": "web-0"},
            ],
        });
        assert_eq!(value, expected);
        let env = fs::read_to_string(folder.join("ports.env")).unwrap();
        assert_eq!(env, "TCP_PORT=8080\nTCP_PORTS=8080,10007\nPORT_HTTP_ADMIN=10007\n");
        withdraw(run_dir.path(), &forwarding).unwrap();
        withdraw(run_dir.path(), &forwarding).unwrap();
        assert_eq!(fs::read_dir(run_dir.path()).unwrap().count(), 0);
    }

    /// A pod that mounted its folder writable must not be able to stop, mislead or
    /// fill up the plugin: links, pipes and folders in the way are just replaced.
    #[test]
    fn what_a_pod_put_in_the_way_is_neither_read_nor_followed() {
        let run_dir = tempfile::tempdir().unwrap();
        let forwarding = forwarding("abc", Some(("default", "web-0")));
        let folder = run_dir.path().join("pods/default/web-0");
        let victim = run_dir.path().join("victim");
        fs::create_dir_all(&folder).unwrap();
        fs::write(&victim, "precious").unwrap();
        for name in ["ports.json", "ports.new", "ports.env"] {
            let path = folder.join(name);
            let plant: [&dyn Fn(); 4] = [
                &|| std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                &|| std::os::unix::fs::symlink(&victim, &path).unwrap(),
                &|| fs::create_dir_all(path.join("nested")).unwrap(),
                &|| {
                    let mode = rustix::fs::Mode::from(0o666);
                    rustix::fs::mknodat(
                        rustix::fs::CWD,
                        &path,
                        rustix::fs::FileType::Fifo,
                        mode,
                        0,
                    )
                    .unwrap();
                },
            ];
            for plant in plant {
                remove(&path).unwrap();
                plant();
                publish(run_dir.path(), &forwarding).unwrap();
                assert!(fs::symlink_metadata(folder.join("ports.json")).unwrap().is_file());
                remove(&path).unwrap();
                plant();
                _ = withdraw(run_dir.path(), &forwarding);
                fs::create_dir_all(&folder).unwrap();
            }
        }
        assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    }

    #[test]
    fn what_a_killed_call_left_behind_is_replaced() {
        let run_dir = tempfile::tempdir().unwrap();
        let forwarding = forwarding("abc", None);
        let folder = run_dir.path().join("containers/abc");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ports.new"), "{\"half").unwrap();
        fs::write(folder.join("ports.json"), "{\"half").unwrap();
        publish(run_dir.path(), &forwarding).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_file(folder.join("ports.json")).unwrap();
        fs::write(folder.join("ports.new"), "{\"half").unwrap();
        withdraw(run_dir.path(), &forwarding).unwrap();
        assert!(!folder.exists());
    }
}
