//! `portclaimctl show`.

use std::{collections::BTreeSet, fmt::Display, io::Write, path::Path, process::ExitCode};

use clap::Args;
use portclaim::{
    command,
    lease::{Backend, Claim, Forwarding, Lease, NetworkName},
    nat::{self, Nat, Rules, Table as Ruleset, elements},
    publish,
};

use crate::{
    ink::Ink,
    output,
    site::{Site, everything},
    table::{Column, Table},
    view::{
        claim::{self, ports},
        holding::{Block, Holding},
        kernel::State,
        lease::{Held, Owners, owners},
        search::find,
        time,
    },
};

#[derive(Args)]
pub struct Options {
    /// PORT: 8080, 8080/udp or 192.0.2.1:8080/tcp; POD and CLAIM: NAMESPACE/NAME or a
    /// name; CONTAINER: an ID, or as much of it as no other has; MODULE: its name
    #[arg(value_name = "PORT|POD|CONTAINER|CLAIM|MODULE")]
    name: String,
}

pub fn run(
    out: &mut impl Write,
    ink: Ink,
    options: &Options,
    site: &Site,
) -> anyhow::Result<ExitCode> {
    let reader = site.read()?;
    let (holdings, claims) = everything(&reader)?;
    let found = find(&options.name, &holdings, &claims)?;
    let mut kernel = Kernel::new(site, reader.lineage());
    let mut blank = "";
    for (owner, leases) in &found.owners {
        write!(out, "{blank}")?;
        match owner {
            Holding::Container(forwarding) => print_container(out, site, forwarding, &mut kernel)?,
            Holding::Module(block) => print_module(out, site, block, &mut kernel)?,
        }
        print_leases(out, ink, owner, leases, &mut kernel)?;
        blank = "\n";
    }
    let owners = owners(&holdings);
    for claim in &found.claims {
        write!(out, "{blank}")?;
        print_claim(out, claim, &owners)?;
        blank = "\n";
    }
    Ok(ExitCode::SUCCESS)
}

fn print_container(
    out: &mut impl Write,
    site: &Site,
    owner: &Forwarding,
    kernel: &mut Kernel<'_>,
) -> anyhow::Result<()> {
    let at = &owner.attachment;
    if let Some(pod) = &owner.pod {
        field(out, "pod", pod)?;
        if let Some(uid) = &pod.uid {
            field(out, "uid", uid)?;
        }
    }
    field(out, "container", &at.container)?;
    field(out, "interface", &at.interface)?;
    field(out, "network", &at.network)?;
    let addresses = output::list(owner.container.iter());
    field(out, "addresses", if addresses.is_empty() { "none" } else { &addresses })?;
    if let Some(link) = &owner.link {
        field(out, "link", link)?;
    }
    print_since(out, owner.since)?;
    print_files(out, &publish::folder(&site.run_dir, owner))?;
    field(out, "rules", kernel.rules(&owner.attachment.network))
}

fn print_module(
    out: &mut impl Write,
    site: &Site,
    block: &Block,
    kernel: &mut Kernel<'_>,
) -> anyhow::Result<()> {
    let lease = &block.lease;
    field(out, "module", &lease.module)?;
    print_since(out, lease.since)?;
    print_files(out, &publish::module_folder(&site.run_dir, &lease.module))?;
    match lease.to {
        Some(_) => field(out, "rules", kernel.rules(&NetworkName::modules())),
        None => Ok(()),
    }
}

fn print_since(out: &mut impl Write, since: u64) -> anyhow::Result<()> {
    let age = time::span(time::now().saturating_sub(since));
    field(out, "since", format!("{} ({age} ago)", time::rfc3339(since)))
}

fn print_files(out: &mut impl Write, folder: &Path) -> anyhow::Result<()> {
    let absent = if folder.join(publish::JSON).exists() { "" } else { " (not there)" };
    field(out, "files", format!("{}{absent}", folder.display()))
}

