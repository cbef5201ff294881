//! `portclaimctl deallocate`.

use std::{io::Write, process::ExitCode};

use clap::{ArgGroup, Args, ValueEnum};
use portclaim::{
    lease::{ModuleId, Protocol},
    module::{Action, Deallocation},
};

use crate::{allocate::range, service, site};

#[derive(Args)]
#[command(group(ArgGroup::new("protocol").required(true)))]
pub struct Options {
    /// Its TCP ports.
    #[arg(long, group = "protocol")]
    tcp: bool,

    /// Its UDP ports.
    #[arg(long, group = "protocol")]
    udp: bool,

    /// The service that gives them back [default: `MODULE_ID`]
    #[arg(long, value_name = "MODULE")]
    owner: Option<ModuleId>,

    /// How to print what was given back.
    #[arg(short, long, value_enum, default_value_t = Output::Ranges)]
    output: Output,

    #[command(flatten)]
    service: service::Options,
}

/// How ports are printed.
#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// `20001-20004`, one block a line
    Ranges,
    /// `[[20001,20004]]`
    Json,
}

pub fn run(
    out: &mut impl Write,
    options: &Options,
    site: &site::Options,
) -> anyhow::Result<ExitCode> {
    let protocol = if options.tcp { Protocol::Tcp } else { Protocol::Udp };
    let action = Action::Deallocate(Deallocation { module: options.owner.clone(), protocol });
    let answer = service::call(site, &options.service, &action)?;
    match options.output {
        Output::Ranges => {
            for block in answer.output.as_array().into_iter().flatten() {
                writeln!(out, "{}", range(block))?;
            }
        }
        Output::Json => writeln!(out, "{}", answer.output)?,
    }
    Ok(ExitCode::SUCCESS)
}
