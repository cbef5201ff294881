//! `portclaimctl reset`.

use std::{io::Write, process::ExitCode};

use clap::Args;

use crate::{
    confirm::confirm,
    site::{self, Site},
};

#[derive(Args)]
pub struct Options {
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,

    /// Keep the claims, and what services of the host hold: who uses the claims next
    /// gets the same ports again.
    #[arg(long)]
    keep_claims: bool,
}

pub fn run(out: &mut impl Write, options: &Options, site: &Site) -> anyhow::Result<ExitCode> {
    let mut operator = site.operator()?;
    let there = operator.inhabitants(options.keep_claims).map_err(site::advised)?;
    for table in &there.tables {
        writeln!(out, "to remove: table inet {table}")?;
    }
    for chain in &there.chains {
        writeln!(out, "to remove: the rule of portclaim in chain {chain}")?;
    }
    match &there.forwardings {
        None => writeln!(out, "to set aside: the database, which cannot be read")?,
        Some(held) => {
            let leases: usize = held.iter().map(|held| held.leases.len()).sum();
            let claims = if options.keep_claims { "kept" } else { "set aside" };
            writeln!(
                out,
                "to set aside: {leases} leases of {} attachments; {} claims are {claims}",
                held.len(),
                there.claims,
            )?;
        }
    }
    if !there.modules.is_empty() {
        let ports: Vec<_> = there.modules.iter().map(ToString::to_string).collect();
        let what = if options.keep_claims { "kept" } else { "to set aside" };
        writeln!(out, "{what}: {}, services of the host", ports.join(", "))?;
    }
    writeln!(out, "to remove: the files in {} folders", there.folders.len())?;
    writeln!(out, "Containers that run go on without their host ports until they are restarted.")?;
    out.flush()?;
    if !confirm(options.yes)? {
        writeln!(out, "nothing was removed")?;
        return Ok(ExitCode::FAILURE);
    }
    let done = operator.reset(options.keep_claims).map_err(site::advised)?;
    for table in &done.tables {
        writeln!(out, "removed table inet {table}")?;
    }
    for chain in &done.chains {
        writeln!(out, "removed the rule of portclaim in chain {chain}")?;
    }
    for folder in &done.folders {
        writeln!(out, "removed {}", folder.display())?;
    }
    for link in &done.links {
        writeln!(out, "turned off route_localnet of link {link}")?;
    }
    for link in &done.open_links {
        writeln!(out, "note: route_localnet of link {link} is on, and nobody guards it any more")?;
    }
    match &done.set_aside {
        Some(path) => writeln!(out, "the database is now in {}", path.display())?,
        None if options.keep_claims => writeln!(out, "kept {} claims", done.kept_claims)?,
        None => writeln!(out, "there was no database")?,
    }
    Ok(site::report(&done.errors))
}
