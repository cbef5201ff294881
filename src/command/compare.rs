//! What the operator's `check` does: the whole store against the whole kernel and
//! all published files.
//!
//! Without the lock, so that no ADD waits. What is found then may be a call that is
//! half-way: so it is looked for again under the lock before it is believed.
//!
//! A table of a network without leases is no fault as long as nothing is in it: its
//! guard goes on keeping others from the host's loopback, which `route_localnet`
//! has opened.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use super::{Error, module, operate::Operator, release};
use crate::{
    host,
    lease::{ForeignChain, Forwarding, InterfaceName, ModuleLease, NetworkName, Owner, Pod},
    nat::{self, Difference, Element, Table, elements, network_of},
    publish::{self, Publication},
    store::View,
};

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A table is absent or has other rules.
    Rules,
    /// The kernel lacks an element of a lease.
    Missing,
    /// An element of a lease leads elsewhere, or is said to be another's.
    Wrong,
    /// The kernel has an element that no lease needs.
    Foreign,
    /// `route_localnet` is off for a link that needs it.
    Link,
    /// A chain of others does not let pass what it should.
    Chain,
    /// A published file is not there, or says something else.
    File,
    /// Files are published for who holds nothing.
    ForeignFile,
}

impl Kind {
    /// Its name in output for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Missing => "missing-element",
            Self::Wrong => "wrong-element",
            Self::Foreign => "foreign-element",
            Self::Link => "link",
            Self::Chain => "chain",
            Self::File => "file",
            Self::ForeignFile => "foreign-file",
        }
    }
}

/// One difference between the store and what is made from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is different.
    pub kind: Kind,
    /// The network, as far as it is known; none of modules.
    pub network: Option<NetworkName>,
    /// Whose it is.
    pub owner: Option<(Owner, Option<Pod>)>,
    /// In one sentence, with the table, element, link or file.
    pub text: String,
}

/// What came of comparing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Every difference.
    pub findings: Vec<Finding>,
    /// What could not be compared, and what is worth knowing and no fault.
    pub notes: Vec<String>,
    /// How many leases there are.
    pub leases: usize,
}

/// A table of ours, what it should hold and how it differs from that.
pub(super) struct ComparedTable {
    pub(super) table: Table,
    pub(super) network: Option<NetworkName>,
    pub(super) is_configured: bool,
    pub(super) forwardings: Vec<Forwarding>,
    pub(super) differences: Vec<Difference>,
}

/// A folder that is not as it should be.
pub(super) enum ComparedFolder {
    Faulty(Box<FaultyFolder>),
    Foreign(PathBuf),
}

/// A folder whose files are not what they should be.
pub(super) struct FaultyFolder {
    pub(super) publication: Publication,
    network: Option<NetworkName>,
    owner: (Owner, Option<Pod>),
    faults: Vec<publish::Fault>,
}

/// All that is made from the store, and how it differs from what it should be.
#[derive(Default)]
pub(super) struct Projection {
    pub(super) tables: Vec<ComparedTable>,
    /// Links for which `route_localnet` should be on and is off.
    pub(super) closed_links: BTreeMap<InterfaceName, NetworkName>,
    /// Links that leases name and the host does not have.
    pub(super) absent_links: BTreeSet<InterfaceName>,
    /// Chains of others that do not let pass what is forwarded, and should.
    pub(super) closed_chains: Vec<ForeignChain>,
    /// Those of them that are not there.
    pub(super) absent_chains: Vec<ForeignChain>,
    pub(super) folders: Vec<ComparedFolder>,
}

