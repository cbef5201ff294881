//! What `portclaimctl` shows of a node: each command through its binary, what it
//! prints compared with `see/golden` (`UPDATE_GOLDEN=1` writes that).

pub mod fixture;
mod terminal;
mod transcript;
mod watch;

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::fd::OwnedFd,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use serde_json::json;

use self::{
    fixture::{CTL, Site, network, store},
    transcript::Transcript,
};
use crate::{
    chain::{Container, annotated},
    namespace::{Namespace, start},
    node::Node,
};

/// Everything that reads the store.
const READS: [&[&str]; 5] =
    [&["list"], &["show", "8080"], &["explain", "8080"], &["groups"], &["claims"]];

fn list() {
    let site = Site::with_everything();
    let mut transcript = Transcript::new(&site);
    for args in [
        "list",
        "list -o wide",
        "list --namespace games-eu",
        "list --namespace games",
        "list --pod web-0 --protocol tcp",
        "list --group games --protocol UDP",
        "list --port 7000-7999,5432",
        "list --network other",
        "list --module mail1",
        "list --module phone1 -o json",
        "list --pod web-0 -o json",
        "list --port 7000 --protocol udp -o yaml",
    ] {
        transcript.run(args);
    }
    transcript.compare("list");
}

fn claims() {
    let site = Site::with_everything();
    let mut transcript = Transcript::new(&site);
    for args in [
        "claims",
        "claims --namespace games-eu",
        "claims --unused",
        "claims --unused --namespace games-eu -o json",
        "claims --namespace calls -o yaml",
    ] {
        transcript.run(args);
    }
    transcript.compare("claims");
}

fn groups() {
    let site = Site::with_everything();
    let mut transcript = Transcript::new(&site);
    site.node.host.sysctl("ipv4/ip_local_port_range", "20990 40000");
    for args in ["groups", "groups -o json", "groups -o yaml"] {
        transcript.run(args);
    }
    transcript.compare("groups");
}

fn explain() {
    let site = Site::with_everything();
    let host = &site.node.host;
    host.sysctl("ipv4/ip_local_port_range", "32768 60999");
    host.sysctl("ipv4/ip_local_reserved_ports", "9100");
    let listeners = ["tcp 127.0.0.1:9000", "tcp [::]:9001", "udp 192.0.2.1:9000"];
    let _listeners = listeners.map(|listener| Listener::start(host, listener));
    // Others may have been born with the test's sockets, and still be about to run
    // their own program.
    let is_shared = || {
        let output = site.run(&["explain", "9000"]);
        String::from_utf8(output.stdout).unwrap().contains("integration")
    };
    let start = Instant::now();
    while is_shared() {
        assert!(start.elapsed() < Duration::from_secs(10), "others keep the sockets");
        thread::yield_now();
    }
    let mut transcript = Transcript::new(&site);
    for args in [
        "explain 8080/tcp",
        "explain 7000",
        "explain 7001/udp",
        "explain 7005/udp",
        "explain 7009",
        "explain 10001",
        "explain 10100/tcp",
        "explain 5432/tcp",
        "explain 5432/tcp --host-ip 192.0.2.10",
        "explain [2001:db8::7]:5432/tcp",
        "explain 9000",
        "explain 9000/tcp --host-ip 192.0.2.1",
        "explain 9001/tcp",
        "explain 40000/tcp",
        "explain 53/udp",
    ] {
        transcript.run(args);
    }
    // By default, what the node reserves and NodePorts are excluded.
    site.write_options(&json!({}));
    for args in ["explain 9100/tcp", "explain 30000/tcp"] {
        transcript.run(args);
    }
    transcript.compare("explain");
}

/// A process that has a listening socket as its standard input, and does nothing.
struct Listener(Child);

