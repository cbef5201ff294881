//! The pictures of the README: a node as it may be, looked at in light and dark. The
//! trial only runs when it is asked for: `scripts/screenshots` does.

use std::{env, fs, path::Path};

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::{Value, json};

use super::{Browser, STATUS};
use crate::{
    chain::{Container, Network, annotated},
    instance::{self, QUICK, form},
    node::Node,
    registry::Server,
    tool::{command, ctl},
    traffic::Echo,
};

/// The folder that they are written to.
const FOLDER: &str = "PORTCLAIM_SCREENSHOTS";
const WIDTH: u16 = 1300;
/// More than the page is high: with a scroll bar it would be narrower, and higher.
const HEIGHT: u16 = 4000;

pub fn trial() -> Trial {
    let take = || {
        let folder = env::var_os(FOLDER).unwrap_or_else(|| panic!("{FOLDER} is a folder"));
        take(Path::new(&folder));
        Ok(())
    };
    Trial::test("browser::screenshots", take).with_ignored_flag(true)
}

fn network() -> Network {
    Network::bridge("podnet", true)
        .option(
            "groups",
            json!({
                "default": { "ports": "10000-10999" },
                "games": { "ports": "7000-7007", "protocols": ["udp"], "strategy": "sequential" },
                "media": { "ports": "20000-20031", "protocols": ["udp"] },
            }),
        )
        .option("defaultGroup", json!("default"))
}

/// A container that runs, and what answers in it.
struct Running {
    container: Container,
    _servers: Vec<Echo>,
}

fn run(node: &Node, pod: (&str, &str), ports: &[u16], runtime: Value) -> Running {
    let mut container = Container::new(pod.1).in_pod(pod.0, pod.1, pod.1);
    network().attach_with(node, &mut container, runtime).succeeded();
    let start = |port: &u16| Echo::start(container.namespace(), Protocol::Tcp, *port, pod.1);
    let servers = ports.iter().map(start).collect();
    Running { container, _servers: servers }
}

/// What runs on the node: game servers that keep their ports, a relay with a block of
/// them, web services, a database on one address, and a service of the host.
fn scene(node: &Node) -> Vec<Running> {
    let asks = |ports: &str, health: &str| annotated(&[("ports", ports), ("health", health)]);
    let keeps = |ports: &str, claim: &str| annotated(&[("ports", ports), ("claim", claim)]);
    let mut running = Vec::new();
    for number in 0..4 {
        let name = format!("arena-{number}");
        let runtime = keeps("game=7777/udp@games", &name);
        running.push(run(node, ("games", &name), &[], runtime));
    }
    // It comes back later, to the same port.
    let gone = running.pop().expect("there are four");
    network().detach(node, &gone.container);
    let lobby = asks("http=8080, voice=5060/udp@games", "tcp");
    running.push(run(node, ("games", "lobby-6d5f7c9b8-x2kq4"), &[8080], lobby));
    let relay = json!([
        { "name": "rtp", "containerPort": "same", "protocol": "udp", "group": "media", "count": 4 },
        { "name": "sip", "containerPort": 5060, "protocol": "tcp+udp" },
    ]);
    let relay = asks(&relay.to_string(), "tcp");
    running.push(run(node, ("media", "relay-0"), &[5060], relay));
    let web = json!({ "portMappings": [
        { "hostPort": 80, "containerPort": 8080 }, { "hostPort": 443, "containerPort": 8443 },
    ] });
    running.push(run(node, ("shop", "web-7c94f6d5b-hq8zt"), &[8080, 8443], web));
    // The second one does not work yet.
    for (name, ports) in [("api-58b7d9c4f-2mwlp", &[9090][..]), ("api-58b7d9c4f-9vxrk", &[])] {
        running.push(run(node, ("shop", name), ports, asks("grpc=9090", "tcp")));
    }
    let database = json!({ "portMappings": [
        { "hostPort": 5432, "containerPort": 5432, "hostIP": "192.0.2.1" },
    ] });
    running.push(run(node, ("shop", "postgres-0"), &[5432], database));
    ctl(node, &network(), &["allocate", "--tcp", "2", "--owner", "mail1"]).succeeded();
    running
}

fn take(folder: &Path) {
    let mut options = QUICK.to_vec();
    options.extend(["--external-address", "203.0.113.7"]);
    let site = instance::Site::new(&options);
    let node = &site.node;
    let _running = scene(node);
    let _printer = Echo::start(&node.outside, Protocol::Tcp, 631, "printer");
    let mut arguments = vec!["serve", "--listen", "127.0.0.1:0"];
    arguments.extend(site.options.iter().map(String::as_str));
    let server = Server::spawn(node, &mut command(node, &network(), &arguments));
    for (name, address, more) in
        [("printer", "192.0.2.2:631", "&tags=http"), ("backup", "192.0.2.2:8730", "&health=none")]
    {
        assert_eq!(site.as_root(&form(name, address, more)).status, 201);
    }
    let browser = Browser::start(&node.host);
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        browser.resize(WIDTH, HEIGHT);
        browser.open(&server.url("/"));
        browser.until(&format!("{STATUS} === 'Live' && innerWidth === {WIDTH}"));
        let cells = "document.querySelector('#ports tbody').innerText";
        browser.until(&format!("{cells}.includes('refused') && !{cells}.includes('pending')"));
        let height = browser.value("Math.ceil(document.body.getBoundingClientRect().bottom)");
        let height = height.as_u64().unwrap();
        browser.resize(WIDTH, u16::try_from(height).unwrap());
        fs::write(folder.join(format!("{scheme}.png")), browser.screenshot()).unwrap();
    }
}
