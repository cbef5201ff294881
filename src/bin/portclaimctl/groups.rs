//! `portclaimctl groups`.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::Args;
use portclaim::{host, lease::Protocol};

use crate::{
    ink::Ink,
    output::{self, PlainOutput},
    site::{Site, everything, since_boot},
    table::{Column, Table},
    view::{
        group::{Occupation, Statistics, bar, pools, resting, statistics},
        time,
    },
};

/// How many namespaces are named.
const NAMED: usize = 3;
const BAR_WIDTH: usize = 12;

/// In the bars, `#` is leased, `=` is reserved by claims that nobody uses, and `-`
/// cools down. Protocols of which the same is true share a line.
#[derive(Args)]
pub struct Options {
    /// How to print: a table for people, JSON and YAML for programs.
    #[arg(short, long, value_enum, default_value_t = PlainOutput::Table)]
    output: PlainOutput,
}

pub fn run(
    out: &mut impl Write,
    ink: Ink,
    options: &Options,
    site: &Site,
) -> anyhow::Result<ExitCode> {
    let policies = site.policies()?;
    let ephemeral = host::ephemeral_ports()?;
    let reader = site.read()?;
    let mut cooling = Vec::new();
    let since_boot = since_boot();
    let mut read = || {
        for protocol in Protocol::ALL {
            cooling.extend(resting(protocol, &reader.releases(protocol)?, since_boot));
        }
        Ok::<_, portclaim::store::StoreError>(())
    };
    read().context("cannot read the leases")?;
    let (holdings, claims) = everything(&reader)?;
    let occupation = Occupation::new(&holdings, &claims, &cooling, time::now());
    let statistics: Vec<_> = pools(&policies)
        .into_iter()
        .map(|pool| statistics(pool, &occupation, &ephemeral))
        .collect();
    let documents = || statistics.iter().map(Statistics::document).collect::<Vec<_>>();
    match options.output {
        PlainOutput::Json => output::json(out, &documents())?,
        PlainOutput::Yaml => output::yaml(out, &documents())?,
        PlainOutput::Table => print(out, ink, &statistics)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, ink: Ink, all: &[Statistics<'_>]) -> anyhow::Result<()> {
    let number = |title| Column { title, shrinks: false };
    let mut table = Table::new(&[
        Column { title: "GROUP", shrinks: true },
        Column { title: "PROTOCOL", shrinks: true },
        number("SIZE"),
        number("LEASED"),
        number("RESERVED"),
        number("COOLING"),
        number("FREE"),
        number("USED"),
    ])
    .align_right(&[2, 3, 4, 5, 6]);
    for group in all {
        let name = group.pool.name.to_string();
        let names = std::iter::once(name).chain(std::iter::repeat(String::new()));
        for ((protocols, usage), name) in group.usages.iter().zip(names) {
            let size = group.pool.ports.len();
            let mut cells = vec![name, protocols.to_string(), size.to_string()];
            let counts = [usage.leased, usage.reserved, usage.cooling, usage.free];
            cells.extend(counts.map(|count| count.to_string()));
            cells.push(bar(usage, BAR_WIDTH));
            table.push(cells);
        }
        table.push_note(2, note(group));
    }
    table.print(out)?;
    for group in all.iter().filter(|group| !group.ephemeral.is_empty()) {
        let (name, ports) = (group.pool.name, &group.ephemeral);
        let text = format!(
            "the host gives ports {ports} of group \"{name}\" to its own connections too \
             (net.ipv4.ip_local_port_range): use other ports, or narrow that range"
        );
        output::paragraph(out, &ink.warning("warning: "), 2, &text)?;
    }
    Ok(())
}

/// The ports of a group, where they are, and who has most of them.
fn note(group: &Statistics<'_>) -> String {
    let pool = &group.pool;
    let excluded = match pool.group.ports.len() - pool.ports.len() {
        0 => String::new(),
        excluded => format!(" ({excluded} excluded)"),
    };
    let networks = match pool.networks[..] {
        [] => String::new(),
        [network] => format!("; network {network}"),
        _ => format!("; networks {}", output::list(&pool.networks)),
    };
    let holders = group.holders.iter().take(NAMED).map(|(side, count)| format!("{side} {count}"));
    let holders = match output::list(holders) {
        none if none.is_empty() => none,
        holders => format!("; most leased by {holders}"),
    };
    format!("ports {}{excluded}{networks}{holders}", pool.group.ports)
}
