//! What a kubelet does with containerd.

use std::{
    collections::HashSet,
    fs,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use portclaim::lease::Protocol;
use serde_json::{Value, json};

use super::{
    Jam, Valve, assert_reached, assert_silent,
    containerd::Containerd,
    cri, network,
    pod::{Pod, Sandbox},
    wait_until,
};
use crate::{
    held::{assert_nothing_held, assert_tidy, claims, leases, ports_of},
    node::{Family, Node},
    traffic::{Echo, Flow, PATIENCE, ask, serve},
};

pub const TESTS: [(&str, fn()); 9] = [
    ("annotations", ports_by_annotation),
    ("by-number", ports_by_number),
    ("calls", what_is_sent),
    ("late-dels", dels_of_the_old_sandbox_come_late),
    ("deadline::lock", killed_while_waiting_for_the_lock),
    ("deadline::nft", killed_while_nft_hangs),
    ("crash", containerd_crashes),
    ("reboot", the_machine_is_booted_anew),
    ("thirty-at-once", thirty_at_once),
];

/// A client's; long enough for all that comes before the plugin, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(8);

fn start() -> Containerd {
    Containerd::start(Node::new(false), &network())
}

/// The host port of a pod that has one.
#[track_caller]
fn port_of(containerd: &Containerd, sandbox: &Sandbox) -> u16 {
    let ports = ports_of(&containerd.node, &sandbox.container());
    *ports.first().expect("it holds a port")
}

/// The process in the pod's container is one of busybox; it answers on TCP.
fn ports_by_annotation() {
    let containerd = start();
    let node = &containerd.node;
    let pod = Pod::new("web-0").annotated("ports", "web=80/tcp+udp, page=8080");
    let sandbox = pod.run(&containerd).unwrap();
    let listen = ["/bin/busybox", "nc", "-ll", "-p", "8080", "-e", "/bin/busybox", "hostname"];
    sandbox.start_container(&listen);
    let files = node.run_dir().join("pods/shop/web-0");
    let published: Value =
        serde_json::from_slice(&fs::read(files.join("ports.json")).unwrap()).unwrap();
    assert_eq!(published["containerID"], sandbox.id);
    assert_eq!(published["uid"], "uid-web-0");
    let ports = published["ports"].as_array().unwrap();
    let port = |name: &str| {
        let port = ports.iter().find(|it| it["name"] == name).unwrap()["hostPort"].as_u64();
        u16::try_from(port.unwrap()).unwrap()
    };

    let _servers = serve(&sandbox.namespace(), 80, "web-0");
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        assert_reached(node, protocol, &Family::ALL, port("web"), "web-0");
        let loopback = SocketAddr::from(([127, 0, 0, 1], port("web")));
        assert!(ask(&node.host, protocol, loopback, PATIENCE).is_some(), "{protocol}");
    }
    let mut page = String::new();
    // busybox may not listen yet.
    wait_until("the container answers", || {
        let address = (Family::V4.node(), port("page")).into();
        let stream = node.outside.enter(|| TcpStream::connect_timeout(&address, PATIENCE));
        page.clear();
        stream.and_then(|mut it| it.read_to_string(&mut page)).is_ok()
    });
    assert_eq!(page, "web-0\n");

    sandbox.remove();
    assert_nothing_held(node, &network());
}

fn ports_by_number() {
    let containerd = start();
    let node = &containerd.node;
    let [v4, v6] = Family::ALL.map(Family::node);
    let pod = Pod::new("web-0")
        .port(cri::Protocol::Tcp, "", 8080, 80)
        .port(cri::Protocol::Sctp, "", 8080, 80)
        .port(cri::Protocol::Udp, &v4.to_string(), 5353, 53)
        .port(cri::Protocol::Tcp, &v6.to_string(), 8443, 80);
    let sandbox = pod.run(&containerd).unwrap();
    let namespace = sandbox.namespace();
    let _servers = [80, 53].map(|port| serve(&namespace, port, "web-0"));
    assert_reached(node, Protocol::Tcp, &Family::ALL, 8080, "web-0");
    assert_reached(node, Protocol::Sctp, &Family::ALL, 8080, "web-0");
    assert_reached(node, Protocol::Udp, &[Family::V4], 5353, "web-0");
    assert_reached(node, Protocol::Tcp, &[Family::V6], 8443, "web-0");
    assert_silent(&node.outside, Protocol::Udp, (Family::V4.other_node(), 5353));
    assert_silent(&node.outside, Protocol::Udp, (Family::V6.node(), 5353));
    assert_silent(&node.outside, Protocol::Tcp, (Family::V6.other_node(), 8443));

    // The second owner is told who the first is, and starts once that is gone.
    let other = Pod::new("other").port(cri::Protocol::Tcp, "", 8080, 80);
    let error = other.run(&containerd).unwrap_err().message;
    assert!(error.contains("8080") && error.contains("shop/web-0"), "{error}");
    sandbox.stop();
    let other = other.again().run(&containerd).unwrap();
    assert_eq!(ports_of(node, &other.container()), [8080]);
    sandbox.remove();
    other.remove();
    assert_nothing_held(node, &network());
}