fn print_leases(
    out: &mut impl Write,
    ink: Ink,
    owner: &Holding,
    leases: &[&Lease],
    kernel: &mut Kernel<'_>,
) -> anyhow::Result<()> {
    let forwarding = match owner {
        Holding::Container(forwarding) => Some(forwarding.clone()),
        Holding::Module(block) => block.lease.forwarding(),
    };
    let mut table = Table::new(&[
        Column { title: "HOST PORT", shrinks: false },
        Column { title: "TO", shrinks: false },
        Column { title: "NAME", shrinks: true },
        Column { title: "GROUP", shrinks: true },
        Column { title: "CLAIM", shrinks: true },
        Column { title: "KERNEL", shrinks: false },
    ]);
    let mut problems = Vec::new();
    for lease in leases {
        let held = Held { lease, owner };
        let or_none = |name: Option<String>| name.unwrap_or_else(|| "-".to_owned());
        // A module that listens itself needs nothing of the kernel.
        let state = forwarding.as_ref().map(|forwarding| kernel.state(forwarding, lease));
        let state = state.map(|(state, found)| {
            problems.extend(found);
            state.to_string()
        });
        table.push(vec![
            lease.host.to_string(),
            held.target(),
            or_none(lease.name.as_ref().map(ToString::to_string)),
            held.group(),
            or_none(lease.claim.as_ref().map(ToString::to_string)),
            or_none(state),
        ]);
    }
    table.print(out)?;
    problems.dedup();
    // Without a table, everything that should be in it is missing.
    let has_table = |of: &Forwarding| kernel.has_table(&of.attachment.network);
    for problem in problems.iter().filter(|_| forwarding.as_ref().is_some_and(has_table)) {
        output::paragraph(out, &ink.bad("kernel: "), 2, problem)?;
    }
    Ok(())
}

fn print_claim(out: &mut impl Write, claim: &Claim, owners: &Owners<'_>) -> anyhow::Result<()> {
    field(out, "claim", &claim.key)?;
    field(out, "host port", ports(claim))?;
    field(out, "group", &claim.group)?;
    field(out, "holder", claim::State::of(claim, owners, time::now()))?;
    if let Some(expires) = claim.expires {
        field(out, "expires", time::rfc3339(expires))?;
    }
    field(out, "kept for", format!("{} after its last use", time::span(claim.ttl)))
}

fn field(out: &mut impl Write, name: &str, value: impl Display) -> anyhow::Result<()> {
    const WIDTH: usize = 9;
    const GAP: usize = 2;
    let name = format!("{name:WIDTH$}{:GAP$}", "");
    Ok(output::paragraph(out, &name, WIDTH + GAP, &value.to_string())?)
}

/// The kernel, asked about one forwarding after the other.
struct Kernel<'a> {
    site: &'a Site,
    lineage: u64,
    nat: Nat,
    /// Tables that are not there.
    absent: BTreeSet<NetworkName>,
}

impl<'a> Kernel<'a> {
    fn new(site: &'a Site, lineage: u64) -> Self {
        // Which one does not matter to whoever only reads.
        let nat = Nat::new(Backend::default(), None);
        Self { site, lineage, nat, absent: BTreeSet::new() }
    }

    /// What has become of the rules of the network's table.
    fn rules(&mut self, network: &NetworkName) -> String {
        let table = match self.table(network) {
            Ok(table) => table,
            Err(reason) => return format!("unknown: {reason}"),
        };
        let name = table.name();
        let found = self.nat.rules(&table);
        if matches!(found, Ok(Rules::None)) {
            self.absent.insert(network.clone());
        }
        match found {
            Ok(Rules::Intact) => format!("complete, in table inet {name}"),
            Ok(Rules::None) => format!("missing: there is no table inet {name}"),
            Ok(Rules::Other) => format!("those of table inet {name} are not those configured"),
            Err(error) => format!("unknown: {:#}", anyhow::Error::from(error)),
        }
    }

    /// Whether there may be a table for the network.
    fn has_table(&self, network: &NetworkName) -> bool {
        !self.absent.contains(network)
    }

    /// The table that the network should have.
    fn table(&self, network: &NetworkName) -> Result<Ruleset, String> {
        if *network == NetworkName::modules() {
            return Ok(command::module::table(self.lineage));
        }
        let Some(config) = self.site.config_of(network) else {
            return Err(format!("no conflist has network {network}"));
        };
        let settings = config.settings().map_err(command::Error::from);
        match settings.and_then(|settings| command::options(&settings)) {
            Ok(options) => {
                let options = nat::Options { lineage: self.lineage, ..options };
                Ok(Ruleset::new(network, &options))
            }
            Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    /// Whether the kernel forwards a lease, and how it differs if it does not.
    fn state(&mut self, owner: &Forwarding, lease: &Lease) -> (State, Vec<String>) {
        let alone = Forwarding { leases: vec![lease.clone()], ..owner.clone() };
        // Elements are known by the name of the table, whatever its rules are.
        let table = Ruleset::new(&owner.attachment.network, &nat::Options::default());
        match self.nat.compare(&table, &elements(&alone)) {
            Ok(differences) => {
                let found = differences.iter().map(ToString::to_string).collect();
                (State::of(&differences), found)
            }
            // The rules say why.
            Err(_) => (State::Unknown, Vec::new()),
        }
    }
}
