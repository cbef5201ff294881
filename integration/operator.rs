//! What the operator does when something is wrong: `check`, `restore`, `gc`,
//! `release`, `reset` and `doctor`, with all that they print.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fs2::FileExt as _;
use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network, annotated},
    held::{assert_nothing_held, elements, forwarded, leases, ports_of},
    namespace::Namespace,
    node::{Family, Node},
    recovery::deadly_nft,
    tool::{self, ctl},
    traffic::{Flow, PATIENCE, ask, serve},
};

fn network() -> Network {
    Network::bridge("podnet", true)
}

fn fixed(port: u16) -> Value {
    json!([{ "hostPort": port, "containerPort": 80 }])
}

#[track_caller]
fn add(node: &Node, container: &Container, mappings: Value) {
    network().add(node, container, mappings).run(node).succeeded();
}

/// The TCP ports that the kernel forwards, sorted.
fn forwarded_ports(node: &Node) -> Vec<u16> {
    forwarded(node, &network()).into_keys().map(|(_, port)| port).collect()
}

fn containers(node: &Node) -> Vec<String> {
    leases(node).into_iter().map(|held| held.container).collect()
}

/// Two containers, one of them in a pod.
fn inhabited() -> (Node, [Container; 2]) {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2).in_pod("shop", "web-0", "1-2-3");
    let plain = Container::on_paper("plain", 3);
    add(&node, &web, fixed(8080));
    add(&node, &plain, json!([{ "hostPort": 5353, "containerPort": 53, "protocol": "udp" }]));
    (node, [web, plain])
}

/// What is spoilt, how, and what `check` says of it.
type Spoil<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);

const SAME: &str = "no difference: 2 leases\n";

/// Whatever is spoilt is named, once, and put right by `restore`.
#[expect(clippy::too_many_lines, reason = "a table")]
fn check_names_every_difference_and_restore_puts_it_right() {
    const TABLE: &str = "table inet portclaim_podnet";
    let (node, _containers) = inhabited();
    let table = "inet portclaim_podnet";
    let web = "pods/shop/web-0";
    let nft = |commands: &str| drop(node.host.nft(commands));
    let spoil: [Spoil<'_>; 10] = [
        (
            "an element",
            &|| nft(&format!("delete element {table} any4_addr {{ tcp . 8080 }}")),
            &["map any4_addr of TABLE has no element 8080/tcp, which is of shop/web-0"],
        ),
        (
            "where it leads",
            &|| {
                nft(&format!(
                    "delete element {table} any4_port {{ udp . 5353 }}
                     add element {table} any4_port {{ udp . 5353 : 54 }}"
                ));
            },
            &[
                "map any4_port of TABLE leads from 5353/udp to 54 and not to 53, which is of plain/eth0",
            ],
        ),
        (
            "an element of nobody",
            &|| {
                nft(&format!(
                    "add element {table} any4_addr {{ tcp . 9999 comment \"old/pod\" : 10.9.9.9 }}
                     add element {table} hairpin6 {{ fd00::9 . fd00::9 }}"
                ));
            },
            &[
                "map any4_addr of TABLE leads from 9999/tcp to 10.9.9.9 (old/pod), which no lease needs",
                "set hairpin6 of TABLE has element fd00::9 . fd00::9, which no lease needs",
            ],
        ),
        (
            "a rule",
            &|| nft(&format!("flush chain {table} guard")),
            &["TABLE is absent or its rules are not those configured"],
        ),
        (
            "the table",
            &|| nft(&format!("delete table {table}")),
            &["TABLE is absent or its rules are not those configured"],
        ),
        (
            "everything",
            &|| nft("flush ruleset"),
            &["TABLE is absent or its rules are not those configured"],
        ),
        (
            "a file",
            &|| fs::remove_file(node.run_dir().join(web).join("ports.env")).unwrap(),
            &["NODE/run/pods/shop/web-0/ports.env is not there"],
        ),
        (
            "what a file says",
            &|| fs::write(node.run_dir().join(web).join("ports.json"), "{}").unwrap(),
            &["NODE/run/pods/shop/web-0/ports.json does not say what the leases are"],
        ),
        (
            "all files",
            &|| fs::remove_dir_all(node.run_dir()).unwrap(),
            &[
                "NODE/run/containers/plain/ports.env is not there",
                "NODE/run/containers/plain/ports.json is not there",
                "NODE/run/pods/shop/web-0/ports.env is not there",
                "NODE/run/pods/shop/web-0/ports.json is not there",
            ],
        ),
        (
            "files of nobody",
            &|| {
                let folder = node.run_dir().join("containers/old");
                fs::create_dir(&folder).unwrap();
                fs::write(folder.join("ports.env"), "TCP_PORT=1\n").unwrap();
            },
            &["NODE/run/containers/old is published for nobody who holds a port"],
        ),
    ];
    let whole = node.traces();
    for (what, spoil, expected) in spoil {
        assert_eq!(ctl(&node, &network(), &["check"]).succeeded(), SAME, "before {what}");
        spoil();
        let mut text = expected.join("\n").replace("TABLE", TABLE);
        text += match expected.len() {
            1 => "\n1 difference: portclaimctl restore puts it right\n",
            2 => "\n2 differences: portclaimctl restore puts them right\n",
            _ => "\n4 differences: portclaimctl restore puts them right\n",
        };
        let found = ctl(&node, &network(), &["check"]);
        assert_eq!(found.with_status(1), text, "{what}");
        let spoilt = node.traces();
        ctl(&node, &network(), &["restore", "--dry-run"]).succeeded();
        assert_eq!(node.traces(), spoilt, "{what}");
        ctl(&node, &network(), &["restore"]).succeeded();
        // nft lists a map's elements in whatever order.
        let lines = |text: &str| {
            let mut lines: Vec<String> = text
                .lines()
                .map(|line| {
                    line.trim_matches(['\t', ' ', ',', '}', '{']).replace("elements = { ", "")
                })
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&node.traces()), lines(&whole), "{what}");
    }
}