impl Listener {
    fn start(host: &Namespace, listener: &str) -> Self {
        let (protocol, at) = listener.split_once(' ').unwrap();
        let begin = || {
            let socket: OwnedFd = match protocol {
                "tcp" => TcpListener::bind(at).unwrap().into(),
                _ => UdpSocket::bind(at).unwrap().into(),
            };
            start(Command::new("sleep").arg("infinity").stdin(socket))
        };
        Self(host.enter(begin))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Real containers: what the kernel holds is compared with what the store says.
fn show() {
    let site = Site::new();
    let node = &site.node;
    let network = network();
    let mut web = Container::new("3f2a17c0a5e94f").in_pod("games-eu", "arena-0", "b2c1");
    let mut runtime = annotated(&[("ports", "game=7777/tcp+udp@games"), ("claim", "arena-0")]);
    runtime["portMappings"] = json!([
        { "hostPort": 8080, "containerPort": 80 },
        { "hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1" },
    ]);
    network.attach_with(node, &mut web, runtime).succeeded();
    let bare = Container::on_paper("3f2a99", 9);
    network
        .add(node, &bare, json!([{ "hostPort": 8081, "containerPort": 80 }]))
        .run(node)
        .succeeded();

    for args in [
        &["allocate", "--tcp", "2", "--owner", "mail1"][..],
        &["allocate", "--udp", "1", "--owner", "phone1", "--to", "10.88.0.9:5060"],
    ] {
        assert!(site.run(args).status.success());
    }

    let mut transcript = Transcript::new(&site);
    for args in [
        "show 8080",
        "show 192.0.2.1:53/udp",
        "show 192.0.2.10:53/udp",
        "show arena-0",
        "show games-eu/arena-0",
        "show 3f2a9",
        "show 3f2a",
        "show mail1",
        "show 10001/tcp",
        "show phone1",
        "show nobody",
        "show 9999",
    ] {
        transcript.run(args);
    }
    // What somebody has done to the rules is told apart.
    site.node.host.nft("delete element inet portclaim_podnet any4_addr { tcp . 8080 }");
    transcript.run("show 8080/tcp");
    site.node.host.nft(
        "add element inet portclaim_podnet any4_addr { tcp . 8080 : 10.9.9.9 }
         flush chain inet portclaim_podnet prerouting",
    );
    transcript.run("show 8080/tcp");
    site.node.host.nft("flush ruleset");
    transcript.run("show 3f2a9");
    transcript.run("show phone1");
    network.del(&site.node, &web).run(&site.node).succeeded();
    transcript.run("show arena-0");
    site.write(&network.named("another"));
    transcript.run("show 3f2a9");
    transcript.compare("show");
}

fn nothing_there() {
    let site = Site::new();
    let mut transcript = Transcript::new(&site);
    for args in READS {
        transcript.run(&args.join(" "));
    }
    for args in ["list -o json", "claims -o yaml"] {
        transcript.run(args);
    }
    transcript.compare("nothing");
    assert!(!site.node.data_dir().exists(), "looking makes nothing");
}

/// Without a conflist, the documented defaults hold; a broken one is passed over
/// where it is only found, and refused where it is named.
fn conflists() {
    let site = Site::new();
    site.write_options(&json!({ "groups": { "media": { "ports": "20000-20999" } } }));
    let folder = site.node.folder("net.d");
    let mut transcript = Transcript::new(&site);
    for args in ["groups", "explain 10000/tcp"] {
        transcript.run_without_conflist(args, &folder);
    }
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("00-broken.conflist"), "{\x1b[2J").unwrap();
    fs::copy(&site.conflist, folder.join("10-podnet.conflist")).unwrap();
    transcript.run_without_conflist("groups", &folder);
    // What takes ports must not take them from another database or group.
    transcript.run_without_conflist("allocate --tcp 1 --owner mail1", &folder);
    fs::write(&site.conflist, "{").unwrap();
    transcript.run("groups");
    fs::write(&site.conflist, r#"{"cniVersion": "1.0.0", "name": "a", "plugins": []}"#).unwrap();
    transcript.run("groups");
    transcript.compare("conflist");
}

fn usage() {
    let site = Site::new();
    for args in [
        &["list", "--protocol", "icmp"][..],
        &["list", "--port", "0"],
        &["list", "--namespace", "../x"],
        &["list", "-o", "xml"],
        &["show"],
        &["explain", "x"],
        &["explain", "80/icmp"],
        &["explain", "80", "--host-ip", "localhost"],
        &["claims", "extra"],
        &["nothing"],
        &[],
    ] {
        let output = site.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}: {output:?}");
        assert!(!output.stderr.contains(&0x1b), "{output:?}");
    }
}

/// Nobody who looks takes the lock, writes into the database's folder, or waits.
fn nothing_is_locked() {
    let site = Site::with_everything();
    let before = Node::files(&site.node.data_dir());
    let store = store(&site.node);
    let _lock = store.lock(Duration::from_secs(10)).unwrap();
    for args in READS {
        let output = site.run(args);
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{args:?}: {output:?}");
    }
    assert_eq!(Node::files(&site.node.data_dir()), before);
}

/// The newest generation is damaged: the one before and the journals hold the same, and a
/// word is said. Both are: nothing is shown.
fn damage() {
    let site = Site::with_everything();
    let data_dir = site.node.data_dir();
    let spoil = |generation: &Path| {
        let mut files = Node::files(generation);
        files.retain(|file| file.ends_with("db"));
        fs::write(generation.join(&files[0]), "garbage").unwrap();
    };
    let whole = site.run(&["list", "-o", "json"]).stdout;
    spoil(&site.node.generation());
    let output = site.run(&["list", "-o", "json"]);
    assert!(output.status.success() && output.stdout == whole, "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not match its seal"));
    for entry in fs::read_dir(&data_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            spoil(&path);
        }
    }
    for args in READS {
        let output = site.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        let begin = "portclaimctl: cannot read the leases: the store in ";
        assert!(error.starts_with(begin) && error.lines().count() == 1, "{args:?}: {error}");
        assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
    }
}

