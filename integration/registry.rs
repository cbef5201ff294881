//! `portclaimctl serve`: who has which port, over HTTP.

mod counting;
mod load;

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Lines, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    chain::Container,
    namespace::{Namespace, start},
    node::{Family, Node},
    recovery::{add, fixed, network},
    see::fixture::Site,
    tool::{command, ctl},
    traffic::PATIENCE,
};

/// A server on a node.
pub struct Server {
    process: Child,
    port: u16,
}

/// What it answers.
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        };
        Self { status, headers: lines.map(header).collect(), body: body.to_owned() }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// A request with a body, if it has one.
pub fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for header in headers {
        text += header;
        text += "\r\n";
    }
    if !body.is_empty() {
        text += "Content-Length: ";
        text += &body.len().to_string();
        text += "\r\n";
    }
    format!("{text}\r\n{body}")
}

impl Server {
    pub fn start(node: &Node, address: &str, more: &[&str]) -> Self {
        let listen = format!("{address}:0");
        let arguments = [&["serve", "--listen", &listen], more].concat();
        Self::spawn(node, &mut command(node, &network(), &arguments))
    }

    pub fn spawn(node: &Node, command: &mut Command) -> Self {
        command.stdout(Stdio::piped());
        let mut process = node.host.enter(|| start(command));
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
        Self { process, port }
    }

    /// A path of it, for somebody on the node itself.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn connect(&self, from: &Namespace, to: IpAddr) -> TcpStream {
        let to = SocketAddr::new(to, self.port);
        let stream = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The answer to a request line and headers of somebody on the node itself.
    pub fn ask(&self, node: &Node, head: &str) -> Answer {
        self.send(node, &format!("{head}\r\nConnection: close\r\n\r\n"))
    }

    /// The answer to somebody on the node itself.
    pub fn get(&self, node: &Node, path: &str) -> Answer {
        self.get_from(&node.host, Ipv4Addr::LOCALHOST.into(), path)
    }

    fn get_from(&self, from: &Namespace, to: IpAddr, path: &str) -> Answer {
        self.send_from(from, to, &request("GET", path, &[], ""))
    }

    /// The answer to a request of any kind, of somebody on the node itself.
    pub fn send(&self, node: &Node, request: &str) -> Answer {
        self.send_from(&node.host, Ipv4Addr::LOCALHOST.into(), request)
    }

    fn send_from(&self, from: &Namespace, to: IpAddr, request: &str) -> Answer {
        let mut stream = self.connect(from, to);
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        Answer::parse(&text)
    }

