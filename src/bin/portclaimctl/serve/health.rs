//! Whether what listens behind ports works: each that wants to be checked is checked
//! again and again, all of them side by side, so that none waits for another.
//!
//! ```text
//! snapshots ─┬→ wanted: whom to check, and how → a task each → marks
//! instances ─┘
//! ```
//!
//! A check is up to `tries` attempts, of which one must succeed. A container is asked
//! on its own address, as a kubelet does; an instance where it says that it is.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use portclaim::lease::{Attachment, HealthCheck, Lease, Probe, Protocol};
use tokio::{
    sync::{Semaphore, watch},
    task::AbortHandle,
    time,
};

use super::{
    instance::{Address, InstanceName},
    instances::List,
    probe::{Failure, attempt},
    stored::Stored,
};
use crate::view::holding::Holding;

/// How many attempts are under way at once.
const ATTEMPTS: usize = 512;

#[derive(Args, Clone)]
#[group(skip)]
pub struct Options {
    /// How long to wait between two checks of the same
    #[arg(long = "health-interval", value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = duration)]
    interval: Duration,

    /// How long an attempt may take
    #[arg(long = "health-timeout", value_name = "TIME", default_value = "5s")]
    #[arg(value_parser = duration)]
    timeout: Duration,

    /// How many attempts of a check must fail, one after the other
    #[arg(long = "health-tries", value_name = "N", default_value = "4")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    tries: u32,

    /// How long to wait after an attempt that failed
    #[arg(long = "health-retry", value_name = "TIME", default_value = "3s")]
    #[arg(value_parser = duration)]
    retry: Duration,
}

/// A time that neither keeps a processor busy nor is never over.
fn duration(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(10)..=Duration::from_hours(24);
    let parsed = humantime::parse_duration(text).ok().filter(|time| range.contains(time));
    parsed.ok_or_else(|| "10ms to 24h are allowed".to_owned())
}

/// Who is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Container(Attachment),
    Instance(InstanceName),
}

/// Where, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    address: Address,
    probe: Probe,
}

/// What has been found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet.
    Pending,
    Healthy,
    /// Why.
    Unhealthy(String),
}

impl Health {
    /// What it may be called.
    pub const NAMES: [&str; 3] = ["healthy", "unhealthy", "pending"];

    /// As programs read it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Healthy => "healthy",
            Self::Unhealthy(_) => "unhealthy",
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Unhealthy(reason) => Some(reason),
            Self::Pending | Self::Healthy => None,
        }
    }
}

/// What has been found out of one.
#[derive(Clone, Debug)]
pub struct Mark {
    pub health: Health,
    /// When it was found healthy last.
    pub proven: Option<Instant>,
    /// The task that may change this.
    task: u64,
}

/// What has been found out of all that are checked.
#[derive(Clone, Debug, Default)]
pub struct Marks(HashMap<Subject, Mark>);

impl Marks {
    /// None of those that are not checked.
    pub fn of_container(&self, attachment: &Attachment) -> Option<&Health> {
        if self.0.is_empty() {
            return None;
        }
        self.of(&Subject::Container(attachment.clone())).map(|mark| &mark.health)
    }

    pub fn of_instance(&self, name: &InstanceName) -> Option<&Health> {
        self.of(&Subject::Instance(name.clone())).map(|mark| &mark.health)
    }

    /// When an instance was known to be healthy last: now, until a check finds otherwise.
    pub fn proven(&self, name: &InstanceName) -> Option<Instant> {
        let mark = self.of(&Subject::Instance(name.clone()))?;
        if mark.health == Health::Healthy { Some(Instant::now()) } else { mark.proven }
    }

    /// How many of a kind are known to be so; see [`Health::name`].
    pub fn count(&self, of_instances: bool, health: &str) -> usize {
        let is_meant = |(subject, mark): &(&Subject, &Mark)| {
            matches!(subject, Subject::Instance(_)) == of_instances && mark.health.name() == health
        };
        self.0.iter().filter(is_meant).count()
    }

    fn of(&self, subject: &Subject) -> Option<&Mark> {
        self.0.get(subject)
    }

    #[cfg(test)]
    pub fn unhealthy(subject: Subject, reason: &str) -> Self {
        let health = Health::Unhealthy(reason.to_owned());
        Self(HashMap::from([(subject, Mark { health, proven: None, task: 0 })]))
    }
}

/// The checks that go on.
struct Checks {
    options: Options,
    tasks: HashMap<Subject, Task>,
    /// How many have begun.
    begun: u64,
    attempts: Arc<Semaphore>,
    marks: Arc<watch::Sender<Marks>>,
}

