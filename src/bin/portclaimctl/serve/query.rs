//! What is asked of a list: which rows, in which order, and how many.

use std::{cmp::Reverse, fmt::Display, str::FromStr};

use portclaim::lease::{Port, Protocol};
use serde::Deserialize;

use crate::{
    output,
    view::lease::{Filter, rows},
};

use super::{health::Health, instance::Instance, row::Row, snapshot::Snapshot};

/// How many rows are given at once, unless told otherwise, and at most.
const USUAL: usize = 100;
pub const MOST: usize = 10_000;
/// Of a number.
const DIGITS: usize = 9;

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
    pub health: String,
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
    Health,
}

impl Key {
    pub const ALL: [(&'static str, Self); 7] = [
        ("port", Self::Port),
        ("name", Self::Name),
        ("owner", Self::Owner),
        ("group", Self::Group),
        ("protocol", Self::Protocol),
        ("age", Self::Age),
        ("health", Self::Health),
    ];
}

/// What health is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wellness {
    Is(&'static str),
    Unchecked,
}

impl Wellness {
    const ALLOWED: &str = "healthy, unhealthy, pending and unchecked are allowed";

    fn admits(self, health: Option<&Health>) -> bool {
        match self {
            Self::Is(name) => health.is_some_and(|health| health.name() == name),
            Self::Unchecked => health.is_none(),
        }
    }
}

impl FromStr for Wellness {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "healthy" => Ok(Self::Is("healthy")),
            "unhealthy" => Ok(Self::Is("unhealthy")),
            "pending" => Ok(Self::Is("pending")),
            "unchecked" => Ok(Self::Unchecked),
            _ => Err(Self::ALLOWED),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Query {
    filter: Filter,
    health: Option<Wellness>,
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
            value if value.len() <= DIGITS && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(value.parse().expect("it is a number, and small"))
            }
            value => Err(wrong(key, value, "a whole number of at most nine digits is allowed")),
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
            health: parsed("health", &self.health)?,
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
    /// The ports and the instances that are asked for, of those that are `admitted`,
    /// and how many there are without `limit`.
    pub fn rows<'s>(
        &self,
        snapshot: &'s Snapshot,
        admitted: impl Fn(&Row<'s>) -> bool,
    ) -> (Vec<Row<'s>>, usize) {
        let ports = rows(&snapshot.stored.holdings, &self.filter).into_iter().map(Row::Lease);
        let instances = snapshot.instances.iter().filter(|it| self.admits(it)).map(Row::Instance);
        let is_asked_for = |row: &Row<'s>| {
            admitted(row)
                && self.health.is_none_or(|asked| asked.admits(row.health(snapshot)))
                && (self.text.is_empty() || row.mentions(&self.text))
        };
        let mut rows: Vec<_> = ports.chain(instances).filter(is_asked_for).collect();
        // Stable: rows that are alike stay in the order of their ports.
        rows.sort_by_key(Row::port);
        match self.key {
            Key::Port => {}
            // Those without one come last.
            Key::Name => rows.sort_by_key(|row| (row.name().is_none(), row.name())),
            Key::Owner => rows.sort_by_cached_key(Row::owner),
            Key::Group => rows.sort_by_cached_key(|row| {
                let group = row.group();
                (group.is_none(), group)
            }),
            Key::Protocol => rows.sort_by_key(|row| (row.protocol().is_none(), row.protocol())),
            Key::Age => rows.sort_by_key(|row| Reverse(row.since())),
            Key::Health => rows.sort_by_key(|row| match row.health(snapshot) {
                Some(Health::Unhealthy(_)) => 0,
                Some(Health::Pending) => 1,
                Some(Health::Healthy) => 2,
                None => 3,
            }),
        }
        if self.is_descending {
            rows.reverse();
        }
        let total = rows.len();
        (rows.into_iter().skip(self.offset).take(self.limit).collect(), total)
    }

