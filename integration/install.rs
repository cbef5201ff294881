//! `scripts/install`, and what it leaves on a machine: files, conflists, units.

mod kubernetes;
mod machine;
mod unit;

use std::{fs, os::unix::fs::MetadataExt as _};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use machine::Machine;

/// What is there after an installation, and gone after the removal.
const INSTALLED: [&str; 10] = [
    "etc/systemd/system/firewalld.service.d/portclaim.conf",
    "etc/systemd/system/multi-user.target.wants/portclaim-restore.service",
    "etc/systemd/system/nftables.service.d/portclaim.conf",
    "etc/systemd/system/portclaim-gc.service",
    "etc/systemd/system/portclaim-gc.timer",
    "etc/systemd/system/portclaim-registry.service",
    "etc/systemd/system/portclaim-restore.service",
    "etc/systemd/system/timers.target.wants/portclaim-gc.timer",
    "opt/cni/bin/portclaim",
    "usr/local/bin/portclaimctl",
];

const CONFLIST: &str = "/etc/cni/net.d/10-mynet.conflist";
const BACKUP: &str = "/etc/cni/net.d/10-mynet.conflist.before-portclaim";

/// As it is found on many a node.
const BEFORE: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "mynet",
  "plugins": [
    { "type": "bridge", "hairpinMode": true, "ipam": { "type": "host-local" } },
    { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
    { "type": "tuning" }
  ]
}
"#;

fn after() -> String {
    BEFORE.replace("\"portmap\"", "\"portclaim\", \"formerly\": \"portmap\"").replace(
        "\"portMappings\": true }",
        "\"portMappings\": true, \"portClaims\": true, \"io.kubernetes.cri.pod-annotations\": true }",
    )
}

fn machine() -> Machine {
    Machine::with_conflist("10-mynet.conflist", BEFORE)
}

/// Calls what is installed, as its conflist says.
fn call(machine: &Machine, command: &str, container: &str) {
    let list: Value = serde_json::from_str(&machine.read(CONFLIST)).unwrap();
    let plugins = list["plugins"].as_array().unwrap();
    let mut config = plugins.iter().find(|plugin| plugin["type"] == "portclaim").unwrap().clone();
    config["cniVersion"] = list["cniVersion"].clone();
    config["name"] = list["name"].clone();
    let mappings = json!([{ "hostPort": 8080, "containerPort": 80 }]);
    config["runtimeConfig"] = json!({ "portMappings": mappings });
    config["prevResult"] =
        json!({ "cniVersion": "0.4.0", "ips": [{ "version": "4", "address": "10.99.0.2/16" }] });
    let mut plugin = machine.command("/opt/cni/bin/portclaim");
    plugin.envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", container)]);
    plugin.envs([("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/run/none")]);
    let output = machine.node.host.output(&mut plugin, config.to_string().as_bytes());
    assert!(output.status.success(), "{output:?}");
}

fn portclaim_comes_and_goes() {
    let machine = machine();
    let first = machine.install(&[]);
    let printed = first.succeeded();
    assert!(printed.contains("ok    conflist: /etc/cni/net.d/10-mynet.conflist"), "{printed}");
    assert_eq!(machine.files(), INSTALLED);
    assert_eq!(machine.read(CONFLIST), after());
    assert_eq!(machine.conflists(), ["10-mynet.conflist", "10-mynet.conflist.before-portclaim"]);
    assert_eq!(machine.read(BACKUP), BEFORE);
    let before = fs::metadata(machine.at(CONFLIST)).unwrap().ino();
    let again = machine.install(&[]);
    assert!(again.succeeded().contains("10-mynet.conflist has portclaim already"), "{again:?}");
    assert_eq!(fs::metadata(machine.at(CONFLIST)).unwrap().ino(), before, "it is left alone");
    assert_eq!(machine.files(), INSTALLED);
    assert_eq!(machine.read(BACKUP), BEFORE);

    call(&machine, "ADD", "web");
    let everything = (machine.files(), machine.conflists());
    let refused = machine.install(&["--uninstall"]);
    refused.with_status(1);
    let complaint = &refused.stderr;
    assert!(complaint.contains("would lose") && complaint.contains("8080/tcp"), "{complaint}");
    assert_eq!((machine.files(), machine.conflists()), everything);
    call(&machine, "DEL", "web");
    machine.install(&["--uninstall"]).succeeded();
    assert_eq!(machine.files(), [""; 0]);
    assert_eq!(machine.conflists(), ["10-mynet.conflist"]);
    assert_eq!(machine.read(CONFLIST), BEFORE);
    assert_eq!(machine.node.host.nft("list ruleset"), "");
    // What was held is kept, as after every reset.
    let kept = fs::read_dir(machine.at("/var/lib/portclaim")).unwrap();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().file_name()).collect();
    let is_known = |name: &str| name == "lock" || name.starts_with("removed-");
    assert!(
        kept.len() == 2 && kept.iter().all(|name| is_known(name.to_str().unwrap())),
        "{kept:?}"
    );
    machine.install(&["--uninstall"]).succeeded();
}