/// What this plugin must get along with, and what CRI-O's calls in `on_crio` differ
/// in; so that a new version of containerd that does something else is noticed.
fn what_is_sent() {
    let containerd = start();
    let plain = Pod::new("plain").run(&containerd).unwrap();
    let pod = Pod::new("web-0")
        .annotated("ports", "web=80")
        .port(cri::Protocol::Udp, "192.0.2.1", 5353, 53)
        .port(cri::Protocol::Tcp, "", 0, 81);
    let web = pod.run(&containerd).unwrap();
    assert_eq!(leases(&containerd.node).len(), 2);
    // A kubelet stops a sandbox until it is sure, and then removes it.
    for _ in 0..6 {
        web.stop();
    }
    web.remove();
    plain.remove();

    let calls = |command| containerd.plugins.calls_of(command);
    let adds = calls("ADD");
    let runtimes = adds.iter().map(|call| call.config["runtimeConfig"].clone());
    let expected = [
        json!({ "io.kubernetes.cri.pod-annotations": null }),
        json!({
            "io.kubernetes.cri.pod-annotations": {
                "hostport.io/enabled": "true",
                "hostport.io/ports": "web=80",
            },
            "portMappings": [{
                "HostIP": "192.0.2.1", "HostPort": 5353, "ContainerPort": 53, "Protocol": "udp",
            }],
        }),
    ];
    assert_eq!(runtimes.collect::<Vec<_>>(), expected, "capital keys, and no host port 0");
    let arguments = adds[1].variable("CNI_ARGS").unwrap();
    for argument in ["K8S_POD_NAMESPACE=shop", "K8S_POD_NAME=web-0", "K8S_POD_UID=uid-web-0"] {
        assert!(arguments.split(';').any(|it| it == argument), "{argument} in {arguments}");
    }
    let dels = calls("DEL");
    let of_web: Vec<_> = dels
        .iter()
        .filter(|call| call.variable("CNI_CONTAINERID") == adds[1].variable("CNI_CONTAINERID"))
        .map(|call| (call.variable("CNI_NETNS") != Some(""), !call.config["prevResult"].is_null()))
        .collect();
    assert_eq!(of_web[0], (true, true), "the first DEL has all that ADD had");
    let later = &of_web[1..];
    assert!(later.len() >= 6, "{of_web:?}");
    assert!(
        later.iter().all(|it| *it == (false, false)),
        "neither namespace nor result: {later:?}"
    );
    for command in ["CHECK", "GC", "STATUS", "VERSION"] {
        assert_eq!(calls(command).len(), 0, "{command}");
    }
    assert_nothing_held(&containerd.node, &network());
}

/// A kubelet may start a pod's new sandbox first, and stop the old one then, more
/// than once: the new one keeps what both asked for.
fn dels_of_the_old_sandbox_come_late() {
    let containerd = start();
    let node = &containerd.node;
    let pod = Pod::new("arena-0").annotated("ports", "game=7777/udp").annotated("claim", "arena-0");
    let old = pod.run(&containerd).unwrap();
    let port = port_of(&containerd, &old);
    let _old = Echo::start(&old.namespace(), Protocol::Udp, 7777, "old");
    let flow = Flow::new(&node.outside, (Family::V4.node(), port).into());
    assert_eq!(flow.ask(PATIENCE).unwrap().server, "old");

    let new = pod.again().run(&containerd).unwrap();
    let _new = Echo::start(&new.namespace(), Protocol::Udp, 7777, "new");
    for _ in 0..7 {
        assert_eq!(flow.ask(PATIENCE).unwrap().server, "new");
        old.stop();
    }
    old.remove();
    assert_eq!(port_of(&containerd, &new), port);
    assert_eq!(flow.ask(PATIENCE).unwrap().server, "new");
    new.remove();
    assert_nothing_held(node, &network());
}

