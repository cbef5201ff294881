//! The verbs: the only place that joins effects. Nothing is parsed here and no
//! rule is written here.
//!
//! Order is what keeps a node whole when a call is killed: what comes is in the
//! store before it is in the kernel, what goes leaves the kernel before the
//! store. So every kernel element has an owner in the store, at every
//! instruction, and what is half done is undone by that owner's DEL or GC. A
//! store that has lost commits begins another lineage, which gives up the tables.

mod add;
mod check;
mod collect;
mod compare;
mod del;
mod doctor;
mod error;
mod exclusion;
mod gc;
pub mod module;
mod operate;
mod plan;
mod release;
mod reset;
mod restore;
mod status;
mod unlease;

use std::{
    ffi::OsString,
    mem,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub use collect::Collection;
pub use compare::{Comparison, Finding, Kind};
pub use doctor::{ConflistFile, Diagnosis, State};
pub use error::Error;
pub use exclusion::{Exclusion, ExclusionRule};
use log::LevelFilter;
pub use operate::Operator;
pub use reset::{Inhabitants, Reset};
pub use restore::{Restoration, RestoredTable};
pub use unlease::{Found, Target, Unleased};

use crate::{
    cni::{CniVersion, Config, Environment, ErrorReply, Verb, config::Settings},
    host::{self, Flows, HostError},
    lease::{Attachment, NetworkName},
    logger,
    nat::{self, Nat},
    request::{self, Asked, Sources},
    store::{Lock, Moment, Store, StoreError},
    tally::Tally,
};

/// What a call gets from its process.
#[derive(Debug)]
pub struct Call {
    /// The environment variables.
    pub environment: Environment,
    /// `PATH`, to find nft and iptables in.
    pub path: Option<OsString>,
    /// Everything on stdin, up to one byte more than is allowed.
    pub stdin: Vec<u8>,
    /// The time, for people.
    pub now: SystemTime,
    /// The time since boot (`CLOCK_BOOTTIME`), for cool-downs.
    pub since_boot: Duration,
}

impl Call {
    /// The time, for the store.
    fn moment(&self) -> Moment {
        let unix = self.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Moment { since_boot: self.since_boot, unix }
    }
}

/// What the process gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// For stdout; empty where the specification prints nothing.
    pub stdout: String,
    /// Whether the call did what it was asked to do.
    pub success: bool,
    /// What is to be counted; none of a call that does not say where.
    account: Option<Account>,
}

impl Reply {
    /// Leaves behind what is to be counted of the call, which took so long. To be done
    /// when the reply is out: nobody waits for it.
    pub fn count(self, took: Duration) {
        if let Some(Account { verb, run_dir, mut tally }) = self.account {
            tally.call(verb, took);
            tally.leave(&run_dir, verb == Verb::Add);
        }
    }
}

/// What one call came to, and where that is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    verb: Verb,
    run_dir: PathBuf,
    tally: Tally,
}

/// What a call leaves open, for its process to end with: the kernel makes whoever closes
/// a socket of netfilter wait while elements are being deleted, 6 to 16 ms. Meanwhile
/// the reply is written, and the lock is long given back.
#[derive(Debug, Default)]
pub struct Open(Option<Node>);

/// Carries out one call of the plugin.
#[must_use]
pub fn run(call: &Call, open: &mut Open) -> Reply {
    let mut account = None;
    match dispatch(call, open, &mut account) {
        Ok(stdout) => Reply { stdout, success: true, account },
        Err(error) => {
            log::error!("{}", error.with_causes());
            let version = Config::version_of(&call.stdin);
            let reply = error.reply(version);
            if let Some(Account { verb, tally, .. }) = &mut account {
                tally.refusal(*verb, reply.code, error.reason());
            }
            Reply { stdout: reply.to_json(), success: false, account }
        }
    }
}

/// The reply to a call that ended in a panic, whose message is on stderr.
#[must_use]
pub fn panicked() -> Reply {
    /// What Go's plugins print for an error without a code (`types.ErrInternal`).
    const INTERNAL: u32 = 999;
    let msg = "the plugin has stopped at a fault of its own".to_owned();
    let details = "the message is in the log of the container runtime; this is a bug of portclaim";
    let reply = ErrorReply::new(CniVersion::NEWEST, INTERNAL, msg, details);
    Reply { stdout: reply.to_json(), success: false, account: None }
}

