//! The README's examples for pod authors: each is started as a runtime would, on a
//! node that is configured as it says there, and reached through its ports.

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    held::{Held, assert_nothing_held, leases_of},
    node::{Family, Node},
    readme::blocks,
    traffic::{Echo, PATIENCE, ask},
};

/// A network with the groups and rules that the examples are for.
fn network() -> Network {
    let is_for_authors = |block: &Value| block["groups"]["agents"].is_object();
    let config = blocks("json")
        .iter()
        .map(|block| serde_json::from_str(block).unwrap())
        .find(is_for_authors);
    let config = config.expect("the README shows the node's configuration");
    let keys = ["groups", "exclude", "static"].into_iter();
    keys.fold(Network::bridge("podnet", true), |network, key| {
        network.option(key, config[key].clone())
    })
}

/// One manifest and its pods' names.
struct Example {
    namespace: String,
    annotations: Value,
    pods: Vec<String>,
}

impl Example {
    fn parse(yaml: &str) -> Self {
        let manifest: Value =
            serde_yaml_ng::from_str(yaml).unwrap_or_else(|e| panic!("{e}: {yaml}"));
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{yaml}")).to_owned();
        let name = text(&manifest["metadata"]["name"]);
        let namespace = text(&manifest["metadata"]["namespace"]);
        let (annotations, pods) = match manifest["kind"].as_str() {
            Some("Pod") => (&manifest["metadata"]["annotations"], vec![name]),
            Some("Deployment") => {
                let annotations = &manifest["spec"]["template"]["metadata"]["annotations"];
                (annotations, vec![format!("{name}-7f9c4d5b6-x2x4z")])
            }
            Some("StatefulSet") => {
                let replicas = manifest["spec"]["replicas"].as_u64().unwrap();
                let annotations = &manifest["spec"]["template"]["metadata"]["annotations"];
                (annotations, (0..replicas).map(|at| format!("{name}-{at}")).collect())
            }
            other => panic!("{other:?} in {yaml}"),
        };
        Self { namespace, annotations: annotations.clone(), pods }
    }

    /// Starts its pods and reaches each through all of its ports; returns the ports.
    fn run(&self, node: &Node, network: &Network, round: &str) -> Vec<(Container, Vec<Held>)> {
        let start = |name: &String| {
            let id = format!("{name}-{round}");
            let mut container = Container::new(&id).in_pod(&self.namespace, name, &id);
            let runtime = json!({ "io.kubernetes.cri.pod-annotations": self.annotations });
            network.attach_with(node, &mut container, runtime).succeeded();
            let held = leases_of(node, &container);
            (container, held)
        };
        let pods: Vec<_> = self.pods.iter().map(start).collect();
        for (container, held) in &pods {
            assert!(!held.is_empty());
            for held in held {
                let protocol = Protocol::from_name(&held.protocol).unwrap();
                let port = held.container_port;
                let _server = Echo::start(container.namespace(), protocol, port, &container.id);
                let server = (Family::V4.node(), held.host_port).into();
                let answer = ask(&node.outside, protocol, server, PATIENCE);
                let answer = answer.unwrap_or_else(|| panic!("no answer through {held:?}"));
                assert_eq!(
                    (answer.server, answer.client),
                    (container.id.clone(), Family::V4.outside())
                );
            }
        }
        pods
    }
}

fn ports(pods: &[(Container, Vec<Held>)]) -> Vec<Vec<u16>> {
    pods.iter().map(|(_, held)| held.iter().map(|held| held.host_port).collect()).collect()
}

/// The example in which a pod of this name is.
fn example(pod: &str) -> Example {
    let mut examples = blocks("yaml").into_iter().map(|block| Example::parse(&block));
    let found = examples.find(|example| example.pods[0].starts_with(pod));
    found.unwrap_or_else(|| panic!("the README has no example of {pod}"))
}

fn there_are_five() {
    assert_eq!(blocks("yaml").len(), 5);
}

fn a_service_on_any_port() {
    let node = Node::new(false);
    let pods = example("api").run(&node, &network(), "a");
    let [pod] = &ports(&pods)[..] else { panic!() };
    assert!(pod.len() == 2 && pod.iter().all(|port| (10000..20000).contains(port)), "{pod:?}");
}

fn a_game_server_keeps_its_port() {
    let node = Node::new(false);
    let (network, example) = (network(), example("arena"));
    let pods = example.run(&node, &network, "a");
    let before = ports(&pods);
    for ((container, held), name) in pods.iter().zip(&example.pods) {
        assert_eq!((held.len(), held[0].host_port), (2, held[1].host_port));
        assert_eq!(held[0].host_port, held[0].container_port);
        let env = node.run_dir().join("pods/games-eu").join(name).join("ports.env");
        let env = std::fs::read_to_string(env).unwrap();
        assert!(env.contains(&format!("PORT_GAME={}\n", held[0].host_port)), "{env}");
        network.del(&node, container).run(&node).succeeded();
    }
    assert_nothing_held(&node, &network);
    assert_eq!(ports(&example.run(&node, &network, "b")), before);
}

fn a_media_server_with_a_block() {
    let node = Node::new(false);
    let pods = example("relay").run(&node, &network(), "a");
    let [pod] = &ports(&pods)[..] else { panic!() };
    assert!(pod.len() == 32 && pod.iter().zip(pod[0]..).all(|(port, at)| *port == at), "{pod:?}");
}

fn agents_in_order() {
    let node = Node::new(false);
    let pods = example("agent").run(&node, &network(), "a");
    assert_eq!(ports(&pods), [[30558, 30559], [30560, 30561]]);
}

fn a_sip_server_on_its_own_port() {
    let node = Node::new(false);
    let pods = example("sip").run(&node, &network(), "a");
    assert_eq!(ports(&pods), [[5060, 19100, 5060]]);
}

/// One trial for each example.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 6] = [
        ("count", there_are_five),
        ("service", a_service_on_any_port),
        ("game-server", a_game_server_keeps_its_port),
        ("media-server", a_media_server_with_a_block),
        ("sequential", agents_in_order),
        ("sip-server", a_sip_server_on_its_own_port),
    ];
    crate::trials("author", tests)
}
