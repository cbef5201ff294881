//! What is asked of a list: which rows, in which order, and how many.

use std::{cmp::Ordering, fmt::Display, str::FromStr};

use portclaim::lease::{PortName, Protocol};
use serde::Deserialize;

use crate::{
    output,
    view::lease::{Filter, Held, rows},
};

use super::snapshot::Snapshot;

/// How many rows are given at once, unless told otherwise, and at most.
const USUAL: usize = 100;
const MOST: usize = 10_000;

/// The parameters, as they are written. Empty ones count as absent: a form sends them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    pub namespace: String,
    pub pod: String,
    pub group: String,
    pub protocol: String,
    pub port: String,
    pub network: String,
    pub module: String,
    /// Part of anything that is shown.
    pub q: String,
    pub sort: String,
    pub limit: String,
    pub offset: String,
}

/// A parameter that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value:?}: {reason}")]
pub struct ParameterError {
    key: &'static str,
    value: String,
    reason: String,
}

/// What to order rows by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Port,
    Name,
    Owner,
    Group,
    Protocol,
    Age,
}

impl Key {
    pub const ALL: [(&'static str, Self); 6] = [
        ("port", Self::Port),
        ("name", Self::Name),
        ("owner", Self::Owner),
        ("group", Self::Group),
        ("protocol", Self::Protocol),
        ("age", Self::Age),
    ];
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Query {
    filter: Filter,
    text: String,
    pub key: Key,
    pub is_descending: bool,
    pub limit: usize,
    pub offset: usize,
}

impl Parameters {
    pub fn parse(&self) -> Result<Query, ParameterError> {
        let key = |name| Key::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, key)| key);
        let (is_descending, name) = match self.sort.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, self.sort.as_str()),
        };
        let key = match name {
            "" => Key::Port,
            name => key(name).ok_or_else(|| {
                let known: Vec<_> = Key::ALL.iter().map(|(name, _)| *name).collect();
                wrong(
                    "sort",
                    &self.sort,
                    &format!("{} are allowed, with - the other way round", known.join(", ")),
                )
            })?,
        };
        let number = |key, value: &str, usual| match value {
            "" => Ok(usual),
            value => value.parse().map_err(|_| wrong(key, value, "a whole number is allowed")),
        };
        Ok(Query {
            filter: Filter {
                namespace: parsed("namespace", &self.namespace)?,
                pod: parsed("pod", &self.pod)?,
                group: parsed("group", &self.group)?,
                protocol: match self.protocol.as_str() {
                    "" => None,
                    text => Some(output::protocol(text).map_err(|e| wrong("protocol", text, &e))?),
                },
                ports: parsed("port", &self.port)?,
                network: parsed("network", &self.network)?,
                module: parsed("module", &self.module)?,
            },
            text: self.q.to_lowercase(),
            key,
            is_descending,
            limit: number("limit", &self.limit, USUAL)?.clamp(1, MOST),
            offset: number("offset", &self.offset, 0)?,
        })
    }
}

fn wrong(key: &'static str, value: &str, reason: &str) -> ParameterError {
    let value = value.chars().take(80).collect();
    ParameterError { key, value, reason: reason.to_owned() }
}

fn parsed<T: FromStr<Err: Display>>(
    key: &'static str,
    text: &str,
) -> Result<Option<T>, ParameterError> {
    match text {
        "" => Ok(None),
        text => {
            text.parse().map(Some).map_err(|error: T::Err| wrong(key, text, &error.to_string()))
        }
    }
}

