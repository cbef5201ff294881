//! What must not work: packets that are nobody's business but their sender's.
//!
//! Silence proves nothing alone, so each of these asserts an answer on the same
//! way, too: before, after, or from the one who is meant.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    namespace::Namespace,
    node::{Family, Node},
    traffic::{Echo, PATIENCE, SILENCE, ask, serve},
};

const PORT: u16 = 8080;

/// Mappings of `PORT` for every protocol.
fn mappings(host_ip: &str) -> Value {
    json!(Protocol::ALL.map(|protocol| {
        json!({ "hostPort": PORT, "containerPort": PORT, "protocol": protocol.name(),
                "hostIP": host_ip })
    }))
}

/// A container that has the mappings and serves them.
#[track_caller]
fn publish(network: &Network, node: &Node, id: &str, mappings: Value) -> (Container, [Echo; 3]) {
    let mut container = Container::new(id);
    network.attach(node, &mut container, mappings).succeeded();
    let servers = serve(container.namespace(), PORT, id);
    (container, servers)
}

#[track_caller]
fn assert_answer(from: &Namespace, protocol: Protocol, to: impl Into<SocketAddr>, name: &str) {
    let to = to.into();
    let answer = ask(from, protocol, to, PATIENCE);
    assert_eq!(answer.map(|a| a.server).as_deref(), Some(name), "{protocol} {to}");
}

#[track_caller]
fn assert_silence(from: &Namespace, protocol: Protocol, to: impl Into<SocketAddr>) {
    let to = to.into();
    assert_eq!(ask(from, protocol, to, SILENCE), None, "{protocol} {to}");
}

/// Traffic that passes the node, or leaves it, to the same port elsewhere.
fn traffic_to_elsewhere_passes(network: &Network, br_netfilter: bool, host_ip: &str) {
    let node = Node::new(br_netfilter);
    let _elsewhere = serve(&node.beyond, PORT, "beyond");
    let (web, _servers) = publish(network, &node, "web", mappings(host_ip));
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            for from in [&node.outside, &node.host, web.namespace()] {
                assert_answer(from, protocol, (family.beyond(), PORT), "beyond");
            }
        }
    }
}

/// One host address is asked for: the node's other ones are not forwarded.
fn other_host_address_is_not_forwarded(network: &Network, family: Family) {
    let node = Node::new(false);
    let mappings = mappings(&family.node().to_string());
    let (web, _servers) = publish(network, &node, "web", mappings);
    for protocol in Protocol::ALL {
        for from in [&node.outside, &node.host, web.namespace()] {
            assert_answer(from, protocol, (family.node(), PORT), "web");
            assert_silence(from, protocol, (family.other_node(), PORT));
        }
    }
}

/// All addresses of one family are asked for: the other family is not forwarded.
fn other_family_is_not_forwarded(network: &Network, family: Family) {
    let node = Node::new(false);
    let (wildcard, other) = match family {
        Family::V4 => ("0.0.0.0", Family::V6),
        Family::V6 => ("::", Family::V4),
    };
    let (_web, _servers) = publish(network, &node, "web", mappings(wildcard));
    for protocol in Protocol::ALL {
        for (address, other) in
            [(family.node(), other.node()), (family.other_node(), other.other_node())]
        {
            assert_answer(&node.outside, protocol, (address, PORT), "web");
            assert_silence(&node.outside, protocol, (other, PORT));
        }
    }
}

/// What the node's own services do at kube-proxy's priority goes first
/// (CVE-2019-9946).
fn services_of_kube_proxy_go_first(network: &Network) {
    let node = Node::new(false);
    let _elsewhere = serve(&node.beyond, PORT, "beyond");
    let (_web, _servers) = publish(network, &node, "web", mappings(""));
    assert_answer(&node.outside, Protocol::Tcp, (Family::V4.node(), PORT), "web");
    node.host.nft(
        "table ip kube-proxy {
             chain nat-prerouting {
                 type nat hook prerouting priority dstnat
                 tcp dport 8080 dnat to 198.51.100.2
             }
         }",
    );
    assert_answer(&node.outside, Protocol::Tcp, (Family::V4.node(), PORT), "beyond");
}

/// Lets a namespace send packets to 127/8 out of its link, as an attacker who may
/// forge any packet would.
fn send_loopback_to(sender: &Namespace, gateway: IpAddr) {
    sender.sysctl("ipv4/conf/all/route_localnet", "1");
    sender.sysctl("ipv4/conf/eth0/route_localnet", "1");
    sender.ip(&format!("address del 127.0.0.1/8 dev lo\nroute add 127.0.0.0/8 via {gateway}"));
}

fn gateway(container: &Container) -> IpAddr {
    container.result["ips"][0]["gateway"].as_str().unwrap().parse().unwrap()
}

const PRIVATE_PORT: u16 = 9000;
const PRIVATE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), PRIVATE_PORT);

