//! What is held: leases in the store, elements in the kernel, files for containers.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddrV4,
    path::Path,
    process::Command,
};

use portclaim::{lease::Claim, store::Store};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    chain::{Container, Network},
    namespace::output,
    node::Node,
};

/// A lease as `portclaimctl list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub network: String,
    #[serde(rename = "containerID")]
    pub container: String,
    pub ifname: String,
    pub protocol: String,
    #[serde(rename = "hostIP", default)]
    pub host_ip: String,
    pub host_port: u16,
    pub container_port: u16,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub claim: Option<String>,
}

/// Every lease of the containers of the node, sorted.
#[track_caller]
pub fn leases(node: &Node) -> Vec<Held> {
    let mut command = node.command(Path::new(env!("CARGO_BIN_EXE_portclaimctl")));
    command.args(["list", "-o", "json", "--data-dir"]).arg(node.data_dir());
    command.arg("--run-dir").arg(node.run_dir());
    let output = node.host.enter(|| output(&mut command, b""));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "portclaimctl list: {error}");
    let read = || {
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let of_containers = rows.into_iter().filter(|row| row["module"].is_null());
        of_containers.map(serde_json::from_value).collect::<Result<Vec<Held>, _>>()
    };
    let mut leases = read().unwrap_or_else(|e| panic!("portclaimctl list: {e}: {output:?}"));
    leases.sort();
    leases
}

/// Every claim of the node, sorted.
#[track_caller]
pub fn claims(node: &Node) -> Vec<Claim> {
    let boot_id = fs::read_to_string(node.boot_id()).expect("the kernel tells its boot");
    let store = Store::new(node.data_dir(), boot_id.trim().to_owned());
    let store = store.working_in(node.folder("reading"));
    let reader = store.read().unwrap_or_else(|error| panic!("{error}"));
    reader.claims().unwrap_or_else(|error| panic!("{error}"))
}

/// The leases of one container, sorted.
#[track_caller]
pub fn leases_of(node: &Node, container: &Container) -> Vec<Held> {
    leases(node).into_iter().filter(|held| held.container == container.id).collect()
}

/// The host ports of one container, sorted.
#[track_caller]
pub fn ports_of(node: &Node, container: &Container) -> Vec<u16> {
    leases_of(node, container).into_iter().map(|held| held.host_port).collect()
}

/// The elements of each map and set of a network's table; none without a table.
pub fn elements(node: &Node, network: &Network) -> BTreeMap<String, Vec<Value>> {
    let mut command = Command::new("nft");
    command.args(["-j", "list", "table", "inet", &format!("portclaim_{}", network.name)]);
    let output = node.host.output(&mut command, b"");
    if !output.status.success() {
        return BTreeMap::new();
    }
    let listing: Value = serde_json::from_slice(&output.stdout).expect("nft -j prints JSON");
    let objects = listing["nftables"].as_array().expect("nft prints an array");
    let collections = objects.iter().filter_map(|o| o.get("map").or_else(|| o.get("set")));
    collections
        .map(|collection| {
            let name = collection["name"].as_str().expect("it has a name").to_owned();
            (name, collection["elem"].as_array().cloned().unwrap_or_default())
        })
        .collect()
}

/// How many elements there are in a network's table.
pub fn element_count(node: &Node, network: &Network) -> usize {
    elements(node, network).values().map(Vec::len).sum()
}

/// Where a network's table sends packets for any IPv4 address of the host: from
/// protocol and port to address and port.
pub fn forwarded(node: &Node, network: &Network) -> BTreeMap<(String, u16), SocketAddrV4> {
    let mut elements = elements(node, network);
    let mut map = |name| {
        let elements = elements.remove(name).unwrap_or_default();
        elements.into_iter().map(|element| (key(&element[0]), element[1].clone()))
    };
    let ports: HashMap<_, _> = map("any4_port").collect();
    map("any4_addr")
        .map(|(key, address)| {
            let address = address.as_str().expect("an address").parse().expect("an address");
            let port = ports.get(&key).and_then(number);
            let port = port.unwrap_or_else(|| panic!("{key:?} has an address and no port"));
            (key, SocketAddrV4::new(address, port))
        })
        .collect()
}

fn key(json: &Value) -> (String, u16) {
    // With a comment, an element is an object around its key.
    let key = &json.pointer("/elem/val").unwrap_or(json)["concat"];
    (key[0].as_str().expect("a protocol").to_owned(), number(&key[1]).expect("a port"))
}

fn number(json: &Value) -> Option<u16> {
    json.as_u64().and_then(|number| u16::try_from(number).ok())
}

/// Asserts that nothing at all is held on the node.
#[track_caller]
pub fn assert_nothing_held(node: &Node, network: &Network) {
    assert_eq!(leases(node), [], "leases");
    let mut elements = elements(node, network);
    elements.retain(|_, elements| !elements.is_empty());
    // A guard may stay for links that were opened once.
    elements.remove("links");
    assert!(elements.is_empty(), "elements: {elements:?}");
    assert_eq!(node.published(), [""; 0], "files");
}

/// Asserts that the database's folder has not grown: what killed processes leave
/// is cleared away by later ones.
#[track_caller]
pub fn assert_tidy(node: &Node) {
    let entries: Vec<_> = fs::read_dir(node.data_dir())
        .expect("there is a database")
        .map(|entry| entry.expect("it can be read").file_name())
        .collect();
    assert!(entries.len() <= 8, "{entries:?}");
}
