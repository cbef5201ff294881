//! Templates that are filled with the ports of claims.

use std::{fs, path::Path};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    node::Node,
    tool::{Ran, command, run},
};

const WEB: &str = include_str!("../src/bin/portclaimctl/template/examples/web.yaml");
const CONDITIONAL: &str =
    include_str!("../src/bin/portclaimctl/template/examples/conditional.yaml");

/// Groups as the seed has them; HTTP ports here are such as a test may take.
fn network() -> Network {
    Network::bridge("podnet", true).option(
        "groups",
        json!({
            "http": { "ports": "8000-8009", "protocols": ["tcp"] },
            "udp": { "ports": "9000-9009", "protocols": ["udp"] },
            "pods": { "ports": "7000-7009", "namespaces": ["games"] },
        }),
    )
}

/// A call in the node's folder, in which the files are.
fn render(node: &Node, arguments: &str) -> Ran {
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let mut command = command(node, &network(), &arguments);
    run(node, command.current_dir(node.folder("")))
}

fn write(node: &Node, name: &str, text: &str) {
    fs::write(node.folder(name), text).unwrap();
}

fn declare(node: &Node, claims: &Value) {
    write(node, "ports.json", &claims.to_string());
}

/// What modules hold: `web 8000/tcp`.
fn held(node: &Node) -> Vec<String> {
    let list = render(node, "list -o json");
    list.succeeded();
    let rows = list.json();
    let show = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        format!("{} {}/{}", text("claim"), row["hostPort"], text("protocol"))
    };
    rows.as_array().unwrap().iter().map(show).collect()
}

fn claims_are_allocated_once_and_kept() {
    let mut node = Node::new(false);
    write(&node, "web.yaml", WEB);
    declare(
        &node,
        &json!([
            { "claim": "web", "group": "http", "random": false },
            { "claim": "https", "group": "http", "preferred_port": 8000 },
            { "claim": "dns", "group": "udp", "preferred_port": 9005 },
        ]),
    );
    let expected = WEB
        .replace("{{ $portClaims['web'] }}", "8001")
        .replace("{{ $portClaims['https'] }}", "8000");
    let dry = render(&node, "render web.yaml --claims ports.json --owner shop --dry-run");
    assert_eq!(dry.succeeded(), expected);
    assert_eq!(Node::files(&node.data_dir()), [""; 0], "nothing is changed");
    let first = render(&node, "render web.yaml --claims ports.json --owner shop");
    assert_eq!(first.succeeded(), expected);
    assert_eq!(
        first.stderr,
        "portclaimctl: allocated 8000/tcp for claim https\n\
         portclaimctl: allocated 9005/udp for claim dns\n\
         portclaimctl: allocated 8001/tcp for claim web\n"
    );
    let all = ["https 8000/tcp", "web 8001/tcp", "dns 9005/udp"];
    assert_eq!(held(&node), all);
    let env = fs::read_to_string(node.run_dir().join("modules/shop/ports.env")).unwrap();
    assert!(env.contains("PORT_WEB=8001\n") && env.contains("PORT_DNS=9005\n"), "{env}");
    // Kept, also over a reboot, and with no file of claims at all.
    node.reboot();
    for arguments in
        ["render web.yaml --claims ports.json --owner shop", "render web.yaml --owner shop"]
    {
        let again = render(&node, arguments);
        assert_eq!((again.succeeded(), again.stderr.as_str()), (expected.as_str(), ""));
    }
    // Nobody else gets them, and the numbers of `allocate` leave them alone.
    let pod = Container::on_paper("pod", 2);
    let fixed = json!([{ "hostPort": 8001, "containerPort": 80 }]);
    let error = network().add(&node, &pod, fixed).run(&node).failed_with(100);
    assert_eq!(error.message, "host port 8001/tcp is held by module shop");
    assert_eq!(
        render(&node, "allocate --tcp 2 --owner shop --group http").succeeded(),
        "8002-8003\n"
    );
    assert_eq!(render(&node, "deallocate --tcp --owner shop").succeeded(), "8002-8003\n");
    assert_eq!(held(&node), all);
}

fn declarations_are_upserted_and_pruned() {
    let node = Node::new(false);
    let two = json!([
        { "claim": "web", "group": "http", "random": false },
        { "claim": "old", "group": "http", "random": false },
    ]);
    declare(&node, &two);
    render(&node, "render --claims ports.json --owner shop").succeeded();
    assert_eq!(held(&node), ["web 8000/tcp", "old 8001/tcp"]);
    // Another group is another port; what is not declared stays.
    declare(&node, &json!([{ "claim": "web", "group": "udp", "random": false }]));
    let moved = render(&node, "render --claims ports.json --owner shop");
    assert_eq!(
        (moved.succeeded(), moved.stderr.as_str()),
        (
            "",
            "portclaimctl: gave back 8000/tcp for claim web\n\
             portclaimctl: allocated 9000/udp for claim web\n"
        )
    );
    let dry = render(&node, "render --claims ports.json --owner shop --prune --dry-run");
    dry.succeeded();
    assert_eq!(dry.stderr, "portclaimctl: would have given back 8001/tcp for claim old\n");
    assert_eq!(held(&node), ["old 8001/tcp", "web 9000/udp"]);
    render(&node, "render --claims ports.json --owner shop --prune").succeeded();
    assert_eq!(held(&node), ["web 9000/udp"]);
    // Of another service nothing is touched.
    declare(&node, &json!([]));
    render(&node, "render --claims ports.json --owner other --prune").succeeded();
    assert_eq!(held(&node), ["web 9000/udp"]);
    render(&node, "render --claims ports.json --owner shop --prune").succeeded();
    assert_eq!(held(&node), [""; 0]);
    assert_eq!(node.published(), [""; 0]);
}