    /// Follows what changes.
    pub fn watch(&self, node: &Node) -> Events {
        let mut stream = self.connect(&node.host, Ipv4Addr::LOCALHOST.into());
        write!(stream, "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        Events(BufReader::new(stream).lines())
    }

    /// Stops it as the kernel does when memory runs out.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// Server-sent events as they come.
pub struct Events(Lines<BufReader<TcpStream>>);

impl Events {
    /// What the next event of this kind says.
    #[track_caller]
    pub fn next(&mut self, event: &str) -> Value {
        // A stream that has nothing to say still shows that it is there.
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            assert!(Instant::now() < deadline, "there is no {event}");
            let line = self.0.next().expect("the stream goes on").unwrap();
            if line == format!("event: {event}") {
                let data = self.0.next().unwrap().unwrap();
                return serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            }
        }
    }
}

/// Everything that the command line shows.
fn what_programs_read() {
    let site = Site::with_everything();
    let node = &site.node;
    let mut command = node.command(std::path::Path::new(crate::see::fixture::CTL));
    command.args(["serve", "--listen", "127.0.0.1:0", "--external-address", "games.example"]);
    let server = Server::spawn(node, command.args(site.options()));
    let printed = |arguments: &[&str]| -> Value {
        serde_json::from_slice(&site.run(arguments).stdout).unwrap()
    };

    let all = server.get(node, "/v1/ports").json();
    let mut rows = all["ports"].as_array().unwrap().clone();
    assert_eq!(all["total"], rows.len());
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        let (address, port) = (row.remove("address").unwrap(), &row["hostPort"]);
        assert_eq!(address, format!("games.example:{port}"));
        row.remove("url");
        assert_eq!(
            (row.remove("health"), row.remove("healthReason")),
            (Some(Value::Null), Some(Value::Null))
        );
    }
    assert_eq!(Value::from(rows), printed(&["list", "-o", "json"]));
    let some = server.get(node, "/v1/ports?namespace=games-eu&protocol=udp&sort=-port").json();
    let ports: Vec<_> =
        some["ports"].as_array().unwrap().iter().map(|row| row["hostPort"].clone()).collect();
    assert_eq!(ports, [7002, 7000]);
    let one = server.get(node, "/v1/ports/8080/tcp").json();
    assert_eq!(one["ports"][0]["url"], "http://games.example:8080/");
    assert_eq!(server.get(node, "/v1/groups").json()["groups"], printed(&["groups", "-o", "json"]));
    assert_eq!(server.get(node, "/v1/claims").json()["claims"], printed(&["claims", "-o", "json"]));
    assert_eq!(server.get(node, "/healthz").body, "ok\n");
    let metrics = server.get(node, "/metrics");
    assert_eq!(
        metrics.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let line = "portclaim_group_ports{group=\"media\",protocol=\"udp\",state=\"reserved\"} 32\n";
    assert!(metrics.body.contains(line), "{}", metrics.body);

    // The document names every path, and what it says is required is there.
    let document = server.get(node, "/v1/openapi.json").json();
    for (path, schema, key) in [
        ("/v1/ports", "Port", "ports"),
        ("/v1/discovery", "Endpoint", "endpoints"),
        ("/v1/groups", "Group", "groups"),
        ("/v1/claims", "Claim", "claims"),
    ] {
        assert!(document["paths"][path]["get"].is_object(), "{path}");
        let schema = &document["components"]["schemas"][schema];
        for entry in server.get(node, path).json()[key].as_array().unwrap() {
            for name in schema["required"].as_array().unwrap() {
                assert!(!entry[name.as_str().unwrap()].is_null(), "{path}: {name}");
            }
            for name in entry.as_object().unwrap().keys() {
                assert!(schema["properties"][name].is_object(), "{path}: {name}");
            }
        }
    }
    for (method, allowed) in [("POST", "GET,HEAD"), ("DELETE", "GET,HEAD"), ("OPTIONS", "GET,HEAD")]
    {
        let answer = server.ask(node, &format!("{method} /v1/ports HTTP/1.1\r\nHost: localhost"));
        assert_eq!((answer.status, &*answer.headers["allow"]), (405, allowed), "{method}");
        assert_eq!(answer.json()["error"], format!("{method} is not possible here"));
    }
    for (path, status, message) in [
        ("/v1/ports?port=x", 400, "port is \"x\": "),
        ("/v1/ports?prot=tcp", 400, "unknown field `prot`"),
        ("/v1/ports/80/icmp", 400, "a port and protocol like 8080/tcp"),
        ("/v1/ports/9999/tcp", 404, "host port 9999/tcp is held by nobody"),
        ("/v1/self", 404, "no container with the address 127.0.0.1"),
        ("/v1/discovery?health=ill", 400, "health is \"ill\": "),
        ("/v2", 404, "there is no such page"),
    ] {
        let answer = server.get(node, path);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, status, "{path}");
        assert!(error.contains(message), "{path}: {error}");
    }
}

fn the_page_needs_no_scripts() {
    let node = Node::new(false);
    let server = Server::start(&node, "127.0.0.1", &[]);
    let empty = server.get(&node, "/");
    assert!(empty.body.contains("No host port is held on this node"), "{}", empty.body);
    let policy = &empty.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(empty.headers["x-content-type-options"], "nosniff");
    for asset in ["/style.css", "/script.js"] {
        assert_eq!(server.get(&node, asset).status, 200);
        assert!(empty.body.contains(asset));
    }
    for number in 0..5 {
        add(&node, &Container::on_paper(&format!("pod{number}"), 2 + number), fixed(8080 + number));
    }
    let deadline = Instant::now() + PATIENCE;
    let page = |query: &str| server.get(&node, &format!("/?{query}")).body;
    while !page("").contains(":8084") {
        assert!(Instant::now() < deadline, "{}", page(""));
        thread::sleep(Duration::from_millis(20));
    }
    let first = page("limit=2&sort=-port");
    assert!(first.contains(":8084<") && first.contains(":8083<") && !first.contains(":8082<"));
    assert!(first.contains("1–2 of 5") && first.contains("rel=\"next\""), "{first}");
    let last = page("limit=2&offset=4&sort=-port");
    assert!(last.contains("5–5 of 5") && !last.contains("rel=\"next\""), "{last}");
    let found = page("q=pod3");
    assert!(found.contains(":8083<") && !found.contains(":8084<"), "{found}");
    let hostile = page("q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&port=%3Cb%3E");
    assert!(!hostile.contains("<script>alert") && !hostile.contains("<b>"), "{hostile}");
    assert!(hostile.contains("port is"), "{hostile}");
}

/// Who watches is told of what comes and goes.
fn changes_are_told() {
    let node = Node::new(false);
    let server = Server::start(&node, "127.0.0.1", &[]);
    let mut events = server.watch(&node);
    events.next("ready");
    let web = Container::on_paper("web", 2);
    add(&node, &web, fixed(8080));
    let change = events.next("change");
    assert_eq!(change["added"][0]["hostPort"], 8080);
    assert_eq!(change["removed"], json!([]));
    network().del(&node, &web).run(&node).succeeded();
    let change = events.next("change");
    assert_eq!(change["removed"][0]["containerID"], "web");
    assert_eq!(change["added"], json!([]));
}

