//! `portclaimctl list`.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use portclaim::lease::{ClaimName, Forwarding, GroupName, Lease, PortName};
use serde::Serialize;

use crate::table::{Column, Table};

#[derive(Args)]
pub struct Options {
    /// How to print: a table for people, or JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// One lease as an object of `-o json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    name: Option<&'a str>,
    protocol: &'static str,
    #[serde(rename = "hostIP")]
    host_ip: String,
    host_port: u16,
    container_port: u16,
    #[serde(rename = "containerIPs")]
    container_ips: Vec<String>,
    group: Option<&'a str>,
    claim: Option<&'a str>,
    network: &'a str,
    #[serde(rename = "containerID")]
    container_id: &'a str,
    ifname: &'a str,
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
    uid: Option<&'a str>,
    /// RFC 3339, in UTC.
    since: String,
}

pub fn print(
    out: &mut impl Write,
    options: &Options,
    forwardings: &[Forwarding],
) -> anyhow::Result<()> {
    let mut leases: Vec<(&Lease, &Forwarding)> =
        forwardings.iter().flat_map(|f| f.leases.iter().map(move |lease| (lease, f))).collect();
    leases.sort_by_key(|(lease, _)| (lease.host.port, lease.host.protocol, lease.host.address));
    match options.output {
        Output::Json => {
            let rows: Vec<_> = leases.iter().map(|(lease, owner)| row(lease, owner)).collect();
            serde_json::to_writer_pretty(&mut *out, &rows).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        Output::Table => {
            let mut table = Table::new(&[
                Column { title: "HOST PORT", shrinks: false },
                Column { title: "TO", shrinks: false },
                Column { title: "OWNER", shrinks: true },
                Column { title: "NETWORK", shrinks: true },
                Column { title: "GROUP", shrinks: true },
                Column { title: "AGE", shrinks: false },
            ]);
            for (lease, owner) in leases {
                table.push(cells(lease, owner));
            }
            table.print(out)?;
        }
    }
    Ok(())
}

fn row<'a>(lease: &'a Lease, owner: &'a Forwarding) -> Row<'a> {
    let pod = owner.pod.as_ref();
    Row {
        name: lease.name.as_ref().map(PortName::as_str),
        protocol: lease.host.protocol.name(),
        host_ip: lease.host.address.to_string(),
        host_port: lease.host.port.number(),
        container_port: lease.container_port.number(),
        container_ips: owner.container.iter().map(|address| address.to_string()).collect(),
        group: lease.group.as_ref().map(GroupName::as_str),
        claim: lease.claim.as_ref().map(ClaimName::as_str),
        network: owner.attachment.network.as_str(),
        container_id: owner.attachment.container.as_str(),
        ifname: owner.attachment.interface.as_str(),
        namespace: pod.map(|pod| pod.namespace.as_str()),
        pod: pod.map(|pod| pod.name.as_str()),
        uid: pod.and_then(|pod| pod.uid.as_deref()),
        since: humantime::format_rfc3339_seconds(since(owner)).to_string(),
    }
}

fn cells(lease: &Lease, owner: &Forwarding) -> Vec<String> {
    let address = owner.container.iter().next().map(|address| {
        std::net::SocketAddr::new(address, lease.container_port.number()).to_string()
    });
    let held_by = match &owner.pod {
        Some(pod) => pod.to_string(),
        None => owner.attachment.to_string(),
    };
    vec![
        lease.host.to_string(),
        address.unwrap_or_else(|| lease.container_port.to_string()),
        held_by,
        owner.attachment.network.to_string(),
        lease.group.as_ref().map_or_else(|| "static".to_owned(), ToString::to_string),
        age(SystemTime::now().duration_since(since(owner)).unwrap_or_default()),
    ]
}

fn since(owner: &Forwarding) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(owner.since)
}

/// The age in its largest unit, as kubectl shows it: `45s`, `12m`, `3h`, `9d`.
fn age(age: Duration) -> String {
    const UNITS: [(u64, char); 3] = [(24 * 60 * 60, 'd'), (60 * 60, 'h'), (60, 'm')];
    let seconds = age.as_secs();
    let unit = UNITS.into_iter().find(|(size, _)| seconds >= *size);
    unit.map_or_else(|| format!("{seconds}s"), |(size, unit)| format!("{}{unit}", seconds / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_shown_in_their_largest_unit() {
        let shown = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 3599, 3600, 86399, 86400].map(shown),
            ["0s", "59s", "1m", "59m", "1h", "23h", "1d"]
        );
    }
}
