//! What calls cost by how much the store holds, and what the store alone does of that.
//!
//! The nodes are filled through the library, which thousands of calls would take long
//! for, with what an ADD of each container would have put down. The first call finds
//! nothing of it in the kernel and makes the table anew, with everything; a CHECK of an
//! existing container shows that it did.
//!
//! The store alone is measured in processes of their own, as a plugin's is: a process
//! starts sled's threads once.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use portclaim::{
    command::STORE_WORK,
    host,
    lease::{
        Attachment, ContainerAddresses, Forwarding, HostAddress, HostPort, Lease, Pod, Port,
        Protocol,
    },
    store::{Moment, Store},
};

use crate::{
    Extent,
    plugin::{Call, Mapping, Plugin},
    progress,
    report::{Report, Target},
    site::{Container, FIRST_PORT, Site},
    statistic::Samples,
};

/// The first argument of a process that only uses the store.
pub const ARGUMENT: &str = "use-store";

/// Of an ADD, relative to one where there is the least.
const ADD_TARGET: Target = Target(1.5);
const VERBS: [(&str, Option<Target>); 3] =
    [("ADD", Some(ADD_TARGET)), ("CHECK", None), ("DEL", None)];

/// A container of which there is none among the existing ones.
const SAMPLE: Container = Container(60_000);
/// Its host port, likewise.
const SAMPLE_PORT: u16 = 8080;
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// What a process does with the store, and how long each takes: to begin, to change, to
/// commit.
const STEPS: usize = 3;
/// What it finds: the working copy, or only generation and journal.
const FOUND: [&str; 2] = ["working copy", "generation and journal"];

/// What was measured where there are so many leases.
struct Node {
    leases: u16,
    site: Site,
    calls: [Samples; VERBS.len()],
    steps: [[Samples; STEPS]; FOUND.len()],
}

/// Measures calls, and the store alone, with each number of leases in turns.
pub fn measure(extent: &Extent, report: &mut Report) {
    let mut nodes: Vec<_> = extent.stored.iter().map(|leases| Node::new(*leases)).collect();
    progress(&format!("calls by what is stored: {:?} leases", extent.stored));
    let count = nodes.len();
    // The first makes what all later ones find.
    for sample in 0..=extent.samples as usize {
        for turn in 0..count {
            nodes[(sample + turn) % count].call(sample > 0);
        }
    }
    progress("the store alone");
    for sample in 0..extent.samples as usize {
        for turn in 0..count {
            nodes[(sample + turn) % count].step();
        }
    }
    report_calls(&nodes, report);
    report_steps(&nodes, report);
}

impl Node {
    fn new(leases: u16) -> Self {
        let site = Site::new(Plugin::Portclaim);
        let store = store(&site.data_dir(), &site.run_dir().join(STORE_WORK));
        let mut lock = store.lock(LOCK_TIMEOUT).unwrap();
        let mut draft = lock.begin().unwrap();
        for number in 0..leases {
            draft.insert(&forwarding(Container(number), FIRST_PORT + number)).unwrap();
        }
        draft.commit().unwrap();
        Self { leases, site, calls: Default::default(), steps: Default::default() }
    }

    /// A container's life, beside all others.
    fn call(&mut self, is_measured: bool) {
        let run = |verb, container, port| {
            self.site.run(Call::new(verb, &self.site, container, &[Mapping::tcp(port)]))
        };
        for ((verb, _), samples) in VERBS.iter().zip(&mut self.calls) {
            let time = run(verb, SAMPLE, SAMPLE_PORT);
            if is_measured {
                samples.push(time);
            } else if *verb == "ADD" {
                let last = self.leases - 1;
                run("CHECK", Container(last), FIRST_PORT + last);
            }
        }
    }

    /// A commit with the working copy, and one without.
    fn step(&mut self) {
        for (found, steps) in self.steps.iter_mut().enumerate() {
            let (data, work) = (self.site.data_dir(), self.site.run_dir().join(STORE_WORK));
            if found == 1 {
                remove_working_copy(&work);
            }
            for (time, samples) in execute("insert", &data, &work).into_iter().zip(steps) {
                samples.push(time);
            }
            execute("remove", &data, &work);
        }
    }
}

