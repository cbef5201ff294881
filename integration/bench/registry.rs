//! Many ask the registry while containers come and go: what that costs an ADD, and how
//! much memory the registry takes.
//!
//! As many ADDs are measured while nobody asks and no registry runs, in turns, on the
//! same node. The registry runs as its unit has it: niced, and never in place of a
//! process that is at work. Its clients, which would be on other machines for the most
//! part, are as nice as can be.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::setpriority_process;
use serde_json::json;

use crate::{
    Extent,
    http::{Connection, peak_memory},
    plugin::{Call, Mapping, Plugin},
    progress,
    report::{Report, Target},
    site::{Container, Site},
    statistic::Samples,
};

/// Of an ADD, relative to one without a registry.
const ADD_TARGET: Target = Target(1.2);
/// Megabytes.
const MEMORY_TARGET: Target = Target(64.0);
/// Each asks so often in a second.
const RATE: u32 = 250;
const CLIENTS: u32 = 8;
const STREAMS: u32 = 12;
/// How many containers come and go in each turn.
const LIVES: u16 = 10;
/// The host's address that containers know.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

/// What is asked, in turns. Who asks is a container that has a port.
const MIX: [&str; 20] = [
    "/v1/self",
    "/v1/ports",
    "/v1/ports?q=pod-1",
    "/v1/self",
    "/v1/ports/20001/tcp",
    "/v1/ports?namespace=default&sort=-port",
    "/v1/self",
    "/",
    "/v1/ports",
    "/v1/self",
    "/v1/groups",
    "/v1/ports?q=2000",
    "/v1/self",
    "/healthz",
    "/v1/ports?limit=20&offset=20",
    "/v1/self",
    "/metrics",
    "/v1/ports/20002/tcp",
    "/?q=pod-2",
    "/v1/claims",
];

/// A registry that runs.
struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    fn start(site: &Site) -> Self {
        let conflist = site.run_dir().with_file_name("bench.conflist");
        let plugin =
            json!({ "type": "portclaim", "dataDir": site.data_dir(), "runDir": site.run_dir() });
        let list = json!({ "cniVersion": "1.0.0", "name": "bench", "plugins": [plugin] });
        fs::write(&conflist, list.to_string()).expect("the temporary folder is writable");
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/portclaimctl");
        let mut command = Command::new("chrt");
        command.args(["--batch", "0", "nice", "-n", "5"]).arg(binary).arg("--config").arg(conflist);
        command.arg("serve").arg("--listen").arg(format!("{ADDRESS}:0"));
        let mut process =
            site.host.enter(|| command.stdout(Stdio::piped()).spawn().expect("it can be run"));
        let mut line = String::new();
        let stdout = process.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let port = line.trim().trim_end_matches('/').rsplit(':').next();
        let port = port.and_then(|port| port.parse().ok()).expect("it says where it listens");
        Self { process, port }
    }

    fn connect(&self, client: u32) -> Connection {
        // The addresses of the first containers.
        let from = Container(u16::try_from(client + 1).expect("there are few")).v4();
        let to = SocketAddr::from((ADDRESS, self.port));
        Connection::open(IpAddr::from(from), to).expect("the registry answers")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// What the clients saw.
#[derive(Default)]
struct Answers {
    times: Samples,
    count: u32,
    took: Duration,
}

/// Measures ADDs while many ask and while nobody does.
pub fn measure(extent: &Extent, report: &mut Report) {
    let held = extent.held;
    progress(&format!("the registry, with {held} mappings"));
    let site = Site::new(Plugin::Portclaim);
    site.grow(0, held, Mapping::tcp);
    let [mut with, mut without] = [Samples::default(), Samples::default()];
    let mut answers = Answers::default();
    let mut peak = 0;
    for turn in 0..extent.turns {
        without.append(lives(&site, extent.turn));
        progress(&format!("the registry is asked, {} of {}", turn + 1, extent.turns));
        let registry = Registry::start(&site);
        let (adds, turn) = under_load(&site, &registry, extent.turn);
        with.append(adds);
        answers.times.append(turn.times);
        answers.count += turn.count;
        answers.took += turn.took;
        peak = peak.max(peak_memory(registry.process.id()).expect("it runs"));
    }
    let rate = f64::from(answers.count) / answers.took.as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // Of some MB, shown with two digits.
    let memory = peak as f64 / 1e6;
    let rows = vec![
        format!(
            "ADD, relative to none | {} | {with}, {without} without",
            ADD_TARGET.cells(with.ratio(&without), "")
        ),
        format!("memory | {} |", MEMORY_TARGET.cells(memory, " MB")),
        format!("answers | {rate:.0}/s | – | {}", answers.times),
    ];
    report.table(
        &format!("A registry with {held} mappings that is asked {} times a second", RATE * CLIENTS),
        "what | value | target | median (90th percentile)",
        rows,
        "Pages, lists, searches, single ports, metrics, and what containers have themselves, over \
         kept connections, beside twelve streams of events, while containers come and go. No answer \
         was an error.",
    );
}

/// Containers come and go, spread over some time.
fn lives(site: &Site, over: Duration) -> Samples {
    let start = Instant::now();
    let mut adds = Samples::default();
    for number in 0..LIVES {
        let due = start + over * u32::from(number) / u32::from(LIVES);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let call = |verb| {
            let port = Mapping::tcp(8080 + number);
            site.run(Call::new(verb, site, Container(60_000 + number), &[port]))
        };
        adds.push(call("ADD"));
        call("DEL");
    }
    adds
}

fn under_load(site: &Site, registry: &Registry, over: Duration) -> (Samples, Answers) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|client| {
                let (mut stream, end) = site.containers.enter(|| {
                    let stream = registry.connect(client);
                    let end = stream.end();
                    (stream, end)
                });
                assert_eq!(stream.get("/v1/events").expect("it answers").0, 200);
                scope.spawn(move || {
                    be_nice();
                    _ = stream.drain();
                });
                end
            })
            .collect();
        let is_over = &is_over;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let connection = site.containers.enter(|| registry.connect(client));
                scope.spawn(move || ask(connection, client, is_over))
            })
            .collect();
        let adds = lives(site, over);
        is_over.store(true, Ordering::Relaxed);
        let mut answers = Answers::default();
        for client in clients {
            let of_client = client.join().expect("the registry answers");
            answers.times.append(of_client.times);
            answers.count += of_client.count;
            answers.took = answers.took.max(of_client.took);
        }
        for stream in streams {
            _ = stream.shutdown(Shutdown::Both);
        }
        (adds, answers)
    })
}

/// Asks at the rate of a client until it is over.
fn ask(mut connection: Connection, client: u32, is_over: &AtomicBool) -> Answers {
    be_nice();
    let mut answers = Answers::default();
    let start = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        let due = start + Duration::from_secs(1) * answers.count / RATE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let path = MIX[(answers.count + 3 * client) as usize % MIX.len()];
        let asked = Instant::now();
        let (status, length) =
            connection.get(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(status == 200 && length > 0, "{path}: {status}");
        answers.times.push(asked.elapsed());
        answers.count += 1;
    }
    answers.took = start.elapsed();
    answers
}

/// Of the calling thread alone, as Linux has it.
fn be_nice() {
    setpriority_process(None, 19).expect("anybody may be nicer");
}