/// One that goes on until it is dropped.
struct Task {
    target: Target,
    handle: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Checks whoever wants to be, for as long as the process runs.
pub async fn follow(
    options: Options,
    mut stored: watch::Receiver<Arc<Stored>>,
    mut instances: watch::Receiver<List>,
    marks: Arc<watch::Sender<Marks>>,
) {
    let attempts = Arc::new(Semaphore::new(ATTEMPTS));
    let mut checks = Checks { options, tasks: HashMap::new(), begun: 0, attempts, marks };
    loop {
        let targets = targets(&stored.borrow_and_update(), &instances.borrow_and_update());
        checks.adjust(targets);
        // Neither ends before the process does.
        tokio::select! {
            _ = stored.changed() => {}
            _ = instances.changed() => {}
        }
    }
}

/// Whom to check, where, and how.
fn targets(stored: &Stored, instances: &List) -> HashMap<Subject, Target> {
    let containers = stored.holdings.iter().filter_map(|holding| {
        let Holding::Container(forwarding) = holding else { return None };
        let check = forwarding.health.as_ref()?;
        let port = checked(check, &forwarding.leases)?.container_port;
        let address = SocketAddr::new(forwarding.container.iter().next()?, port.number());
        let target = Target { address: Address::Ip(address), probe: check.probe.clone() };
        Some((Subject::Container(forwarding.attachment.clone()), target))
    });
    let instances = instances.iter().filter_map(|instance| {
        let target = Target { address: instance.address.clone(), probe: instance.health.clone()? };
        Some((Subject::Instance(instance.name.clone()), target))
    });
    containers.chain(instances).collect()
}

/// The lease that a check is about.
fn checked<'l>(check: &HealthCheck, leases: &'l [Lease]) -> Option<&'l Lease> {
    let is_meant = |lease: &&Lease| check.port.is_none() || lease.name == check.port;
    leases.iter().filter(|lease| lease.host.protocol == Protocol::Tcp).find(is_meant)
}

impl Checks {
    /// Ends the checks that are not wanted and begins those that are.
    fn adjust(&mut self, mut wanted: HashMap<Subject, Target>) {
        self.tasks.retain(|subject, task| wanted.get(subject) == Some(&task.target));
        wanted.retain(|subject, _| !self.tasks.contains_key(subject));
        let first = self.begun;
        self.begun += wanted.len() as u64;
        let new: Vec<_> = wanted.into_iter().zip(first..).collect();
        self.marks.send_if_modified(|marks| {
            let before = marks.0.len();
            marks.0.retain(|subject, _| self.tasks.contains_key(subject));
            let is_modified = marks.0.len() != before || !new.is_empty();
            marks.0.extend(new.iter().map(|((subject, _), task)| {
                let mark = Mark { health: Health::Pending, proven: None, task: *task };
                (subject.clone(), mark)
            }));
            is_modified
        });
        for ((subject, target), number) in new {
            let check = Check {
                options: self.options.clone(),
                subject: subject.clone(),
                target: target.clone(),
                attempts: self.attempts.clone(),
                marks: self.marks.clone(),
                number,
            };
            let handle = tokio::spawn(check.go_on()).abort_handle();
            self.tasks.insert(subject, Task { target, handle });
        }
    }
}

/// The check of one.
struct Check {
    options: Options,
    subject: Subject,
    target: Target,
    attempts: Arc<Semaphore>,
    marks: Arc<watch::Sender<Marks>>,
    number: u64,
}

impl Check {
    async fn go_on(self) {
        loop {
            match self.round().await {
                Ok(()) => self.mark(Health::Healthy),
                Err(Failure::Theirs(reason)) => self.mark(Health::Unhealthy(reason)),
                // It says nothing of them: what was known before stays.
                Err(Failure::Ours(reason)) => {
                    log::warn!("{} is not checked: {reason}", self.target.address);
                }
            }
            // Those that began together do not stay together.
            let pause = self.options.interval;
            time::sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    async fn round(&self) -> Result<(), Failure> {
        let mut tried = 0;
        loop {
            let place = self.attempts.acquire().await.expect("it is never closed");
            let Target { address, probe } = &self.target;
            let done = attempt(address, probe, self.options.timeout).await;
            drop(place);
            tried += 1;
            if done.is_ok() || tried == self.options.tries {
                return done;
            }
            time::sleep(self.options.retry).await;
        }
    }

    fn mark(&self, health: Health) {
        self.marks.send_if_modified(|marks| {
            let mark = marks.0.get_mut(&self.subject).filter(|mark| mark.task == self.number);
            // Another check has taken its place.
            let Some(mark) = mark else { return false };
            if health == Health::Healthy {
                mark.proven = Some(Instant::now());
            }
            let is_modified = mark.health != health;
            mark.health = health;
            is_modified
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{super::instance::tests::instance, *};
    use crate::view::lease::tests::forwarding;

    #[test]
    fn who_wants_to_be_is_checked() {
        let mut web = forwarding("shop/web", &["53/udp", "80/tcp", "81/tcp"]);
        web.health = "tcp".parse().ok();
        let mut named = forwarding("shop/named", &["82/tcp", "83/tcp"]);
        named.leases[1].name = "api".parse().ok();
        named.health = "api=http:/h".parse().ok();
        let silent = forwarding("shop/silent", &["84/tcp"]);
        let stored = Stored {
            holdings: vec![web.clone().into(), named.clone().into(), silent.into()],
            ..Stored::default()
        };
        let mut known = instance("known", "node:90");
        known.health = Some(Probe::Tcp);
        let list = Arc::new(vec![known, instance("unknown", "node:91")]);
        let targets = targets(&stored, &list);
        let shown = |subject: Subject| {
            let target = &targets[&subject];
            format!("{} {:?}", target.address, target.probe)
        };
        assert_eq!(targets.len(), 3);
        assert_eq!(shown(Subject::Container(web.attachment)), "10.1.0.5:80 Tcp");
        assert_eq!(shown(Subject::Container(named.attachment)), "10.1.0.5:83 Http(\"/h\")");
        assert_eq!(shown(Subject::Instance("known".parse().unwrap())), "node:90 Tcp");
    }
}