fn check_for_programs() {
    let (node, _containers) = inhabited();
    let found = ctl(&node, &network(), &["check", "-o", "json"]);
    found.succeeded();
    assert_eq!(found.json(), json!({ "same": true, "leases": 2, "differences": [], "notes": [] }));
    node.host.nft("delete element inet portclaim_podnet any6_addr { tcp . 8080 }");
    let found = ctl(&node, &network(), &["check", "--output", "json"]);
    found.with_status(1);
    assert_eq!(
        found.json()["differences"],
        json!([{
            "kind": "missing-element",
            "network": "podnet",
            "containerID": "web",
            "ifname": "eth0",
            "namespace": "shop",
            "pod": "web-0",
            "text": "map any6_addr of table inet portclaim_podnet has no element 8080/tcp, \
                     which is of shop/web-0",
        }])
    );
    assert_eq!(found.json()["same"], false);

    ctl(&node, &network(), &["check", "--colour"]).with_status(2);
    damage(&node);
    let failed = ctl(&node, &network(), &["check"]);
    assert_eq!(failed.with_status(3), "");
    assert!(failed.stderr.contains("portclaimctl reset"), "{failed:?}");
}

/// A call at work is no difference: what is found is looked at again once it is over.
fn check_waits_for_a_call_that_is_half_way() {
    let (node, _containers) = inhabited();
    let lock = fs::OpenOptions::new().write(true).open(node.data_dir().join("lock")).unwrap();
    lock.lock_exclusive().unwrap();
    assert_eq!(ctl(&node, &network(), &["check"]).succeeded(), SAME, "without the lock");
    node.host.nft("flush ruleset");
    let hasty = network().option("lockTimeout", json!("50ms"));
    let failed = ctl(&node, &hasty, &["check"]);
    assert_eq!(failed.with_status(3), "");
    assert!(failed.stderr.contains("portclaimctl doctor"), "{failed:?}");
}

fn nothing_to_look_at() {
    let node = Node::new(false);
    let nothing = "there is nothing to restore\n";
    for (arguments, expected) in [
        (&["check"][..], "no difference: 0 leases\n"),
        (&["restore"], nothing),
        (&["restore", "--dry-run"], nothing),
        (&["gc"], "0 gone, 0 there, 0 not known\n"),
        (&["gc", "--dry-run"], "0 gone, 0 there, 0 not known\n"),
        (
            &["reset", "--yes"],
            "to set aside: 0 leases of 0 attachments; 0 claims are set aside\n\
             to remove: the files in 0 folders\n\
             Containers that run go on without their host ports until they are restarted.\n\
             there was no database\n",
        ),
    ] {
        assert_eq!(ctl(&node, &network(), arguments).succeeded(), expected, "{arguments:?}");
        assert!(!node.data_dir().exists(), "{arguments:?}");
    }
}

fn restore_says_what_it_does() {
    let (node, _containers) = inhabited();
    let other = Container::on_paper("other", 4);
    network().named("othernet").add(&node, &other, fixed(9090)).run(&node).succeeded();
    node.host.nft("flush ruleset");
    node.host.nft("add table inet portclaim_gone");
    fs::remove_dir_all(node.run_dir().join("pods")).unwrap();
    fs::rename(node.run_dir().join("containers/plain"), node.run_dir().join("containers/old"))
        .unwrap();
    let notes = "note: no conflist has network othernet: the rules of table inet \
                 portclaim_othernet are taken for those of a conflist without options\n\
                 note: table inet portclaim_gone is of a network that has no leases and no \
                 conflist; it guards the host's loopback\n";
    let planned = ctl(&node, &network(), &["restore", "--dry-run"]);
    assert_eq!(
        planned.succeeded(),
        format!(
            "would write table inet portclaim_othernet: 1 leases\n\
             would write table inet portclaim_podnet: 2 leases\n\
             table inet portclaim_gone is as it should be: 0 leases\n\
             would publish NODE/run/containers/plain\n\
             would publish NODE/run/pods/shop/web-0\n\
             would remove NODE/run/containers/old\n{notes}"
        )
    );
    let done = ctl(&node, &network(), &["restore"]);
    assert_eq!(
        done.succeeded(),
        format!(
            "wrote table inet portclaim_othernet: 1 leases\n\
             wrote table inet portclaim_podnet: 2 leases\n\
             table inet portclaim_gone is as it should be: 0 leases\n\
             published NODE/run/containers/plain\n\
             published NODE/run/pods/shop/web-0\n\
             removed NODE/run/containers/old\n{notes}"
        )
    );
    let before = node.traces();
    assert_eq!(
        ctl(&node, &network(), &["restore"]).succeeded(),
        format!(
            "table inet portclaim_othernet is as it should be: 1 leases\n\
             table inet portclaim_podnet is as it should be: 2 leases\n\
             table inet portclaim_gone is as it should be: 0 leases\n{notes}"
        )
    );
    assert_eq!(node.traces(), before);
    assert_eq!(forwarded(&node, &network().named("othernet")).len(), 1);
    // What the next call finds is what it would have made itself.
    network()
        .check(
            &node,
            &Container::on_paper("plain", 3),
            json!([
                { "hostPort": 5353, "containerPort": 53, "protocol": "udp" }
            ]),
        )
        .run(&node)
        .succeeded();
}

