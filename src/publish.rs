//! Files that tell a container and its operator which ports it has.
//!
//! ```text
//! <runDir>/pods/<namespace>/<pod>/ports.env, ports.json      with Kubernetes
//! <runDir>/containers/<containerID>/ports.env, ports.json    without
//! ```
//!
//! Projections of the store: complete before ADD returns, replaced atomically,
//! gone after DEL. A pod's folder stays the same folder while its sandbox is
//! replaced, for it may be mounted. A pod with ports on several networks has the
//! files of the attachment that came last. The caller holds the store's lock.

mod env;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::lease::{Attachment, Forwarding, Lease};

/// A published file that could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct PublishError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

const JSON: &str = "ports.json";
const ENV: &str = "ports.env";

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
    protocol: &'static str,
    #[serde(rename = "hostIP")]
    host_ip: String,
    host_port: u16,
    container_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
}

impl<'a> From<&'a Lease> for Entry<'a> {
    fn from(lease: &'a Lease) -> Self {
        Self {
            protocol: lease.host.protocol.name(),
            host_ip: lease.host.address.to_string(),
            host_port: lease.host.port.number(),
            container_port: lease.container_port.number(),
            group: lease.group.as_deref(),
        }
    }
}

/// Writes the files of a container, in place of those that are there.
pub fn publish(run_dir: &Path, forwarding: &Forwarding) -> Result<(), PublishError> {
    let folder = folder(run_dir, forwarding);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&folder)
        .map_err(|source| PublishError { action: "create", path: folder.clone(), source })?;
    let pod = forwarding.pod.as_ref();
    let document = Document {
        attachment: &forwarding.attachment,
        namespace: pod.map(|pod| pod.namespace.as_str()),
        pod: pod.map(|pod| pod.name.as_str()),
        uid: pod.and_then(|pod| pod.uid.as_deref()),
        ports: forwarding.leases.iter().map(Entry::from).collect(),
    };
    let mut json = serde_json::to_string_pretty(&document).expect("texts can be written as JSON");
    json.push('\n');
    replace(&folder.join(ENV), &env::render(&forwarding.leases))?;
    replace(&folder.join(JSON), &json)
}

/// Removes the files of a container, and its folders if nothing else is in them.
/// Files that another attachment has put in their place stay.
pub fn withdraw(run_dir: &Path, forwarding: &Forwarding) -> Result<(), PublishError> {
    let folder = folder(run_dir, forwarding);
    let json = folder.join(JSON);
    match fs::read(&json) {
        Ok(text) => {
            let owner: Option<Attachment> =
                serde_json::from_slice::<Owner>(&text).ok().map(|o| o.0);
            if owner.is_some_and(|owner| owner != forwarding.attachment) {
                return Ok(());
            }
        }
        // An ADD that was killed may have left only ports.env.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(PublishError { action: "read", path: json, source }),
    }
    for path in [json, folder.join(ENV)] {
        absent_is_fine(fs::remove_file(&path)).map_err(|source| PublishError {
            action: "remove",
            path,
            source,
        })?;
    }
    // Folders that are not empty, or mounted, are not ours to remove.
    for empty in folder.ancestors().take_while(|ancestor| *ancestor != run_dir) {
        if fs::remove_dir(empty).is_err() {
            break;
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Owner(#[serde(deserialize_with = "Attachment::deserialize")] Attachment);

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn folder(run_dir: &Path, forwarding: &Forwarding) -> PathBuf {
    match &forwarding.pod {
        Some(pod) => run_dir.join("pods").join(pod.namespace.as_str()).join(pod.name.as_str()),
        None => run_dir.join("containers").join(forwarding.attachment.container.as_str()),
    }
}

/// Replaces the file by rename(2), so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> Result<(), PublishError> {
    let new = path.with_extension("new");
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| PublishError { action, path, source }
    };
    // The leftover of a call that was killed, whatever it is.
    absent_is_fine(fs::remove_file(&new)).map_err(failed("remove", &new))?;
    let write = |mut file: fs::File| io::Write::write_all(&mut file, text.as_bytes());
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&new)
        .and_then(write)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|source| {
            _ = fs::remove_file(&new);
            failed("write", path)(source)
        })
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
            since: 0,
            leases: vec![
                Lease { host: host(8080), container_port: Port::new(80).unwrap(), group: None },
                Lease {
                    host: host(10007),
                    container_port: Port::new(90).unwrap(),
                    group: Some("default".into()),
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
                {"protocol": "tcp", "hostIP": "", "hostPort": 10007, "containerPort": 90, "group": "default"},
            ],
        });
        assert_eq!(value, expected);
        let env = fs::read_to_string(folder.join("ports.env")).unwrap();
        assert_eq!(env, "TCP_PORT=8080\nTCP_PORTS=8080,10007\n");
        withdraw(run_dir.path(), &forwarding).unwrap();
        withdraw(run_dir.path(), &forwarding).unwrap();
        assert_eq!(fs::read_dir(run_dir.path()).unwrap().count(), 0);
    }

    /// A kubelet deletes a pod's old sandbox after it has made the new one.
    #[test]
    fn the_old_sandbox_does_not_take_the_new_ones_files_away() {
        let run_dir = tempfile::tempdir().unwrap();
        let pod = Some(("default", "web-0"));
        let (old, new) = (forwarding("old", pod), forwarding("new", pod));
        publish(run_dir.path(), &old).unwrap();
        publish(run_dir.path(), &new).unwrap();
        withdraw(run_dir.path(), &old).unwrap();
        let json = fs::read_to_string(run_dir.path().join("pods/default/web-0/ports.json"));
        assert!(json.unwrap().contains("\"new\""));
        withdraw(run_dir.path(), &new).unwrap();
        assert_eq!(fs::read_dir(run_dir.path()).unwrap().count(), 0);
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
        withdraw(run_dir.path(), &forwarding).unwrap();
        assert!(!folder.exists());
    }
}
