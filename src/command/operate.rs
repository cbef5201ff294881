//! What the node's operator does beside the runtime: the same store, lock and
//! rules as the plugin's calls.

use std::{collections::BTreeSet, ffi::OsStr, path::PathBuf, time::Duration};

use super::{Error, Node, STORE_WORK, options, release::Context};
use crate::{
    cni::{
        Config,
        config::{self, Settings},
    },
    host::{self, Flows},
    lease::{ForeignChain, NetworkName},
    nat::{self, Nat, Table},
    store::{Moment, Store},
    tally::Tally,
};

/// The node, as its operator works on it.
#[derive(Debug)]
pub struct Operator<'a> {
    pub(super) node: Node,
    pub(super) configs: &'a [Config],
    /// Networks with another database, whose tables are none of this one's business.
    others: &'a [Config],
    pub(super) moment: Moment,
    pub(super) data_dir: PathBuf,
    pub(super) lock_timeout: Duration,
}

impl<'a> Operator<'a> {
    /// The node with these directories (`dataDir`, `runDir`) and networks. nft is
    /// looked for in `path` (a `PATH`) and the usual places.
    pub fn new(
        data_dir: PathBuf,
        run_dir: PathBuf,
        path: Option<&OsStr>,
        configs: &'a [Config],
        moment: Moment,
    ) -> Result<Self, Error> {
        let store = Store::new(data_dir.clone(), host::boot_id()?);
        let lock_timeout = configs.first().map(Config::lock_timeout).transpose()?;
        let backend = configs.first().map(Config::backend).transpose()?;
        Ok(Self {
            node: Node {
                store: store.working_in(run_dir.join(STORE_WORK)),
                nat: Nat::new(backend.unwrap_or_default(), path),
                flows: Flows::default(),
                run_dir,
                tally: Tally::default(),
            },
            configs,
            others: &[],
            moment,
            data_dir,
            lock_timeout: lock_timeout.unwrap_or(config::DEFAULT_LOCK_TIMEOUT),
        })
    }

    /// The same node, on which these networks have another `dataDir`.
    #[must_use]
    pub fn beside(self, others: &'a [Config]) -> Self {
        Self { others, ..self }
    }

    /// The names of the tables that are made from this store, or may once have been.
    pub(super) fn tables(&mut self) -> Result<Vec<String>, Error> {
        let mut tables = self.node.nat.tables()?;
        for other in self.others {
            let table = Table::new(&other.network, &nat::Options::default());
            tables.retain(|name| name != table.name());
        }
        Ok(tables)
    }

    /// The chains of others that are to let pass what is forwarded, each once.
    pub(super) fn accept_in(&self) -> Result<BTreeSet<ForeignChain>, Error> {
        let mut chains = BTreeSet::new();
        for config in self.configs {
            chains.extend(config.settings()?.accept_in);
        }
        Ok(chains)
    }

    pub(super) fn context(&self) -> Context<'a> {
        Context { configs: self.configs, moment: self.moment }
    }

    /// The settings of a network and its table's options; none where no conflist has
    /// its name.
    pub(super) fn known(
        &self,
        network: &NetworkName,
    ) -> Result<Option<(Settings, nat::Options)>, Error> {
        let config = self.configs.iter().find(|config| config.network == *network);
        let known = config.map(|config| {
            let settings = config.settings()?;
            let options = options(&settings)?;
            Ok::<_, Error>((settings, options))
        });
        known.transpose()
    }
}
