//! What the store and the conflists say at one moment, and following it.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Context;
use portclaim::{
    host,
    lease::{Claim, Port, PortSet, Protocol},
    store::StoreError,
};
use tokio::sync::watch;

use crate::{
    site::{self, Site, everything, since_boot},
    view::{
        group::{Document, Occupation, Policy, Statistics, pools, resting, statistics},
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
    pub cooling: Vec<(Protocol, Port)>,
    pub policies: Vec<Policy>,
    /// The ports that the kernel gives to connections itself.
    pub ephemeral: PortSet,
    /// Seconds since the Unix epoch.
    pub at: u64,
    /// Why the store could not be read; what is shown is older then.
    pub error: Option<String>,
}

impl Stored {
    fn read(options: &site::Options) -> anyhow::Result<Self> {
        let site = Site::find(options)?;
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
        Ok(Self { holdings, claims, cooling, policies, ephemeral, at, ..Self::default() })
    }

    /// The groups, and what is made of each.
    pub fn groups<T>(&self, mut show: impl FnMut(&Statistics<'_>) -> T) -> Vec<T> {
        let occupation = Occupation::new(&self.holdings, &self.claims, &self.cooling, self.at);
        let of = |pool| show(&statistics(pool, &occupation, &self.ephemeral));
        pools(&self.policies).into_iter().map(of).collect()
    }

    /// The groups as programs read them.
    pub fn group_documents(&self) -> Vec<serde_json::Value> {
        self.groups(|group| {
            let document: Document<'_> = group.document();
            serde_json::to_value(document).expect("a document can be written as JSON")
        })
    }
}

/// Reads what there is, and again with every change.
pub fn follow(options: site::Options) -> anyhow::Result<watch::Receiver<Arc<Stored>>> {
    let data_dir = Site::find(&options)?.data_dir;
    // Watched before it is read, so that nothing is missed.
    let mut watch = Watch::new(&data_dir)?;
    let first = Stored::read(&options)?;
    let (sender, receiver) = watch::channel(Arc::new(first));
    let mut follow = move || {
        loop {
            watch.wait_for(REFRESH)?;
            thread::sleep(SETTLE);
            let before = sender.borrow().clone();
            let next = Stored::read(&options).unwrap_or_else(|error| {
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