/// The store was lost, and with it who owns what the kernel forwards.
fn restore_takes_out_what_nobody_owns() {
    let (node, _containers) = inhabited();
    fs::rename(node.data_dir(), node.folder("lost")).unwrap();
    let found = ctl(&node, &network(), &["check"]);
    assert!(found.with_status(1).contains("8080/tcp to 10.99.0.2 (shop/web-0), which no lease"));
    ctl(&node, &network(), &["restore"]).succeeded();
    assert_nothing_held(&node, &network());
    assert!(!node.data_dir().exists(), "nothing is created");
    ctl(&node, &network(), &["check"]).succeeded();
}

/// Sandboxes do not survive a reboot: there is nothing to put back.
fn restore_after_a_reboot() {
    let (mut node, _containers) = inhabited();
    let files = node.run_dir().join("containers/plain");
    node.reboot();
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("ports.env"), "UDP_PORT=5353\n").unwrap();
    assert_eq!(
        ctl(&node, &network(), &["restore"]).succeeded(),
        "removed NODE/run/containers/plain\n"
    );
    assert_eq!(ctl(&node, &network(), &["check"]).succeeded(), "no difference: 0 leases\n");
}

/// A folder with an `nft` that counts how often it is run.
fn counting_nft(node: &Node) -> (String, PathBuf) {
    let folder = node.folder("counting");
    fs::create_dir(&folder).unwrap();
    let (script, count) = (folder.join("nft"), folder.join("count"));
    let text = format!("#!/bin/sh\necho run >>{}\nexec /usr/sbin/nft \"$@\"\n", count.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (folder.display().to_string(), count)
}

/// 2,000 mappings on two networks are back in one transaction, and traffic flows:
/// new connections, a UDP flow that began meanwhile, and 127.0.0.1.
fn restore_of_two_thousand_mappings() {
    const PORTS_EACH: u16 = 50;
    let node = Node::new(false);
    let mut web = Container::new("live");
    let mappings = json!(Protocol::ALL.map(|protocol| {
        json!({ "hostPort": 8080, "containerPort": 80, "protocol": protocol.name() })
    }));
    network().attach(&node, &mut web, mappings).succeeded();
    let _servers = serve(web.namespace(), 80, "web");
    for number in 0..40 {
        let ports = 0..PORTS_EACH;
        let mapping = |port| {
            let protocol = if port % 2 == 0 { "tcp" } else { "udp" };
            json!({ "hostPort": 20000 + number * PORTS_EACH + port, "containerPort": port + 1,
                    "protocol": protocol })
        };
        let container = Container::on_paper(&format!("c{number}"), number + 2);
        let network = if number % 2 == 0 { network() } else { network().named("othernet") };
        network.add(&node, &container, ports.map(mapping).collect()).run(&node).succeeded();
    }
    let [before, others] = [network(), network().named("othernet")].map(|n| elements(&node, &n));
    // Whoever asks for connection tracking has flows remembered.
    node.host.nft(
        "flush ruleset
         table ip other { chain every { type filter hook prerouting priority 0; ct state new; }; }",
    );
    let link = "ipv4/conf/cni0/route_localnet";
    node.host.sysctl(link, "0");
    let address = (Family::V4.node(), 8080).into();
    let flow = Flow::new(&node.outside, address);
    assert!(flow.ask(Duration::from_millis(100)).is_none(), "nothing is forwarded");

    let (path, count) = counting_nft(&node);
    let mut command = tool::command(&node, &network(), &["restore"]);
    let done = tool::run(&node, command.env("PATH", path));
    assert_eq!(
        done.succeeded(),
        "wrote table inet portclaim_othernet: 1000 leases\n\
         wrote table inet portclaim_podnet: 1003 leases\n\
         turned on route_localnet of link cni0\n\
         note: no conflist has network othernet: the rules of table inet portclaim_othernet are \
         taken for those of a conflist without options\n"
    );
    assert_eq!(fs::read_to_string(count).unwrap(), "run\n", "one transaction");
    for (network, before) in [(network(), before), (network().named("othernet"), others)] {
        for (name, after) in elements(&node, &network) {
            assert_eq!(after.len(), before[&name].len(), "{name}");
            assert!(before[&name].iter().all(|element| after.contains(element)), "{name}");
        }
    }
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            for from in [&node.outside, &node.host, web.namespace()] {
                let answer = ask(from, protocol, (family.node(), 8080).into(), PATIENCE);
                assert_eq!(answer.map(|a| a.server).as_deref(), Some("web"), "{protocol}");
            }
        }
    }
    let answer = ask(&node.host, Protocol::Tcp, (Ipv4Addr::LOCALHOST, 8080).into(), PATIENCE);
    assert!(answer.is_some(), "127.0.0.1");
    assert!(flow.ask(PATIENCE).is_some(), "a flow that began meanwhile");
    ctl(&node, &network(), &["check"]).succeeded();
}

