//! `portclaimctl claims`.

use std::{io::Write, process::ExitCode};

use clap::Args;
use portclaim::lease::{Claim, Namespace};

use crate::{
    output::{self, PlainOutput},
    site::{Site, everything},
    table::{Column, Table},
    view::{
        claim::{State, document, ports},
        lease::owners,
        time,
    },
};

#[derive(Args)]
pub struct Options {
    /// How to print: a table for people, JSON and YAML for programs.
    #[arg(short, long, value_enum, default_value_t = PlainOutput::Table)]
    output: PlainOutput,

    /// Only claims of this namespace
    #[arg(short, long)]
    namespace: Option<Namespace>,

    /// Only claims that nobody uses
    #[arg(long)]
    unused: bool,
}

pub fn run(out: &mut impl Write, options: &Options, site: &Site) -> anyhow::Result<ExitCode> {
    let (forwardings, claims) = everything(&site.read()?)?;
    let (owners, now) = (owners(&forwardings), time::now());
    let is_wanted = |claim: &&Claim| {
        let of_namespace = options.namespace.is_none() || options.namespace == claim.key.namespace;
        of_namespace && (!options.unused || claim.holder.is_none())
    };
    let claims: Vec<&Claim> = claims.iter().filter(is_wanted).collect();
    let documents = || claims.iter().map(|claim| document(claim, &owners)).collect::<Vec<_>>();
    match options.output {
        PlainOutput::Json => output::json(out, &documents())?,
        PlainOutput::Yaml => output::yaml(out, &documents())?,
        PlainOutput::Table => {
            let mut table = Table::new(&[
                Column { title: "NAMESPACE", shrinks: true },
                Column { title: "CLAIM", shrinks: true },
                Column { title: "NAME", shrinks: true },
                Column { title: "HOST PORT", shrinks: false },
                Column { title: "GROUP", shrinks: true },
                Column { title: "HOLDER", shrinks: true },
            ]);
            for claim in &claims {
                let key = &claim.key;
                table.push(vec![
                    key.namespace.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                    key.claim.to_string(),
                    key.name.to_string(),
                    ports(claim),
                    claim.group.to_string(),
                    State::of(claim, &owners, now).to_string(),
                ]);
            }
            table.print(out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