impl Operator<'_> {
    /// Compares the store with the kernel and the published files.
    pub fn compare(&mut self) -> Result<Comparison, Error> {
        let compared = self.compare_now()?;
        if compared.findings.is_empty() || !self.node.store.exists()? {
            return Ok(compared);
        }
        // Readers need no lock; this one keeps writers from their work meanwhile.
        let _lock = self.node.store.lock(self.lock_timeout)?;
        self.compare_now()
    }

    fn compare_now(&mut self) -> Result<Comparison, Error> {
        let leases = self.node.store.read()?;
        let projection = self.project(&leases)?;
        let leases = count(&leases.forwardings()?, &leases.module_leases()?);
        Ok(Comparison { findings: projection.findings(), notes: projection.notes(), leases })
    }

    /// Looks at everything that is made from these leases.
    pub(super) fn project(&mut self, leases: &View) -> Result<Projection, Error> {
        let mut projection = Projection::default();
        let mut networks: BTreeMap<NetworkName, Vec<Forwarding>> = BTreeMap::new();
        for config in self.configs {
            networks.entry(config.network.clone()).or_default();
        }
        let forwardings = leases.forwardings()?;
        for forwarding in &forwardings {
            let network = forwarding.attachment.network.clone();
            networks.entry(network).or_default().push(forwarding.clone());
        }
        let mut there: BTreeSet<String> = self.tables()?.into_iter().collect();
        for (network, forwardings) in networks {
            let known = self.known(&network)?;
            let (snat, mut options) = match &known {
                Some((settings, options)) => (settings.snat, options.clone()),
                None => (true, default_options()),
            };
            options.lineage = leases.lineage();
            let table = Table::new(&network, &options);
            let was_there = there.remove(table.name());
            if snat {
                projection.look_at_links(&network, &forwardings)?;
            }
            if forwardings.is_empty() && !was_there {
                continue;
            }
            let is_configured = known.is_some();
            let differences = self.node.nat.audit(&table, is_configured, &forwardings)?;
            let network = Some(network);
            projection.tables.push(ComparedTable {
                table,
                network,
                is_configured,
                forwardings,
                differences,
            });
        }
        let table = module::table(leases.lineage());
        let forwardings_of_modules = module::forwardings(leases)?;
        let was_there = there.remove(table.name());
        if was_there || !forwardings_of_modules.is_empty() {
            projection.tables.push(ComparedTable {
                differences: self.node.nat.audit(&table, true, &forwardings_of_modules)?,
                table,
                network: None,
                is_configured: true,
                forwardings: forwardings_of_modules,
            });
        }
        // Of networks that nobody knows of any more.
        for name in there {
            let options = nat::Options { lineage: leases.lineage(), ..default_options() };
            projection.tables.push(ComparedTable {
                network: network_of(&name),
                is_configured: false,
                forwardings: Vec::new(),
                differences: self.node.nat.strays(&name)?,
                table: Table::named(name, &options),
            });
        }
        for chain in self.accept_in()? {
            match self.node.nat.accepts(&chain)? {
                Some(true) => {}
                Some(false) => projection.closed_chains.push(chain),
                None => projection.absent_chains.push(chain),
            }
        }
        projection.look_at_files(&self.node.run_dir, forwardings, &leases.module_leases()?)?;
        Ok(projection)
    }
}

/// Those of a conflist that says nothing.
fn default_options() -> nat::Options {
    nat::Options { snat: true, ..nat::Options::default() }
}

impl Projection {
    fn look_at_links(
        &mut self,
        network: &NetworkName,
        forwardings: &[Forwarding],
    ) -> Result<(), Error> {
        let links: BTreeSet<_> = forwardings
            .iter()
            .filter(|forwarding| forwarding.container.v4.is_some())
            .filter_map(|forwarding| forwarding.link.as_ref())
            .collect();
        for link in links {
            match host::has_route_localnet(link)? {
                Some(true) => {}
                Some(false) => drop(self.closed_links.insert(link.clone(), network.clone())),
                None => drop(self.absent_links.insert(link.clone())),
            }
        }
        Ok(())
    }

