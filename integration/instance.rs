//! `portclaimctl serve`: who registers itself, and who works.

use std::{
    io::{BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _, pipe},
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network, annotated},
    namespace::Namespace,
    node::Node,
    recovery::network,
    registry::{Answer, Server, request},
    traffic::{Echo, readable},
};

/// How long anything may take on a machine that has much to do.
const LONG: Duration = Duration::from_mins(1);
const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
const JSON: &str = "Content-Type: application/json";
const TOKEN: &str = "correct-horse-battery-staple";
/// So that a test need not wait for real times.
pub const QUICK: [&str; 6] =
    ["--health-interval", "100ms", "--health-retry", "10ms", "--health-tries", "2"];

/// A node with a server that instances may register with, and what it keeps.
pub struct Site {
    pub node: Node,
    socket: PathBuf,
    pub options: Vec<String>,
}

impl Site {
    pub fn new(more: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let node = Node::new(false);
        let folder = node.folder("registry");
        let token = folder.join("token");
        // Where other users get to; the node's own folder is closed to them.
        let socket = format!("/run/registry{}.sock", NEXT.fetch_add(1, Ordering::Relaxed)).into();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&token, TOKEN).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&token, private).unwrap();
        let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let mut options = vec![
            "--state-dir".to_owned(),
            path(&folder.join("state")),
            "--token-file".to_owned(),
            path(&token),
            "--socket".to_owned(),
            path(&socket),
        ];
        options.extend(more.iter().map(ToString::to_string));
        Self { node, socket, options }
    }

    pub fn start(&self) -> Server {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        Server::start(&self.node, "127.0.0.1", &options)
    }

    /// The answer to root over the Unix socket.
    pub fn as_root(&self, request: &str) -> Answer {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        Answer::parse(&text)
    }

    /// The answer to another user over the Unix socket.
    fn as_user(&self, uid: u32, request: &str) -> Answer {
        let mut command = Command::new("setpriv");
        let (uid, socket) = (format!("--reuid={uid}"), self.socket.display());
        command.args([
            &uid,
            "--clear-groups",
            "socat",
            "-t",
            "60",
            "-",
            &format!("UNIX-CONNECT:{socket},shut-none"),
        ]);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("socat is there");
        process.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        Answer::parse(&process.wait_with_output().unwrap().stdout)
    }

    /// The names of what a list has.
    fn names(&self, server: &Server, path: &str) -> Vec<String> {
        let list = server.get(&self.node, path).json();
        let all = list["instances"].as_array().or(list["endpoints"].as_array()).unwrap();
        all.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    }
}

pub fn form(name: &str, address: &str, more: &str) -> String {
    request("POST", "/register", &[FORM], &format!("name={name}&address={address}{more}"))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// Waits until something is so.
#[track_caller]
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// As the instances of the seed do it: a form, or JSON, again and again.
fn registering() {
    let site = Site::new(&["--instance-health", "none"]);
    let server = site.start();
    let first = site.as_root(&form("web-0", "10.240.0.2:52238", ""));
    assert_eq!((first.status, &first.json()["address"]), (201, &"10.240.0.2:52238".into()));
    assert_eq!(site.as_root(&form("web-0", "10.240.0.2:52238", "")).status, 200);
    let tagged = json!({"Name": "web-1", "Address": "[2001:db8::1]:80", "Tags": ["<b>", "http"],
        "TTL": 600, "Health": "http:/healthz"});
    let token = bearer(TOKEN);
    let over_tcp =
        |body: &str| server.send(&site.node, &request("POST", "/register", &[JSON, &token], body));
    assert_eq!(over_tcp(&tagged.to_string()).status, 201);

    let list = server.get(&site.node, "/v1/instances").json();
    assert_eq!(list["total"], 2);
    let (web, other) = (&list["instances"][1], &list["instances"][0]);
    assert_eq!(web["name"], "web-0");
    assert_eq!(
        (&web["health"], &web["check"], &web["ttl"]),
        (&Value::Null, &"none".into(), &86400.into())
    );
    assert_eq!((&other["url"], &other["ttl"]), (&"http://[2001:db8::1]:80/".into(), &600.into()));
    assert_eq!(other["registrant"], "the token");
    let page = server.get(&site.node, "/?q=web-1").body;
    assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"), "{page}");

    // What is wrong is said, and changes nothing.
    for (body, status, message) in [
        ("name=web-0", 422, "missing field `address`"),
        ("name=a/b&address=1.2.3.4:80", 400, "name is \"a/b\": "),
        ("name=web-0&address=0.0.0.0:80", 400, "address is \"0.0.0.0:80\": "),
        ("name=web-0&address=1.2.3.4:80&ttl=0", 400, "ttl is \"0\": 1 to 2678400 seconds"),
        ("name=web-0&address=1.2.3.4:80&health=udp", 400, "health is \"udp\": "),
        ("name=web-0&address=1.2.3.4:80&port=1", 422, "unknown field `port`"),
    ] {
        let answer = site.as_root(&request("POST", "/register", &[FORM], body));
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, status, "{body}: {error}");
        assert!(error.contains(message), "{body}: {error}");
    }
    assert_eq!(over_tcp("{").status, 400);
    let plain = request("POST", "/register", &["Content-Type: text/plain", &token], "name=a");
    assert_eq!(server.send(&site.node, &plain).status, 415);
    let large = format!("{{\"Name\": \"{}\"}}", "x".repeat(20_000));
    assert_eq!(over_tcp(&large).status, 413);
    assert_eq!(site.names(&server, "/v1/instances"), ["web-1", "web-0"]);

    let gone = request("DELETE", "/v1/instances/web-1", &[&token], "");
    assert_eq!(server.send(&site.node, &gone).status, 204);
    assert_eq!(server.send(&site.node, &gone).status, 204);
    let gone = request("POST", "/deregister", &[FORM], "name=web-0");
    assert_eq!(site.as_root(&gone).status, 204);
    assert_eq!(site.names(&server, "/v1/instances"), [""; 0]);
}