/// A container asks its node for its own ports, and gets nobody else's.
fn a_container_asks_for_itself() {
    let node = Node::new(false);
    let network = network();
    let mut web = Container::new("web");
    network.attach(&node, &mut web, fixed(8080)).succeeded();
    add(&node, &Container::on_paper("other", 9), fixed(8081));
    let server = Server::start(&node, "0.0.0.0", &["--advertise-address", "192.0.2.1"]);
    let own = server.get_from(web.namespace(), Family::V4.node(), "/v1/self").json();
    let rows = own["ports"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{own}");
    assert_eq!(
        (&rows[0]["hostPort"], &rows[0]["address"]),
        (&8080.into(), &"192.0.2.1:8080".into())
    );
    assert_eq!(server.get_from(&node.outside, Family::V4.node(), "/v1/self").status, 404);
}

/// The lock is somebody else's, and so is the database's folder.
fn nothing_is_locked_or_written() {
    let node = Node::new(false);
    add(&node, &Container::on_paper("web", 2), fixed(8080));
    let before = Node::files(&node.data_dir());
    let lock = std::fs::OpenOptions::new().write(true).open(node.data_dir().join("lock")).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    let server = Server::start(&node, "127.0.0.1", &[]);
    assert_eq!(server.get(&node, "/v1/ports").json()["total"], 1);
    assert_eq!(Node::files(&node.data_dir()), before);
    drop(lock);
    ctl(&node, &network(), &["check"]).succeeded();
}

/// A page of somebody else's whose name was made to lead here (DNS rebinding).
fn only_known_names_are_answered() {
    let node = Node::new(false);
    let names = ["--allowed-host", "ports.example", "--external-address", "games.example"];
    let server = Server::start(&node, "127.0.0.1", &names);
    let ask = |target: &str, host: &str| {
        server.ask(&node, &format!("GET {target} HTTP/1.1\r\nHost: {host}"))
    };
    for host in ["127.0.0.1:80", "[::1]", "localhost:1", "PORTS.example", "games.example"] {
        assert_eq!(ask("/v1/ports", host).status, 200, "{host}");
    }
    for path in ["/", "/v1/ports", "/v1/events", "/metrics", "/healthz", "/none"] {
        let answer = ask(path, "evil.example");
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 421, "{path}");
        assert!(error.contains("\"evil.example\"") && error.contains("--allowed-host"), "{error}");
    }
    assert_eq!(ask("http://evil.example/v1/ports", "localhost").status, 421);
    let twice = "GET /v1/ports HTTP/1.1\r\nHost: localhost\r\nHost: evil.example";
    assert_eq!(server.ask(&node, twice).status, 421);
    assert_eq!(server.ask(&node, "GET /v1/ports HTTP/1.0").status, 200, "as old programs ask");
}

/// Clients that say nothing, or never stop, or send what is no HTTP.
fn hostile_clients() {
    let node = Node::new(false);
    let server = Server::start(&node, "127.0.0.1", &[]);
    let connect = || server.connect(&node.host, Ipv4Addr::LOCALHOST.into());
    let silent: Vec<_> = (0..200).map(|_| connect()).collect();
    let mut slow = connect();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
    // Far more than any buffer holds is asked for, and nothing of it is read.
    let page = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
    let unread: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = connect();
            stream.set_nonblocking(true).unwrap();
            _ = stream.write(page.as_bytes());
            stream
        })
        .collect();
    assert_eq!(server.get(&node, "/healthz").status, 200, "others are served");
    for text in [
        format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(40_000)).into_bytes(),
        format!("GET /?q={} HTTP/1.1\r\n\r\n", "x".repeat(40_000)).into_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        b"POST /v1/ports HTTP/1.1\r\nHost: n\r\nContent-Length: 9999999999\r\n\r\n".to_vec(),
    ] {
        let mut stream = connect();
        _ = stream.write_all(&text);
        let mut answer = Vec::new();
        _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // Who does not finish its headers is sent away.
    let mut rest = Vec::new();
    _ = slow.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    drop((silent, unread));
    assert_eq!(server.get(&node, "/healthz").status, 200);
}

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 10] = [
        ("api", what_programs_read),
        ("page", the_page_needs_no_scripts),
        ("events", changes_are_told),
        ("self", a_container_asks_for_itself),
        ("reading", nothing_is_locked_or_written),
        ("load", load::many_ask_while_containers_come_and_go),
        ("hosts", only_known_names_are_answered),
        ("hostile", hostile_clients),
        ("counting", counting::calls_are_counted),
        ("counting::unwritable", counting::no_call_fails_because_it_is_not_counted),
    ];
    crate::trials("registry", tests)
}
