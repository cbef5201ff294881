//! `portclaimctl import`.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use portclaim::{
    lease::ModuleId,
    module::{Transfer, TransferError},
};

use crate::{
    render::read,
    service::{self, Failure, ModulesFile},
    site,
};

#[derive(Args)]
pub struct Options {
    /// What `export` has printed, or with `--environment` the environment of a service;
    /// `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Take `TCP_PORT`, `TCP_PORTS` and `TCP_PORTS_RANGE`, and the same of UDP, from a
    /// file of variables, as `NethServer` has for each module: `20001`, `20001-20004`
    #[arg(long, requires = "owner")]
    environment: bool,

    /// Whose environment it is.
    #[arg(long, value_name = "MODULE", requires = "environment")]
    owner: Option<ModuleId>,

    /// Print what would be taken over, and change nothing.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    modules: ModulesFile,
}

pub fn run(
    out: &mut impl Write,
    options: &Options,
    site: &site::Options,
) -> anyhow::Result<ExitCode> {
    let text = read(&options.file)?;
    let transfer = match &options.owner {
        Some(owner) => Transfer::from_environment(owner, &text),
        None => Transfer::parse(text.as_bytes()),
    };
    let invalid = |error: TransferError| Failure::invalid(error.to_string());
    let transfer = transfer.map_err(invalid);
    let transfer = transfer.with_context(|| options.file.display().to_string())?;
    let mut modules = service::open(site, &options.modules)?;
    let imported = modules.import(&transfer, options.dry_run, site::moment());
    let imported = imported.map_err(Failure::from)?;
    // "reserved" or "would reserve".
    let verb = |done, planned| if options.dry_run { planned } else { done };
    for claim in &imported.claims {
        let (verb, ports) = (verb("reserved", "would reserve"), crate::view::claim::ports(claim));
        writeln!(out, "{verb} {ports} for claim {}", claim.key)?;
    }
    for lease in &imported.modules {
        writeln!(out, "{} {lease}", verb("allocated", "would allocate"))?;
    }
    if imported.there > 0 {
        writeln!(out, "{} are there already", imported.there)?;
    }
    Ok(ExitCode::SUCCESS)
}
