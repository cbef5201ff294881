//! `portclaimctl release`.

use std::{io::Write, process::ExitCode};

use anyhow::bail;
use clap::Args;
use portclaim::{
    command::{Found, Target},
    lease::{HostAddress, Lease, ModuleLease, Port, Protocol},
};

use crate::{
    confirm::confirm,
    site::{self, Site, ports, who},
    view::{holding::Holding, search},
};

#[derive(Args)]
pub struct Options {
    /// A port (8080, 8080/tcp), a pod (NAMESPACE/NAME), a container by its ID or the
    /// beginning of it, an attachment (ID/INTERFACE), or a claim
    /// (NAMESPACE/CLAIM[/PORT[/PROTOCOL]]). Where a name means several of these:
    /// port:…, pod:…, container:…, claim:…
    #[arg(required = true, value_name = "WHAT")]
    targets: Vec<String>,

    /// Do not ask.
    #[arg(short, long)]
    yes: bool,

    /// Give up claims that are in use; their ports stay with who holds them.
    #[arg(long)]
    force: bool,
}

/// So much of a container's ID must be given, where it is not said to be one.
const SHORTEST_ID: usize = 4;

pub fn run(out: &mut impl Write, options: &Options, site: &Site) -> anyhow::Result<ExitCode> {
    let mut operator = site.operator()?;
    let mut found = Vec::new();
    for text in &options.targets {
        let mut meant = Vec::new();
        for target in targets(text) {
            let mut matching = operator.find(&target).map_err(site::advised)?;
            if target.kind() == "container" && containers(&matching) > 1 {
                bail!("{text:?} is the beginning of several container IDs: write more of it");
            }
            if !matching.is_empty() {
                meant.push(target.kind());
            }
            found.append(&mut matching);
        }
        match meant[..] {
            [] => bail!("{}", nothing_of(text, site)?),
            [_] => {}
            _ => bail!("{text:?} is a {}: write {}:{text}", meant.join(" and a "), meant[0]),
        }
    }
    for found in &found {
        if let Found::Claim(claim) = found
            && let Some(holder) = &claim.holder
            && !options.force
        {
            let key = &claim.key;
            bail!("claim {key} is used by {holder}: release that, or say --force");
        }
        writeln!(out, "to give back: {}", describe(found))?;
    }
    out.flush()?;
    if !confirm(options.yes)? {
        writeln!(out, "nothing was given back")?;
        return Ok(ExitCode::FAILURE);
    }
    let done = operator.unlease(&found).map_err(site::advised)?;
    for gone in &done.leases {
        writeln!(out, "gave back {} of {}", ports(&gone.leases), who(gone))?;
    }
    for claim in &done.claims {
        writeln!(out, "gave up claim {}", claim.key)?;
    }
    Ok(site::report(&done.errors))
}

/// Why there is nothing to give back.
fn nothing_of(text: &str, site: &Site) -> anyhow::Result<String> {
    let holdings = site::holdings(&site.read_again()?)?;
    let found = search::find(text, &holdings, &[]).unwrap_or_default();
    let module = found.owners.iter().find_map(|(owner, _)| match owner {
        Holding::Module(block) => Some(&block.lease),
        Holding::Container(_) => None,
    });
    Ok(match module {
        Some(ModuleLease { module, protocol, .. }) => format!(
            "{text:?} is of a service of the host: portclaimctl deallocate --{protocol} \
             --owner {module} gives it back"
        ),
        None => format!("nothing is held or claimed by {text:?}"),
    })
}

/// How many containers are among what was found.
fn containers(found: &[Found]) -> usize {
    let ids = found.iter().filter_map(|found| match found {
        Found::Leases { held, .. } => Some(&held.attachment.container),
        Found::Claim(_) => None,
    });
    ids.collect::<std::collections::BTreeSet<_>>().len()
}

fn describe(found: &Found) -> String {
    match found {
        Found::Leases { held, ports: meant, is_there } => {
            let leases: Vec<Lease> =
                held.leases.iter().filter(|lease| meant.contains(&lease.host)).cloned().collect();
            let container = match is_there {
                Some(true) => ", whose container is there",
                Some(false) => ", whose container is gone",
                None => "",
            };
            format!("{} of {}{container}", ports(&leases), who(held))
        }
        Found::Claim(claim) => {
            let ports: Vec<_> = claim.ports().map(|port| port.to_string()).collect();
            let holder = claim.holder.as_ref();
            let used = holder.map(|holder| format!(", used by {holder}")).unwrap_or_default();
            format!("claim {} on {}{used}", claim.key, ports.join(", "))
        }
    }
}

