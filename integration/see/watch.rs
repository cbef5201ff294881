//! `list --watch`: changes as they come, from whoever makes them.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::fixture::{CTL, Site, network};
use crate::{
    chain::{Container, Network},
    namespace::start,
};

/// Only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(20);

fn spawn(site: &Site, command: &mut Command) -> (Child, ChildStdout) {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = site.node.host.enter(|| start(command));
    let stdout = child.stdout.take().unwrap();
    (child, stdout)
}

fn list(site: &Site, args: &[&str]) -> Command {
    let mut command = site.node.command(Path::new(CTL));
    command.args(["list", "--watch"]).args(args).args(site.options());
    command
}

/// What a thread reads, as it comes.
fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            if sender.send(line.unwrap()).is_err() {
                break;
            }
        }
    });
    receiver
}

fn interrupt(child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::INT.as_raw()));
}

fn mappings(port: u16) -> Value {
    json!([{ "hostPort": port, "containerPort": 80 }])
}

fn add(site: &Site, network: &Network, container: &Container, port: u16) {
    network.add(&site.node, container, mappings(port)).run(&site.node).succeeded();
}

/// The database need not be there yet.
pub fn changes_come() {
    let site = Site::new();
    let network = network();
    let (web, db) = (Container::on_paper("web", 2), Container::on_paper("db", 3));
    let (mut json, stdout) = spawn(&site, &mut list(&site, &["-o", "json", "--port", "8000-8999"]));
    let objects = lines(stdout);
    let (mut table, stdout) = spawn(&site, &mut list(&site, &[]));
    let rows = lines(stdout);
    let row = || rows.recv_timeout(PATIENCE).unwrap();
    assert_eq!(row(), "   HOST PORT  TO  OWNER  NETWORK  GROUP  AGE");
    let change = || {
        let object: Value = serde_json::from_str(&objects.recv_timeout(PATIENCE).unwrap()).unwrap();
        let text = |key: &str| object[key].as_str().unwrap().to_owned();
        format!("{} {} {}", text("change"), object["hostPort"], text("containerID"))
    };
    add(&site, &network, &web, 8080);
    assert_eq!(change(), "added 8080 web");
    assert!(row().starts_with("+  8080/tcp   10.99.0.2:80  web/eth0  podnet   static  "));
    // Nothing that is asked for by one of them.
    add(&site, &network, &db, 5432);
    assert!(row().starts_with("+  5432/tcp "));
    // One commit that gives one and takes another.
    add(&site, &network, &web, 8081);
    assert_eq!([change(), change()], ["removed 8080 web", "added 8081 web"]);
    assert!(row().starts_with("-  8080/tcp ") && row().starts_with("+  8081/tcp "));
    // Somebody puts the database away, as after damage, and begins anew.
    std::fs::rename(site.node.data_dir(), site.node.folder("damaged")).unwrap();
    assert_eq!(change(), "removed 8081 web");
    add(&site, &network, &db, 8082);
    assert_eq!(change(), "added 8082 db");
    interrupt(&mut json);
    interrupt(&mut table);

    // It ends when nobody reads any more, although nothing changes.
    let (mut child, stdout) = spawn(&site, &mut list(&site, &[]));
    let mut line = String::new();
    let mut reader = BufReader::new(stdout);
    reader.read_line(&mut line).unwrap();
    drop(reader);
    assert!(child.wait().unwrap().success());
}

pub fn a_terminal_is_redrawn() {
    const CLEAR: &str = "\x1b[H\x1b[J";
    let site = Site::new();
    let conflist = site.conflist.display();
    let line = format!("stty cols 80 rows 5; exec {CTL} list --watch --config {conflist}");
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--command", &line, "/dev/null"]);
    // Without its own standard input at an end.
    let (mut child, mut stdout) = {
        let command = script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = site.node.host.enter(|| start(command));
        let stdout = child.stdout.take().unwrap();
        (child, stdout)
    };
    let (sender, bytes) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut seen = String::new();
    let mut wait_for = |what: &str| {
        while !seen.contains(what) {
            seen += std::str::from_utf8(&bytes.recv_timeout(PATIENCE).unwrap()).unwrap();
        }
        let screen = seen.rsplit(CLEAR).next().unwrap().to_owned();
        seen.clear();
        screen
    };
    wait_for("HOST PORT");
    let network = network();
    let containers: Vec<_> =
        (0..4).map(|at| Container::on_paper(&format!("web{at}"), 2 + at)).collect();
    for (container, port) in containers.iter().zip(8080..) {
        add(&site, &network, container, port);
        if port < 8083 {
            let screen = wait_for(&format!("{port}/tcp"));
            assert!(screen.contains("8080/tcp"), "{screen}");
        }
    }
    let screen = wait_for("… and 2 more");
    assert!(screen.contains("8081/tcp") && !screen.contains("8082/tcp"), "{screen}");
    child.kill().unwrap();
    child.wait().unwrap();
}