    /// Whether an instance is what the filters ask for. It is of no pod, group, network
    /// or module.
    fn admits(&self, instance: &Instance) -> bool {
        let Filter { namespace, pod, group, protocol, ports, network, module } = &self.filter;
        let port = Port::new(instance.address.port());
        namespace.is_none()
            && pod.is_none()
            && group.is_none()
            && network.is_none()
            && module.is_none()
            && (protocol.is_none() || *protocol == instance.protocol())
            && ports.as_ref().is_none_or(|ports| port.is_some_and(|port| ports.contains(port)))
    }
}

/// The protocol in a path.
pub fn protocol(text: &str) -> Option<Protocol> {
    output::protocol(text).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            health::{Marks, Subject},
            instance::tests::instance,
            stored::Stored,
        },
        *,
    };
    use crate::view::{
        holding::Holding,
        lease::tests::{block, forwarding},
    };

    fn snapshot() -> Snapshot {
        let mut web = forwarding("shop/web", &["8080/tcp@games", "80/udp"]);
        web.leases[0].name = "http".parse().ok();
        let sick = Subject::Container(web.attachment.clone());
        let holdings: Vec<Holding> = vec![
            web.into(),
            forwarding("a/db", &["5432/tcp"]).into(),
            block("mail1", 25, 2).into(),
        ];
        Snapshot {
            stored: Arc::new(Stored { holdings, ..Stored::default() }),
            instances: Arc::new(vec![instance("known", "node.example:90")]),
            marks: Arc::new(Marks::unhealthy(sick, "connection refused")),
            ..Snapshot::default()
        }
    }

    fn ports(parameters: &Parameters) -> (Vec<u16>, usize) {
        let snapshot = snapshot();
        let (rows, total) = parameters.parse().unwrap().rows(&snapshot, |_| true);
        (rows.iter().map(Row::port).collect(), total)
    }

    #[test]
    fn rows_are_filtered_sorted_and_cut() {
        let with = |set: fn(&mut Parameters)| {
            let mut parameters = Parameters::default();
            set(&mut parameters);
            ports(&parameters)
        };
        assert_eq!(with(|_| ()), (vec![25, 26, 80, 90, 5432, 8080], 6));
        assert_eq!(with(|p| p.sort = "-port".into()), (vec![8080, 5432, 90, 80, 26, 25], 6));
        assert_eq!(with(|p| p.sort = "owner".into()), (vec![5432, 25, 26, 90, 80, 8080], 6));
        assert_eq!(with(|p| p.sort = "name".into()).0[..2], [8080, 90]);
        assert_eq!(with(|p| p.sort = "health".into()).0[..2], [80, 8080]);
        let mut aged = snapshot();
        let mut youngest = instance("young", "h:7");
        youngest.since += 60;
        aged.instances = Arc::new(vec![youngest]);
        let by_age = Parameters { sort: "age".into(), ..Parameters::default() };
        let (rows, _) = by_age.parse().unwrap().rows(&aged, |_| true);
        assert_eq!(rows[0].port(), 7, "the youngest has the least age");
        assert_eq!(with(|p| p.health = "unhealthy".into()), (vec![80, 8080], 2));
        assert_eq!(with(|p| p.health = "unchecked".into()), (vec![25, 26, 90, 5432], 4));
        assert_eq!(with(|p| p.q = "EXAMPLE".into()), (vec![90], 1));
        assert_eq!(with(|p| p.protocol = "tcp".into()).0, [25, 26, 5432, 8080]);
        assert_eq!(with(|p| p.port = "80-90".into()), (vec![80, 90], 2));
        assert_eq!(with(|p| p.q = "MAIL".into()), (vec![25, 26], 2));
        assert_eq!(with(|p| p.q = "8080".into()), (vec![8080], 1));
        assert_eq!(with(|p| p.namespace = "shop".into()), (vec![80, 8080], 2));
        assert_eq!(with(|p| (p.limit, p.offset) = ("2".into(), "1".into())), (vec![26, 80], 6));
        assert_eq!(with(|p| p.offset = "9".into()), (vec![], 6));
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
            (
                Parameters { health: "sick".into(), ..Parameters::default() },
                "health is \"sick\": healthy, unhealthy, ",
            ),
            (Parameters { namespace: "../x".into(), ..Parameters::default() }, "namespace is "),
        ] {
            let error = parameters.parse().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
