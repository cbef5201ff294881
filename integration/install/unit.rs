//! The units of systemd: whether it takes them, and what they run.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{Machine, call, machine};
use crate::{registry::Server, tool, traffic::PATIENCE};

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
    assert_eq!(units.len(), 4);
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

/// A user of its own, as systemd makes it, and what that user may do.
fn the_registry_may_only_read() {
    const OWN: u32 = 61_184;
    const OTHER: u32 = 61_185;
    let machine = machine();
    machine.install(&[]).succeeded();
    call(&machine, "ADD", "web");
    let of = |key| {
        let commands = commands(&machine, "portclaim-registry.service", key).into_iter();
        let command = commands.map(|it| it.trim_start_matches(['-', '+']).replace("%t", "/run"));
        command.collect::<Vec<_>>()
    };
    let [start] = &*of("ExecStart") else { panic!() };
    let start = start.replace(":8642", ":0");
    let as_user = |user: u32, words: &str| {
        let mut command = machine.command("setpriv");
        let user = user.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--no-new-privs"]);
        command.args(["--inh-caps=-all", "--bounding-set=-all"]).args(words.split(' '));
        command
    };
    let ran = |command: &mut Command| tool::run(&machine.node, command);
    let denied = |command: &mut Command| {
        let ran = ran(command);
        assert!(ran.status != Some(0) && ran.stderr.contains("Permission denied"), "{ran:?}");
    };

    // RuntimeDirectory= and StateDirectory=
    for (folder, mode) in
        [("/run/portclaim-registry", 0o711), ("/var/lib/portclaim-registry", 0o700)]
    {
        let folder = machine.at(folder);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        chown(&folder, Some(OWN), Some(OWN)).unwrap();
    }
    denied(&mut as_user(OWN, &start));
    for command in of("ExecStartPre") {
        execute(&machine, &command);
    }
    let server = Server::spawn(&machine.node, &mut as_user(OWN, &start));
    let get = |path| server.get(&machine.node, path);
    assert_eq!(get("/v1/ports").json()["total"], 1, "what was there before");
    call(&machine, "DEL", "web");
    let deadline = Instant::now() + PATIENCE;
    while get("/v1/ports").json()["total"] != 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(get("/v1/ports").json()["total"], 0, "what came while it ran");
    assert_eq!(get("/healthz").body, "ok\n");
    let count = "portclaim_call_duration_seconds_count{verb=\"DEL\"} 1\n";
    assert!(get("/metrics").body.contains(count));

    call(&machine, "ADD", "web");
    let database = machine.at("/var/lib/portclaim");
    for words in ["portclaimctl release --yes 8080", "portclaimctl gc", "portclaimctl reset --yes"]
    {
        let ran = ran(&mut as_user(OWN, words));
        assert_ne!(ran.status, Some(0), "{words}: {ran:?}");
    }
    denied(&mut as_user(OWN, "flock --shared --nonblock /var/lib/portclaim/lock true"));
    denied(&mut as_user(OWN, "touch /var/lib/portclaim/new"));
    denied(&mut as_user(OWN, "touch /var/lib/portclaim/current/new"));
    denied(&mut as_user(OTHER, &start));
    denied(&mut as_user(OTHER, "portclaimctl list"));
    denied(&mut as_user(OTHER, "ls /var/lib/portclaim"));
    assert!(machine.run("portclaimctl", &["list"]).succeeded().contains("8080/tcp"));
    assert_eq!(fs::metadata(&database).unwrap().uid(), 0);

    drop(server);
    for command in of("ExecStopPost") {
        execute(&machine, &command);
    }
    denied(&mut as_user(OWN, &start));
    call(&machine, "DEL", "web");
}

pub const TESTS: [Test; 3] = [
    ("units::verify", systemd_takes_them),
    ("units::run", they_do_what_they_are_for),
    ("units::registry", the_registry_may_only_read),
];