/// Whoever may only read does not register, whatever they say.
fn who_may_register() {
    const USER: u32 = 40001;
    let site = Site::new(&["--instance-health", "none", "--register-user", "40001"]);
    let server = site.start();
    let web = |address: &str| form("web", address, "");
    assert_eq!(site.as_user(USER, &web("192.0.2.1:80")).status, 201);
    let refused = |answer: Answer, status: u16, message: &str| {
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(answer.status == status && error.contains(message), "{}: {error}", answer.status);
    };
    refused(site.as_user(40002, &web("192.0.2.2:80")), 403, "user 40002 may not register");
    // Reading is for all.
    assert_eq!(site.as_user(40002, &request("GET", "/v1/instances", &[], "")).json()["total"], 1);
    for (headers, status) in [
        (vec![FORM.to_owned()], 401),
        (vec![FORM.to_owned(), bearer("correct-horse-battery-stapl3")], 401),
    ] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let asked = request("POST", "/register", &headers, "name=web&address=192.0.2.2:80");
        let answer = server.send(&site.node, &asked);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        refused(answer, status, "does not have the token");
    }
    assert_eq!(site.as_root(&form("roots", "192.0.2.3:80", "")).status, 201);
    refused(
        site.as_user(USER, &form("roots", "192.0.2.1:80", "")),
        409,
        "roots was registered by user 0, and not by user 40001",
    );
    // Whose it is stays so, although root may change it.
    assert_eq!(site.as_root(&web("192.0.2.9:80")).status, 200);
    assert_eq!(site.as_user(USER, &web("192.0.2.1:80")).status, 200);
    let deregister = request("DELETE", "/v1/instances/roots", &[], "");
    assert_eq!(site.as_user(USER, &deregister).status, 409);
    assert_eq!(site.names(&server, "/v1/instances?sort=name"), ["roots", "web"]);

    // Nobody else writes there, and a user that is none is told at once.
    let refused_start = |more: &[&str], message: &str| {
        let arguments = ["serve", "--listen", "127.0.0.1:0"];
        let mut command = crate::tool::command(&site.node, &network(), &arguments);
        let failed = crate::tool::run(&site.node, command.args(more));
        failed.with_status(1);
        assert!(failed.stderr.contains(message), "{}", failed.stderr);
    };
    let options: Vec<&str> = site.options[..4].iter().map(String::as_str).collect();
    refused_start(&options, "another process keeps its instances in ");
    refused_start(&["--register-user", "nobody-at-all"], "there is no user \"nobody-at-all\"");

    // A server that is told of neither only reads.
    let reader = Server::start(&site.node, "127.0.0.1", &["--state-dir", site.options[1].as_str()]);
    let asked = request("POST", "/register", &[FORM, &bearer(TOKEN)], "name=a&address=h:1");
    refused(reader.send(&site.node, &asked), 403, "over the Unix socket (--socket)");
}

