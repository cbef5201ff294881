//! The units of systemd: whether it takes them, and what they run.

use std::{fs, path::Path};

use super::{Machine, call, machine};

/// A test, and its name.
pub type Test = (&'static str, fn());

/// The commands that a key of an installed unit or drop-in names.
fn commands(machine: &Machine, file: &str, key: &str) -> Vec<String> {
    let text = machine.read(&format!("/etc/systemd/system/{file}"));
    let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

/// Runs one as systemd does: no shell, and `-` forgives a failure.
fn execute(machine: &Machine, command: &str) -> String {
    let mut words = command.trim_start_matches('-').split(' ');
    let program = words.next().unwrap();
    let arguments: Vec<_> = words.collect();
    machine.run(program, &arguments).succeeded().to_owned()
}

fn systemd_takes_them() {
    let machine = machine();
    machine.install(&[]).succeeded();
    let mut units: Vec<_> =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/node"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("portclaim-") && !name.contains(".conf"))
            .map(|name| format!("/etc/systemd/system/{name}"))
            .collect();
    units.sort();
    assert_eq!(units.len(), 3);
    units.push("nftables.service".to_owned());
    let mut arguments = vec!["verify", "--man=no", "--recursive-errors=yes"];
    arguments.extend(units.iter().map(String::as_str));
    let verified = machine.run("systemd-analyze", &arguments);
    assert_eq!((verified.succeeded(), &*verified.stderr), ("", ""));
}

/// After a firewall has emptied the ruleset, and ten minutes after a container is gone.
fn they_do_what_they_are_for() {
    let machine = machine();
    machine.install(&[]).succeeded();
    let reload = commands(&machine, "nftables.service.d/portclaim.conf", "ExecReload");
    assert_eq!(reload, ["-systemctl --no-block restart portclaim-restore.service"]);
    let [restore] = &*commands(&machine, "portclaim-restore.service", "ExecStart") else {
        panic!()
    };
    let [gc] = &*commands(&machine, "portclaim-gc.service", "ExecStart") else { panic!() };
    assert_eq!(restore, "/usr/local/bin/portclaimctl restore");
    // At boot, there may be nothing yet.
    execute(&machine, restore);
    execute(&machine, gc);
    call(&machine, "ADD", "web");
    machine.node.host.nft("flush ruleset");
    let printed = execute(&machine, restore);
    assert!(printed.contains("wrote table inet portclaim_mynet: 1 leases"), "{printed}");
    let printed = execute(&machine, gc);
    assert!(printed.contains("0 there"), "{printed}");
}

pub const TESTS: [Test; 2] =
    [("units::verify", systemd_takes_them), ("units::run", they_do_what_they_are_for)];
