//! Services of the host and their ports: who gets which, who may, where it leads.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use portclaim::{
    host,
    lease::{ModuleLease, Protocol},
    store::Store,
};
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    held::{leases, ports_of},
    namespace::{Namespace, start},
    node::{Family, Node},
    traffic::{Echo, Flow, PATIENCE, SILENCE, ask},
};

const CTL: &str = env!("CARGO_BIN_EXE_portclaimctl");

/// Users that every Debian machine has.
const DAEMON: u32 = 1;
const WWW_DATA: u32 = 33;

/// A network that gives dynamic ports from these, and so does the node to modules.
fn network_with_pool(node: &Node, ports: &str) -> Network {
    let groups = json!({ "default": { "ports": ports } });
    let network = Network::bridge("podnet", true).option("groups", groups);
    fs::write(conflist(node), network.config(node).to_string()).unwrap();
    network
}

fn conflist(node: &Node) -> PathBuf {
    node.folder("portclaim.conf")
}

/// A call of the operator's tool on the node.
fn ctl(node: &Node, arguments: &str) -> Command {
    let mut command = node.command(Path::new(CTL));
    command.arg("--config").arg(conflist(node)).args(arguments.split_whitespace());
    command.env_remove("MODULE_ID");
    command
}

fn run(node: &Node, command: &mut Command, stdin: &str) -> Output {
    node.host.output(command, stdin.as_bytes())
}