fn store(data: &Path, work: &Path) -> Store {
    Store::new(data.to_owned(), host::boot_id().unwrap()).working_in(work.to_owned())
}

/// What an ADD puts down for a container with this port.
fn forwarding(container: Container, port: u16) -> Forwarding {
    let lease = Lease {
        host: HostPort {
            protocol: Protocol::Tcp,
            port: Port::new(port).unwrap(),
            address: HostAddress::Any,
        },
        container_port: Port::new(80).unwrap(),
        name: None,
        group: None,
        claim: None,
        rest: None,
    };
    Forwarding {
        attachment: Attachment {
            network: "bench".parse().unwrap(),
            container: container.id().parse().unwrap(),
            interface: "eth0".parse().unwrap(),
        },
        pod: Some(Pod {
            namespace: "default".parse().unwrap(),
            name: format!("pod-{}", container.0).parse().unwrap(),
            uid: None,
        }),
        container: ContainerAddresses { v4: Some(container.v4()), v6: None },
        link: Some("cni0".parse().unwrap()),
        sandbox: None,
        health: None,
        since: 0,
        leases: vec![lease],
    }
}

fn remove_working_copy(work: &Path) {
    for entry in fs::read_dir(work).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("working.") {
            fs::remove_dir_all(path).unwrap();
        }
    }
}

/// Executes a process that changes the store; returns how long it took for each step.
fn execute(change: &str, data: &Path, work: &Path) -> Vec<Duration> {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([ARGUMENT, change]).args([data, work]).stderr(Stdio::inherit());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{change}: {}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let times: Vec<_> =
        text.lines().map(|line| Duration::from_nanos(line.parse().unwrap())).collect();
    assert_eq!(times.len(), STEPS);
    times
}

/// That process: given `insert` or `remove`, the database and the folder for copies, it
/// prints how long each step took, in nanoseconds.
pub fn run(arguments: &[String]) {
    let [change, data, work] = arguments else { panic!("{arguments:?}") };
    let sample = forwarding(SAMPLE, SAMPLE_PORT);
    let store = store(Path::new(data), Path::new(work));
    let mut lock = store.lock(LOCK_TIMEOUT).unwrap();
    let start = Instant::now();
    let mut draft = lock.begin().unwrap();
    let begun = Instant::now();
    if change == "insert" {
        draft.insert(&sample).unwrap();
    } else {
        let moment = Moment { since_boot: Duration::ZERO, unix: 0 };
        draft.remove(&sample.attachment, moment).unwrap().unwrap();
    }
    let changed = Instant::now();
    draft.commit().unwrap();
    let committed = Instant::now();
    for step in [begun - start, changed - begun, committed - changed] {
        println!("{}", step.as_nanos());
    }
}

fn report_calls(nodes: &[Node], report: &mut Report) {
    let row = |verb: usize, node: &Node| {
        let (name, target) = VERBS[verb];
        let samples = &node.calls[verb];
        let ratio = Target::cells_of(target, samples.ratio(&nodes[0].calls[verb]), "");
        format!("{name} | {} | {ratio} | {samples}", node.leases)
    };
    let rows = (0..VERBS.len()).flat_map(|verb| nodes.iter().map(move |node| row(verb, node)));
    report.table(
        "One call, by what is stored",
        "call | leases | ratio | target | portclaim",
        rows.collect(),
        "One static TCP port of an IPv4 container, relative to the same where there are the \
         fewest leases, each of a container of its own, on nodes of their own in turns.",
    );
}

fn report_steps(nodes: &[Node], report: &mut Report) {
    let row = |found: usize, node: &Node| {
        let [begin, change, commit] = &node.steps[found];
        let all = [begin, change, commit].map(Samples::median).iter().sum::<Duration>();
        let all = all.as_secs_f64() * 1e3;
        format!("{} | {} | {all:.1} ms | {begin} | {change} | {commit}", FOUND[found], node.leases)
    };
    let rows = (0..FOUND.len()).flat_map(|found| nodes.iter().map(move |node| row(found, node)));
    report.table(
        "The store alone",
        "what there is | leases | all | open | change | commit and close",
        rows.collect(),
        "The lease of one container, from taking what there is to leaving it to the next \
         call, each in a process of its own; the library as the bench is built.",
    );
}
