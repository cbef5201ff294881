//! `portclaimctl allocate`.

use std::{io::Write, process::ExitCode};

use clap::{ArgGroup, Args, ValueEnum};
use portclaim::{
    lease::{Endpoint, GroupName, ModuleId, Protocol},
    module::Allocation,
};
use serde_json::Value;

use crate::{
    service::{self, Failure},
    site,
};

#[derive(Args)]
#[command(group(ArgGroup::new("protocol").required(true)))]
pub struct Options {
    /// So many TCP ports, in a row.
    #[arg(long, value_name = "N", group = "protocol", value_parser = clap::value_parser!(u16).range(1..))]
    tcp: Option<u16>,

    /// So many UDP ports, in a row.
    #[arg(long, value_name = "N", group = "protocol", value_parser = clap::value_parser!(u16).range(1..))]
    udp: Option<u16>,

    /// The service that is to have them [default: `MODULE_ID`]
    #[arg(long, value_name = "MODULE")]
    owner: Option<ModuleId>,

    /// Leave it what it has of the protocol, instead of replacing that.
    #[arg(long)]
    keep_existing: bool,

    /// The group to take them from [default: the module's own, or defaultGroup]
    #[arg(long, value_name = "NAME")]
    group: Option<GroupName>,

    /// Forward them there: the first to this port, the second to the next.
    #[arg(long, value_name = "IP:PORT")]
    to: Option<Endpoint>,

    /// How to print what was allocated; `env`: all that the service has.
    #[arg(short, long, value_enum, default_value_t = Output::Ranges)]
    output: Output,

    #[command(flatten)]
    service: service::Options,
}

/// How ports are printed.
#[derive(Clone, Copy, ValueEnum)]
pub enum Output {
    /// `20001-20004`
    Ranges,
    /// `[20001,20004]`
    Json,
    /// Lines for `EnvironmentFile=`
    Env,
}

pub fn run(
    out: &mut impl Write,
    options: &Options,
    site: &site::Options,
) -> anyhow::Result<ExitCode> {
    let (protocol, count) = match (options.tcp, options.udp) {
        (Some(count), _) => (Protocol::Tcp, count),
        (None, count) => (Protocol::Udp, count.expect("one of the two is required")),
    };
    let wanted = Allocation {
        module: options.owner.clone(),
        protocol,
        count,
        keep_existing: options.keep_existing,
        group: options.group.clone(),
        to: options.to,
    };
    let action = wanted.checked().map_err(Failure::from)?;
    let answer = service::call(site, &options.service, &action)?;
    match options.output {
        Output::Ranges => writeln!(out, "{}", range(&answer.output))?,
        Output::Json => writeln!(out, "{}", answer.output)?,
        Output::Env => write!(out, "{}", answer.env)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `20001-20004` of `[20001,20004]`, and `20001` of `[20001,20001]`.
pub fn range(output: &Value) -> String {
    match (&output[0], &output[1]) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}