/// Somebody who connects again and again, and reads nothing of what is sent, keeps
/// nobody from registering.
fn a_crowd_at_the_socket() {
    const CROWD: &str = "
import socket, sys
asked = b'GET /v1/openapi.json HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n' * 100
crowd = []
for _ in range(1100):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(0.2)
    try:
        one.connect(sys.argv[1])
        one.send(asked)
    except OSError:
        pass
    crowd.append(one)
print('there', flush=True)
sys.stdin.read()
";
    let site = Site::new(&["--instance-health", "none"]);
    let server = site.start();
    let mut crowd = Command::new("setpriv");
    crowd.args(["--reuid=40002", "--clear-groups", "prlimit", "--nofile=4096", "python3", "-c"]);
    crowd.arg(CROWD).arg(&site.socket).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut crowd = crowd.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(crowd.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "there\n");
    assert_eq!(site.as_root(&form("web", "192.0.2.1:80", "")).status, 201);
    assert_eq!(site.names(&server, "/v1/instances"), ["web"]);
    drop(crowd.stdin.take());
    crowd.wait().unwrap();
}

/// What was acknowledged is there again, whenever the server was killed.
fn killed() {
    let site = Site::new(&["--instance-health", "none"]);
    for round in 0..5 {
        let server = site.start();
        assert_eq!(site.names(&server, "/v1/instances").len(), round * 20);
        for number in 0..20 {
            let name = format!("web-{round}-{number}");
            assert_eq!(site.as_root(&form(&name, "192.0.2.1:80", "")).status, 201);
        }
        server.kill();
    }
    // A file that somebody broke is named, and not replaced.
    let file = PathBuf::from(&site.options[1]).join("instances.json");
    std::fs::write(&file, "{\"schema\": 1").unwrap();
    let mut command =
        crate::tool::command(&site.node, &network(), &["serve", "--listen", "127.0.0.1:0"]);
    command.args(&site.options);
    let failed = crate::tool::run(&site.node, &mut command);
    failed.with_status(1);
    assert!(failed.stderr.contains("instances.json: EOF"), "{}", failed.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"schema\": 1");
}

/// Who says nothing more is forgotten; who works, or registers again, is not.
fn time_to_live() {
    let site = Site::new(&QUICK);
    let server = site.start();
    let _works = Echo::start(&site.node.host, Protocol::Tcp, 7001, "works");
    site.as_root(&form("works", "127.0.0.1:7001", "&ttl=1"));
    site.as_root(&form("silent", "127.0.0.1:7002", "&ttl=1&health=none"));
    site.as_root(&form("long", "127.0.0.1:7002", "&ttl=1000&health=none"));
    wait("who is silent is forgotten", || site.names(&server, "/v1/instances").len() < 3);
    assert_eq!(site.names(&server, "/v1/instances?sort=name"), ["long", "works"]);
}

