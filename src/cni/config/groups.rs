//! `groups`: the named pools.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    ConfigError,
    keys::{Keys, duration, namespaces, number, protocols, some_ports, wrong},
};
use crate::lease::{Excerpt, Group, GroupName, PortSet, Protocols, Strategy};

const DEFAULT_GROUP: &str = "default";
const DEFAULT_PORTS: &str = "10000-19999";
const DEFAULT_COOLDOWN: Duration = Duration::from_mins(1);
const MAX_COOLDOWN: Duration = Duration::from_hours(24);
const DEFAULT_CLAIM_TTL: Duration = Duration::from_hours(30 * 24);
/// Ten years of 365.25 days, as humantime counts them; so many hours has each.
const MAX_CLAIM_TTL: Duration = Duration::from_hours(10 * 8766);
/// Every port of every protocol.
const MOST_PORTS: u32 = u16::MAX as u32 * 3;

/// The groups, and the one for requests that name none: always one of them. So is
/// the group `default`, written or not.
pub(super) fn groups(
    keys: &Keys<'_>,
) -> Result<(BTreeMap<GroupName, Group>, GroupName), ConfigError> {
    let written = match keys.value("groups")? {
        None => Map::new(),
        Some(Value::Object(groups)) => groups,
        Some(other) => return Err(wrong("groups", &other, "an object of groups is allowed")),
    };
    let mut groups = BTreeMap::new();
    for (name, value) in written {
        let name: GroupName = name.parse().map_err(|_| {
            wrong(
                "a name in groups",
                &name.into(),
                "1 to 63 letters, digits, '-' and '_' are allowed",
            )
        })?;
        let group = group(&name, value)?;
        groups.insert(name, group);
    }
    let name: GroupName = DEFAULT_GROUP.parse().expect("the default group has a name");
    if let Entry::Vacant(vacant) = groups.entry(name) {
        let group = group(vacant.key(), Value::Object(Map::new()))?;
        vacant.insert(group);
    }
    let default = keys.string("defaultGroup")?.unwrap_or_else(|| DEFAULT_GROUP.to_owned());
    let unknown = || {
        wrong("defaultGroup", &default.as_str().into(), "the name of one of the groups is allowed")
    };
    let name: GroupName = default.parse().map_err(|_| unknown())?;
    if groups.contains_key(&name) { Ok((groups, name)) } else { Err(unknown()) }
}

fn group(name: &GroupName, value: Value) -> Result<Group, ConfigError> {
    let key = |key: &str| format!("groups.{name}.{key}");
    let Value::Object(mut written) = value else {
        return Err(wrong(&format!("groups.{name}"), &value, "an object is allowed"));
    };
    let mut take = |name: &str| {
        let value = written.remove(name).filter(|value| !value.is_null());
        value.map(|value| (key(name), value))
    };
    let time = |found: Option<(String, Value)>, default, max| match found {
        None => Ok(default),
        Some((key, value)) => duration(&key, &value, max),
    };
    let most = |found: Option<(String, Value)>| {
        found.map(|(key, value)| number(&key, &value, MOST_PORTS)).transpose()
    };
    let group = Group {
        ports: match take("ports") {
            None => default_ports(name)?,
            Some((key, value)) => some_ports(&key, &value)?,
        },
        protocols: match take("protocols") {
            None => Protocols::ALL,
            Some((key, value)) => protocols(&key, &value)?,
        },
        strategy: match take("strategy") {
            None => Strategy::Random,
            Some((key, value)) => strategy(&key, &value)?,
        },
        namespaces: match take("namespaces") {
            None => None,
            Some((key, value)) => Some(namespaces(&key, &value)?),
        },
        max_per_pod: most(take("maxPerPod"))?,
        max_per_namespace: most(take("maxPerNamespace"))?,
        cooldown: time(take("cooldown"), DEFAULT_COOLDOWN, MAX_COOLDOWN)?,
        claim_ttl: time(take("claimTTL"), DEFAULT_CLAIM_TTL, MAX_CLAIM_TTL)?,
    };
    if let Some((unknown, value)) = written.into_iter().next() {
        return Err(wrong(
            &key(&Excerpt::plain(&unknown).to_string()),
            &value,
            "only ports, protocols, strategy, namespaces, maxPerPod, maxPerNamespace, cooldown and claimTTL are allowed",
        ));
    }
    Ok(group)
}

