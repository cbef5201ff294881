//! The conflists, the pools, and who else forwards ports.

use std::collections::BTreeSet;

use super::{ConflistFile, Diagnoses, Operator};
use crate::{cni::ConflistFault, host, nat::Chain};

pub(super) fn look_at_conflists(found: &mut Diagnoses, conflists: &[ConflistFile]) {
    const CHECK: &str = "conflist";
    let mut has_ours = false;
    for ConflistFile { path, content } in conflists {
        let path = path.display();
        let Some(list) = content else {
            found.fail(CHECK, format!("{path} is no JSON object"), "mend it, or move it away");
            continue;
        };
        if !list.has_portclaim() {
            continue;
        }
        has_ours = true;
        let faults = list.faults();
        if faults.is_empty() {
            found.ok(CHECK, format!("{path}: network {} has portclaim", list.name));
        }
        for fault in faults {
            let text = format!("{path}: {fault}");
            let advice = match fault {
                ConflistFault::First | ConflistFault::Alone => {
                    "put it behind bridge, ptp or whatever makes the interface"
                }
                ConflistFault::BesidePortmap => "remove portmap from the chain",
                ConflistFault::Repeated(_) => "leave one of them",
                ConflistFault::NoCapability | ConflistFault::Capability(_) => {
                    "add it to \"capabilities\" of portclaim, if containers ask for ports that way"
                }
            };
            if fault.is_fatal() {
                found.fail(CHECK, text, advice);
            } else {
                found.warn(CHECK, text, advice);
            }
        }
    }
    if !has_ours {
        found.warn(
            CHECK,
            "no conflist has portclaim in it",
            "add it to the network's chain, or name the file with --config",
        );
    }
}

