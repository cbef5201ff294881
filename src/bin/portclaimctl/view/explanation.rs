//! Whether a host port is free, and everything that has a say in it.

use portclaim::{
    cni::config::Allowed,
    command::ExclusionRule,
    host::{Process, Socket},
    lease::{
        Claim, Group, HostAddress, HostPort, NamespaceGlob, Port, PortSet, Protocol, Protocols,
    },
};

use super::{claim::State, group::Policy, holding::Holding, lease::Owners, time};

/// How many processes of one socket are named.
const NAMED: usize = 3;
/// Below this, annotations get only what a group lists.
const PRIVILEGED: u16 = 1024;

/// What is known of a host port.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub port: HostPort,
    /// Who holds it on an address that is meant.
    pub holders: Vec<(HostPort, &'a Holding)>,
    /// The claims about it on an address that is meant.
    pub claims: Vec<Claim>,
    /// Who holds what, to name the holders of claims.
    pub owners: &'a Owners<'a>,
    /// For how many seconds it still cools down.
    pub cooling: Option<u64>,
    /// The sockets of the host on it and whose they are; why that is not known.
    pub sockets: Result<Vec<(Socket, Vec<Process>)>, String>,
    /// The ports that the kernel gives to connections itself; why that is not known.
    pub ephemeral: &'a Result<PortSet, String>,
    pub policies: &'a [Policy],
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// Whether a container can get a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can, in some way.
    Free,
    /// Somebody has it.
    Taken,
    /// Nobody has it, and neither a group nor `static` gives it to anybody.
    NotGiven,
}

/// A verdict and the reasons for it, the decisive ones first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub verdict: Verdict,
    pub reasons: Vec<String>,
}

/// What the facts come to.
pub fn explain(facts: &Facts<'_>) -> Explanation {
    let mut reasons = holders(facts);
    reasons.extend(reserving(facts));
    let listening = sockets(facts, true);
    reasons.extend(listening);
    let is_taken = !reasons.is_empty();
    let connected = if is_taken { Vec::new() } else { sockets(facts, false) };
    let may_be_drawn = connected.is_empty();
    reasons.extend(connected);
    let (mut is_in_a_pool, mut is_given_by_number) = (false, false);
    for policy in facts.policies {
        let has = Offer::of(policy, facts.port);
        is_in_a_pool |= has.is_in_a_pool;
        is_given_by_number |= has.is_given_by_number;
        let networks = if facts.policies.len() > 1 { names(&policy.networks) } else { None };
        reasons.extend(has.lines.into_iter().map(|line| match &networks {
            Some(networks) => format!("on {networks}: {line}"),
            None => line,
        }));
    }
    reasons.extend(remarks(facts));
    let verdict = match (is_taken, (is_in_a_pool && may_be_drawn) || is_given_by_number) {
        (true, _) => Verdict::Taken,
        (false, true) => Verdict::Free,
        (false, false) => Verdict::NotGiven,
    };
    Explanation { verdict, reasons }
}

/// The explanations of several protocols, those together that say the same.
pub fn together(explanations: Vec<(Protocol, Explanation)>) -> Vec<(Protocols, Explanation)> {
    let mut together: Vec<(Protocols, Explanation)> = Vec::new();
    for (protocol, explanation) in explanations {
        match together.iter_mut().find(|(_, known)| *known == explanation) {
            Some((protocols, _)) => *protocols = protocols.iter().chain([protocol]).collect(),
            None => together.push((protocol.into(), explanation)),
        }
    }
    together
}

/// A host port of several protocols: `8080/tcp+udp`.
pub fn title(address: HostAddress, port: Port, protocols: Protocols) -> String {
    let Some(protocol) = protocols.iter().next() else { return port.to_string() };
    let first = HostPort { protocol, port, address }.to_string();
    let end = first.len() - protocol.name().len();
    format!("{}{protocols}", &first[..end])
}

fn holders(facts: &Facts<'_>) -> Vec<String> {
    let line = |(port, owner): &(HostPort, &Holding)| {
        let (on, since) = (on(port.address), time::rfc3339(owner.since()));
        let who = match (owner.attachment(), owner.pod()) {
            (Some(at), Some(pod)) => format!("{pod} ({at}) on network {}", at.network),
            (Some(at), None) => format!("{at} on network {}", at.network),
            (None, _) => owner.to_string(),
        };
        format!("held{on} by {who} since {since}")
    };
    facts.holders.iter().map(line).collect()
}

