//! Claims and modules' ports that leave a node as a document and come back; and what
//! is made from the definitions of the commands.

use std::{
    fs,
    process::{Command, Stdio},
};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network, annotated},
    held::{claims, leases, ports_of},
    namespace,
    node::Node,
    tool::{Ran, command, run},
};

fn network() -> Network {
    Network::bridge("podnet", true).option(
        "groups",
        json!({
            "default": { "ports": "10000-10099,20001-20099" },
            "games": { "ports": "7000-7009", "namespaces": ["games"] },
        }),
    )
}

/// A call in the node's folder, in which the files are.
fn ctl(node: &Node, arguments: &str) -> Ran {
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let mut command = command(node, &network(), &arguments);
    run(node, command.current_dir(node.folder("")))
}

/// A node with a claim that is in use, one that is not, and the ports of two modules.
fn filled() -> Node {
    let node = Node::new(false);
    for (index, is_used) in [(0, false), (1, true)] {
        let name = format!("arena-{index}");
        let pod = Container::on_paper(&name, 2 + index).in_pod("games", &name, &name);
        let asked = annotated(&[("ports", "game=7777/tcp+udp@games"), ("claim", &name)]);
        network().add_with(&node, &pod, asked).run(&node).succeeded();
        if !is_used {
            network().del(&node, &pod).run(&node).succeeded();
        }
    }
    for arguments in [
        "allocate --tcp 4 --owner mail1",
        "allocate --tcp 2 --owner web1",
        "allocate --tcp 1 --owner mail1 --keep-existing --to 10.0.0.5:25",
    ] {
        ctl(&node, arguments).succeeded();
    }
    node
}

fn export(node: &Node) -> Value {
    let exported = ctl(node, "export");
    exported.succeeded();
    exported.json()
}

fn without_times(mut document: Value) -> Value {
    for claim in document["claims"].as_array_mut().unwrap() {
        claim.as_object_mut().unwrap().remove("expires");
    }
    document
}

fn another_node_has_the_same() {
    let node = filled();
    let document = export(&node);
    assert_eq!(document["claims"].as_array().unwrap().len(), 4);
    let other = Node::new(false);
    fs::write(other.folder("all.json"), document.to_string()).unwrap();
    let dry = ctl(&other, "import all.json --dry-run");
    assert_eq!(dry.succeeded().lines().count(), 7, "{dry:?}");
    assert!(dry.stdout.contains("would allocate 10000-10003/tcp of mail1\n"), "{dry:?}");
    assert_eq!(export(&other), json!({ "claims": [], "modules": [] }));
    let done = ctl(&other, "import all.json");
    assert_eq!(
        done.succeeded(),
        dry.stdout.replace("would allocate", "allocated").replace("would reserve", "reserved")
    );
    assert_eq!(without_times(export(&other)), without_times(document));
    ctl(&other, "check").succeeded();
    let env = fs::read_to_string(other.run_dir().join("modules/mail1/ports.env")).unwrap();
    assert!(env.starts_with("TCP_PORT=10000\n"), "{env}");
    assert!(other.host.nft("list ruleset").contains("10.0.0.5"));
    // A pod that comes back here gets the same port again.
    let pod = Container::on_paper("new", 2).in_pod("games", "arena-1", "other");
    let asked = annotated(&[("ports", "game=7777/tcp+udp@games"), ("claim", "arena-1")]);
    network().add_with(&other, &pod, asked).run(&other).succeeded();
    let first = Container::on_paper("arena-1", 3);
    assert_eq!(ports_of(&other, &pod), ports_of(&node, &first));
    // Twice is once.
    let again = ctl(&other, "import all.json");
    assert_eq!(again.succeeded(), "7 are there already\n");
    assert_eq!(claims(&other).iter().filter(|claim| claim.holder.is_some()).count(), 2);
}