/// Root without its rights sees what is held and not what the kernel does; somebody
/// else sees nothing, and is told why.
fn no_root() {
    let site = Site::new();
    let node = &site.node;
    let bare = Container::on_paper("bare", 9);
    let mappings = json!([{ "hostPort": 8081, "containerPort": 80 }]);
    network().add(node, &bare, mappings).run(node).succeeded();
    let setpriv = |program: &Path, rights: &[&str], args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(rights).arg("--").arg(program).args(args).args(site.options());
        node.host.output(&mut command, b"")
    };
    let output =
        setpriv(Path::new(CTL), &["--bounding-set=-all", "--inh-caps=-all"], &["show", "8081"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("rules      unknown: cannot list the rules of table inet"), "{text}");
    assert!(text.contains("8081/tcp   10.99.0.9:80  -     static  -      unknown\n"), "{text}");

    // The binary may lie where only root may look.
    let folder = node.folder("");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.join("portclaimctl");
    // A program that some thread's child still has open for writing cannot be executed.
    assert!(Command::new("cp").arg(CTL).arg(&copy).status().unwrap().success());
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    for args in READS {
        let output = setpriv(&copy, &nobody, args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(error.contains("Permission denied") && error.lines().count() == 1, "{error}");
    }
}

/// As many as a large node has, all of them, also for who stops reading.
fn ten_thousand_leases() {
    let site = Site::new();
    fixture::fill(&site.node, 10_000);
    for args in [&["list"][..], &["list", "-o", "json"], &["groups"]] {
        let output = site.run(args);
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap().lines().count();
        assert!(args != ["list"] || lines == 10_001, "{lines}");
    }
    // Whoever reads it may stop at any time.
    for args in [&["list"][..], &["list", "-o", "json"], &["list", "-o", "yaml"]] {
        let mut command = site.node.command(Path::new(CTL));
        command.args(args).args(site.options()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = site.node.host.enter(|| command.spawn().unwrap());
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

/// One trial for each command, and for each thing that may go wrong.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 16] = [
        ("list", list),
        ("show", show),
        ("explain", explain),
        ("groups", groups),
        ("claims", claims),
        ("nothing-there", nothing_there),
        ("conflists", conflists),
        ("usage", usage),
        ("nothing-is-locked", nothing_is_locked),
        ("damage", damage),
        ("no-root", no_root),
        ("ten-thousand-leases", ten_thousand_leases),
        ("terminal", terminal::everything_fits),
        ("colours", terminal::colours),
        ("watch", watch::changes_come),
        ("watch-terminal", watch::a_terminal_is_redrawn),
    ];
    crate::trials("see", tests)
}