/// What a call prints that succeeds.
#[track_caller]
fn printed(node: &Node, arguments: &str) -> String {
    let output = run(node, &mut ctl(node, arguments), "");
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exit status, stdout and stderr, as a person sees them.
fn shown(output: &Output) -> String {
    let status = output.status.code().expect("it was not killed");
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    format!("{stdout}{stderr}exit status {status}\n")
}

/// All that modules hold, as the store says.
fn held(node: &Node) -> Vec<ModuleLease> {
    let store = Store::new(node.data_dir(), host::boot_id().unwrap());
    store.read().unwrap().module_leases().unwrap()
}

fn ports(held: &[ModuleLease]) -> Vec<(Protocol, u16)> {
    let ports = held.iter().flat_map(ModuleLease::ports);
    ports.map(|host| (host.protocol, host.port.number())).collect()
}

fn env_of(node: &Node, module: &str) -> String {
    fs::read_to_string(node.run_dir().join("modules").join(module).join("ports.env")).unwrap()
}

/// Where lowest-first contiguous allocation puts what the seed's system asks for.
fn the_lowest_block_that_is_free() {
    let node = Node::new(false);
    network_with_pool(&node, "20001-20100");
    for (arguments, expected) in [
        ("--tcp 3 --owner m1", "20001-20003"),
        ("--tcp 2 --owner m2", "20004-20005"),
        ("--tcp 4 --owner m1", "20006-20009"),
        ("--tcp 1 --owner m3", "20001"),
        ("--tcp 2 --owner m3 --keep-existing", "20002-20003"),
        ("--udp 2 --owner m3", "20001-20002"),
    ] {
        assert_eq!(printed(&node, &format!("allocate {arguments}")), format!("{expected}\n"));
    }
    let env = "TCP_PORT=20001\nTCP_PORTS_RANGE=20001-20003\nTCP_PORTS=20001,20002,20003\n\
               UDP_PORT=20001\nUDP_PORTS_RANGE=20001-20002\nUDP_PORTS=20001,20002\n";
    assert_eq!(env_of(&node, "m3"), env);
    let json = printed(&node, "deallocate --tcp --owner m3 -o json");
    assert_eq!(json, "[[20001,20001],[20002,20003]]\n");
    assert_eq!(printed(&node, "deallocate --tcp --owner m3"), "");
    assert_eq!(printed(&node, "deallocate --tcp --owner m1"), "20006-20009\n");
    assert_eq!(printed(&node, "deallocate --udp --owner m3 -o json"), "[[20001,20002]]\n");
    assert_eq!(node.published(), ["modules/m2/ports.env", "modules/m2/ports.json"]);
}

/// The variables of the seed, at the numbers at which they come and go.
fn the_environment_of_a_unit() {
    let node = Node::new(false);
    network_with_pool(&node, "20001-20100");
    let all = |last| (20001..=last).map(|port| format!("{port}")).collect::<Vec<_>>().join(",");
    for (count, expected) in [
        (1, "UDP_PORT=20001\n".to_owned()),
        (2, "UDP_PORT=20001\nUDP_PORTS_RANGE=20001-20002\nUDP_PORTS=20001,20002\n".to_owned()),
        (8, format!("UDP_PORT=20001\nUDP_PORTS_RANGE=20001-20008\nUDP_PORTS={}\n", all(20008))),
        (9, "UDP_PORT=20001\nUDP_PORTS_RANGE=20001-20009\n".to_owned()),
    ] {
        let mut command = ctl(&node, &format!("allocate --udp {count} -o env"));
        let output = run(&node, command.env("MODULE_ID", "mail1"), "");
        assert_eq!(shown(&output), format!("{expected}exit status 0\n"));
        assert_eq!(env_of(&node, "mail1"), expected);
    }
    let ports = fs::read_to_string(node.run_dir().join("modules/mail1/ports.json")).unwrap();
    let ports: Value = serde_json::from_str(&ports).unwrap();
    let first = json!({ "protocol": "udp", "hostPort": 20001, "group": "default" });
    assert_eq!((&ports["module"], &ports["ports"][0]), (&json!("mail1"), &first));
}

fn actions_as_programs_write_them() {
    const ENLARGE: &str = "remove what holds its ports (portclaimctl list names them, \
        portclaimctl gc forgets those that are gone), or have the node's operator change groups \
        or exclude";
    let node = Node::new(false);
    network_with_pool(&node, "20001-20008");
    let act = |name: &str, data: &str| {
        shown(&run(&node, &mut ctl(&node, &format!("action {name}")), data))
    };
    for (name, data, expected) in [
        (
            "allocate-ports",
            r#"{"ports": 4, "module_id": "mail1", "protocol": "tcp", "keep_existing": false}"#,
            "[20001,20004]\nexit status 0\n",
        ),
        (
            "allocate-ports",
            r#"{"ports": 1, "module_id": "mail1", "protocol": "tcp", "keep_existing": true}"#,
            "[20005,20005]\nexit status 0\n",
        ),
        (
            "deallocate-ports",
            r#"{"module_id": "mail1", "protocol": "tcp"}"#,
            "[[20001,20004],[20005,20005]]\nexit status 0\n",
        ),
        ("deallocate-ports", r#"{"module_id": "mail1", "protocol": "tcp"}"#, "[]\nexit status 0\n"),
        (
            "allocate-ports",
            r#"{"ports": 9, "module_id": "mail1", "protocol": "tcp"}"#,
            &format!(
                "{{\"advice\":\"{ENLARGE}\",\"error\":\"failed\",\"message\":\"group \
                 \\\"default\\\" has no block of 9 free tcp ports: 0 of 8 leased\"}}\nportclaimctl: \
                 group \"default\" has no block of 9 free tcp ports: 0 of 8 leased\n\
                 portclaimctl: {ENLARGE}\nexit status 1\n"
            ),
        ),
        (
            "allocate-ports",
            r#"{"ports": 0, "module_id": "mail1", "protocol": "tcp"}"#,
            "{\"error\":\"invalid_request\",\"message\":\"ports is 0: a whole number from 1 to \
             65535 is allowed\"}\nportclaimctl: ports is 0: a whole number from 1 to 65535 is \
             allowed\nexit status 2\n",
        ),
        (
            "allocate-ports",
            r#"{"ports": 1, "protocol": "tcp"}"#,
            "{\"error\":\"invalid_request\",\"message\":\"no module is named: the cluster changes \
             the ports of one\"}\nportclaimctl: no module is named: the cluster changes the ports \
             of one\nexit status 2\n",
        ),
        (
            "open-ports",
            "{}",
            "{\"error\":\"invalid_request\",\"message\":\"there is no action \\\"open-ports\\\": \
             \\\"allocate-ports\\\" and \\\"deallocate-ports\\\" are known\"}\nportclaimctl: there \
             is no action \"open-ports\": \"allocate-ports\" and \"deallocate-ports\" are known\n\
             exit status 2\n",
        ),
    ] {
        assert_eq!(act(name, data), expected, "{name} {data}");
    }
    let no_json = act("allocate-ports", "{");
    assert!(
        no_json.contains("stdin is no JSON") && no_json.ends_with("exit status 2\n"),
        "{no_json}"
    );
}

/// A pool that is full: what a service has stays its own until it gets something else.
fn a_failed_replacement_changes_nothing() {
    let node = Node::new(false);
    network_with_pool(&node, "20001-20006");
    printed(&node, "allocate --tcp 3 --owner m1");
    printed(&node, "allocate --tcp 2 --owner m2");
    let before = (held(&node), node.traces());
    for arguments in ["--tcp 4 --owner m1", "--tcp 2 --owner m1 --keep-existing"] {
        let mut command = ctl(&node, &format!("allocate {arguments}"));
        let output = shown(&run(&node, &mut command, ""));
        assert!(output.contains("no block of"), "{output}");
        assert!(
            output.contains("; module m2 has most, 2\n") || arguments.contains("keep"),
            "{output}"
        );
        assert_eq!((held(&node), node.traces()), before);
    }
    // What fails after the commit is taken back: here, files that cannot be written.
    fs::remove_dir_all(node.run_dir().join("modules/m1")).unwrap();
    fs::write(node.run_dir().join("modules/m1"), "in the way").unwrap();
    let mut command = ctl(&node, "allocate --tcp 1 --owner m1 --to 10.0.0.5:80");
    let output = shown(&run(&node, &mut command, ""));
    assert!(output.contains("cannot create") && output.ends_with("exit status 1\n"), "{output}");
    assert_eq!(held(&node), before.0);
    let elements = node.host.nft("list table inet portclaim__modules");
    assert!(!elements.contains("elements"), "{elements}");
    fs::remove_file(node.run_dir().join("modules/m1")).unwrap();
    assert_eq!(printed(&node, "allocate --tcp 3 --owner m1"), "20001-20003\n");
}

/// The seed's own implementation gives a port twice in 19 of 40 such rounds.
fn eight_at_once() {
    let node = Node::new(false);
    network_with_pool(&node, "20001-20100");
    for round in 0..40 {
        let given: Vec<_> = thread::scope(|scope| {
            let node = &node;
            let threads: Vec<_> = (0..8)
                .map(|module| {
                    let count = 1 + (round * 7 + module * 3) % 5;
                    let keep = if round % 3 == 1 { "--keep-existing" } else { "" };
                    let arguments =
                        format!("allocate --tcp {count} --owner m{module} -o json {keep}");
                    scope.spawn(move || (count, printed(node, &arguments)))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut seen = HashSet::new();
        for (count, range) in given {
            let [first, last]: [u16; 2] = serde_json::from_str(&range).unwrap();
            assert_eq!(last - first + 1, count);
            assert!((first..=last).all(|port| seen.insert(port)), "round {round}: {range}");
        }
        let ports = ports(&held(&node));
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len(), "round {round}");
    }
}

fn modules_and_containers_at_once() {
    const EACH: u16 = 100;
    let node = Node::new(false);
    let network = network_with_pool(&node, "20001-21000").option("lockTimeout", json!("2m"));
    fs::write(conflist(&node), network.config(&node).to_string()).unwrap();
    let containers: Vec<_> = (1..=EACH).map(|n| Container::on_paper(&format!("c{n}"), n)).collect();
    thread::scope(|scope| {
        for (container, number) in containers.iter().zip(0..) {
            let (node, network) = (&node, &network);
            let fixed = 20001 + number * 7;
            scope.spawn(move || {
                let mappings = json!([
                    { "containerPort": 80 },
                    { "containerPort": 443 },
                    { "containerPort": 81, "hostPort": fixed },
                ]);
                let outcome = network.add(node, container, mappings).run(node);
                if !outcome.status.success() {
                    outcome.failed_with(100);
                }
            });
            scope.spawn(move || printed(node, &format!("allocate --tcp 3 --owner m{number}")));
        }
    });
    let modules = ports(&held(&node));
    assert_eq!(modules.len(), usize::from(EACH) * 3);
    let pods: Vec<_> = leases(&node).iter().map(|held| (Protocol::Tcp, held.host_port)).collect();
    let all: HashSet<_> = modules.iter().chain(&pods).collect();
    assert_eq!(all.len(), modules.len() + pods.len(), "no port twice");
}

fn each_keeps_out_of_the_others_way() {
    let node = Node::new(false);
    let network = network_with_pool(&node, "20001-20008");
    printed(&node, "allocate --tcp 2 --owner mail1");
    let pod = Container::on_paper("pod", 2);
    let fixed = |port: u16| json!([{ "hostPort": port, "containerPort": 80 }]);
    let error = network.add(&node, &pod, fixed(20002)).run(&node).failed_with(100);
    assert_eq!(error.message, "host port 20002/tcp is held by module mail1");
    network.add(&node, &pod, fixed(20003)).run(&node).succeeded();
    assert_eq!(printed(&node, "allocate --tcp 1 --owner mail1 --keep-existing"), "20004\n");

    // A process listens on 20006; the module's own one, on 20001, may stay.
    let _host = Echo::start(&node.host, Protocol::Tcp, 20006, "host");
    let _own = Echo::start(&node.host, Protocol::Tcp, 20001, "mail1");
    assert_eq!(printed(&node, "allocate --tcp 2 --owner web1"), "20007-20008\n");
    assert_eq!(printed(&node, "allocate --tcp 2 --owner mail1"), "20001-20002\n");
    printed(&node, "deallocate --tcp --owner mail1");

    // Late packets of the module's clients must not reach a pod: it takes the port
    // that has not been anybody's.
    let udp = || json!([{ "containerPort": 80, "protocol": "udp" }]);
    printed(&node, "allocate --udp 7 --owner mail1");
    printed(&node, "deallocate --udp --owner mail1");
    network.add(&node, &Container::on_paper("other", 3), udp()).run(&node).succeeded();
    let other = Container::on_paper("other", 3);
    assert_eq!(ports_of(&node, &other), [20008]);
    // And a pod's clients none of a module's, which minds no other module's.
    network.del(&node, &other).run(&node).succeeded();
    assert_eq!(printed(&node, "allocate --udp 1 --owner mail1"), "20001\n");
    assert_eq!(printed(&node, "allocate --udp 7 --owner web1"), "20002-20008\n");
    printed(&node, "deallocate --udp --owner mail1");
    network.add(&node, &other, udp()).run(&node).succeeded();
    assert_eq!(ports_of(&node, &other), [20001], "no other is left");
    network.del(&node, &other).run(&node).succeeded();
    printed(&node, "deallocate --udp --owner web1");
    assert_eq!(printed(&node, "allocate --udp 1 --owner web1"), "20002\n");
    printed(&node, "deallocate --udp --owner web1");

    // No other group than those that it may use.
    let groups = json!({
        "default": { "ports": "20001-20008" },
        "services": { "ports": "21001-21010", "namespaces": [] },
        "games": { "ports": "22001-22010", "namespaces": ["games"] },
        "media": { "ports": "23001-23010", "protocols": ["udp"] },
    });
    let network = network.option("groups", groups);
    fs::write(conflist(&node), network.config(&node).to_string()).unwrap();
    for (group, expected) in [
        ("services", "21001\nexit status 0\n"),
        (
            "games",
            "portclaimctl: module_permission_denied: group \"games\" is for pods: a module may use \
             those without namespaces\nexit status 32\n",
        ),
        ("media", "portclaimctl: group \"media\" is for udp, tcp is asked for\nexit status 2\n"),
        ("absent", "portclaimctl: there is no group \"absent\"\nexit status 2\n"),
    ] {
        let arguments = format!("allocate --tcp 1 --owner mail1 --group {group}");
        assert_eq!(shown(&run(&node, &mut ctl(&node, &arguments), "")), expected);
    }
}

fn a_reboot_takes_none_of_it() {
    let mut node = Node::new(false);
    // What the pod may have had last must not rest.
    let groups = json!({ "default": { "ports": "20001-20008", "cooldown": "0s" } });
    let network = Network::bridge("podnet", true).option("groups", groups);
    fs::write(conflist(&node), network.config(&node).to_string()).unwrap();
    let pod = Container::on_paper("pod", 2);
    let any = || json!([{ "containerPort": 80 }]);
    network
        .add(&node, &pod, json!([{ "hostPort": 20005, "containerPort": 80 }]))
        .run(&node)
        .succeeded();
    printed(&node, "allocate --tcp 4 --owner mail1");
    network.add(&node, &pod, any()).run(&node).succeeded();
    for _ in 0..2 {
        node.reboot();
        let fixed = json!([{ "hostPort": 20004, "containerPort": 80 }]);
        let error = network.add(&node, &pod, fixed).run(&node).failed_with(100);
        assert_eq!(error.message, "host port 20004/tcp is held by module mail1");
        network.add(&node, &pod, any()).run(&node).succeeded();
        assert!(ports_of(&node, &pod)[0] > 20004);
    }
    network.del(&node, &pod).run(&node).succeeded();
    printed(&node, "allocate --tcp 1 --owner mail1 --keep-existing");
    let env =
        "TCP_PORT=20001\nTCP_PORTS_RANGE=20001-20005\nTCP_PORTS=20001,20002,20003,20004,20005\n";
    assert_eq!(env_of(&node, "mail1"), env);
    assert_eq!(printed(&node, "deallocate --tcp --owner mail1"), "20001-20004\n20005\n");
}

/// Calls are killed at random moments: what was acknowledged holds, what was not is
/// there whole or not at all, and no port is anybody's twice.
fn killed_at_any_moment() {
    const ROUNDS: u32 = 120;
    let node = Node::new(false);
    network_with_pool(&node, "20001-20100");
    printed(&node, "allocate --tcp 2 --owner m0");
    let mut life = Duration::ZERO;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut known: BTreeMap<String, Option<usize>> = BTreeMap::from([("m0".to_owned(), Some(2))]);
    let mut killed = 0;
    for round in 0..ROUNDS {
        let module = format!("m{}", rng.u32(..4));
        let count = rng.usize(1..6);
        let is_allocation = rng.u32(..3) > 0;
        let arguments = if is_allocation {
            format!("allocate --tcp {count} --owner {module}")
        } else {
            format!("deallocate --tcp --owner {module}")
        };
        let mut command = ctl(&node, &arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = node.host.enter(|| command.spawn().unwrap());
        let output = if round % 4 == 0 {
            let output = child.wait_with_output().unwrap();
            life = start.elapsed();
            output
        } else {
            // Not a wait for something: the moment of the kill is the point.
            thread::sleep(life.mul_f32(rng.f32()));
            child.kill().unwrap();
            child.wait_with_output().unwrap()
        };
        assert!(output.status.code().is_none_or(|code| code == 0), "{output:?}");
        let before = known.get(&module).copied();
        let all = held(&node);
        let of_module: usize = all
            .iter()
            .filter(|it| it.module.as_str() == module)
            .map(|it| usize::from(it.count))
            .sum();
        let asked = if is_allocation { count } else { 0 };
        if output.status.success() {
            assert_eq!(of_module, asked, "{arguments}");
        } else {
            killed += 1;
            let before = before.flatten().unwrap_or(0);
            assert!([before, asked].contains(&of_module), "{arguments}: {before}, {of_module}");
        }
        known.insert(module, Some(of_module));
        for (module, count) in &known {
            let held = all.iter().filter(|it| it.module.as_str() == module);
            assert_eq!(held.map(|it| usize::from(it.count)).sum::<usize>(), count.unwrap());
        }
        let ports = ports(&all);
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
    }
    println!("{killed} of {ROUNDS} killed");
    assert!(killed > ROUNDS / 3, "many of them were to be killed");
    // The files say it again after the next call of each.
    for module in known.keys() {
        printed(&node, &format!("allocate --tcp 1 --owner {module}"));
        assert_eq!(env_of(&node, module).lines().count(), 1);
    }
}

const MODULES: &str = r#"{
    "mail1": {"user": "daemon", "tcp-ports-demand": 4, "udp-ports-demand": 0,
              "authorizations": "node:portsadm"},
    "proxy1": {"user": 33, "tcp-ports-demand": 4, "authorizations": "node:fwadm,portsadm"},
    "vpn1": {"tcp-ports-demand": 1, "authorizations": "node:tunadm,portsadm"},
    "odd1": {"tcp-ports-demand": 1, "authorizations": "node:portsadm,fwadm"},
    "none1": {"tcp-ports-demand": 1}
}"#;

fn modules_file(node: &Node) -> PathBuf {
    let path = node.folder("modules.json");
    fs::write(&path, MODULES).unwrap();
    path
}

fn roles_and_quotas() {
    let node = Node::new(false);
    network_with_pool(&node, "20001-20100");
    let modules = modules_file(&node);
    let as_module = |module: &str, arguments: &str| {
        let mut command = ctl(&node, arguments);
        command.arg("--modules").arg(&modules).env("MODULE_ID", module);
        shown(&run(&node, &mut command, ""))
    };
    let needed = "\"node:portsadm\", \"node:fwadm,portsadm\" or \"node:tunadm,portsadm\" is needed";
    for (module, arguments, expected) in [
        ("mail1", "allocate --tcp 4", "20001-20004\nexit status 0\n".to_owned()),
        ("mail1", "allocate --tcp 3 --owner mail1", "20001-20003\nexit status 0\n".to_owned()),
        (
            "mail1",
            "allocate --tcp 2 --keep-existing",
            "portclaimctl: max_ports_exceeded: module mail1 would have 5 tcp ports: \
             tcp-ports-demand is 4\nexit status 33\n"
                .to_owned(),
        ),
        ("mail1", "allocate --tcp 1 --keep-existing", "20004\nexit status 0\n".to_owned()),
        (
            "mail1",
            "allocate --udp 1",
            "portclaimctl: max_ports_exceeded: module mail1 would have 1 udp ports: \
             udp-ports-demand is 0\nexit status 33\n"
                .to_owned(),
        ),
        (
            "mail1",
            "allocate --tcp 1 --owner vpn1",
            "portclaimctl: module_permission_denied: module mail1 may not change the ports of \
             module vpn1\nexit status 32\n"
                .to_owned(),
        ),
        (
            "mail1",
            "deallocate --tcp --owner vpn1",
            "portclaimctl: module_permission_denied: module mail1 may not change the ports of \
             module vpn1\nexit status 32\n"
                .to_owned(),
        ),
        (
            "mail1",
            "allocate --tcp 1 --to 10.0.0.5:80",
            "portclaimctl: module_permission_denied: module mail1 may not forward ports: its \
             authorizations are not \"node:fwadm,portsadm\"\nexit status 32\n"
                .to_owned(),
        ),
        ("vpn1", "allocate --tcp 1", "20005\nexit status 0\n".to_owned()),
        ("proxy1", "allocate --tcp 1 --to 10.0.0.5:80", "20006\nexit status 0\n".to_owned()),
        (
            "odd1",
            "allocate --tcp 1",
            format!(
                "portclaimctl: module_permission_denied: module odd1 may not change ports: its \
                 authorizations are \"node:portsadm,fwadm\", and {needed}\nexit status 32\n"
            ),
        ),
        (
            "none1",
            "deallocate --tcp",
            format!(
                "portclaimctl: module_permission_denied: module none1 may not change ports: its \
                 authorizations are none, and {needed}\nexit status 32\n"
            ),
        ),
        (
            "other1",
            "allocate --tcp 1",
            "portclaimctl: module_permission_denied: module other1 may not change ports: the \
             modules file does not name it\nexit status 32\n"
                .to_owned(),
        ),
        (
            "../mail1",
            "allocate --tcp 1",
            "portclaimctl: MODULE_ID: module name \"../mail1\" does not begin with a letter or \
             digit and go on with at most 62 letters, digits, '.', '_' or '-'\nexit status 2\n"
                .to_owned(),
        ),
        // The cluster: all of them, however many.
        ("", "allocate --tcp 5 --owner mail1", "20007-20011\nexit status 0\n".to_owned()),
        ("", "deallocate --tcp --owner mail1", "20007-20011\nexit status 0\n".to_owned()),
    ] {
        assert_eq!(as_module(module, arguments), expected, "{module}: {arguments}");
    }
    let mut command = ctl(&node, "action allocate-ports");
    command.arg("--modules").arg(&modules).env("MODULE_ID", "mail1");
    let output = shown(&run(&node, &mut command, r#"{"ports": 5, "protocol": "tcp"}"#));
    assert_eq!(
        output,
        "{\"error\":\"max_ports_exceeded\",\"message\":\"module mail1 would have 5 tcp ports: \
         tcp-ports-demand is 4\"}\nportclaimctl: max_ports_exceeded: module mail1 would have 5 tcp \
         ports: tcp-ports-demand is 4\nexit status 33\n"
    );
    // A list of rights that others may write grants nothing.
    fs::set_permissions(&modules, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let refused = as_module("mail1", "allocate --tcp 1");
    assert!(refused.contains("may be changed by others than root: refused"), "{refused}");
}

/// An agent that runs until it is dropped.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(node: &Node) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Where other users get to; the node's own folder is closed to them.
        let name = format!("/run/agent{}.sock", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut command = ctl(node, "agent --listen");
        command.arg(&name).arg("--modules").arg(modules_file(node));
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let process = node.host.enter(|| start(&mut command));
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&name).is_err() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Self { process, socket: name.into() }
    }

    /// A call by another user.
    fn call(&self, node: &Node, uid: u32, arguments: &str) -> String {
        let mut command = as_user(uid, arguments);
        command.arg("--socket").arg(&self.socket);
        shown(&run(node, &mut command, ""))
    }

    /// The reply to something that is not portclaimctl's.
    fn reply_to(&self, text: &[u8], closes: bool) -> Value {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        _ = stream.write_all(text);
        if closes {
            _ = stream.shutdown(Shutdown::Write);
        }
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        serde_json::from_str(&reply).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn as_user(uid: u32, arguments: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", CTL]);
    command.args(arguments.split_whitespace()).env_remove("MODULE_ID");
    command
}

/// Whatever a caller says of itself: it is who the kernel says it is.
fn callers_are_known_by_their_user() {
    const NOBODY: u32 = 65534;
    let node = Node::new(false);
    network_with_pool(&node, "20001-20100");
    let agent = Agent::start(&node);
    let stranger = |uid: u32| {
        format!(
            "portclaimctl: module_permission_denied: user {uid} is not the user of a module\n\
             exit status 32\n"
        )
    };
    let other = "portclaimctl: module_permission_denied: module mail1 may not change the ports of \
                 module proxy1\nexit status 32\n";
    for (uid, arguments, expected) in [
        (DAEMON, "allocate --tcp 2", "20001-20002\nexit status 0\n"),
        (WWW_DATA, "allocate --tcp 2 -o json", "[20003,20004]\nexit status 0\n"),
        (
            DAEMON,
            "allocate --tcp 2 --keep-existing --owner mail1 -o env",
            "TCP_PORT=20001\nTCP_PORTS=20001,20002,20005,20006\nexit status 0\n",
        ),
        (DAEMON, "deallocate --tcp --owner proxy1", other),
        (
            DAEMON,
            "allocate --tcp 5",
            "portclaimctl: max_ports_exceeded: module mail1 would have 5 tcp ports: tcp-ports-demand \
          is 4\nexit status 33\n",
        ),
        (2, "allocate --tcp 1", &stranger(2)),
        (NOBODY, "allocate --tcp 1 --owner mail1", &stranger(NOBODY)),
        (DAEMON, "deallocate --tcp -o json", "[[20001,20002],[20005,20006]]\nexit status 0\n"),
        // The superuser is the cluster, also here.
        (0, "deallocate --tcp --owner proxy1", "20003-20004\nexit status 0\n"),
    ] {
        assert_eq!(agent.call(&node, uid, arguments), expected, "{uid}: {arguments}");
    }
    // MODULE_ID is only what was meant.
    let mut command = as_user(DAEMON, "allocate --tcp 1");
    command.arg("--socket").arg(&agent.socket).env("MODULE_ID", "proxy1");
    assert_eq!(shown(&run(&node, &mut command, "")), other);
    let mut command = as_user(DAEMON, "action allocate-ports");
    command.arg("--socket").arg(&agent.socket);
    let data = r#"{"ports": 3, "protocol": "tcp", "module_id": "mail1"}"#;
    assert_eq!(shown(&run(&node, &mut command, data)), "[20001,20003]\nexit status 0\n");
    assert_eq!(env_of(&node, "mail1").lines().next(), Some("TCP_PORT=20001"));
    drop(agent);
    let mut command = as_user(DAEMON, "allocate --tcp 1 --socket /run/absent.sock");
    let output = shown(&run(&node, &mut command, ""));
    assert!(output.contains("cannot reach the agent by /run/absent.sock"), "{output}");
}

/// As systemd starts it: the listening socket is stdin.
fn an_agent_that_systemd_starts() {
    let node = Node::new(false);
    network_with_pool(&node, "20001-20100");
    let path = Path::new("/run/activated.sock");
    let listener = UnixListener::bind(path).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let mut agent = ctl(&node, "agent --modules");
    agent.arg(modules_file(&node)).stderr(Stdio::null());
    agent.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null());
    let mut agent = node.host.enter(move || start(&mut agent));
    for port in 20001..20003 {
        let arguments = "allocate --tcp 1 --keep-existing --socket /run/activated.sock";
        let called = shown(&run(&node, &mut as_user(DAEMON, arguments), ""));
        assert_eq!(called, format!("{port}\nexit status 0\n"));
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    let (_one, other) = UnixStream::pair().unwrap();
    for stdin in [Stdio::null(), Stdio::from(OwnedFd::from(other))] {
        let mut command = ctl(&node, "agent");
        command.stdin(stdin);
        let output = node.host.enter(|| command.output().unwrap());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("stdin is no Unix socket that listens"), "{output:?}");
    }
}

/// What others may send costs nobody anything.
fn hostile_callers() {
    let node = Node::new(false);
    network_with_pool(&node, "20001-20100");
    let agent = Agent::start(&node);
    let large = format!("{{\"action\": \"{}\"}}", "x".repeat(3_000_000));
    for (text, closes, expected) in [
        (&b""[..], true, "the request is empty"),
        (b"\0\xff\n\n", true, "the request cannot be read"),
        (br#"{"action": "allocate-ports""#, true, "the request cannot be read"),
        (br#"{"action": "allocate-ports", "data": [1]}"#, false, "[1] is no object"),
        (br#"{"action": "allocate-ports", "uid": 1}"#, false, "the request cannot be read"),
        (br#"{"action": "reset", "data": {}}"#, false, "there is no action \"reset\""),
        (large.as_bytes(), true, "the request is larger than 65536 bytes"),
        ("[".repeat(60_000).as_bytes(), true, "the request cannot be read"),
        (br#"{"action""#, false, "the request is not there within 5s"),
    ] {
        let reply = agent.reply_to(text, closes);
        let message = reply["message"].as_str().unwrap();
        assert!(message.starts_with(expected), "{reply}");
        assert_eq!(reply["error"], "invalid_request", "{reply}");
    }
    // One that takes all the places it gets keeps nobody else out.
    let silent: Vec<_> = (0..20).map(|_| UnixStream::connect(&agent.socket).unwrap()).collect();
    assert_eq!(agent.call(&node, DAEMON, "allocate --tcp 1"), "20001\nexit status 0\n");
    let mut refused = String::new();
    let mut last = &silent[19];
    last.read_to_string(&mut refused).unwrap();
    assert!(refused.contains("too many callers at once"), "{refused}");
    drop(silent);
    // Nor do those who have as many users as they like.
    let strangers: Vec<_> = (0..20).map(|at| silent_stranger(&agent, 100_000 + at)).collect();
    assert_eq!(agent.call(&node, DAEMON, "allocate --tcp 1"), "20001\nexit status 0\n");
    for mut stranger in strangers {
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    // A caller that is gone before its reply has its ports.
    let mut gone = UnixStream::connect(&agent.socket).unwrap();
    let request = json!({
        "action": "allocate-ports",
        "data": { "ports": 2, "protocol": "udp", "module_id": "web1" },
    });
    gone.write_all(request.to_string().as_bytes()).unwrap();
    drop(gone);
    let deadline = Instant::now() + Duration::from_secs(20);
    while held(&node).len() < 2 {
        assert!(Instant::now() < deadline, "{:?}", held(&node));
        thread::sleep(Duration::from_millis(20));
    }
}

/// Somebody of no module who connects, and says nothing.
fn silent_stranger(agent: &Agent, uid: u32) -> Child {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
    command.args(["socat", "-u"]).arg(format!("UNIX-CONNECT:{}", agent.socket.display()));
    command.args(["OPEN:/dev/null"]).spawn().unwrap()
}

fn forwarded_ports_are_reached() {
    let node = Node::new(false);
    let network = network_with_pool(&node, "20001-20100");
    let serve = |namespace: &Namespace, port, name: &str| {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| Echo::start(namespace, protocol, port, name))
    };
    let _servers = [
        serve(&node.beyond, 25, "first"),
        serve(&node.beyond, 26, "second"),
        serve(&node.outside, 25, "outside"),
    ];
    let answers = |from: &Namespace, protocol, family: Family, port| {
        ask(from, protocol, (family.node(), port).into(), PATIENCE)
    };
    let is_silent = |protocol, port| {
        let to = SocketAddr::from((Family::V4.node(), port));
        assert_eq!(ask(&node.outside, protocol, to, SILENCE), None);
    };
    for protocol in ["tcp", "udp"] {
        let protocol_of = Protocol::from_name(protocol).unwrap();
        for (owner, family, first) in [("mail4", Family::V4, 20001), ("mail6", Family::V6, 20003)] {
            let to = SocketAddr::from((family.beyond(), 25));
            let arguments = format!("allocate --{protocol} 2 --owner {owner} --to {to} -o json");
            assert_eq!(printed(&node, &arguments), format!("[{first},{}]\n", first + 1));
            for (port, name) in [(first, "first"), (first + 1, "second")] {
                let answer = answers(&node.outside, protocol_of, family, port).unwrap();
                assert_eq!(answer.server, name);
                assert_eq!(answer.client, family.outside(), "clients keep their address");
                let answer = answers(&node.host, protocol_of, family, port).unwrap();
                assert_eq!(answer.server, name, "from the node itself");
            }
        }
        // A target on the link that its client came in by.
        let to = SocketAddr::from((Family::V4.outside(), 25));
        printed(&node, &format!("allocate --{protocol} 1 --owner web1 --to {to}"));
        let answer = answers(&node.outside, protocol_of, Family::V4, 20005).unwrap();
        assert_eq!((answer.server.as_str(), answer.client), ("outside", Family::V4.node()));
        // Not by the host's loopback, and not from there.
        let loopback = SocketAddr::from((IpAddr::from(Ipv4Addr::LOCALHOST), 20001));
        assert_eq!(ask(&node.host, protocol_of, loopback, SILENCE), None);
    }
    let listing = node.host.nft("list table inet portclaim__modules");
    assert!(listing.contains("comment \"module mail4\""), "{listing}");

    // What was flushed comes back with the next change, of whichever module.
    node.host.nft("flush ruleset");
    is_silent(Protocol::Tcp, 20001);
    assert_eq!(printed(&node, "deallocate --tcp --owner mail6"), "20003-20004\n");
    assert!(answers(&node.outside, Protocol::Tcp, Family::V4, 20001).is_some());
    node.host.nft("flush map inet portclaim__modules any4_addr");
    is_silent(Protocol::Tcp, 20001);
    printed(&node, "allocate --tcp 1 --owner mail6");
    assert!(answers(&node.outside, Protocol::Tcp, Family::V4, 20001).is_some());

    // And with the next container.
    let pod = Container::on_paper("pod", 2);
    let fixed = || json!([{ "hostPort": 30001, "containerPort": 80 }]);
    for is_added in [true, false] {
        node.host.nft("flush ruleset");
        is_silent(Protocol::Tcp, 20001);
        if is_added {
            network.add(&node, &pod, fixed()).run(&node).succeeded();
        } else {
            network.del(&node, &pod).run(&node).succeeded();
        }
        assert!(answers(&node.outside, Protocol::Tcp, Family::V4, 20001).is_some(), "{is_added}");
    }

    // A flow that goes on is led to where the port leads now.
    let flow = Flow::new(&node.outside, (Family::V4.node(), 20001).into());
    assert_eq!(flow.ask(PATIENCE).unwrap().server, "first");
    let to = SocketAddr::from((Family::V4.outside(), 25));
    printed(&node, &format!("allocate --udp 2 --owner mail4 --to {to}"));
    assert_eq!(flow.ask(PATIENCE).unwrap().server, "outside");

    // Moved elsewhere, and back to where the module listens itself.
    let to = SocketAddr::from((Family::V4.beyond(), 26));
    printed(&node, &format!("allocate --udp 2 --owner mail4 --to {to}"));
    let answer = answers(&node.outside, Protocol::Udp, Family::V4, 20001).unwrap();
    assert_eq!(answer.server, "second");
    printed(&node, "allocate --udp 2 --owner mail4");
    let _own = Echo::start(&node.host, Protocol::Udp, 20001, "own");
    let answer = answers(&node.outside, Protocol::Udp, Family::V4, 20001).unwrap();
    assert_eq!(answer.server, "own");
    printed(&node, "deallocate --tcp --owner mail4");
    is_silent(Protocol::Tcp, 20001);
}

/// One trial for each.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 14] = [
        ("sequence", the_lowest_block_that_is_free),
        ("environment", the_environment_of_a_unit),
        ("actions", actions_as_programs_write_them),
        ("failed-replacement", a_failed_replacement_changes_nothing),
        ("eight-at-once", eight_at_once),
        ("with-containers", modules_and_containers_at_once),
        ("apart", each_keeps_out_of_the_others_way),
        ("reboot", a_reboot_takes_none_of_it),
        ("killed", killed_at_any_moment),
        ("roles", roles_and_quotas),
        ("users", callers_are_known_by_their_user),
        ("activated", an_agent_that_systemd_starts),
        ("hostile", hostile_callers),
        ("forwarded", forwarded_ports_are_reached),
    ];
    crate::trials("module", tests)
}