    fn look_at_files(
        &mut self,
        run_dir: &Path,
        forwardings: Vec<Forwarding>,
        modules: &[ModuleLease],
    ) -> Result<(), Error> {
        let mut folders: BTreeMap<PathBuf, Vec<Forwarding>> = BTreeMap::new();
        for forwarding in forwardings {
            let folder = publish::folder(run_dir, &forwarding);
            folders.entry(folder).or_default().push(forwarding);
        }
        let mut known: BTreeSet<PathBuf> = BTreeSet::new();
        let of_containers = folders.values().filter_map(|sharing| {
            let latest = release::latest(sharing)?;
            let network = Some(latest.attachment.network.clone());
            Some((Publication::of_container(run_dir, latest), network, owner(latest)))
        });
        let of_modules = modules.chunk_by(|one, other| one.module == other.module).map(|held| {
            let module = &held[0].module;
            let publication = Publication::of_module(run_dir, module, held);
            (publication, None, (Owner::Module(module.clone()), None))
        });
        for (publication, network, owner) in of_containers.chain(of_modules) {
            known.insert(publication.folder().to_owned());
            let faults = publication.faults()?;
            if !faults.is_empty() {
                let folder = FaultyFolder { publication, network, owner, faults };
                self.folders.push(ComparedFolder::Faulty(Box::new(folder)));
            }
        }
        for folder in publish::folders(run_dir)? {
            if !known.contains(&folder) {
                self.folders.push(ComparedFolder::Foreign(folder));
            }
        }
        Ok(())
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for table in &self.tables {
            findings.append(&mut table.findings());
        }
        findings.extend(self.closed_links.iter().map(|(link, network)| Finding {
            kind: Kind::Link,
            network: Some(network.clone()),
            owner: None,
            text: format!(
                "route_localnet of link {link} is off: 127.0.0.1 does not lead to containers"
            ),
        }));
        findings.extend(self.closed_chains.iter().map(|chain| Finding {
            kind: Kind::Chain,
            network: None,
            owner: None,
            text: format!("chain {chain} does not accept what is forwarded"),
        }));
        for folder in &self.folders {
            match folder {
                ComparedFolder::Faulty(faulty) => {
                    findings.extend(faulty.faults.iter().map(|fault| Finding {
                        kind: Kind::File,
                        network: faulty.network.clone(),
                        owner: Some(faulty.owner.clone()),
                        text: fault.to_string(),
                    }));
                }
                ComparedFolder::Foreign(folder) => findings.push(Finding {
                    kind: Kind::ForeignFile,
                    network: None,
                    owner: None,
                    text: format!("{} is published for nobody who holds a port", folder.display()),
                }),
            }
        }
        findings
    }

    /// What is no fault and yet worth a line.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for table in &self.tables {
            let name = table.table.name();
            match (&table.network, table.is_configured) {
                (Some(network), false) if !table.forwardings.is_empty() => notes.push(format!(
                    "no conflist has network {network}: the rules of table inet {name} are taken \
                     for those of a conflist without options"
                )),
                (_, false) => notes.push(format!(
                    "table inet {name} is of a network that has no leases and no conflist; it \
                     guards the host's loopback"
                )),
                (_, true) => {}
            }
        }
        for link in &self.absent_links {
            notes.push(format!("link {link}, behind which leases are, is not there"));
        }
        for chain in &self.absent_chains {
            notes.push(format!("chain {chain}, which acceptIn names, is not there"));
        }
        notes
    }
}

impl ComparedTable {
    fn findings(&self) -> Vec<Finding> {
        if self.differences.is_empty() {
            return Vec::new();
        }
        let mut owners: HashMap<Element, &Forwarding> = HashMap::new();
        for forwarding in &self.forwardings {
            for element in elements(forwarding) {
                owners.entry(element).or_insert(forwarding);
            }
        }
        let finding = |difference: &Difference| {
            let owner = difference.element().and_then(|element| owners.get(element));
            let mut text = difference.to_string();
            if let (Some(owner), Difference::Missing { .. } | Difference::Elsewhere { .. }) =
                (owner, difference)
            {
                text = format!("{text}, which is of {}", name(owner));
            }
            Finding {
                kind: match difference {
                    Difference::Rules { .. } => Kind::Rules,
                    Difference::Missing { .. } => Kind::Missing,
                    Difference::Elsewhere { .. } | Difference::Named { .. } => Kind::Wrong,
                    Difference::Foreign { .. } => Kind::Foreign,
                },
                network: self.network.clone(),
                owner: owner.map(|forwarding| self::owner(forwarding)),
                text,
            }
        };
        self.differences.iter().map(finding).collect()
    }
}

fn owner(forwarding: &Forwarding) -> (Owner, Option<Pod>) {
    (Owner::of(forwarding), forwarding.pod.clone())
}

/// The pod, or whoever it is where there is none.
pub(super) fn name(forwarding: &Forwarding) -> String {
    match owner(forwarding) {
        (_, Some(pod)) => pod.to_string(),
        (owner, None) => owner.to_string(),
    }
}

/// How many host ports are held.
pub(super) fn count(forwardings: &[Forwarding], modules: &[ModuleLease]) -> usize {
    let of_containers = forwardings.iter().map(|held| held.leases.len());
    of_containers.chain(modules.iter().map(|lease| usize::from(lease.count))).sum()
}
