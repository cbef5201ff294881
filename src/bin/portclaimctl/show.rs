//! `portclaimctl show`.

use std::{fmt::Display, io::Write, process::ExitCode};

use clap::Args;
use portclaim::{
    command,
    lease::{Claim, Forwarding, Lease},
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
        kernel::State,
        lease::{Held, Owners, owners},
        search::find,
        time,
    },
};

#[derive(Args)]
pub struct Options {
    /// PORT: 8080, 8080/udp or 192.0.2.1:8080/tcp; POD and CLAIM: NAMESPACE/NAME or a
    /// name; CONTAINER: an ID, or as much of it as no other has
    #[arg(value_name = "PORT|POD|CONTAINER|CLAIM")]
    name: String,
}

pub fn run(
    out: &mut impl Write,
    ink: Ink,
    options: &Options,
    site: &Site,
) -> anyhow::Result<ExitCode> {
    let reader = site.read()?;
    let (forwardings, claims) = everything(&reader)?;
    let found = find(&options.name, &forwardings, &claims)?;
    let mut kernel = Kernel::new(site, reader.lineage());
    let mut blank = "";
    for (owner, leases) in &found.owners {
        write!(out, "{blank}")?;
        print_owner(out, ink, site, owner, leases, &mut kernel)?;
        blank = "\n";
    }
    let owners = owners(&forwardings);
    for claim in &found.claims {
        write!(out, "{blank}")?;
        print_claim(out, claim, &owners)?;
        blank = "\n";
    }
    Ok(ExitCode::SUCCESS)
}

fn print_owner(
    out: &mut impl Write,
    ink: Ink,
    site: &Site,
    owner: &Forwarding,
    leases: &[&Lease],
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
    let age = time::span(time::now().saturating_sub(owner.since));
    field(out, "since", format!("{} ({age} ago)", time::rfc3339(owner.since)))?;
    let folder = publish::folder(&site.run_dir, owner);
    let absent = if folder.join(publish::JSON).exists() { "" } else { " (not there)" };
    field(out, "files", format!("{}{absent}", folder.display()))?;
    let (rules, has_table) = kernel.rules(owner);
    field(out, "rules", rules)?;

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
        let (state, found) = kernel.state(owner, lease);
        problems.extend(found);
        table.push(vec![
            lease.host.to_string(),
            held.target(),
            or_none(lease.name.as_ref().map(ToString::to_string)),
            held.group(),
            or_none(lease.claim.as_ref().map(ToString::to_string)),
            state.to_string(),
        ]);
    }
    table.print(out)?;
    problems.dedup();
    // Without a table, everything that should be in it is missing.
    for problem in problems.iter().filter(|_| has_table) {
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
}

impl<'a> Kernel<'a> {
    fn new(site: &'a Site, lineage: u64) -> Self {
        Self { site, lineage, nat: Nat::new(std::env::var_os("PATH").as_deref()) }
    }

    /// What has become of the rules of the network's table, and whether there may be
    /// such a table at all.
    fn rules(&mut self, owner: &Forwarding) -> (String, bool) {
        let network = &owner.attachment.network;
        let Some(config) = self.site.config_of(network) else {
            return (format!("unknown: no conflist has network {network}"), true);
        };
        let settings = config.settings().map_err(command::Error::from);
        let options = match settings.and_then(|settings| command::options(&settings)) {
            Ok(options) => nat::Options { lineage: self.lineage, ..options },
            Err(error) => return (format!("unknown: {:#}", anyhow::Error::from(error)), true),
        };
        let table = Ruleset::new(network, &options);
        let name = table.name();
        let found = self.nat.rules(&table);
        let has_table = !matches!(found, Ok(Rules::None));
        let text = match found {
            Ok(Rules::Intact) => format!("complete, in table inet {name}"),
            Ok(Rules::None) => format!("missing: there is no table inet {name}"),
            Ok(Rules::Other) => format!("those of table inet {name} are not those configured"),
            Err(error) => format!("unknown: {:#}", anyhow::Error::from(error)),
        };
        (text, has_table)
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
