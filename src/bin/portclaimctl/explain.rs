//! `portclaimctl explain`.

use std::{collections::BTreeSet, io::Write, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use portclaim::{
    host,
    lease::{Claim, HostAddress, HostPort, Owner},
    store::{Reader, StoreError},
};

use crate::{
    ink::Ink,
    output,
    site::{Site, since_boot},
    view::{
        explanation::{Explanation, Facts, Verdict, explain, title, together},
        holding::Holding,
        lease::owners,
        search::PortPattern,
        time,
    },
};

/// The exit status is 0 if a container can get the port, for all of the protocols
/// that were asked about, and 1 if not.
#[derive(Args)]
pub struct Options {
    /// 8080, 8080/udp or 192.0.2.1:8080/tcp; without a protocol, all are explained
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: PortPattern,

    /// Only this address of the host
    #[arg(long, value_name = "IP")]
    host_ip: Option<HostAddress>,
}

pub fn run(
    out: &mut impl Write,
    ink: Ink,
    options: &Options,
    site: &Site,
) -> anyhow::Result<ExitCode> {
    let PortPattern { port, protocols, address } = options.port;
    let address = match (address, options.host_ip) {
        (HostAddress::Any, Some(address)) => address,
        (address, Some(other)) if address != other => {
            bail!("--host-ip {other} is not the address of {address}")
        }
        (address, _) => address,
    };
    let policies = site.policies()?;
    let reader = site.read()?;
    let ephemeral = host::ephemeral_ports().map_err(|error| with_causes(&error));
    let mut explanations = Vec::new();
    for protocol in protocols.iter() {
        let asked = HostPort { protocol, port, address };
        let known = Known::read(&reader, asked).context("cannot read the leases")?;
        let facts = Facts {
            port: asked,
            holders: known.holders(asked),
            claims: known.claims.clone(),
            owners: &owners(&known.owners),
            cooling: known.cooling,
            sockets: sockets(&asked),
            ephemeral: &ephemeral,
            policies: &policies,
            now: time::now(),
        };
        explanations.push((protocol, explain(&facts)));
    }
    let is_free = explanations.iter().all(|(_, found)| found.verdict == Verdict::Free);
    for (protocols, Explanation { verdict, reasons }) in together(explanations) {
        let verdict = match verdict {
            Verdict::Free => ink.good("is free"),
            Verdict::Taken => ink.bad("is not free"),
            Verdict::NotGiven => ink.bad("is not given to anybody"),
        };
        writeln!(out, "{} {verdict}", title(address, port, protocols))?;
        for reason in reasons {
            output::paragraph(out, "  ", 4, &reason)?;
        }
    }
    Ok(if is_free { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the store says of a host port.
struct Known {
    owners: Vec<Holding>,
    claims: Vec<Claim>,
    cooling: Option<u64>,
}

impl Known {
    fn read(reader: &Reader, port: HostPort) -> Result<Self, StoreError> {
        let holders = reader.holders(port.protocol, port.port)?;
        let mut claims = reader.claims_on(port.protocol, port.port)?;
        claims.retain(|claim| claim.address.overlaps(&port.address));
        let mut known: BTreeSet<Owner> = holders.into_iter().map(|(_, holder)| holder).collect();
        known.extend(claims.iter().filter_map(|claim| claim.holder.clone()).map(Owner::from));
        let mut owners: Vec<Holding> = Vec::new();
        for owner in &known {
            match owner {
                Owner::Attachment(at) => owners.extend(reader.forwarding(at)?.map(Holding::from)),
                Owner::Module(module) => {
                    owners.extend(reader.of_module(module)?.into_iter().map(Holding::from));
                }
            }
        }
        let releases = reader.releases(port.protocol)?;
        let release = releases.into_iter().find(|(released, _)| *released == port.port);
        let left = release.map(|(_, release)| release.rested.saturating_sub(since_boot()));
        // The last part of a second is shown as a whole one.
        let seconds = left.map(|left| left.as_secs() + u64::from(left.subsec_nanos() > 0));
        Ok(Self { owners, claims, cooling: seconds.filter(|seconds| *seconds > 0) })
    }

    fn holders(&self, asked: HostPort) -> Vec<(HostPort, &Holding)> {
        let owners = self.owners.iter();
        let leases =
            owners.flat_map(|owner| owner.leases().iter().map(move |lease| (lease.host, owner)));
        leases.filter(|(port, _)| port.conflicts_with(&asked)).collect()
    }
}

/// The sockets of the host on the port, and whose they are.
fn sockets(port: &HostPort) -> Result<Vec<(host::Socket, Vec<host::Process>)>, String> {
    let sockets = host::sockets(port).map_err(|error| with_causes(&error))?;
    let inodes: Vec<u64> = sockets.iter().map(|socket| socket.inode).collect();
    let mut processes = host::processes(&inodes);
    let sockets = sockets.into_iter();
    Ok(sockets.map(|s| (s.clone(), processes.remove(&s.inode).unwrap_or_default())).collect())
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