fn dispatch(call: &Call, open: &mut Open, account: &mut Option<Account>) -> Result<String, Error> {
    let verb = call.environment.verb()?;
    let since = match verb {
        Verb::Version => return Ok(Config::version_of(&call.stdin).reply()),
        Verb::Add | Verb::Del => CniVersion::OLDEST,
        Verb::Check => CniVersion::V0_4_0,
        Verb::Gc | Verb::Status => CniVersion::V1_1_0,
    };
    let config = Config::parse(&call.stdin)?;
    start_logging(&config);
    let run_dir = config.run_dir.clone();
    let account = account.insert(Account { verb, run_dir, tally: Tally::default() });
    config.require_version(verb, since)?;
    let node = open.0.insert(Node::new(call, &config)?);
    let done = match verb {
        Verb::Add => add::add(call, &config, node),
        Verb::Del => del::del(call, &config, node).map(silent),
        Verb::Check => check::check(call, &config, node).map(silent),
        Verb::Gc => gc::gc(call, &config, node).map(silent),
        Verb::Status | Verb::Version => status::status(&config, node).map(silent),
    };
    node.tally.elements(node.nat.drifted());
    account.tally = mem::take(&mut node.tally);
    done
}

/// The reply of verbs that print nothing.
fn silent((): ()) -> String {
    String::new()
}

/// A wrong `logLevel` must not keep DEL from its work: the refusal of ADD names it.
fn start_logging(config: &Config) {
    match config.logging() {
        Ok(logging) => logger::start(logging.level, logging.file.as_deref()),
        Err(_) => logger::start(LevelFilter::Warn, None),
    }
}

/// The effects of one node, as the configuration names them.
#[derive(Debug)]
struct Node {
    store: Store,
    nat: Nat,
    flows: Flows,
    run_dir: PathBuf,
    tally: Tally,
}

/// Where in `runDir` the store works: `/run` is in memory.
pub const STORE_WORK: &str = "store";

impl Node {
    fn new(call: &Call, config: &Config) -> Result<Self, Error> {
        let boot_id = host::boot_id()?;
        Ok(Self {
            store: Store::new(config.data_dir.clone(), boot_id)
                .working_in(config.run_dir.join(STORE_WORK)),
            // A wrong value is refused by ADD, and keeps no other verb from its work.
            nat: Nat::new(config.backend().unwrap_or_default(), call.path.as_deref()),
            flows: Flows::default(),
            run_dir: config.run_dir.clone(),
            tally: Tally::default(),
        })
    }

    /// Takes the store's lock, waiting for so long at most.
    fn lock(&mut self, timeout: Duration) -> Result<Lock, StoreError> {
        let start = Instant::now();
        let locked = self.store.lock(timeout);
        self.tally.wait(start.elapsed());
        locked
    }
}

fn attachment(call: &Call, network: &NetworkName) -> Result<Attachment, Error> {
    Ok(Attachment {
        network: network.clone(),
        container: call.environment.container()?,
        interface: call.environment.interface()?,
    })
}

/// What the configuration says about the network's table. The lineage of the
/// store is to be added.
pub fn options(settings: &Settings) -> Result<nat::Options, Error> {
    Ok(nat::Options {
        snat: settings.snat,
        masq_all: settings.masq_all,
        conditions_v4: nat::condition::parse_v4(&settings.conditions_v4)?,
        conditions_v6: nat::condition::parse_v6(&settings.conditions_v6)?,
        marks: !settings.accept_in.is_empty(),
        lineage: 0,
    })
}

/// What the container asks for and may have.
fn asked(call: &Call, config: &Config, settings: &Settings) -> Result<Asked, Error> {
    let pod = call.environment.pod();
    Ok(request::asked(&Sources::read(config)?, settings, pod.as_ref())?)
}

/// Flows that could not be forgotten are worth a line, and no reason to fail.
fn log_forgotten(flows: Result<usize, HostError>) {
    match flows {
        Ok(flows) => log::debug!("{flows} UDP flows are forgotten"),
        Err(error) => log::warn!("{}", Error::from(error).with_causes()),
    }
}