/// Asserts that containerd has killed the last of so many ADDs, which would go on.
fn assert_killed(containerd: &Containerd, count: usize) {
    let adds = containerd.plugins.calls_of("ADD");
    assert_eq!(adds.len(), count, "the deadline is late enough");
    wait_until("containerd kills the plugin", || !adds[count - 1].is_running());
}

/// What a kubelet does when a pod was not started in time: the same again.
fn assert_started_again(containerd: &Containerd, pod: Pod, others: usize) {
    let node = &containerd.node;
    wait_until("containerd cleans up", || leases(node).len() == others);
    let sandbox = pod.again().run(containerd).unwrap();
    let _server = Echo::start(&sandbox.namespace(), Protocol::Tcp, 80, "web-0");
    assert_reached(node, Protocol::Tcp, &Family::ALL, 8080, "web-0");
    sandbox.remove();
}

/// containerd kills the plugin when its client's time is over.
fn killed_while_waiting_for_the_lock() {
    // By itself, the plugin would give up only then.
    let network = network().option("lockTimeout", json!("10m"));
    let containerd = Containerd::start(Node::new(false), &network);
    let node = &containerd.node;
    let other = Pod::new("other").annotated("ports", "web=80").run(&containerd).unwrap();
    let pod = Pod::new("web-0").port(cri::Protocol::Tcp, "", 8080, 80);
    let jam = Jam::new(node);
    let client = containerd.client().within(DEADLINE);
    pod.run_in(&containerd.cgroup.path(), &client).unwrap_err();
    assert_killed(&containerd, 2);
    drop(jam);
    assert_started_again(&containerd, pod, 1);
    other.remove();
    assert_nothing_held(node, &network);
    assert_tidy(node);
}

/// The same behind the commit: what the store holds goes with the DEL that
/// containerd sends for a sandbox that it gives up.
fn killed_while_nft_hangs() {
    let mut containerd = Containerd::start(Node::new(false), &network().by_nft());
    let valve = Valve::new(&containerd.node);
    containerd.with_programs_of(&valve.folder);
    containerd.restart();
    let pod = Pod::new("web-0").port(cri::Protocol::Tcp, "", 8080, 80);
    valve.shut();
    let client = containerd.client().within(DEADLINE);
    thread::scope(|scope| {
        let run = scope.spawn(|| pod.run_in(&containerd.cgroup.path(), &client));
        wait_until("nft hangs", || valve.is_waiting());
        assert_eq!(leases(&containerd.node).len(), 1, "it is committed");
        run.join().expect("no panic").unwrap_err();
        assert_killed(&containerd, 1);
    });
    valve.open();
    assert_started_again(&containerd, pod, 0);
    assert_nothing_held(&containerd.node, &network());
    assert_tidy(&containerd.node);
}

/// `kill -9`, once with pods that run, and once while a pod is being started, whose
/// plugin then has nobody to answer to and whose sandbox nobody knows.
fn containerd_crashes() {
    let mut containerd = Containerd::start(Node::new(false), &network().by_nft());
    let valve = Valve::new(&containerd.node);
    containerd.with_programs_of(&valve.folder);
    containerd.restart();
    let web = Pod::new("web-0").port(cri::Protocol::Tcp, "", 8080, 80);
    let web = web.run(&containerd).unwrap();
    let _server = Echo::start(&web.namespace(), Protocol::Tcp, 80, "web-0");
    let arena = Pod::new("arena-0").annotated("ports", "game=7777/udp").annotated("claim", "arena");

    containerd.kill();
    assert_reached(&containerd.node, Protocol::Tcp, &Family::ALL, 8080, "web-0");
    containerd.restart();
    assert_reached(&containerd.node, Protocol::Tcp, &Family::ALL, 8080, "web-0");

    valve.shut();
    let (client, pod) = (containerd.client(), arena.clone());
    let cgroup = containerd.cgroup.path();
    let run = thread::spawn(move || pod.run_in(&cgroup, &client));
    wait_until("nft hangs", || valve.is_waiting());
    let claimed = claims(&containerd.node)[0].port;
    containerd.kill();
    run.join().expect("no panic").unwrap_err();
    valve.open();
    let adds = containerd.plugins.calls_of("ADD");
    wait_until("the plugin ends", || adds.iter().all(|add| !add.is_running()));
    containerd.restart();
    assert_eq!(containerd.plugins.calls_of("DEL").len(), 0, "nobody knows of the sandbox");
    assert_eq!(leases(&containerd.node).len(), 2);
    let arena = arena.again().run(&containerd).unwrap();
    assert_eq!(port_of(&containerd, &arena), claimed.number(), "it is the same pod");
    let _game = Echo::start(&arena.namespace(), Protocol::Udp, 7777, "arena-0");
    let node = &containerd.node;
    assert_reached(node, Protocol::Udp, &Family::ALL, claimed.number(), "arena-0");
    assert_eq!(leases(node).len(), 2, "of its first sandbox nothing is left");
    arena.remove();
    web.remove();
    assert_nothing_held(node, &network());
    assert_tidy(node);
}

