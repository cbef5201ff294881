//! What the store and the conflists say at one moment, and following it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context;
use portclaim::{
    host,
    lease::{Claim, PortSet, Protocol, Protocols},
    store::StoreError,
};
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    site::{self, Site, everything, since_boot},
    view::{
        group::{Occupation, Policy, Usage, pools, resting, statistics},
        holding::Holding,
        time,
    },
    watch::Watch,
};

/// How long what changes without a commit may be old: cool-downs, expiries, conflists.
const REFRESH: Duration = Duration::from_secs(10);
/// How long to wait for more commits before reading: many come at once.
const SETTLE: Duration = Duration::from_millis(100);

/// All that they say.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub holdings: Vec<Holding>,
    pub claims: Vec<Claim>,
    /// Counted once, however many ask.
    pub groups: Vec<Group>,
    /// Seconds since the Unix epoch.
    pub at: u64,
    /// Why the store could not be read; what is shown is older then.
    pub error: Option<String>,
}

impl Stored {
    fn read(options: &site::Options, work_dir: Option<&Path>) -> anyhow::Result<Self> {
        let mut site = Site::find(options)?;
        if let Some(work_dir) = work_dir {
            work_dir.clone_into(&mut site.work_dir);
        }
        let policies = site.policies()?;
        let reader = site.read_again()?;
        let (holdings, claims) = everything(&reader)?;
        let (mut cooling, since_boot) = (Vec::new(), since_boot());
        let mut read = || {
            for protocol in Protocol::ALL {
                cooling.extend(resting(protocol, &reader.releases(protocol)?, since_boot));
            }
            Ok::<_, StoreError>(())
        };
        read().context("cannot read the leases")?;
        let ephemeral = host::ephemeral_ports()?;
        let at = time::now();
        let occupation = Occupation::new(&holdings, &claims, &cooling, at);
        let groups = Group::all(&policies, &occupation, &ephemeral);
        Ok(Self { holdings, claims, groups, at, ..Self::default() })
    }
}

/// A group and what has become of its ports.
#[derive(Clone, Debug)]
pub struct Group {
    pub name: String,
    /// How many ports may be given of it.
    pub size: u32,
    pub usages: Vec<(Protocols, Usage)>,
    /// As programs read it.
    pub document: Value,
}

impl Group {
    fn all(policies: &[Policy], occupation: &Occupation, ephemeral: &PortSet) -> Vec<Self> {
        let count = |pool| {
            let group = statistics(pool, occupation, ephemeral);
            let document = serde_json::to_value(group.document());
            Self {
                name: group.pool.name.to_string(),
                size: group.pool.ports.len(),
                document: document.expect("a document can be written as JSON"),
                usages: group.usages,
            }
        };
        pools(policies).into_iter().map(count).collect()
    }
}

/// Reads what there is, and again with every change.
pub fn follow(
    options: site::Options,
    work_dir: Option<PathBuf>,
) -> anyhow::Result<watch::Receiver<Arc<Stored>>> {
    let data_dir = Site::find(&options)?.data_dir;
    // Watched before it is read, so that nothing is missed.
    let mut watch = Watch::new(&data_dir)?;
    let first = Stored::read(&options, work_dir.as_deref())?;
    let (sender, receiver) = watch::channel(Arc::new(first));
    let mut follow = move || {
        loop {
            watch.wait_for(REFRESH)?;
            thread::sleep(SETTLE);
            let before = sender.borrow().clone();
            let next = Stored::read(&options, work_dir.as_deref()).unwrap_or_else(|error| {
                log::warn!("{error:#}");
                Stored { error: Some(format!("{error:#}")), ..(*before).clone() }
            });
            if sender.send(Arc::new(next)).is_err() {
                return Ok::<_, anyhow::Error>(());
            }
        }
    };
    thread::Builder::new()
        .name("follow".to_owned())
        .spawn(move || {
            if let Err(error) = follow() {
                // Without it, what is shown would be old for ever.
                log::error!("{error:#}");
                std::process::exit(1);
            }
        })
        .context("cannot start a thread")?;
    Ok(receiver)
}