/// Everything that a text may mean.
fn targets(text: &str) -> Vec<Target> {
    let named = match text.split_once(':') {
        Some(("port", text)) => Some(port(text)),
        Some(("pod", text)) => Some(pod(text)),
        Some(("container" | "attachment", text)) => Some(container(text, 1)),
        Some(("claim", text)) => Some(claim(text)),
        _ => None,
    };
    if let Some(target) = named {
        return target.into_iter().collect();
    }
    // A number is a port: so begin container IDs as well.
    if let Some(port) = port(text) {
        return vec![port];
    }
    [pod(text), container(text, SHORTEST_ID), claim(text)].into_iter().flatten().collect()
}

fn protocol(name: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| protocol.name() == name)
}

/// `8080`, `8080/tcp`, `192.0.2.1:8080/tcp`, `[2001:db8::1]:8080`.
fn port(text: &str) -> Option<Target> {
    let (rest, protocol) = match text.split_once('/') {
        Some((rest, name)) => (rest, Some(protocol(name)?)),
        None => (text, None),
    };
    let (address, number) = match rest.rsplit_once(':') {
        Some((address, number)) => {
            let address =
                address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
            (Some(address.parse::<HostAddress>().ok()?), number)
        }
        None => (None, rest),
    };
    let number = number.parse().ok().and_then(Port::new)?;
    Some(Target::Port(number, protocol, address))
}

fn pod(text: &str) -> Option<Target> {
    let (namespace, name) = text.split_once('/')?;
    Some(Target::Pod(namespace.parse().ok()?, name.parse().ok()?))
}

/// As attachments are shown, too: `3f2a8c1b9d0e…/eth0`.
fn container(text: &str, shortest: usize) -> Option<Target> {
    let (id, interface) = match text.split_once('/') {
        Some((id, interface)) => (id, Some(interface.parse().ok()?)),
        None => (text, None),
    };
    let id = id.strip_suffix('…').unwrap_or(id);
    (id.len() >= shortest).then(|| Target::Container(id.to_owned(), interface))
}

/// Without a namespace, of containers in no pod: `/CLAIM`, or `CLAIM` alone.
fn claim(text: &str) -> Option<Target> {
    let parts: Vec<_> = text.split('/').collect();
    let (namespace, claim, port) = match parts[..] {
        [claim] => ("", claim, None),
        [namespace, claim] => (namespace, claim, None),
        [namespace, claim, port] => (namespace, claim, Some((port.parse().ok()?, None))),
        [namespace, claim, port, name] => {
            (namespace, claim, Some((port.parse().ok()?, Some(protocol(name)?))))
        }
        _ => return None,
    };
    let namespace = match namespace {
        "" => None,
        name => Some(name.parse().ok()?),
    };
    Some(Target::Claim(namespace, claim.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use portclaim::lease::HostPort;

    use super::*;

    fn kinds(text: &str) -> Vec<&'static str> {
        targets(text).iter().map(Target::kind).collect()
    }

    #[test]
    fn what_a_text_may_mean() {
        for (text, expected) in [
            ("8080", &["port"][..]),
            ("8080/tcp", &["port"]),
            ("192.0.2.1:8080/udp", &["port"]),
            ("[2001:db8::1]:8080", &["port"]),
            ("shop/web-0", &["pod", "container", "claim"]),
            ("pod:shop/web-0", &["pod"]),
            ("claim:shop/web-0", &["claim"]),
            ("3f2a8c1b9d0e…/eth0", &["container"]),
            ("container:12345", &["container"]),
            ("abc", &["claim"]),
            ("shop/web/http/tcp", &["claim"]),
            ("shop/web/http", &["claim"]),
            ("a/b/c/d", &[]),
            ("port:web", &[]),
            ("", &[]),
            ("0", &["claim"]),
            ("70000", &["container", "claim"]),
        ] {
            assert_eq!(kinds(text), expected, "{text:?}");
        }
    }

    #[test]
    fn ports_are_read_as_they_are_shown() {
        for text in ["8080/tcp", "192.0.2.1:53/udp", "[2001:db8::1]:9/sctp"] {
            let Some(Target::Port(port, Some(protocol), address)) = port(text) else {
                panic!("{text}")
            };
            let host = HostPort { protocol, port, address: address.unwrap_or_default() };
            assert_eq!(host.to_string(), text);
        }
    }
}