/// A web server whose status can be changed; it ends when it is dropped.
struct Web {
    status: Arc<AtomicU16>,
    stop: Option<PipeWriter>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Web {
    fn start(namespace: &Namespace, port: u16) -> Self {
        let (reader, writer) = pipe().unwrap();
        let (ready, started) = mpsc::channel();
        let status = Arc::new(AtomicU16::new(200));
        let shared = status.clone();
        let thread = namespace
            .enter(move || thread::spawn(move || Self::serve(port, &shared, &reader, &ready)));
        started.recv().unwrap();
        Self { status, stop: Some(writer), thread: Some(thread) }
    }

    fn serve(port: u16, status: &AtomicU16, stop: &PipeReader, ready: &mpsc::Sender<()>) {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
        ready.send(()).unwrap();
        while readable(listener.as_fd(), stop) {
            let Ok((mut stream, _)) = listener.accept() else { continue };
            _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            let is_healthz = request[..length].starts_with(b"GET /healthz ");
            let status = if is_healthz { status.load(Ordering::Relaxed) } else { 404 };
            _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// Who does not work is marked and not recommended, keeps its port, and is back once it
/// works.
fn health_of_containers() {
    let node = Node::new(false);
    let network = Network::bridge("games", true);
    let mut options = vec!["--advertise-address", "192.0.2.1"];
    options.extend(QUICK);
    let server = Server::start(&node, "127.0.0.1", &options);
    let pod = |name: &str, port: u16, health: Option<&str>| {
        let mut container = Container::new(name).in_pod("shop", name, name);
        let ports = format!("first=9/udp, web={port}");
        let mut annotations = vec![("ports", ports.as_str())];
        annotations.extend(health.map(|health| ("health", health)));
        network.attach_with(&node, &mut container, annotated(&annotations)).succeeded();
        container
    };
    let (web, game) = (pod("web", 80, Some("web=http:/healthz")), pod("game", 81, Some("tcp")));
    let unchecked = pod("unchecked", 82, None);
    let ports = |query: &str| server.get(&node, &format!("/v1/ports{query}")).json();
    let health = |name: &str| -> Vec<String> {
        let all = ports(&format!("?pod={name}"));
        let all = all["ports"].as_array().unwrap().clone();
        assert_eq!(all.len(), 2, "{name} keeps its ports: {all:?}");
        let word = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
        all.iter()
            .map(|row| format!("{} {}", word(row, "health"), word(row, "healthReason")))
            .collect()
    };
    let endpoints = || {
        let list = server.get(&node, "/v1/discovery").json();
        let mut names: Vec<String> = list["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["pod"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    };
    wait("all are shown", || ports("")["total"] == 6);
    // Nobody listens yet.
    wait("web is refused", || health("web") == ["unhealthy connection refused"; 2]);
    wait("game is refused", || health("game") == ["unhealthy connection refused"; 2]);
    assert_eq!(health("unchecked"), ["- -"; 2]);
    assert_eq!(endpoints(), ["unchecked"]);

    let site = Web::start(web.namespace(), 80);
    let echo = Echo::start(game.namespace(), Protocol::Tcp, 81, "game");
    wait("both are back", || endpoints() == ["game", "unchecked", "web"]);
    assert_eq!(health("web"), ["healthy -"; 2]);

    site.status.store(503, Ordering::Relaxed);
    wait("web says that it is ill", || health("web") == ["unhealthy HTTP 503"; 2]);
    let page = server.get(&node, "/?health=unhealthy").body;
    assert!(
        page.contains("shop&#x2f;web")
            && page.contains("HTTP 503")
            && !page.contains("shop&#x2f;game")
    );
    site.status.store(200, Ordering::Relaxed);
    drop(echo);
    wait("game has gone", || health("game") == ["unhealthy connection refused"; 2]);
    wait("web is back", || endpoints() == ["unchecked", "web"]);

    // A container that is gone is not asked any longer.
    network.detach(&node, &web);
    wait("web is no row", || ports("?pod=web")["total"] == 0);
    assert_eq!(endpoints(), ["unchecked"]);
    drop(unchecked);
}

/// While one answer is waited for, all others are had.
fn one_is_dead_among_many() {
    let site = Site::new(&["--health-timeout", "10m", "--health-interval", "200ms"]);
    let server = site.start();
    let host = &site.node.host;
    host.nft(
        "add table inet hole
         add chain inet hole out { type filter hook output priority 0; }
         add rule inet hole out ip daddr 127.0.0.9 drop",
    );
    let works = Echo::start_on(host, Protocol::Tcp, (Ipv4Addr::LOCALHOST, 7001).into(), "works");
    site.as_root(&form("dead", "127.0.0.9:7001", ""));
    for number in 0..500 {
        let name = format!("web-{number}");
        assert_eq!(site.as_root(&form(&name, "127.0.0.1:7001", "")).status, 201);
    }
    let count = |health: &str| {
        let path = format!("/v1/instances?health={health}&limit=1");
        server.get(&site.node, &path).json()["total"].as_u64().unwrap()
    };
    wait("all others work", || count("healthy") == 500);
    assert_eq!(site.names(&server, "/v1/instances?health=pending"), ["dead"]);
    // And that they no longer do is found as well.
    drop(works);
    wait("all others are found to be gone", || count("unhealthy") == 500);
    assert_eq!(site.names(&server, "/v1/instances?health=pending"), ["dead"]);
    assert_eq!(site.names(&server, "/v1/discovery"), ["dead"]);
}

/// Who watches is told who registers, and who no longer works.
fn watching() {
    let site = Site::new(&QUICK);
    let server = site.start();
    let mut events = server.watch(&site.node);
    events.next("ready");
    let works = Echo::start(&site.node.host, Protocol::Tcp, 7001, "works");
    site.as_root(&form("web", "127.0.0.1:7001", ""));
    // Told with the news that it is there, or after it.
    let mut told = |health: &str| loop {
        let instances = events.next("change")["instances"].clone();
        for list in ["added", "health"] {
            let instance = &instances[list][0];
            assert!(instance.is_null() || instance["name"] == "web", "{instances}");
            if instance["health"] == health {
                return;
            }
        }
    };
    told("healthy");
    drop(works);
    told("unhealthy");
    site.as_root(&request("DELETE", "/v1/instances/web", &[], ""));
    assert_eq!(events.next("change")["instances"]["removed"][0]["name"], "web");
}

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 8] = [
        ("registering", registering),
        ("users", who_may_register),
        ("crowd", a_crowd_at_the_socket),
        ("killed", killed),
        ("time_to_live", time_to_live),
        ("health", health_of_containers),
        ("dead", one_is_dead_among_many),
        ("watching", watching),
    ];
    crate::trials("instance", tests)
}