impl Operator<'_> {
    pub(super) fn look_at_pools(&self, found: &mut Diagnoses) {
        const CHECK: &str = "pools";
        let Some(ephemeral) = found.read(CHECK, host::ephemeral_ports()) else { return };
        let Some(reserved) = found.read(CHECK, host::local_reserved_ports()) else { return };
        let mut seen = BTreeSet::new();
        for config in self.configs {
            let Some(settings) = found.read(CHECK, config.settings()) else { continue };
            for (name, group) in &settings.groups {
                let (network, ports) = (&config.network, &group.ports);
                // Networks mostly share their groups.
                if !seen.insert((name.clone(), ports.to_string())) {
                    continue;
                }
                let shared = ports.without(&ports.without(&ephemeral));
                let is_excluded = settings.exclude.is_none();
                let kept = ports.without(&ports.without(&reserved));
                if !shared.is_empty() {
                    found.warn(
                        CHECK,
                        format!(
                            "group {name} of network {network} has {} ports that the kernel gives \
                             to connections: {shared}",
                            shared.len()
                        ),
                        format!(
                            "sysctl --write net.ipv4.ip_local_reserved_ports={}, and set \
                             \"exclude\" to what is not to be given out",
                            reserved.union(&shared)
                        ),
                    );
                } else if is_excluded && !kept.is_empty() {
                    found.warn(
                        CHECK,
                        format!(
                            "group {name} of network {network} has {} ports that \
                             net.ipv4.ip_local_reserved_ports keeps from being given out: {kept}",
                            kept.len()
                        ),
                        "set \"exclude\" to what is not to be given out, if these are to be",
                    );
                } else {
                    let size = ports.len();
                    found.ok(CHECK, format!("group {name} of network {network}: {size} ports"));
                }
            }
        }
    }

    /// A chain that drops forwarded packets, unless it is told to accept ours.
    fn look_at_chain(&mut self, found: &mut Diagnoses, check: &'static str, chain: &Chain) {
        // What nft changes in a table of iptables, iptables does not understand any more.
        let is_of_iptables = chain.table == "filter" && chain.name == "FORWARD";
        let name = match (chain.family, is_of_iptables) {
            ("ip", true) => "iptables FORWARD".to_owned(),
            ("ip6", true) => "ip6tables FORWARD".to_owned(),
            _ => format!("{} {} {}", chain.family, chain.table, chain.name),
        };
        let text = format!(
            "chain {} of table {} {} drops what it does not accept",
            chain.name, chain.family, chain.table
        );
        let Some(accept_in) = found.read(check, self.accept_in()) else { return };
        let Some(foreign) = accept_in.iter().find(|foreign| foreign.to_string() == name) else {
            let pass = match chain.family {
                _ if !is_of_iptables => "ct status dnat accept",
                "ip6" => "ip6tables --insert FORWARD -m conntrack --ctstate DNAT -j ACCEPT",
                _ => "iptables --insert FORWARD -m conntrack --ctstate DNAT -j ACCEPT",
            };
            found.warn(
                check,
                text,
                format!(
                    "let forwarded connections through there: {pass}; or set \"acceptIn\" of \
                     portclaim to [\"{name}\"], and call portclaimctl restore"
                ),
            );
            return;
        };
        match found.read(check, self.node.nat.accepts(foreign)) {
            Some(Some(true)) => found.ok(check, format!("{text}, and accepts what is forwarded")),
            Some(_) => found.fail(check, text, "portclaimctl restore, for acceptIn names it"),
            None => {}
        }
    }

    /// Whoever may drop what is forwarded, or forward the same port elsewhere.
    pub(super) fn look_at_others(&mut self, found: &mut Diagnoses, conflists: &[ConflistFile]) {
        const FIREWALL: &str = "firewall";
        const MAPPERS: &str = "port-mappers";
        let before = found.0.len();
        if let Some(chains) = found.read(FIREWALL, self.node.nat.other_chains()) {
            for chain in chains.iter().filter(|chain| chain.is_of_forward && chain.drops) {
                self.look_at_chain(found, FIREWALL, chain);
            }
            let has_chain = |start: &str| chains.iter().any(|chain| chain.name.starts_with(start));
            let has_table = |name: &str| chains.iter().any(|chain| chain.table == name);
            if has_chain("CNI-HOSTPORT") || has_table("cni_hostport") {
                found.warn(
                    MAPPERS,
                    "portmap has rules: containers that it has forwarded are still there",
                    "give a port to only one of the two; its rules go with their containers",
                );
            }
            if has_chain("KUBE-SERVICES") || has_table("kube-proxy") {
                found.ok(MAPPERS, "kube-proxy is there: its services go before host ports");
            }
            if has_chain("DOCKER") || has_table("docker-bridges") {
                found.warn(
                    MAPPERS,
                    "Docker has rules: it may forward the same port",
                    "give a port to only one of the two",
                );
            }
        }
        let legacy = host::legacy_tables();
        if let Some(legacy) = found.read(FIREWALL, legacy)
            && !legacy.is_empty()
        {
            found.warn(
                FIREWALL,
                format!(
                    "iptables-legacy has tables, which are not looked at: {}",
                    legacy.join(", ")
                ),
                "iptables-legacy --list FORWARD shows whether forwarded packets are dropped",
            );
        }
        if let Some(proxies) = found.read(MAPPERS, host::processes_named("docker-proxy"))
            && !proxies.is_empty()
        {
            found.warn(
                MAPPERS,
                format!("{} docker-proxy processes listen on host ports", proxies.len()),
                "portclaim does not give out what they listen on; ask for other ports by number",
            );
        }
        for ConflistFile { path, content } in conflists {
            let has_other =
                content.as_ref().is_some_and(|list| list.has_portmap() && !list.has_portclaim());
            if has_other {
                found.warn(
                    MAPPERS,
                    format!("{} has portmap in it", path.display()),
                    "put portclaim in its place: neither sees what the other holds",
                );
            }
        }
        if found.0.len() == before {
            found.ok(FIREWALL, "no other table drops forwarded packets by its policy");
            found.ok(MAPPERS, "nobody else forwards host ports");
        }
    }
}
