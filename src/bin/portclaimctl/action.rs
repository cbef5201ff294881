//! `portclaimctl action`.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use portclaim::{cni::STDIN_LIMIT, module::Action};
use serde_json::Value;

use crate::{
    service::{self, Answer, Failure},
    site,
};

#[derive(Args)]
pub struct Options {
    /// `allocate-ports` or `deallocate-ports`.
    name: String,

    #[command(flatten)]
    service: service::Options,
}

/// Reads the data of the action from stdin. What failed is printed too.
pub fn run(
    out: &mut impl Write,
    options: &Options,
    site: &site::Options,
) -> anyhow::Result<ExitCode> {
    match carry_out(site, options) {
        Ok(answer) => writeln!(out, "{}", answer.output)?,
        Err(failure) => {
            writeln!(out, "{}", failure.to_json())?;
            return Err(failure.into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn carry_out(site: &site::Options, options: &Options) -> Result<Answer, Failure> {
    let mut text = Vec::new();
    let limit = STDIN_LIMIT as u64 + 1;
    io::stdin().take(limit).read_to_end(&mut text).context("cannot read stdin")?;
    if text.len() > STDIN_LIMIT {
        return Err(Failure::invalid(format!("stdin is larger than {STDIN_LIMIT} bytes")));
    }
    let data: Value = serde_json::from_slice(&text)
        .map_err(|error| Failure::invalid(format!("stdin is no JSON: {error}")))?;
    service::call(site, &options.service, &Action::parse(&options.name, &data)?)
}