/// A process in a network namespace of its own, as the first of a container.
struct Sandbox(Child);

impl Sandbox {
    fn start() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let sandbox = Self(child);
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let deadline = Instant::now() + PATIENCE;
        // It unshares before it becomes `sleep`.
        while fs::metadata(sandbox.path()).unwrap().ino() == own {
            assert!(Instant::now() < deadline, "unshare takes too long");
            std::thread::yield_now();
        }
        sandbox
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a container's network namespace is kept by.
enum Keeper {
    Process(#[expect(dead_code, reason = "dropped")] Sandbox),
    Mount(#[expect(dead_code, reason = "dropped")] Namespace),
}

/// A hundred containers are alive and a hundred are dead, most without a DEL; of some
/// nobody knows.
fn gc_of_a_hundred_dead_beside_a_hundred_live() {
    const EACH: u16 = 100;
    const MOUNTS: u16 = 10;
    let node = Node::new(false);
    let mut alive = Vec::new();
    for number in 0..2 * EACH {
        let (keeper, path) = if number % (2 * MOUNTS) < 2 {
            let namespace = Namespace::new("kept");
            let path = namespace.path().display().to_string();
            (Keeper::Mount(namespace), path)
        } else {
            let sandbox = Sandbox::start();
            let path = sandbox.path();
            (Keeper::Process(sandbox), path)
        };
        let container = Container::on_paper(&format!("c{number:03}"), number);
        let call = network().add(&node, &container, fixed(20000 + number));
        call.with("CNI_NETNS", &path).run(&node).succeeded();
        alive.push((container.id, keeper));
    }
    let paper = Container::on_paper("paper", 999);
    add(&node, &paper, fixed(8080));
    let everybody = ctl(&node, &network(), &["gc"]);
    let unknown = "not known: paper/eth0: its ADD did not note the network namespace\n";
    assert_eq!(everybody.succeeded(), format!("{unknown}0 gone, 200 there, 1 not known\n"));

    let (mut dead, mut keepers) = (Vec::new(), Vec::new());
    let mut live = vec!["paper".to_owned()];
    for (number, (id, keeper)) in alive.into_iter().enumerate() {
        if number % 2 == 0 {
            dead.push(id);
            drop(keeper);
        } else {
            live.push(id);
            keepers.push(keeper);
        }
    }
    live.sort();
    let text = |verb: &str, id: &String| {
        format!("{verb} {}/tcp of {id}/eth0", 20000 + id[1..].parse::<u16>().unwrap())
    };
    let lines = |verb| dead.iter().map(|id| text(verb, id)).collect::<Vec<_>>();
    let before = (leases(&node), node.traces());
    let summary = format!("{unknown}100 gone, 100 there, 1 not known\n");
    let planned = ctl(&node, &network(), &["gc", "--dry-run"]);
    let expected = lines("would give back").join("\n");
    assert_eq!(planned.succeeded(), format!("{expected}\n{summary}"));
    assert_eq!((leases(&node), node.traces()), before);

    let done = ctl(&node, &network(), &["gc"]);
    let expected = lines("gave back").join("\n");
    assert_eq!(done.succeeded(), format!("{expected}\n{summary}"));
    let mut left = containers(&node);
    left.sort();
    assert_eq!(left, live);
    let mut ports: Vec<_> =
        (0..2 * EACH).filter(|n| n % 2 == 1).map(|number| 20000 + number).collect();
    ports.insert(0, 8080);
    assert_eq!(forwarded_ports(&node), ports);
    assert_eq!(fs::read_dir(node.run_dir().join("containers")).unwrap().count(), 101);
    assert_eq!(ctl(&node, &network(), &["check"]).succeeded(), "no difference: 101 leases\n");
}

/// What stands in the way of one network does not keep the others.
fn gc_goes_on_after_an_error() {
    let node = Node::new(false);
    for (id, network) in [("abc", network()), ("def", network().named("othernet"))] {
        let sandbox = Sandbox::start();
        let container = Container::on_paper(id, 2);
        let call = network.add(&node, &container, fixed(if id == "abc" { 8080 } else { 8081 }));
        call.with("CNI_NETNS", &sandbox.path()).run(&node).succeeded();
    }
    let folder = node.folder("refusing");
    fs::create_dir(&folder).unwrap();
    let script = folder.join("nft");
    let text = "#!/bin/sh\nread -r json\ncase $json in *othernet*) echo no >&2; exit 1;; esac\n\
                printf %s \"$json\" | /usr/sbin/nft \"$@\"\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = tool::command(&node, &network(), &["gc"]);
    let done = tool::run(&node, command.env("PATH", format!("{}:/usr/bin:/bin", folder.display())));
    assert_eq!(
        done.with_status(1),
        "gave back 8080/tcp of abc/eth0\n1 gone, 0 there, 0 not known\n"
    );
    assert!(done.stderr.contains("portclaim_othernet: nft: no"), "{done:?}");
    assert_eq!(containers(&node), ["def"]);
    ctl(&node, &network(), &["gc"]).succeeded();
    assert_eq!(leases(&node), []);
}

fn release_gives_back_what_is_meant() {
    let node = Node::new(false);
    let several = json!([
        { "hostPort": 8080, "containerPort": 80 },
        { "hostPort": 8081, "containerPort": 81 },
        { "hostPort": 8080, "containerPort": 80, "protocol": "udp" },
    ]);
    let web = Container::on_paper("aaaabbbbcccc1", 2).in_pod("shop", "web-0", "1");
    let plain = Container::on_paper("aaaabbbbcccc2", 3);
    add(&node, &web, several.clone());
    add(&node, &plain, fixed(9090));
    let release = |arguments: &[&str]| {
        let all: Vec<_> = ["release"].into_iter().chain(arguments.iter().copied()).collect();
        ctl(&node, &network(), &all)
    };

    let refused = release(&["8081"]);
    assert_eq!(
        refused.with_status(1),
        "to give back: 8081/tcp of aaaabbbbcccc…/eth0 (shop/web-0)\n"
    );
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    for (what, message) in [
        ("7", "nothing is held or claimed by \"7\""),
        ("8081/udp", "nothing is held"),
        ("shop/web-1", "nothing is held"),
        ("aaaabbbb", "several container IDs"),
        ("a/b/c/d/e", "nothing is held"),
    ] {
        let refused = release(&[what, "--yes"]);
        assert_eq!(refused.with_status(1), "", "{what}");
        assert!(refused.stderr.contains(message), "{refused:?}");
    }
    release(&[]).with_status(2);
    assert_eq!(ports_of(&node, &web), [8080, 8081, 8080]);

    // Of several ports the others stay, in the kernel and in the files.
    assert_eq!(
        release(&["8081", "--yes"]).succeeded(),
        "to give back: 8081/tcp of aaaabbbbcccc…/eth0 (shop/web-0)\n\
         gave back 8081/tcp of aaaabbbbcccc…/eth0 (shop/web-0)\n"
    );
    assert_eq!(ports_of(&node, &web), [8080, 8080]);
    assert_eq!(forwarded_ports(&node), [8080, 9090, 8080]);
    let env = fs::read_to_string(node.run_dir().join("pods/shop/web-0/ports.env")).unwrap();
    assert_eq!(env, "TCP_PORT=8080\nUDP_PORT=8080\n");
    ctl(&node, &network(), &["check"]).succeeded();

    // A protocol, the beginning of an ID, a pod: all at once, each thing once.
    assert_eq!(
        release(&["8080/udp", "shop/web-0", "aaaabbbbcccc2/eth0", "-y"]).succeeded(),
        "to give back: 8080/udp of aaaabbbbcccc…/eth0 (shop/web-0)\n\
         to give back: 8080/tcp, 8080/udp of aaaabbbbcccc…/eth0 (shop/web-0)\n\
         to give back: 9090/tcp of aaaabbbbcccc…/eth0\n\
         gave back 8080/tcp, 8080/udp of aaaabbbbcccc…/eth0 (shop/web-0)\n\
         gave back 9090/tcp of aaaabbbbcccc…/eth0\n"
    );
    assert_nothing_held(&node, &network());
    for container in [&web, &plain] {
        network().del(&node, container).run(&node).succeeded();
    }
}

fn release_of_claims() {
    let node = Node::new(false);
    let network = network().option("groups", json!({ "games": { "ports": "7000-7009" } }));
    let pod = Container::on_paper("arena", 2).in_pod("games", "arena-0", "1");
    let request = annotated(&[
        ("ports", "game=7777/tcp@games, query=7778/udp@games"),
        ("claim", "$(POD_NAME)"),
    ]);
    network.add_with(&node, &pod, request.clone()).run(&node).succeeded();
    let ports = ports_of(&node, &pod);
    let release = |arguments: &[&str]| {
        let all: Vec<_> =
            ["release", "--yes"].into_iter().chain(arguments.iter().copied()).collect();
        ctl(&node, &network, &all)
    };
    let refused = release(&["games/arena-0"]);
    assert_eq!(refused.with_status(1), "");
    assert!(
        refused.stderr.contains("is a pod and a claim: write pod:games/arena-0"),
        "{refused:?}"
    );
    let refused = release(&["claim:games/arena-0/game"]);
    assert_eq!(refused.with_status(1), "");
    assert!(refused.stderr.contains("is used by arena/eth0"), "{refused:?}");

    // One port of a claim's pod: the other is still kept.
    let port = ports[0].to_string();
    release(&[&port]).succeeded();
    assert_eq!(ports_of(&node, &pod), ports[1..]);
    network.add_with(&node, &pod, request.clone()).run(&node).succeeded();
    assert_eq!(ports_of(&node, &pod), ports, "it was claimed");

    release(&["pod:games/arena-0"]).succeeded();
    assert_eq!(
        release(&["games/arena-0/query"]).succeeded(),
        format!(
            "to give back: claim games/arena-0 (query/udp) on {}/udp\n\
             gave up claim games/arena-0 (query/udp)\n",
            ports[1]
        )
    );
    network.add_with(&node, &pod, request).run(&node).succeeded();
    assert_eq!(ports_of(&node, &pod)[0], ports[0]);
    let forced = release(&["claim:games/arena-0", "--force"]);
    assert_eq!(forced.succeeded().lines().count(), 4, "{forced:?}");
    assert_eq!(ports_of(&node, &pod).len(), 2, "its ports stay");
    network.del(&node, &pod).run(&node).succeeded();
    let gone = release(&["claim:games/arena-0"]);
    assert!(gone.stderr.contains("nothing is held or claimed"), "{gone:?}");
}

/// Overwrites all generations.
fn damage(node: &Node) {
    let mut count = 0;
    for file in Node::files(&node.data_dir()) {
        if file.starts_with("generation.") {
            fs::write(node.data_dir().join(file), [0xa5; 4096]).unwrap();
            count += 1;
        }
    }
    assert!(count > 0, "there is a store");
}

fn reset_removes_everything() {
    let (node, [web, plain]) = inhabited();
    node.host.nft("add table inet portclaim; add table ip portclaim_podnet");
    node.host.ip("link add cni0 type bridge");
    node.host.sysctl("ipv4/conf/cni0/route_localnet", "1");
    let announced = "to remove: table inet portclaim_podnet\n\
         to set aside: 2 leases of 2 attachments; 0 claims are set aside\n\
         to remove: the files in 2 folders\n\
         Containers that run go on without their host ports until they are restarted.\n";
    let before = (leases(&node), node.traces());
    let refused = ctl(&node, &network(), &["reset"]);
    assert_eq!(refused.with_status(1), announced);
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    assert_eq!((leases(&node), node.traces()), before);

    let done = ctl(&node, &network(), &["reset", "--yes"]);
    let (printed, aside) = done.succeeded().split_once("the database is now in ").unwrap();
    assert_eq!(
        printed,
        format!(
            "{announced}removed table inet portclaim_podnet\n\
             removed NODE/run/containers/plain\n\
             removed NODE/run/pods/shop/web-0\n\
             note: route_localnet of link cni0 is on, and nobody guards it any more\n"
        )
    );
    let aside = aside.trim().replace("NODE", &node.folder("").display().to_string());
    assert!(PathBuf::from(&aside).join("current").is_symlink(), "{aside}");
    assert_nothing_held(&node, &network());
    let tables = node.host.nft("list tables");
    assert_eq!(tables, "table inet portclaim\ntable ip portclaim_podnet\n", "of others");
    // As if nothing had been: ports are free, and who still runs can go.
    add(&node, &Container::on_paper("new", 4), fixed(8080));
    for container in [&web, &plain] {
        network().del(&node, container).run(&node).succeeded();
    }
    assert_eq!(containers(&node), ["new"]);
    assert_eq!(forwarded_ports(&node), [8080]);
    ctl(&node, &network(), &["reset", "-y"]).succeeded();
    assert!(PathBuf::from(aside).exists(), "what was set aside stays");
    assert_nothing_held(&node, &network());
}

/// Error 105 names this way out.
fn reset_is_the_way_out_of_a_damaged_store() {
    let (node, _containers) = inhabited();
    damage(&node);
    let new = Container::on_paper("new", 4);
    let error = network().add(&node, &new, fixed(8080)).run(&node).failed_with(105);
    assert!(error.details.contains("portclaimctl reset"), "{error:?}");
    let kept = ctl(&node, &network(), &["reset", "--yes", "--keep-claims"]);
    assert!(kept.with_status(1).contains("which cannot be read"), "{kept:?}");
    assert_eq!(forwarded_ports(&node), [8080, 5353], "what cannot be kept is not removed");
    let done = ctl(&node, &network(), &["reset", "--yes"]);
    assert!(done.succeeded().contains("the database is now in NODE/data/removed-"), "{done:?}");
    assert_eq!(Node::files(&node.run_dir()), [""; 0]);
    network().status(&node).run(&node).succeeded();
    add(&node, &new, fixed(8080));
    assert_eq!(forwarded_ports(&node), [8080]);
}

fn reset_may_keep_claims() {
    let node = Node::new(false);
    let pod = Container::on_paper("arena", 2).in_pod("games", "arena-0", "1");
    let request = annotated(&[("ports", "game=7777/tcp+udp"), ("claim", "arena")]);
    network().add_with(&node, &pod, request.clone()).run(&node).succeeded();
    let ports = ports_of(&node, &pod);
    let done = ctl(&node, &network(), &["reset", "--yes", "--keep-claims"]);
    assert!(done.succeeded().ends_with("kept 2 claims\n"), "{done:?}");
    assert_nothing_held(&node, &network());
    let next = Container::on_paper("next", 3).in_pod("games", "arena-1", "2");
    network().add_with(&node, &next, request).run(&node).succeeded();
    assert_eq!(ports_of(&node, &next), ports);
}

/// A call that is killed as it runs nft, before or after the kernel has taken it,
/// leaves what the next call of any kind puts right.
fn killed_at_nft() {
    for after in [false, true] {
        for verb in [&["restore"][..], &["gc"], &["reset", "--yes"], &["release", "--yes", "8081"]]
        {
            let node = Node::new(false);
            let web = Container::on_paper("webs", 2);
            let sandbox = Sandbox::start();
            add(&node, &web, fixed(8080));
            network()
                .add(&node, &Container::on_paper("dead", 3), fixed(8081))
                .with("CNI_NETNS", &sandbox.path())
                .run(&node)
                .succeeded();
            drop(sandbox);
            if verb == ["restore"] {
                node.host.nft("flush ruleset");
            }
            let path = deadly_nft(&node, 1, after);
            let mut command = tool::command(&node, &network(), verb);
            let killed = tool::run(&node, command.env("PATH", path));
            assert_eq!(killed.status, None, "{verb:?}: {killed:?}");
            let held: Vec<_> = leases(&node).into_iter().map(|held| held.host_port).collect();
            for port in forwarded_ports(&node) {
                assert!(held.contains(&port), "{verb:?} {after}: {port} of {held:?}");
            }
            // Whatever it was, `restore` makes it whole.
            ctl(&node, &network(), &["restore"]).succeeded();
            ctl(&node, &network(), &["check"]).succeeded();
            assert_eq!(forwarded_ports(&node), [8080, 8081], "{verb:?} {after}");
            // And the same call does what it was to do.
            let again = ctl(&node, &network(), verb);
            again.succeeded();
            let expected = match verb[0] {
                "restore" => vec![8080, 8081],
                "reset" => vec![],
                _ => vec![8080],
            };
            assert_eq!(forwarded_ports(&node), expected, "{verb:?} {after}");
            ctl(&node, &network(), &["check"]).succeeded();
        }
    }
}

/// The same at any moment: what is left can be read, forwards nothing for nobody, and
/// is made whole by the next calls.
fn killed_at_any_moment() {
    const ROUNDS: u32 = 24;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let node = Node::new(false);
    let mut life = Duration::from_millis(60);
    for round in 0..ROUNDS {
        let verb = [&["restore"][..], &["gc"], &["reset", "--yes"]][round as usize % 3];
        let sandbox = Sandbox::start();
        add(&node, &Container::on_paper("webs", 2), fixed(8080));
        network()
            .add(&node, &Container::on_paper("dead", 3), fixed(8081))
            .with("CNI_NETNS", &sandbox.path())
            .run(&node)
            .succeeded();
        drop(sandbox);
        node.host.nft("flush ruleset");
        let mut command = tool::command(&node, &network(), verb);
        let start = Instant::now();
        if round < 3 {
            tool::run(&node, &mut command).succeeded();
            life = life.max(start.elapsed());
            continue;
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = node.host.enter(|| command.spawn().unwrap());
        // Not a wait for something: the moment of the kill is the point.
        std::thread::sleep(life.mul_f32(rng.f32()));
        child.kill().unwrap();
        child.wait().unwrap();
        let held: Vec<_> = leases(&node).into_iter().map(|held| held.host_port).collect();
        assert!(held.contains(&8080) || verb[0] == "reset", "round {round}: {held:?}");
        for port in forwarded_ports(&node) {
            assert!(held.contains(&port), "round {round}: {port} of {held:?}");
        }
        ctl(&node, &network(), &["restore"]).succeeded();
        ctl(&node, &network(), &["check"]).succeeded();
        let mut held: Vec<_> = leases(&node).into_iter().map(|held| held.host_port).collect();
        held.sort_unstable();
        assert_eq!(forwarded_ports(&node), held, "round {round}");
    }
    ctl(&node, &network(), &["reset", "--yes"]).succeeded();
    assert_nothing_held(&node, &network());
}

/// What `doctor` says of one thing: states and texts.
fn diagnoses(found: &Value, check: &str) -> Vec<(String, String)> {
    let all = found.as_array().unwrap().iter().filter(|one| one["check"] == check);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all.map(|one| (text(&one["state"]), text(&one["text"]))).collect()
}

fn doctor_of_a_healthy_node() {
    let (node, _containers) = inhabited();
    node.host.sysctl("ipv4/ip_local_port_range", "40000 50000");
    let all = json!({ "portMappings": true, "io.kubernetes.cri.pod-annotations": true });
    let found = ctl(&node, &network().option("capabilities", all), &["doctor"]);
    let text = found.succeeded();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for line in [
        "ok    conflist: NODE/podnet.conflist: network podnet has portclaim",
        "ok    nf_tables: the kernel would take a table",
        "ok    lock: nobody holds NODE/data/lock",
        "2 ports, 0 claims",
        "ok    runDir: NODE/run is in memory",
        "ok    clock: the clock has gone forwards",
        "ok    ip_forward: IPv4 is forwarded",
        "ok    br_netfilter: off",
        "ok    pools: group default of network podnet: 10000 ports",
        "ok    port-mappers: nobody else forwards host ports",
    ] {
        // Long lines are broken, wherever the node's folder is.
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat(text).contains(&flat(line)), "{line} in {text}");
    }
    assert!(!text.contains("fail") && !text.contains("warn"), "{text}");
    let before = (leases(&node), node.traces());
    ctl(&node, &network(), &["doctor", "-o", "json"]).succeeded();
    assert_eq!((leases(&node), node.traces()), before);
}

fn doctor_finds_what_is_wrong() {
    let (node, _containers) = inhabited();
    node.host.nft(
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }
         table ip nat { chain CNI-HOSTPORT-DNAT { }; chain KUBE-SERVICES { }; }",
    );
    node.host.sysctl("ipv4/ip_forward", "0");
    node.host.sysctl("ipv4/ip_local_port_range", "15000 30000");
    node.host.sysctl("ipv4/ip_local_reserved_ports", "15000-18999");
    let lock = fs::OpenOptions::new().write(true).open(node.data_dir().join("lock")).unwrap();
    lock.lock_exclusive().unwrap();
    fs::create_dir(node.data_dir().join("damaged.7")).unwrap();
    fs::create_dir(node.data_dir().join("writing.1.1")).unwrap();
    let found = ctl(&node, &network(), &["doctor", "-o", "json"]);
    found.with_status(1);
    let found = found.json();
    let process = std::process::id();
    for (check, state, text) in [
        ("firewall", "warn", "chain FORWARD of table ip filter drops what it does not accept"),
        ("port-mappers", "warn", "portmap has rules: containers that it has forwarded"),
        ("port-mappers", "ok", "kube-proxy is there"),
        ("ip_forward", "fail", "net.ipv4.ip_forward is 0"),
        ("lock", "warn", &format!("is held by process {process} (")),
        ("set-aside", "warn", "damaged.7"),
        ("leftovers", "ok", "1 directories of killed calls"),
        ("pools", "warn", "has 1000 ports that the kernel gives to connections: 19000-19999"),
    ] {
        let said = diagnoses(&found, check);
        let is_said = said.iter().any(|(s, t)| s == state && t.contains(text));
        assert!(is_said, "{check}: {text} in {said:?}");
    }
    let pools = found.as_array().unwrap().iter().find(|one| one["check"] == "pools").unwrap();
    let advice = pools["advice"].as_str().unwrap();
    assert!(advice.contains("ip_local_reserved_ports=15000-19999"), "{advice}");

    damage(&node);
    let found = ctl(&node, &network(), &["doctor", "-o", "json"]).json();
    let database = diagnoses(&found, "database");
    assert!(database[0].0 == "fail" && database[0].1.contains("is damaged"), "{database:?}");
    let generations = diagnoses(&found, "generations");
    assert!(generations[0].0 == "warn" && generations[0].1.contains("damaged"), "{generations:?}");
}

fn doctor_looks_at_the_conflist() {
    let node = Node::new(false);
    let file = node.folder("wrong.conflist");
    let ours = json!({ "type": "portclaim", "capabilities": { "portMappings": true } });
    for (plugins, state, text) in [
        (json!([ours, { "type": "bridge" }]), "fail", "stands before the plugin that makes"),
        (
            json!([{ "type": "bridge" }, { "type": "portmap" }, ours]),
            "fail",
            "portclaim and portmap",
        ),
        (json!([{ "type": "bridge" }, ours]), "warn", "io.kubernetes.cri.pod-annotations"),
    ] {
        let list = json!({ "cniVersion": "1.0.0", "name": "wrong", "plugins": plugins });
        fs::write(&file, list.to_string()).unwrap();
        let mut command = node.command(env!("CARGO_BIN_EXE_portclaimctl").as_ref());
        command.arg("--config").arg(&file).args(["doctor", "-o", "json", "--data-dir"]);
        command.arg(node.data_dir()).arg("--run-dir").arg(node.run_dir());
        let found = tool::run(&node, &mut command);
        let said = diagnoses(&found.json(), "conflist");
        assert!(said.iter().any(|(s, t)| s == state && t.contains(text)), "{text}: {said:?}");
        assert_eq!(found.status, Some(i32::from(state == "fail")), "{found:?}");
    }
}

/// Without root, `doctor` says what it could not look at, and fails of none of it.
fn doctor_without_root() {
    let (node, _containers) = inhabited();
    // Others may reach the conflist, but for what is closed to them.
    fs::set_permissions(node.folder(""), fs::Permissions::from_mode(0o755)).unwrap();
    let inner = tool::command(&node, &network(), &["doctor", "-o", "json"]);
    let copy = node.folder("portclaimctl");
    fs::copy(env!("CARGO_BIN_EXE_portclaimctl"), &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    command.arg(copy).args(inner.get_args());
    let found = tool::run(&node, &mut command);
    let text = found.succeeded();
    assert!(text.contains("\"skip\"") && text.contains("run doctor as root"), "{text}");
    assert_eq!(diagnoses(&found.json(), "ip_forward")[0].0, "ok");
}

pub fn trials() -> Vec<Trial> {
    crate::trials(
        "operator",
        [
            ("check", check_names_every_difference_and_restore_puts_it_right as fn()),
            ("check::programs", check_for_programs),
            ("check::lock", check_waits_for_a_call_that_is_half_way),
            ("nothing-there", nothing_to_look_at),
            ("restore", restore_says_what_it_does),
            ("restore::foreign", restore_takes_out_what_nobody_owns),
            ("restore::reboot", restore_after_a_reboot),
            ("restore::many", restore_of_two_thousand_mappings),
            ("gc", gc_of_a_hundred_dead_beside_a_hundred_live),
            ("gc::error", gc_goes_on_after_an_error),
            ("release", release_gives_back_what_is_meant),
            ("release::claims", release_of_claims),
            ("reset", reset_removes_everything),
            ("reset::damage", reset_is_the_way_out_of_a_damaged_store),
            ("reset::claims", reset_may_keep_claims),
            ("killed::nft", killed_at_nft),
            ("killed::any-moment", killed_at_any_moment),
            ("doctor", doctor_of_a_healthy_node),
            ("doctor::wrong", doctor_finds_what_is_wrong),
            ("doctor::conflist", doctor_looks_at_the_conflist),
            ("doctor::no-root", doctor_without_root),
        ],
    )
}