/// Whoever runs a binary, or reads it to run it, has the old one or the new one whole.
fn an_upgrade_replaces_at_once() {
    let machine = machine();
    machine.write("/opt/cni/bin/portclaim", "old");
    fs::hard_link(machine.at("/opt/cni/bin/portclaim"), machine.at("/opt/running")).unwrap();
    machine.install(&[]).succeeded();
    call(&machine, "ADD", "web");
    assert_eq!(machine.read("/opt/running"), "old");
    machine.install(&[]).succeeded();
    call(&machine, "DEL", "web");
    machine.install(&["--uninstall", "--force"]).succeeded();
    assert_eq!(machine.files(), ["opt/running"]);
}

fn containers_may_be_left_without_ports() {
    let machine = machine();
    machine.install(&[]).succeeded();
    call(&machine, "ADD", "web");
    let done = machine.install(&["--uninstall", "--force"]);
    assert!(done.succeeded().contains("removed table inet portclaim_mynet"), "{done:?}");
    assert_eq!(machine.files(), [""; 0]);
    assert_eq!(machine.node.host.nft("list ruleset"), "");
}

/// Calico, say, has written its conflist anew, or the operator has changed it.
fn changes_of_others_are_kept() {
    let machine = machine();
    machine.install(&[]).succeeded();
    machine.write(CONFLIST, &after().replace("tuning", "bandwidth"));
    machine.install(&["--uninstall"]).succeeded();
    assert_eq!(machine.read(CONFLIST), BEFORE.replace("tuning", "bandwidth"));
    assert_eq!(machine.conflists(), ["10-mynet.conflist"]);

    machine.install(&[]).succeeded();
    let new = BEFORE.replace("tuning", "sbr");
    machine.write(CONFLIST, &new);
    machine.install(&[]).succeeded();
    assert_eq!(machine.read(CONFLIST), after().replace("tuning", "sbr"));
    assert_eq!(machine.read(BACKUP), new, "as it was before the last time");
    machine.write(CONFLIST, &new);
    machine.install(&["--uninstall"]).succeeded();
    assert_eq!(machine.read(CONFLIST), new);
    assert_eq!(machine.conflists(), ["10-mynet.conflist"]);
}

/// Where no network plugin is installed, a conflist may come along.
fn a_conflist_may_come_along() {
    let machine = Machine::new();
    let refused = machine.install(&[]);
    refused.with_status(1);
    assert!(refused.stderr.contains("there is no conflist in /etc/cni/net.d"), "{refused:?}");
    assert_eq!(machine.files(), [""; 0]);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/conflist/10-portclaim-bridge.conflist");
    machine.install(&["--new-conf", example]).succeeded();
    let there = machine.read("/etc/cni/net.d/10-portclaim-bridge.conflist");
    assert_eq!(there, fs::read_to_string(example).unwrap());
    machine.install(&["--uninstall"]).succeeded();
    assert_eq!((machine.files(), machine.conflists()), (vec![], vec![]));
}

/// Several networks, directories of their own, and a link to where the file is.
fn directories_may_be_others() {
    let machine = machine();
    machine.write("/opt/net/20-other.conflist", &BEFORE.replace("mynet", "other"));
    std::os::unix::fs::symlink("/opt/net/20-other.conflist", machine.at("/opt/link")).unwrap();
    let options = [
        "--conf",
        CONFLIST,
        "--conf",
        "/opt/link",
        "--bin-dir",
        "/opt/plugins",
        "--ctl-dir",
        "/opt/tools",
        "--unit-dir",
        "/opt/units",
    ];
    machine.install(&options).succeeded();
    assert_eq!(
        machine.files(),
        [
            "opt/link",
            "opt/net/20-other.conflist",
            "opt/net/20-other.conflist.before-portclaim",
            "opt/plugins/portclaim",
            "opt/tools/portclaimctl"
        ]
    );
    assert!(machine.read("/opt/net/20-other.conflist").contains("portclaim"));
    machine.install(&[&options[..], &["--uninstall"]].concat()).succeeded();
    assert_eq!(machine.files(), ["opt/link", "opt/net/20-other.conflist"]);
    assert_eq!(machine.read("/opt/net/20-other.conflist"), BEFORE.replace("mynet", "other"));
    assert_eq!(machine.read(CONFLIST), BEFORE);
}