/// A full pool whose old claims go makes room for the new ones.
fn what_is_pruned_makes_room() {
    let node = Node::new(false);
    let claims = |names: std::ops::Range<u8>| -> Value {
        let claim = |at| json!({ "claim": format!("c{at}"), "group": "http" });
        names.map(claim).collect()
    };
    declare(&node, &claims(0..10));
    render(&node, "render --claims ports.json --owner shop").succeeded();
    declare(&node, &claims(5..15));
    let before = held(&node);
    let full = render(&node, "render --claims ports.json --owner shop");
    full.with_status(1);
    assert!(full.stderr.contains("claim c10: group \"http\" has no free tcp port"), "{full:?}");
    assert_eq!(held(&node), before);
    render(&node, "render --claims ports.json --owner shop --prune").succeeded();
    assert_eq!(held(&node).len(), 10);
}

fn what_is_wrong_changes_nothing() {
    let node = Node::new(false);
    write(&node, "conditional.yaml", CONDITIONAL);
    write(&node, "broken.yaml", "port: {{ .Values.port }}\n");
    write(&node, "web.yaml", WEB);
    let claim =
        |entry: Value| declare(&node, &json!([{ "claim": "optional", "group": "http" }, entry]));
    for (entry, arguments, status, message) in [
        (
            json!({ "claim": "other" }),
            "render conditional.yaml --claims ports.json --owner shop",
            1,
            "portclaimctl: conditional.yaml:13: port claim \"required\" is not set\n",
        ),
        (json!({ "claim": "web" }), "render broken.yaml --owner shop", 1, "broken.yaml:1: "),
        (
            json!({ "claim": "web", "port": 1 }),
            "render --claims ports.json --owner shop",
            2,
            "ports.json[1] has the key \"port\"",
        ),
        (
            json!({ "claim": "web", "group": "absent" }),
            "render --claims ports.json --owner shop",
            2,
            "portclaimctl: claim web: there is no group \"absent\"\n",
        ),
        (
            json!({ "claim": "web", "group": "pods" }),
            "render --claims ports.json --owner shop",
            32,
            "claim web: group \"pods\" is for pods",
        ),
        (
            json!({ "claim": "web", "group": "udp", "protocol": "tcp" }),
            "render --claims ports.json --owner shop",
            2,
            "claim web: group \"udp\" is for udp, tcp is asked for",
        ),
        (
            json!({ "claim": "web", "group": "http", "preferred_port": 80 }),
            "render --claims ports.json --owner shop",
            2,
            "claim web: preferred_port 80 is not in group \"http\", which has 8000-8009",
        ),
        (json!({ "claim": "web" }), "render --claims ports.json", 2, "no module is named"),
        (json!({ "claim": "web" }), "render --owner shop", 2, "required"),
        (
            json!({ "claim": "web" }),
            "render absent.yaml --owner shop",
            1,
            "cannot read absent.yaml",
        ),
        (
            json!({ "claim": "web" }),
            "render web.yaml ./web.yaml --owner shop --output out",
            1,
            "two templates would be written to out/web.yaml",
        ),
    ] {
        claim(entry);
        let refused = render(&node, arguments);
        refused.with_status(status);
        assert!(refused.stderr.contains(message), "{arguments}: {refused:?}");
        assert_eq!(refused.stdout, "", "{arguments}");
        assert_eq!(held(&node), [""; 0], "{arguments}");
    }
}

/// A service that has no port for a claim still gets the file without it.
fn several_files() {
    let node = Node::new(false);
    write(&node, "conditional.yaml", CONDITIONAL);
    write(&node, "plain.yaml", "plain: {{ $portClaims['required'] }}\n");
    declare(&node, &json!([{ "claim": "required", "group": "http", "preferred_port": 8007 }]));
    let all = "render conditional.yaml plain.yaml --claims ports.json --owner shop";
    let printed = render(&node, all);
    let (first, second) = printed.succeeded().split_once("---\n").unwrap();
    assert!(first.contains("port: 8007") && !first.contains("optional"), "{first}");
    assert_eq!(second, "plain: 8007\n");
    fs::create_dir(node.folder("out")).unwrap();
    assert_eq!(render(&node, &format!("{all} --output out")).succeeded(), "");
    let read = |name: &str| fs::read_to_string(node.folder("out").join(name)).unwrap();
    assert_eq!((read("conditional.yaml").as_str(), read("plain.yaml").as_str()), (first, second));
    let written: Vec<_> = Node::files(Path::new(&node.folder("out")));
    assert_eq!(written, ["conditional.yaml", "plain.yaml"]);
}

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 5] = [
        ("kept", claims_are_allocated_once_and_kept),
        ("upsert", declarations_are_upserted_and_pruned),
        ("room", what_is_pruned_makes_room),
        ("wrong", what_is_wrong_changes_nothing),
        ("files", several_files),
    ];
    crate::trials("render", tests)
}