fn default_ports(name: &GroupName) -> Result<PortSet, ConfigError> {
    if name.as_str() == DEFAULT_GROUP {
        return Ok(DEFAULT_PORTS.parse().expect("the default is a set of ports"));
    }
    some_ports(&format!("groups.{name}.ports"), &Value::Null)
}

fn strategy(key: &str, value: &Value) -> Result<Strategy, ConfigError> {
    match value.as_str() {
        Some("random") => Ok(Strategy::Random),
        Some("sequential") => Ok(Strategy::Sequential),
        Some("least-recently-used") => Ok(Strategy::LeastRecentlyUsed),
        _ => Err(wrong(
            key,
            value,
            "\"random\", \"sequential\" or \"least-recently-used\" is allowed",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{error, parse},
        *,
    };

    fn groups(json: &str) -> BTreeMap<GroupName, Group> {
        parse(&format!(r#","groups":{json}"#)).settings().unwrap().groups
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        for json in
            ["{}", "null", r#"{"default":{}}"#, r#"{"default":{"ports":null,"maxPerPod":null}}"#]
        {
            let groups = groups(json);
            let group = &groups[&"default".parse().unwrap()];
            assert_eq!((groups.len(), group.ports.to_string().as_str()), (1, "10000-19999"));
            assert_eq!((group.protocols, group.strategy), (Protocols::ALL, Strategy::Random));
            assert_eq!((group.max_per_pod, group.max_per_namespace), (None, None));
            assert_eq!(group.cooldown.as_secs(), 60);
            assert_eq!(group.claim_ttl.as_secs(), 30 * 24 * 3600);
            assert!(group.admits(None));
        }
    }

    #[test]
    fn every_key_is_read() {
        let groups = groups(
            r#"{"games": {"ports": "7000-7999,8443", "protocols": ["udp", "TCP"],
                "strategy": "least-recently-used", "namespaces": ["games-*", "arena"],
                "maxPerPod": 1, "maxPerNamespace": 196605, "cooldown": "0s", "claimTTL": "10years"},
                "s": {"ports": "1", "strategy": "sequential", "namespaces": []}}"#,
        );
        let group = &groups[&"games".parse().unwrap()];
        assert_eq!(group.ports.to_string(), "7000-7999,8443");
        assert_eq!(group.protocols, Protocols::TCP_AND_UDP);
        assert_eq!(group.strategy, Strategy::LeastRecentlyUsed);
        assert_eq!((group.max_per_pod, group.max_per_namespace), (Some(1), Some(196_605)));
        assert_eq!((group.cooldown, group.claim_ttl), (Duration::ZERO, MAX_CLAIM_TTL));
        let admits = |namespace: &str| group.admits(Some(&namespace.parse().unwrap()));
        assert!(admits("games-1") && admits("arena") && !admits("games") && !group.admits(None));
        let other = &groups[&"s".parse().unwrap()];
        assert_eq!(other.strategy, Strategy::Sequential);
        assert!(!other.admits(None) && !other.admits(Some(&"s".parse().unwrap())));
        assert!(groups.contains_key(&"default".parse().unwrap()));
    }

    #[test]
    fn requests_that_name_no_group_may_have_another_than_default() {
        let keys = r#","defaultGroup":"games","groups":{"games":{"ports":"7000"}}"#;
        let settings = parse(keys).settings().unwrap();
        assert_eq!(settings.default_group.as_str(), "games");
        let names: Vec<_> = settings.groups.keys().map(GroupName::as_str).collect();
        assert_eq!(names, ["default", "games"]);
    }

    #[test]
    fn wrong_values_are_refused_with_key_value_and_what_is_allowed() {
        const NUMBER: &str = "a whole number from 1 to 196605 is allowed";
        const PROTOCOLS: &str =
            "an array of one or more of \"tcp\", \"udp\" and \"sctp\" is allowed";
        const PATTERN: &str =
            "namespace pattern \"A\" is not 1 to 63 lower-case letters, digits, '-', '*' and '?'";
        const TIME: &str = "a time like \"500ms\", \"10s\" or \"2m\" up to";
        for (keys, message) in [
            ("[]", "groups is []: an object of groups is allowed".to_owned()),
            (r#"{"default":null}"#, "groups.default is null: an object is allowed".to_owned()),
            (
                r#"{"default":{"ports":"0-9"}}"#,
                "groups.default.ports is \"0-9\": \"0\" is not a port from 1 to 65535".to_owned(),
            ),
            (
                r#"{"default":{"ports":""}}"#,
                "groups.default.ports is \"\": at least one port is needed".to_owned(),
            ),
            (
                r#"{"games":{}}"#,
                "groups.games.ports is null: a text like \"7000-7999,8443\" is allowed".to_owned(),
            ),
            (
                r#"{"default":{"strategy":"Random"}}"#,
                "groups.default.strategy is \"Random\": \"random\", \"sequential\" or \"least-recently-used\" is allowed".to_owned(),
            ),
            (
                r#"{"default":{"protocols":[]}}"#,
                format!("groups.default.protocols is []: {PROTOCOLS}"),
            ),
            (
                r#"{"default":{"protocols":["tcp","icmp"]}}"#,
                format!("groups.default.protocols is [\"tcp\",\"icmp\"]: {PROTOCOLS}"),
            ),
            (
                r#"{"default":{"protocols":"tcp"}}"#,
                format!("groups.default.protocols is \"tcp\": {PROTOCOLS}"),
            ),
            (
                r#"{"default":{"namespaces":"a"}}"#,
                "groups.default.namespaces is \"a\": an array of patterns like \"games-*\" is allowed".to_owned(),
            ),
            (
                r#"{"default":{"namespaces":["a",1]}}"#,
                "groups.default.namespaces[1] is 1: a pattern like \"games-*\" is allowed".to_owned(),
            ),
            (
                r#"{"default":{"namespaces":["A"]}}"#,
                format!("groups.default.namespaces[0] is \"A\": {PATTERN}"),
            ),
            (r#"{"default":{"maxPerPod":0}}"#, format!("groups.default.maxPerPod is 0: {NUMBER}")),
            (
                r#"{"default":{"maxPerNamespace":"9"}}"#,
                format!("groups.default.maxPerNamespace is \"9\": {NUMBER}"),
            ),
            (
                r#"{"default":{"cooldown":60}}"#,
                format!("groups.default.cooldown is 60: {TIME} 1day is allowed"),
            ),
            (
                r#"{"default":{"claimTTL":"11years"}}"#,
                format!("groups.default.claimTTL is \"11years\": {TIME} 10years is allowed"),
            ),
            (
                r#"{"default":{"port":null}}"#,
                "groups.default.port is null: only ports, protocols, strategy, namespaces, maxPerPod, maxPerNamespace, cooldown and claimTTL are allowed".to_owned(),
            ),
            (
                r#"{"a b":{"ports":"1"}}"#,
                "a name in groups is \"a b\": 1 to 63 letters, digits, '-' and '_' are allowed".to_owned(),
            ),
        ] {
            assert_eq!(error(&format!(r#","groups":{keys}"#)), message);
        }
        for name in ["games", "a b"] {
            let message =
                format!("defaultGroup is \"{name}\": the name of one of the groups is allowed");
            assert_eq!(error(&format!(r#","defaultGroup":"{name}""#)), message);
        }
    }
}
