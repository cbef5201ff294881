//! The files that tell a container its ports.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    held::ports_of,
    node::Node,
};

fn network() -> Network {
    Network::bridge("podnet", true)
}

fn env(folder: &Path) -> HashMap<String, String> {
    let text = fs::read_to_string(folder.join("ports.env")).unwrap();
    let pairs = text.lines().map(|line| line.split_once('=').expect("NAME=VALUE"));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn json_file(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("ports.json")).unwrap()).unwrap()
}

fn a_pods_files() {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2)
        .with_args("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=1-2-3");
    let mappings = json!([
        { "hostPort": 8080, "containerPort": 80 },
        { "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1" },
    ]);
    network().add(&node, &web, mappings).run(&node).succeeded();
    let folder = node.run_dir().join("pods/shop/web-0");
    assert_eq!(node.published(), ["pods/shop/web-0/ports.env", "pods/shop/web-0/ports.json"]);

    let dynamic = ports_of(&node, &web).into_iter().find(|port| *port != 8080).unwrap();
    let found = json_file(&folder);
    for (key, value) in [
        ("network", "podnet"),
        ("containerID", "web"),
        ("ifname", "eth0"),
        ("namespace", "shop"),
        ("pod", "web-0"),
        ("uid", "1-2-3"),
    ] {
        assert_eq!(found[key], value, "{key}");
    }
    let [first, second] = &found["ports"].as_array().unwrap()[..] else { panic!("{found}") };
    assert_eq!((&first["protocol"], &first["hostPort"]), (&json!("tcp"), &json!(8080)));
    assert_eq!(first["containerPort"], 80);
    assert_eq!((&second["protocol"], &second["hostPort"]), (&json!("udp"), &json!(dynamic)));
    assert_eq!((&second["hostIP"], &second["group"]), (&json!("192.0.2.1"), &json!("default")));

    let env = env(&folder);
    assert_eq!(env["TCP_PORT"], "8080");
    assert_eq!(env["UDP_PORT"], dynamic.to_string());
    network().del(&node, &web).run(&node).succeeded();
    assert!(!folder.exists());
}

/// The variables of several ports, where no Kubernetes names a pod.
fn a_containers_files() {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2);
    let mappings =
        [8080, 8081, 8082].map(|port| json!({ "hostPort": port, "containerPort": port }));
    network().add(&node, &web, json!(mappings)).run(&node).succeeded();
    let folder = node.run_dir().join("containers/web");
    let env = env(&folder);
    assert_eq!(env["TCP_PORT"], "8080");
    assert_eq!(env["TCP_PORTS"], "8080,8081,8082");
    assert_eq!(env["TCP_PORTS_RANGE"], "8080-8082");
    assert!(!env.contains_key("UDP_PORT"));
    assert_eq!(json_file(&folder)["ports"].as_array().unwrap().len(), 3);
    network().del(&node, &web).run(&node).succeeded();
    assert!(!folder.exists());
}

/// Whoever may read the database knows every pod's ports; a pod reads its own only.
fn who_may_read() {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2);
    let mappings = json!([{ "hostPort": 8080, "containerPort": 80 }]);
    network().add(&node, &web, mappings).run(&node).succeeded();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&node.data_dir()) & 0o077, 0, "the database is closed");
    let folder = node.run_dir().join("containers/web");
    for file in ["ports.json", "ports.env"] {
        assert_eq!(mode(&folder.join(file)) & 0o444, 0o444, "{file} can be read");
        assert_eq!(mode(&folder.join(file)) & 0o022, 0, "{file} cannot be written");
    }
    assert_eq!(mode(&folder) & 0o777, 0o755, "a container's user may not be root");
}

/// A name with dots and slashes is nobody's folder.
fn hostile_names() {
    let node = Node::new(false);
    for args in [
        "K8S_POD_NAMESPACE=..;K8S_POD_NAME=..",
        "K8S_POD_NAMESPACE=../../x;K8S_POD_NAME=web",
        "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=/etc/passwd",
        "K8S_POD_NAMESPACE=;K8S_POD_NAME=",
        "garbage",
        ";;=;",
    ] {
        let web = Container::on_paper("web", 2).with_args(args);
        let mappings = json!([{ "hostPort": 8080, "containerPort": 80 }]);
        if network().add(&node, &web, mappings).run(&node).status.success() {
            let files = node.published();
            assert_eq!(files, ["containers/web/ports.env", "containers/web/ports.json"], "{args}");
        }
        network().del(&node, &web).run(&node).succeeded();
        assert_eq!(node.published(), [""; 0], "{args}");
    }
}

/// One trial for each kind of owner.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 4] = [
        ("who-may-read", who_may_read),
        ("pod", a_pods_files),
        ("container", a_containers_files),
        ("hostile-names", hostile_names),
    ];
    crate::trials("publication", tests)
}