fn reserving(facts: &Facts<'_>) -> Vec<String> {
    let line = |claim: &Claim| {
        let state = State::of(claim, facts.owners, facts.now);
        let (on, key) = (on(claim.address), &claim.key);
        match &state {
            State::Held(holder) => Some(format!("reserved{on} by claim {key}, in use by {holder}")),
            state if state.is_kept() => Some(format!("reserved{on} by claim {key}, {state}")),
            _ => None,
        }
    };
    facts.claims.iter().filter_map(line).collect()
}

/// Who listens on the port, or has a connection from it.
fn sockets(facts: &Facts<'_>, listening: bool) -> Vec<String> {
    let Ok(sockets) = &facts.sockets else { return Vec::new() };
    let mut lines = Vec::new();
    for (socket, processes) in sockets.iter().filter(|(s, _)| s.is_listening == listening) {
        let mut who = processes.iter().take(NAMED).map(Process::to_string).collect::<Vec<_>>();
        if who.is_empty() {
            who.push(format!("a process that cannot be seen, of user {}", socket.uid));
        }
        if processes.len() > NAMED {
            who.push(format!("{} more", processes.len() - NAMED));
        }
        let who = who.join(", ");
        let line = if listening {
            let address = match socket.address {
                HostAddress::Any => "[::]".to_owned(),
                address @ (HostAddress::AnyV4 | HostAddress::V4(_)) => address.to_string(),
                address @ (HostAddress::AnyV6 | HostAddress::V6(_)) => format!("[{address}]"),
            };
            format!("used by a process of the host: {who} listens on {address}")
        } else {
            format!(
                "used by a process of the host: {who} has a connection from it, \
                 so that only requests by number get it"
            )
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// What some networks say about a port.
struct Offer {
    is_in_a_pool: bool,
    is_given_by_number: bool,
    lines: Vec<String>,
}

impl Offer {
    fn of(policy: &Policy, port: HostPort) -> Self {
        let mut lines = Vec::new();
        let HostPort { protocol, port, .. } = port;
        let rule = policy.exclusion.rule(port);
        if let Some(rule) = rule {
            let rule = match rule {
                ExclusionRule::Exclude => "the key exclude",
                ExclusionRule::LocalReservedPorts => "net.ipv4.ip_local_reserved_ports",
                ExclusionRule::NodePort => "default, as a NodePort of Kubernetes",
            };
            lines.push(format!("excluded from dynamic requests by {rule}"));
        }
        let groups = policy.settings.groups.iter();
        let groups: Vec<_> = groups
            .filter(|(_, group)| group.protocols.contains(protocol) && group.ports.contains(port))
            .collect();
        let who = |globs: Option<&[NamespaceGlob]>| match globs {
            None => "everyone".to_owned(),
            Some([]) => "nobody".to_owned(),
            Some(globs) => format!("namespaces {}", join(globs)),
        };
        for (name, group) in &groups {
            let who = match group.namespaces.as_deref() {
                Some([]) => "services of the host only".to_owned(),
                globs => who(globs),
            };
            lines.push(format!("in group \"{name}\", for {who}"));
        }
        if groups.is_empty() {
            lines.push("in no group".to_owned());
        }
        let rules = &policy.settings.static_ports;
        let mut is_given_by_number = false;
        let mut by_number = |key: &str, allowed: &Allowed, is_refused: bool| {
            let allowed = match allowed {
                Allowed::Any => who(None),
                Allowed::Rules(rules) => {
                    let fitting = rules.iter().filter(|rule| {
                        rule.protocols.contains(protocol) && rule.ports.contains(port)
                    });
                    let who: Vec<_> = fitting.map(|rule| who(rule.namespaces.as_deref())).collect();
                    if who.is_empty() { "nobody".to_owned() } else { who.join(" and ") }
                }
            };
            if allowed == "nobody" {
                return format!("{key} nobody");
            }
            if is_refused {
                return format!("{key} nobody (below {PRIVILEGED}, and in no group)");
            }
            is_given_by_number = true;
            format!("{key} {allowed}")
        };
        let is_privileged = port.number() < PRIVILEGED && groups.is_empty();
        let sources = [
            by_number("portMappings", &rules.port_mappings, false),
            by_number("annotations", &rules.annotations, is_privileged),
            by_number("portClaims", &rules.port_claims, false),
        ];
        lines.push(format!("may be asked for by number: {}", sources.join(", ")));
        let is_for_pods = |group: &Group| group.namespaces.as_ref().is_none_or(|g| !g.is_empty());
        let is_in_a_pool = rule.is_none() && groups.iter().any(|(_, group)| is_for_pods(group));
        Self { is_in_a_pool, is_given_by_number, lines }
    }
}

/// What does not decide, and is worth knowing.
fn remarks(facts: &Facts<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(seconds) = facts.cooling {
        let left = time::span(seconds);
        lines.push(format!("cools down for another {left}: given dynamically only if no other is"));
    }
    let expired = |claim: &&Claim| State::of(claim, facts.owners, facts.now) == State::Expired;
    for claim in facts.claims.iter().filter(expired) {
        let key = &claim.key;
        lines.push(format!("claim {key} has expired and goes when the next container comes"));
    }
    match facts.ephemeral {
        Ok(ports) if ports.contains(facts.port.port) => lines.push(
            "the kernel gives it to connections of the host too (net.ipv4.ip_local_port_range)"
                .to_owned(),
        ),
        Ok(_) => {}
        Err(error) => {
            let what = "whether the kernel gives it to connections is not known";
            lines.push(format!("{what}: {error}"));
        }
    }
    if let Err(error) = &facts.sockets {
        lines.push(format!("whether a process of the host uses it is not known: {error}"));
    }
    lines
}

fn on(address: HostAddress) -> String {
    if address.is_any() { String::new() } else { format!(" on {address}") }
}

fn names(networks: &[portclaim::lease::NetworkName]) -> Option<String> {
    (!networks.is_empty()).then(|| format!("network {}", join(networks)))
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{
        claim::tests::claim,
        group::tests::policy,
        lease::{owners, tests::forwarding},
    };

    fn port(number: u16) -> HostPort {
        let port = Port::new(number).unwrap();
        HostPort { protocol: Protocol::Udp, port, address: HostAddress::Any }
    }

    const GAMES: &str = r#", "groups": {"games": {"ports": "7000-7009", "namespaces": ["games-*"]}},
        "static": {"portMappings": [{"ports": "7001"}], "portClaims": false,
                   "annotations": [{"ports": "53,7002", "namespaces": ["voice", "dns"]}]}"#;

    /// Explains a port of which nothing else is known than what `know` adds.
    fn explained(number: u16, keys: &str, know: impl FnOnce(&mut Facts<'_>)) -> Explanation {
        let (policies, none) = ([policy("net", keys)], Owners::new());
        let mut facts = Facts {
            port: port(number),
            holders: Vec::new(),
            claims: Vec::new(),
            owners: &none,
            cooling: None,
            sockets: Ok(Vec::new()),
            ephemeral: &Ok("32768-60999".parse().unwrap()),
            policies: &policies,
            now: 1000,
        };
        know(&mut facts);
        explain(&facts)
    }

    #[test]
    fn what_is_offered_is_said() {
        for (number, verdict, reasons) in [
            (
                7001,
                Verdict::Free,
                &[
                    "in group \"games\", for namespaces games-*",
                    "may be asked for by number: portMappings everyone, annotations nobody, portClaims nobody",
                ][..],
            ),
            (
                7009,
                Verdict::NotGiven,
                &[
                    "excluded from dynamic requests by the key exclude",
                    "in group \"games\", for namespaces games-*",
                    "may be asked for by number: portMappings nobody, annotations nobody, portClaims nobody",
                ],
            ),
            (
                53,
                Verdict::NotGiven,
                &[
                    "in no group",
                    "may be asked for by number: portMappings nobody, annotations nobody (below 1024, and in no group), portClaims nobody",
                ],
            ),
            (
                7002,
                Verdict::Free,
                &[
                    "in group \"games\", for namespaces games-*",
                    "may be asked for by number: portMappings nobody, annotations namespaces voice, dns, portClaims nobody",
                ],
            ),
            (
                40000,
                Verdict::NotGiven,
                &[
                    "in no group",
                    "may be asked for by number: portMappings nobody, annotations nobody, portClaims nobody",
                    "the kernel gives it to connections of the host too (net.ipv4.ip_local_port_range)",
                ],
            ),
        ] {
            let explanation = explained(number, GAMES, |_| ());
            assert_eq!(
                (explanation.verdict, &explanation.reasons[..]),
                (verdict, &reasons.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>()[..]),
                "{number}"
            );
        }
    }

    #[test]
    fn who_has_it_comes_first() {
        let owner = forwarding("games-eu/arena", &["7001/udp@games"]);
        let all = [owner.clone().into()];
        let owners = owners(&all);
        let used = claim(7001, 1, Some(owner.attachment.clone()), None);
        let policies = [policy("net", GAMES)];
        let facts = Facts {
            port: port(7001),
            holders: vec![(port(7001), &all[0])],
            claims: vec![used],
            owners: &owners,
            cooling: None,
            sockets: Ok(Vec::new()),
            ephemeral: &Ok(PortSet::default()),
            policies: &policies,
            now: 1000,
        };
        let explanation = explain(&facts);
        assert_eq!(explanation.verdict, Verdict::Taken);
        assert_eq!(
            explanation.reasons[..2],
            [
                "held by games-eu/arena (arena0123/eth0) on network net since 1970-01-01T00:01:40Z",
                "reserved by claim games/arena (game/udp), in use by games-eu/arena",
            ]
        );
    }

    #[test]
    fn claims_keep_a_port_until_they_expire() {
        let kept =
            explained(7001, GAMES, |facts| facts.claims = vec![claim(7000, 2, None, Some(1060))]);
        assert_eq!(kept.verdict, Verdict::Taken);
        assert_eq!(
            kept.reasons[0],
            "reserved by claim games/arena (game/udp), unused, expires in 1m"
        );
        let expired =
            explained(7001, GAMES, |facts| facts.claims = vec![claim(7001, 1, None, Some(1000))]);
        assert_eq!(expired.verdict, Verdict::Free);
        assert!(expired.reasons.iter().any(|line| line.contains("has expired")), "{expired:?}");
    }

    #[test]
    fn processes_of_the_host_are_named() {
        let socket =
            |is_listening| Socket { address: HostAddress::AnyV4, is_listening, inode: 7, uid: 33 };
        let processes: Vec<_> = (1..=5).map(|pid| Process::new(pid, "ng\x1b[inx")).collect();
        let know = |is_listening, count| {
            let sockets = vec![(socket(is_listening), processes[..count].to_vec())];
            move |facts: &mut Facts<'_>| facts.sockets = Ok(sockets)
        };
        for (is_listening, count, verdict, reason) in [
            (
                true,
                1,
                Verdict::Taken,
                "used by a process of the host: ng\\u{1b}[inx (pid 1) listens on 0.0.0.0",
            ),
            (
                true,
                5,
                Verdict::Taken,
                "used by a process of the host: ng\\u{1b}[inx (pid 1), ng\\u{1b}[inx (pid 2), ng\\u{1b}[inx (pid 3), 2 more listens on 0.0.0.0",
            ),
            (
                true,
                0,
                Verdict::Taken,
                "used by a process of the host: a process that cannot be seen, of user 33 listens on 0.0.0.0",
            ),
            (
                false,
                1,
                Verdict::Free,
                "used by a process of the host: ng\\u{1b}[inx (pid 1) has a connection from it, so that only requests by number get it",
            ),
        ] {
            let explanation = explained(7001, GAMES, know(is_listening, count));
            assert_eq!((explanation.verdict, explanation.reasons[0].as_str()), (verdict, reason));
        }
        // By number it is given to nobody.
        assert_eq!(explained(7003, GAMES, know(false, 1)).verdict, Verdict::NotGiven);
    }

    #[test]
    fn remarks_decide_nothing() {
        let explanation = explained(7001, GAMES, |facts| {
            facts.cooling = Some(42);
            facts.sockets = Err("cannot read /proc/net/udp".to_owned());
        });
        assert_eq!(explanation.verdict, Verdict::Free);
        assert_eq!(
            explanation.reasons[2..],
            [
                "cools down for another 42s: given dynamically only if no other is",
                "whether a process of the host uses it is not known: cannot read /proc/net/udp",
            ]
        );
    }

    #[test]
    fn networks_are_named_where_they_differ() {
        let policies = [policy("a", GAMES), policy("b", "")];
        let explanation = explained(7001, "", |facts| {
            // The closure's facts live as long as the policies of the caller.
            assert_eq!(facts.policies.len(), 1);
        });
        assert!(explanation.reasons.iter().all(|line| !line.starts_with("on network")));
        let none = Owners::new();
        let facts = Facts {
            port: port(7001),
            holders: Vec::new(),
            claims: Vec::new(),
            owners: &none,
            cooling: None,
            sockets: Ok(Vec::new()),
            ephemeral: &Ok(PortSet::default()),
            policies: &policies,
            now: 0,
        };
        let explanation = explain(&facts);
        assert_eq!(
            explanation.reasons[0],
            "on network a: in group \"games\", for namespaces games-*"
        );
        assert_eq!(explanation.reasons[2], "on network b: in no group");
    }

    #[test]
    fn protocols_that_say_the_same_are_together() {
        let free = explained(7001, "", |_| ());
        let taken = explained(7001, "", |facts| facts.claims = vec![claim(7001, 1, None, None)]);
        let found = together(vec![
            (Protocol::Tcp, free.clone()),
            (Protocol::Udp, taken),
            (Protocol::Sctp, free),
        ]);
        let shown: Vec<_> = found
            .iter()
            .map(|(protocols, _)| title("::1".parse().unwrap(), port(7001).port, *protocols))
            .collect();
        assert_eq!(shown, ["[::1]:7001/tcp+sctp", "[::1]:7001/udp"]);
    }
}