/// Into the root of an image, or from a container into its node.
fn another_root_is_all_that_changes() {
    let machine = Machine::new();
    machine.write("/opt/image/etc/cni/net.d/10-mynet.conflist", BEFORE);
    fs::create_dir_all(machine.at("/opt/image/etc/systemd/system")).unwrap();
    machine.install(&["--root", "/opt/image"]).succeeded();
    let installed: Vec<_> = INSTALLED.iter().map(|file| format!("opt/image/{file}")).collect();
    let mut files = machine.files();
    files.retain(|file| !file.starts_with("opt/image/etc/cni"));
    assert_eq!(files, installed);
    assert_eq!(machine.read(&format!("/opt/image{CONFLIST}")), after());
    assert!(!machine.at("/var/lib/portclaim").exists());
    machine.install(&["--root", "/opt/image", "--uninstall"]).succeeded();
    assert_eq!(machine.files(), [format!("opt/image{CONFLIST}")]);
    assert_eq!(machine.read(&format!("/opt/image{CONFLIST}")), BEFORE);
}

/// What would leave the node without working networks is said, and not done.
fn refusals_change_nothing() {
    for (conflist, message) in [
        ("{", "10-mynet.conflist: it is not JSON: EOF while parsing an object"),
        ("{\"type\": \"bridge\"}", "10-mynet.conflist: it is no conflist"),
        (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": []}"#, "it has no plugin that makes"),
        (&BEFORE.replace("\"snat\"", "\"markMasqBit\": 5, \"snat\""), "markMasqBit"),
        (&BEFORE.replace("0.4.0", "0.2.0"), "cniVersion"),
    ] {
        let machine = Machine::with_conflist("10-mynet.conflist", conflist);
        let refused = machine.install(&[]);
        refused.with_status(1);
        assert!(refused.stderr.contains(message), "{message}: {refused:?}");
        assert_eq!(machine.read(CONFLIST), conflist);
        assert_eq!(machine.conflists(), ["10-mynet.conflist"]);
        assert_eq!(machine.files(), [""; 0]);
    }
    let machine = machine();
    for (options, message) in [
        (&["--what"][..], "there is no option --what"),
        (&["--conf"], "--conf needs a value"),
        (&["--conf", "10-mynet.conflist"], "10-mynet.conflist is no absolute path"),
        (&["--root", "/opt/none"], "there is no directory /opt/none"),
        (&["--from", "/opt/none"], "there is no /opt/none/portclaim: run scripts/build first"),
    ] {
        let refused = machine.install(options);
        refused.with_status(1);
        assert!(refused.stderr.contains(message), "{message}: {refused:?}");
        assert_eq!(machine.files(), [""; 0]);
    }
    // No container could start where a file has the place of the database.
    let machine = self::machine();
    machine.write("/var/lib/portclaim", "");
    let refused = machine.install(&[]);
    refused.with_status(1);
    assert!(refused.stderr.contains("nothing was installed"), "{refused:?}");
    assert_eq!(machine.files(), [""; 0]);
    assert_eq!(machine.read(CONFLIST), BEFORE);
}

/// What nobody needs, need not be there.
fn nft_need_not_be_there() {
    let machine = Machine::without("/usr/sbin");
    machine.write(CONFLIST, BEFORE);
    machine.install(&[]).succeeded();
    assert_eq!(machine.read(CONFLIST), after());
    call(&machine, "ADD", "web");
    call(&machine, "DEL", "web");
}

pub fn trials() -> Vec<Trial> {
    let tests = [
        ("come_and_go", portclaim_comes_and_goes as fn()),
        ("upgrade", an_upgrade_replaces_at_once),
        ("force", containers_may_be_left_without_ports),
        ("changes_of_others", changes_of_others_are_kept),
        ("new_conflist", a_conflist_may_come_along),
        ("directories", directories_may_be_others),
        ("root", another_root_is_all_that_changes),
        ("refusals", refusals_change_nothing),
        ("without_nft", nft_need_not_be_there),
    ];
    let areas = [
        crate::trials("install", tests),
        crate::trials("install", unit::TESTS),
        crate::trials("install", kubernetes::TESTS),
    ];
    areas.into_iter().flatten().collect()
}