impl Query {
    /// The rows that are asked for, and how many there are without `limit`.
    pub fn rows<'s>(&self, snapshot: &'s Snapshot) -> (Vec<Held<'s>>, usize) {
        let mut rows = rows(&snapshot.holdings, &self.filter);
        if !self.text.is_empty() {
            rows.retain(|held| self.is_mentioned(held));
        }
        // Stable: rows that are alike stay in the order of their ports.
        match self.key {
            Key::Port => {}
            Key::Name => rows.sort_by(|a, b| by(a, b, name)),
            Key::Owner => rows.sort_by_cached_key(|held| held.owner.to_string()),
            Key::Group => rows.sort_by_cached_key(Held::group),
            Key::Protocol => rows.sort_by_key(|held| held.lease.host.protocol),
            Key::Age => rows.sort_by_key(|held| held.owner.since()),
        }
        if self.is_descending {
            rows.reverse();
        }
        let total = rows.len();
        (rows.into_iter().skip(self.offset).take(self.limit).collect(), total)
    }

    fn is_mentioned(&self, held: &Held<'_>) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.text);
        let at = held.owner.attachment();
        has(&held.lease.host.to_string())
            || has(&held.owner.to_string())
            || has(&held.group())
            || has(&held.target())
            || held.lease.name.as_ref().is_some_and(|name| has(name.as_str()))
            || held.lease.claim.as_ref().is_some_and(|claim| has(claim.as_str()))
            || at.is_some_and(|at| has(at.container.as_str()) || has(at.network.as_str()))
    }
}

fn name<'a>(held: &Held<'a>) -> Option<&'a str> {
    held.lease.name.as_ref().map(PortName::as_str)
}

/// Those without one come last.
fn by<'a>(a: &Held<'a>, b: &Held<'a>, key: fn(&Held<'a>) -> Option<&'a str>) -> Ordering {
    match (key(a), key(b)) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

/// The protocol in a path.
pub fn protocol(text: &str) -> Option<Protocol> {
    output::protocol(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{
        holding::Holding,
        lease::tests::{block, forwarding},
    };

    fn snapshot() -> Snapshot {
        let mut web = forwarding("shop/web", &["8080/tcp@games", "80/udp"]);
        web.leases[0].name = "http".parse().ok();
        let holdings: Vec<Holding> = vec![
            web.into(),
            forwarding("a/db", &["5432/tcp"]).into(),
            block("mail1", 25, 2).into(),
        ];
        Snapshot { holdings, ..Snapshot::default() }
    }

    fn ports(parameters: &Parameters) -> (Vec<u16>, usize) {
        let snapshot = snapshot();
        let (rows, total) = parameters.parse().unwrap().rows(&snapshot);
        (rows.iter().map(|held| held.lease.host.port.number()).collect(), total)
    }

    #[test]
    fn rows_are_filtered_sorted_and_cut() {
        let with = |set: fn(&mut Parameters)| {
            let mut parameters = Parameters::default();
            set(&mut parameters);
            ports(&parameters)
        };
        assert_eq!(with(|_| ()), (vec![25, 26, 80, 5432, 8080], 5));
        assert_eq!(with(|p| p.sort = "-port".into()), (vec![8080, 5432, 80, 26, 25], 5));
        assert_eq!(with(|p| p.sort = "owner".into()), (vec![5432, 25, 26, 80, 8080], 5));
        assert_eq!(with(|p| p.sort = "name".into()).0[0], 8080);
        assert_eq!(with(|p| p.q = "MAIL".into()), (vec![25, 26], 2));
        assert_eq!(with(|p| p.q = "8080".into()), (vec![8080], 1));
        assert_eq!(with(|p| p.namespace = "shop".into()), (vec![80, 8080], 2));
        assert_eq!(with(|p| (p.limit, p.offset) = ("2".into(), "1".into())), (vec![26, 80], 5));
        assert_eq!(with(|p| p.offset = "9".into()), (vec![], 5));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (parameters, message) in [
            (Parameters { port: "x".into(), ..Parameters::default() }, "port is \"x\": "),
            (
                Parameters { limit: "-1".into(), ..Parameters::default() },
                "limit is \"-1\": a whole",
            ),
            (
                Parameters { sort: "size".into(), ..Parameters::default() },
                "sort is \"size\": port, ",
            ),
            (
                Parameters { protocol: "icmp".into(), ..Parameters::default() },
                "protocol is \"icmp\"",
            ),
            (Parameters { namespace: "../x".into(), ..Parameters::default() }, "namespace is "),
        ] {
            let error = parameters.parse().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