/// A service of the host's 127.0.0.1 is out of reach for containers and neighbours
/// (CVE-2020-8558), even where somebody, as kube-proxy does, has opened 127/8 for
/// all links; before ADD it can be reached then.
fn host_loopback_is_out_of_reach(network: &Network, br_netfilter: bool) {
    let node = Node::new(br_netfilter);
    let private = [Protocol::Tcp, Protocol::Udp];
    let _services =
        private.map(|protocol| Echo::start_on(&node.host, protocol, PRIVATE.into(), "private"));
    let mut pod = Container::new("pod");
    network.attach(&node, &mut pod, json!([])).succeeded();
    send_loopback_to(pod.namespace(), gateway(&pod));
    send_loopback_to(&node.outside, Family::V4.node());
    node.host.sysctl("ipv4/conf/all/route_localnet", "1");
    for protocol in private {
        assert_answer(pod.namespace(), protocol, PRIVATE, "private");
        assert_answer(&node.outside, protocol, PRIVATE, "private");
    }

    let (web, _servers) = publish(network, &node, "web", mappings(""));
    send_loopback_to(web.namespace(), gateway(&web));
    for protocol in private {
        for from in [pod.namespace(), web.namespace(), &node.outside] {
            assert_silence(from, protocol, PRIVATE);
        }
        assert_answer(&node.host, protocol, PRIVATE, "private");
        assert_answer(&node.host, protocol, (Ipv4Addr::LOCALHOST, PORT), "web");
    }
}

/// The same where nobody but the plugin opens anything, and after DEL, too: what
/// ADD has opened stays guarded.
fn host_loopback_stays_out_of_reach_after_del(network: &Network) {
    let node = Node::new(false);
    let _service = Echo::start_on(&node.host, Protocol::Tcp, PRIVATE.into(), "private");
    let (pod, _servers) = publish(network, &node, "pod", json!([]));
    let (web, _servers) = publish(network, &node, "web", mappings(""));
    send_loopback_to(pod.namespace(), gateway(&pod));
    send_loopback_to(&node.outside, Family::V4.node());
    let assert_out_of_reach = || {
        for from in [pod.namespace(), &node.outside] {
            assert_silence(from, Protocol::Tcp, PRIVATE);
        }
    };
    assert_out_of_reach();
    network.del(&node, &web).run(&node).succeeded();
    assert_out_of_reach();
    // The forged packets were good ones.
    node.host.nft("flush ruleset");
    node.host.sysctl("ipv4/conf/all/route_localnet", "1");
    assert_answer(pod.namespace(), Protocol::Tcp, PRIVATE, "private");
}

/// A port of 127.0.0.1 is the host's own: neither its other addresses lead there,
/// nor packets to 127.0.0.1 from elsewhere.
fn port_of_loopback_is_private(network: &Network) {
    let node = Node::new(false);
    let (pod, _servers) = publish(network, &node, "pod", json!([]));
    let (_web, _servers) = publish(network, &node, "web", mappings("127.0.0.1"));
    for protocol in Protocol::ALL {
        assert_answer(&node.host, protocol, (Ipv4Addr::LOCALHOST, PORT), "web");
        for from in [&node.outside, pod.namespace(), &node.host] {
            assert_silence(from, protocol, (Family::V4.node(), PORT));
            assert_silence(from, protocol, (Family::V6.node(), PORT));
        }
    }
    send_loopback_to(pod.namespace(), gateway(&pod));
    send_loopback_to(&node.outside, Family::V4.node());
    for protocol in Protocol::ALL {
        assert_silence(pod.namespace(), protocol, (Ipv4Addr::LOCALHOST, PORT));
        assert_silence(&node.outside, protocol, (Ipv4Addr::LOCALHOST, PORT));
    }
    node.host.sysctl("ipv4/conf/all/route_localnet", "1");
    for protocol in Protocol::ALL {
        assert_silence(pod.namespace(), protocol, (Ipv4Addr::LOCALHOST, PORT));
        assert_silence(&node.outside, protocol, (Ipv4Addr::LOCALHOST, PORT));
    }
}

/// One trial for each boundary and chain.
pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (chain, network) in
        [("bridge", Network::bridge("podnet", true)), ("ptp", Network::ptp("podnet"))]
    {
        let mut add = |name: &str, test: fn(&Network)| {
            let network = network.clone();
            trials.push(Trial::test(format!("boundary::{chain}::{name}"), move || {
                test(&network);
                Ok(())
            }));
        };
        add("transit::br_netfilter=off", |n| traffic_to_elsewhere_passes(n, false, ""));
        add("transit::br_netfilter=on", |n| traffic_to_elsewhere_passes(n, true, ""));
        // An address that is not the node's is one that packets pass it on their
        // way to (CVE-2025-67499).
        add("transit::foreign-host-ip", |n| traffic_to_elsewhere_passes(n, false, "198.51.100.2"));
        add("other-host-address::v4", |n| other_host_address_is_not_forwarded(n, Family::V4));
        add("other-host-address::v6", |n| other_host_address_is_not_forwarded(n, Family::V6));
        add("other-family::v4", |n| other_family_is_not_forwarded(n, Family::V4));
        add("other-family::v6", |n| other_family_is_not_forwarded(n, Family::V6));
        add("after-kube-proxy", services_of_kube_proxy_go_first);
        add("loopback::br_netfilter=off", |n| host_loopback_is_out_of_reach(n, false));
        add("loopback::br_netfilter=on", |n| host_loopback_is_out_of_reach(n, true));
        add("loopback::after-del", host_loopback_stays_out_of_reach_after_del);
        add("loopback::host-ip", port_of_loopback_is_private);
    }
    trials
}