/// Namespaces, processes, rules and whatever is in memory are gone; databases are
/// not. For each pod, the kubelet stops the old sandbox and starts a new one.
fn the_machine_is_booted_anew() {
    let mut containerd = start();
    let pods = [
        Pod::new("web-0").port(cri::Protocol::Tcp, "", 8080, 80),
        Pod::new("arena-0").annotated("ports", "game=80").annotated("claim", "arena-0"),
        Pod::new("any").annotated("ports", "any=80"),
    ];
    let old = pods.each_ref().map(|pod| pod.run(&containerd).unwrap());
    let ports = old.each_ref().map(|sandbox| port_of(&containerd, sandbox));

    containerd.power_off();
    containerd.node.reboot();
    containerd.restart();
    let node = &containerd.node;
    // One pod comes before its old sandbox's DEL.
    let first = pods[0].clone().again().run(&containerd).unwrap();
    for sandbox in &old {
        sandbox.stop();
    }
    let dels = containerd.plugins.calls_of("DEL");
    assert_eq!(dels.len(), old.len());
    assert!(dels.iter().all(|call| call.variable("CNI_NETNS") == Some("")), "{dels:?}");
    let [_, second, third] = pods;
    let [second, third] = [second, third].map(|pod| pod.again().run(&containerd).unwrap());
    for (at, sandbox) in [&first, &second, &third].into_iter().enumerate() {
        let port = port_of(&containerd, sandbox);
        assert!(at == 2 || port == ports[at], "{port} instead of {}", ports[at]);
        let _server = Echo::start(&sandbox.namespace(), Protocol::Tcp, 80, "anew");
        assert_reached(node, Protocol::Tcp, &Family::ALL, port, "anew");
    }
    assert_eq!(leases(node).len(), 3);
    for sandbox in old.into_iter().chain([first, second, third]) {
        sandbox.remove();
    }
    assert_nothing_held(node, &network());
}

fn thirty_at_once() {
    const PODS: usize = 30;
    // Twice as slow a machine as any should still be in time.
    let network = network().option("lockTimeout", json!("2m"));
    let containerd = Containerd::start(Node::new(false), &network);
    let node = &containerd.node;
    let run = |number: usize| {
        let pod = Pod::new(&format!("web-{number}")).annotated("ports", "web=80/tcp+udp");
        let host_port = 8000 + u16::try_from(number).expect("there are few");
        pod.port(cri::Protocol::Tcp, "", host_port, 81).run(&containerd).unwrap()
    };
    let sandboxes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..PODS).map(|number| scope.spawn(move || run(number))).collect();
        threads.into_iter().map(|it| it.join().expect("a right call")).collect()
    });
    let held = leases(node);
    let distinct: HashSet<_> = held.iter().map(|it| (&it.protocol, it.host_port)).collect();
    assert_eq!((held.len(), distinct.len()), (3 * PODS, 3 * PODS));
    for (number, sandbox) in sandboxes.iter().enumerate() {
        let ports = ports_of(node, &sandbox.container());
        let name = format!("web-{number}");
        let _server = Echo::start(&sandbox.namespace(), Protocol::Udp, 80, &name);
        let port = *ports.iter().find(|port| **port >= 10_000).expect("one of the pool");
        assert_reached(node, Protocol::Udp, &Family::ALL, port, &name);
    }
    thread::scope(|scope| {
        for sandbox in sandboxes {
            scope.spawn(move || sandbox.remove());
        }
    });
    assert_nothing_held(node, &network);
    assert_tidy(node);
}