fn all_or_nothing() {
    let node = filled();
    let before = export(&node);
    let free = json!({ "module": "new", "protocol": "udp", "hostPort": 10050 });
    for (entry, status, message) in [
        (
            json!({ "module": "new", "protocol": "tcp", "hostPort": 10003 }),
            1,
            "modules[1]: host port 10003/tcp is held by module mail1",
        ),
        (
            json!({ "module": "new", "protocol": "tcp", "hostPort": 30000 }),
            2,
            "modules[1]: hostPort 30000 is not in group \"default\", which has 10000-10099,20001-20099",
        ),
        (
            json!({ "module": "new", "protocol": "tcp", "hostPort": 7005, "group": "games" }),
            32,
            "modules[1]: group \"games\" is for pods",
        ),
        (
            json!({ "module": "new", "protocol": "udp", "hostPort": 10049, "count": 3 }),
            1,
            "modules[1]: host port 10050/udp is held by module new",
        ),
        (json!({ "module": "new", "hostPort": 10049 }), 2, "modules[1]: missing field `protocol`"),
    ] {
        let document = json!({ "modules": [free, entry] });
        fs::write(node.folder("new.json"), document.to_string()).unwrap();
        let refused = ctl(&node, "import new.json");
        refused.with_status(status);
        assert!(refused.stderr.contains(message), "{refused:?}");
        assert_eq!(export(&node), before);
    }
    let claim = |port: u16, name: &str| {
        json!({ "namespace": "games", "claim": name, "name": "game", "protocol": "udp",
                "hostPort": port, "group": "games" })
    };
    let used = leases(&node)[0].host_port;
    let free_port =
        (7000..7010).find(|port| !before.to_string().contains(&port.to_string())).unwrap();
    for (entry, message) in [
        (claim(used, "other"), "claims[0]: "),
        (claim(free_port, "arena-1"), "claims[0]: claim games/arena-1 (game/udp) is held by"),
    ] {
        fs::write(node.folder("new.json"), json!({ "claims": [entry] }).to_string()).unwrap();
        let refused = ctl(&node, "import new.json");
        refused.with_status(1);
        assert!(refused.stderr.contains(message), "{refused:?}");
        assert_eq!(export(&node), before);
    }
    // A claim that nobody uses is moved.
    fs::write(
        node.folder("new.json"),
        json!({ "claims": [claim(free_port, "arena-0")] }).to_string(),
    )
    .unwrap();
    ctl(&node, "import new.json").succeeded();
    let moved = claims(&node).into_iter().find(|claim| claim.port.number() == free_port).unwrap();
    assert_eq!(moved.key.to_string(), "games/arena-0 (game/udp)");
}

fn the_environment_of_a_nethserver_module() {
    let node = Node::new(false);
    let environment = "MODULE_ID=mail1\nTCP_PORT=20001\nTCP_PORTS=20001-20004\nUDP_PORT=20001\n";
    fs::write(node.folder("environment"), environment).unwrap();
    let done = ctl(&node, "import environment --environment --owner mail1");
    assert_eq!(
        done.succeeded(),
        "allocated 20001-20004/tcp of mail1\nallocated 20001/udp of mail1\n"
    );
    let env = fs::read_to_string(node.run_dir().join("modules/mail1/ports.env")).unwrap();
    assert_eq!(
        env,
        "TCP_PORT=20001\nTCP_PORTS_RANGE=20001-20004\nTCP_PORTS=20001,20002,20003,20004\n\
         UDP_PORT=20001\n"
    );
    assert_eq!(ctl(&node, "allocate --tcp 1 --owner web1 --group default").succeeded(), "10000\n");
    fs::write(node.folder("environment"), "TCP_PORTS=20001;20002\n").unwrap();
    let wrong = ctl(&node, "import environment --environment --owner mail1");
    wrong.with_status(2);
    let message = "portclaimctl: environment: TCP_PORTS is \"20001;20002\": ports like 20001, ";
    assert!(wrong.stderr.starts_with(message), "{wrong:?}");
    ctl(&node, "import environment --environment").with_status(2);
}

/// Every command has a page, and shells read the completions.
fn pages_and_completions() {
    let node = Node::new(false);
    let manual = ctl(&node, "manual --output man");
    assert_eq!(manual.succeeded(), "");
    let pages = Node::files(node.folder("man").as_ref());
    let help = ctl(&node, "--help");
    let commands = help.succeeded().split("Commands:\n").nth(1).unwrap();
    let commands: Vec<_> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in &commands {
        let page = format!("portclaimctl-{command}.1");
        assert!(pages.contains(&page), "{page} in {pages:?}");
    }
    let first = ctl(&node, "manual");
    assert!(first.succeeded().contains(".SH NAME\nportclaimctl"), "{first:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = ctl(&node, &format!("completions {shell}"));
        for command in &commands {
            assert!(script.succeeded().contains(command.as_str()), "{shell}: {command}");
        }
    }
    let script = ctl(&node, "completions bash");
    let test = format!(
        "{}\nCOMP_WORDS=(portclaimctl al); COMP_CWORD=1; _portclaimctl portclaimctl al portclaimctl\n\
         echo \"${{COMPREPLY[@]}}\"",
        script.succeeded()
    );
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &test]).stdin(Stdio::null());
    let completed = namespace::output(&mut bash, b"");
    assert_eq!(String::from_utf8_lossy(&completed.stdout), "allocate\n", "{completed:?}");
}

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 4] = [
        ("node", another_node_has_the_same),
        ("conflicts", all_or_nothing),
        ("environment", the_environment_of_a_nethserver_module),
        ("pages", pages_and_completions),
    ];
    crate::trials("transfer", tests)
}
