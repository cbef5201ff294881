//! `portclaimctl export`.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::Args;
use portclaim::{module::Transfer, store::StoreError};

use crate::{output, site::Site};

#[derive(Args)]
pub struct Options {}

pub fn run(out: &mut impl Write, _options: &Options, site: &Site) -> anyhow::Result<ExitCode> {
    let reader = site.read()?;
    let read = || Ok::<_, StoreError>((reader.claims()?, reader.module_leases()?));
    let (claims, modules) = read().context("cannot read the leases")?;
    output::json(out, &Transfer::of(&claims, &modules))?;
    Ok(ExitCode::SUCCESS)
}
