//! `portclaimctl restore`.

use std::{io::Write, process::ExitCode};

use clap::Args;

use crate::site::{self, Site};

#[derive(Args)]
pub struct Options {
    /// Print what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub fn run(out: &mut impl Write, options: &Options, site: &Site) -> anyhow::Result<ExitCode> {
    let mut operator = site.operator()?;
    let done = if options.dry_run { operator.plan_restore() } else { operator.restore() };
    let done = done.map_err(site::advised)?;
    // "wrote" or "would write".
    let verb = |done, planned| if options.dry_run { planned } else { done };
    for table in &done.tables {
        let (name, leases) = (&table.name, table.leases);
        if table.is_written {
            writeln!(out, "{} table inet {name}: {leases} leases", verb("wrote", "would write"))?;
        } else {
            writeln!(out, "table inet {name} is as it should be: {leases} leases")?;
        }
    }
    for chain in &done.opened {
        writeln!(out, "{} what is forwarded in chain {chain}", verb("accepted", "would accept"))?;
    }
    for link in &done.links {
        writeln!(out, "{} route_localnet of link {link}", verb("turned on", "would turn on"))?;
    }
    for folder in &done.published {
        writeln!(out, "{} {}", verb("published", "would publish"), folder.display())?;
    }
    for folder in &done.withdrawn {
        writeln!(out, "{} {}", verb("removed", "would remove"), folder.display())?;
    }
    for note in &done.notes {
        writeln!(out, "note: {note}")?;
    }
    if done.tables.is_empty()
        && done.opened.is_empty()
        && done.published.is_empty()
        && done.withdrawn.is_empty()
    {
        writeln!(out, "there is nothing to restore")?;
    }
    Ok(site::report(&done.errors))
}
