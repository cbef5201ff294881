//! `portclaimctl gc`.

use std::{io::Write, process::ExitCode};

use clap::Args;

use crate::site::{self, Site, ports, who};

#[derive(Args)]
pub struct Options {
    /// Print what would be given back, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub fn run(out: &mut impl Write, options: &Options, site: &Site) -> anyhow::Result<ExitCode> {
    let mut operator = site.operator()?;
    let found = if options.dry_run { operator.plan_collect() } else { operator.collect() };
    let found = found.map_err(site::advised)?;
    let verb = if options.dry_run { "would give back" } else { "gave back" };
    for gone in &found.gone {
        writeln!(out, "{verb} {} of {}", ports(&gone.leases), who(gone))?;
    }
    for (held, reason) in &found.unknown {
        writeln!(out, "not known: {}: {reason}", who(held))?;
    }
    let (gone, there, unknown) = (found.gone.len(), found.there, found.unknown.len());
    writeln!(out, "{gone} gone, {there} there, {unknown} not known")?;
    Ok(site::report(&found.errors))
}
