//! The annotations of a pod, which containerd and CRI-O hand on under the
//! capability `io.kubernetes.cri.pod-annotations`:
//!
//! ```text
//! hostport.io/enabled    "true"; with anything else, no port is asked for here
//! hostport.io/ports      a list (see list.rs), or JSON (see document.rs)
//! hostport.io/group      the group of entries that name none
//! hostport.io/strategy   "Sequential" (the lowest free port) or "Random"
//! hostport.io/base-port  no port below this one; without a strategy: Sequential
//! hostport.io/claim      the claim of entries that name none
//! hostport.io/health     how one finds out whether the pod works (see HealthCheck)
//! ```
//!
//! `ports` may be absent where `health` is there, for ports of other sources. The
//! four before it say nothing of entries that ask for a port by number. Keys that
//! begin with `hostport.io/allocated-` are written by others and ignored; any
//! other key under `hostport.io/` is refused once ports are asked for.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    ask::{self, Ask, Place, Source, Wish},
    document::{self, DocumentError},
    list::{self, ListError},
};
use crate::{
    cni::json::{self, Object},
    lease::{ClaimName, Excerpt, GroupName, HealthCheck, Pod, Port, Strategy},
};

/// The key of `runtimeConfig` under which annotations come in.
pub(super) const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";

const PREFIX: &str = "hostport.io/";
const IGNORED_PREFIX: &str = "hostport.io/allocated-";
const ENABLED: &str = "hostport.io/enabled";
const PORTS: &str = "hostport.io/ports";
const GROUP: &str = "hostport.io/group";
const STRATEGY: &str = "hostport.io/strategy";
const BASE_PORT: &str = "hostport.io/base-port";
const CLAIM: &str = "hostport.io/claim";
pub(super) const HEALTH: &str = "hostport.io/health";
const KEYS: [&str; 7] = [ENABLED, PORTS, GROUP, STRATEGY, BASE_PORT, CLAIM, HEALTH];

/// Why annotations are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// Not an object.
    #[error("runtimeConfig.\"{CAPABILITY}\" is {0}: an object is allowed")]
    Shape(Excerpt),
    /// A key has a value that it cannot have.
    #[error("{key} is {value}: {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: Excerpt,
        /// What is allowed.
        allowed: &'static str,
    },
    /// There is no such key.
    #[error("annotation {0} is not known: {keys} are allowed", keys = KEYS.join(", "))]
    Unknown(Excerpt),
    /// A key is there twice.
    #[error("{0} is there twice")]
    Twice(&'static str),
    /// The ports that are asked for are not said.
    #[error("{PORTS} is missing, and {ENABLED} is \"true\"")]
    Missing,
    /// The list.
    #[error(transparent)]
    List(#[from] ListError),
    /// The JSON document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A port without a name cannot be kept under a claim.
    #[error("{0} has no name, which {CLAIM} needs")]
    Unnamed(Place),
    /// The port that is preferred is lower than any that may be taken.
    #[error("{place} prefers port {preferred}, which is below {BASE_PORT} {base}")]
    BelowBase {
        /// The entry.
        place: Place,
        /// Its `preferredPort`.
        preferred: Port,
        /// The base port.
        base: Port,
    },
}

/// What annotations say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    pub asks: Vec<Ask>,
    pub health: Option<HealthCheck>,
}

/// What annotations say; nothing unless they are enabled.
pub(super) fn parse(raw: &RawValue, pod: Option<&Pod>) -> Result<Annotations, AnnotationError> {
    let Object(entries) =
        Object::parse(raw.get()).map_err(|_| AnnotationError::Shape(Excerpt::plain(raw.get())))?;
    let ours = entries.iter().map(|(key, value)| (json::key(key), *value));
    let ours: Vec<Entry<'_>> = ours.filter(|(key, _)| key.starts_with(PREFIX)).collect();
    if !is_enabled(&ours)? {
        return Ok(Annotations::default());
    }
    for (key, _) in &ours {
        if !KEYS.contains(&key.as_ref()) && !key.starts_with(IGNORED_PREFIX) {
            return Err(AnnotationError::Unknown(Excerpt::quoted(key)));
        }
    }
    let health = find(&ours, HEALTH)?;
    let mut asks = match find(&ours, PORTS)? {
        Some(text) => parse_ports(&text, pod)?,
        None if health.is_some() => Vec::new(),
        None => return Err(AnnotationError::Missing),
    };
    let defaults = Defaults::read(&ours, pod)?;
    for ask in &mut asks {
        defaults.complete(ask)?;
    }
    let health = match health {
        Some(text) => {
            HealthCheck::parse(&text).map_err(|_| wrong(HEALTH, &text, HealthCheck::ALLOWED))?
        }
        None => None,
    };
    Ok(Annotations { asks, health })
}

/// An annotation: its key, and its value as it is written.
type Entry<'a> = (Cow<'a, str>, &'a RawValue);

/// The text of a key, none where it is absent or null.
fn find<'a>(
    entries: &[Entry<'a>],
    key: &'static str,
) -> Result<Option<Cow<'a, str>>, AnnotationError> {
    let mut found = entries.iter().filter(|(name, _)| *name == key);
    let value = found.next().map(|(_, value)| *value).filter(|value| !json::is_null(value));
    if found.next().is_some() {
        return Err(AnnotationError::Twice(key));
    }
    let text = |raw: &'a RawValue| {
        let value = || Excerpt::plain(raw.get());
        let allowed = "a text is allowed";
        json::text(raw).ok_or_else(|| AnnotationError::Value { key, value: value(), allowed })
    };
    value.map(text).transpose()
}

fn is_enabled(entries: &[Entry<'_>]) -> Result<bool, AnnotationError> {
    match find(entries, ENABLED)?.as_deref() {
        Some("true") => return Ok(true),
        Some("false") => {}
        None if find(entries, PORTS).is_ok_and(|ports| ports.is_none()) => {}
        None => log::warn!("{PORTS} is there without {ENABLED}: no ports are given"),
        Some(other) => {
            let other = Excerpt::quoted(other);
            log::warn!("{ENABLED} is {other}: ports are given only where it is \"true\"");
        }
    }
    Ok(false)
}

fn parse_ports(text: &str, pod: Option<&Pod>) -> Result<Vec<Ask>, AnnotationError> {
    // An object in the place of the array is told so by the reader of documents.
    let is_document = text.trim_start_matches(list::BLANKS).starts_with(['[', '{']);
    let is_blank = text.trim_matches(list::BLANKS).is_empty();
    let asks = match (is_blank, is_document) {
        (true, _) => Vec::new(),
        (_, true) => document::parse(text, Source::Annotations, pod)?,
        (_, false) => list::parse(text)?,
    };
    // A pod that asks and gets nothing would be worse than one that does not start.
    if asks.is_empty() {
        return Err(wrong(PORTS, text, "at least one entry is needed"));
    }
    Ok(asks)
}

fn wrong(key: &'static str, text: &str, allowed: &'static str) -> AnnotationError {
    AnnotationError::Value { key, value: Excerpt::quoted(text), allowed }
}

/// What is said of all entries that do not say it themselves.
struct Defaults {
    group: Option<GroupName>,
    strategy: Option<Strategy>,
    base: Option<Port>,
    claim: Option<ClaimName>,
}

impl Defaults {
    fn read(entries: &[Entry<'_>], pod: Option<&Pod>) -> Result<Self, AnnotationError> {
        fn read<T>(
            entries: &[Entry<'_>],
            key: &'static str,
            parse: impl FnOnce(&str) -> Result<T, &'static str>,
        ) -> Result<Option<T>, AnnotationError> {
            let Some(text) = find(entries, key)? else { return Ok(None) };
            parse(&text).map(Some).map_err(|allowed| wrong(key, &text, allowed))
        }
        Ok(Self {
            group: read(entries, GROUP, |text| {
                text.parse().map_err(|_| "1 to 63 letters, digits, '-' and '_' are allowed")
            })?,
            strategy: read(entries, STRATEGY, |text| match text {
                "Sequential" => Ok(Strategy::Sequential),
                "Random" => Ok(Strategy::Random),
                _ => Err("\"Sequential\" or \"Random\" is allowed"),
            })?,
            base: read(entries, BASE_PORT, |text| {
                ask::port(text).ok_or("a number from 1 to 65535 is allowed")
            })?,
            claim: read(entries, CLAIM, |text| ask::claim_name(text, pod))?,
        })
    }

    fn complete(&self, ask: &mut Ask) -> Result<(), AnnotationError> {
        let place = ask.place;
        let Wish::Dynamic(fit) = &mut ask.wish else { return Ok(()) };
        fit.strategy = self.strategy;
        fit.base = self.base;
        fit.group = fit.group.take().or_else(|| self.group.clone());
        fit.claim = fit.claim.take().or_else(|| self.claim.clone());
        if fit.claim.is_some() && ask.name.is_none() {
            return Err(AnnotationError::Unnamed(place));
        }
        match (fit.preferred, fit.base) {
            (Some(preferred), Some(base)) if preferred < base => {
                Err(AnnotationError::BelowBase { place, preferred, base })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(annotations: &Value) -> Result<Vec<Ask>, String> {
        let pod =
            Pod { namespace: "shop".parse().unwrap(), name: "web-0".parse().unwrap(), uid: None };
        let raw = RawValue::from_string(annotations.to_string()).unwrap();
        let read = parse(&raw, Some(&pod)).map(|annotations| annotations.asks);
        read.map_err(|error| error.to_string())
    }

    /// Annotations that ask for ports, with one more.
    fn with(key: &str, value: impl Into<Value>) -> Value {
        let mut annotations = json!({"hostport.io/enabled": "true", "hostport.io/ports": "a=1"});
        annotations[key] = value.into();
        annotations
    }

    #[test]
    fn ports_are_asked_for_only_where_enabled_is_true() {
        for annotations in [
            json!({}),
            json!({"hostport.io/enabled": "false", "hostport.io/ports": "garbage"}),
            json!({"hostport.io/enabled": "True", "hostport.io/port": 1}),
            json!({"hostport.io/enabled": " true"}),
            json!({"hostport.io/enabled": ""}),
            json!({"hostport.io/enabled": null, "hostport.io/ports": "a=1"}),
            json!({"hostport.io/ports": "a=1"}),
        ] {
            assert_eq!(read(&annotations), Ok(Vec::new()), "{annotations}");
        }
        let others = json!({"a": 1, "b": [], "hostport.io/allocated-grpc": 7,
            "hostport.io/enabled": "true", "hostport.io/ports": "a=1", "hostport.io/claim": null});
        assert_eq!(read(&others).unwrap().len(), 1);
    }

    #[test]
    fn defaults_are_for_entries_that_say_nothing_themselves() {
        let annotations = json!({
            "hostport.io/enabled": "true",
            "hostport.io/ports": " [{\"name\": \"a\", \"containerPort\": 1},
                {\"name\": \"b\", \"containerPort\": 2, \"group\": \"own\", \"claim\": \"x\"},
                {\"containerPort\": 3, \"hostPort\": 80}]",
            "hostport.io/group": "games",
            "hostport.io/strategy": "Random",
            "hostport.io/base-port": "7000",
            "hostport.io/claim": "arena-$(POD_NAME)",
        });
        let asks = read(&annotations).unwrap();
        let fits: Vec<_> = asks
            .iter()
            .map(|ask| match &ask.wish {
                Wish::Static(port) => port.to_string(),
                Wish::Dynamic(fit) => format!(
                    "{} {} {:?} {}",
                    fit.group.as_ref().unwrap(),
                    fit.claim.as_ref().unwrap(),
                    fit.strategy.unwrap(),
                    fit.base.unwrap()
                ),
            })
            .collect();
        assert_eq!(fits, ["games arena-web-0 Random 7000", "own x Random 7000", "80"]);
    }

    #[test]
    fn wrong_annotations_are_refused_with_key_value_and_what_is_allowed() {
        const TEXT: &str = "a text is allowed";
        let long = "a".repeat(254);
        for (annotations, message) in [
            (
                json!([1]),
                "runtimeConfig.\"io.kubernetes.cri.pod-annotations\" is [1]: an object is allowed",
            ),
            (
                json!({"hostport.io/enabled": true}),
                "hostport.io/enabled is true: a text is allowed",
            ),
            (
                json!({"hostport.io/enabled": "true"}),
                "hostport.io/ports is missing, and hostport.io/enabled is \"true\"",
            ),
            (
                with("hostport.io/ports", " "),
                "hostport.io/ports is \" \": at least one entry is needed",
            ),
            (
                with("hostport.io/ports", "[ ]"),
                "hostport.io/ports is \"[ ]\": at least one entry is needed",
            ),
            (with("hostport.io/ports", 80), &format!("hostport.io/ports is 80: {TEXT}")),
            (with("hostport.io/claim", json!({})), &format!("hostport.io/claim is {{}}: {TEXT}")),
            (
                with("hostport.io/port", "a=1"),
                "annotation \"hostport.io/port\" is not known: hostport.io/enabled, hostport.io/ports, hostport.io/group, hostport.io/strategy, hostport.io/base-port, hostport.io/claim, hostport.io/health are allowed",
            ),
            (
                with("hostport.io/strategy", "sequential"),
                "hostport.io/strategy is \"sequential\": \"Sequential\" or \"Random\" is allowed",
            ),
            (
                with("hostport.io/base-port", "0"),
                "hostport.io/base-port is \"0\": a number from 1 to 65535 is allowed",
            ),
            (
                with("hostport.io/base-port", "7000 "),
                "hostport.io/base-port is \"7000 \": a number from 1 to 65535 is allowed",
            ),
            (
                with("hostport.io/group", "a b"),
                "hostport.io/group is \"a b\": 1 to 63 letters, digits, '-' and '_' are allowed",
            ),
            (
                with("hostport.io/claim", long.as_str()),
                &format!(
                    "hostport.io/claim is \"{}…\": a DNS subdomain of at most 253 characters is allowed, in which $(POD_NAME) and $(POD_NAMESPACE) stand for those of the pod",
                    &long[..120]
                ),
            ),
            (
                with("hostport.io/ports", "[{\"containerPort\":0}]"),
                "hostport.io/ports, entry 1, character 19: containerPort is 0: a number from 1 to 65535, or \"same\", is allowed",
            ),
            (
                with("hostport.io/ports", "\n{\"containerPort\": 80}"),
                "hostport.io/ports, character 2: {\"containerPort\": 80} is not an array of objects",
            ),
            (
                with("hostport.io/ports", "x=1, y"),
                "hostport.io/ports, entry 2 (\"y\"), character 6: \"y\" is not NAME=CONTAINERPORT[/PROTOCOL][@GROUP]",
            ),
            (
                json!({"hostport.io/enabled": "true", "hostport.io/claim": "c",
                    "hostport.io/ports": "[{\"containerPort\":1}]"}),
                "hostport.io/ports, entry 1 has no name, which hostport.io/claim needs",
            ),
            (
                json!({"hostport.io/enabled": "true", "hostport.io/base-port": "7000",
                    "hostport.io/ports": "[{\"containerPort\":1,\"preferredPort\":6999}]"}),
                "hostport.io/ports, entry 1 prefers port 6999, which is below hostport.io/base-port 7000",
            ),
        ] {
            assert_eq!(read(&annotations), Err(message.to_owned()));
        }
        let twice = r#"{"hostport.io/enabled":"true","hostport.io/\u0065nabled":"false"}"#;
        let raw = RawValue::from_string(twice.to_owned()).unwrap();
        assert_eq!(
            parse(&raw, None).unwrap_err().to_string(),
            "hostport.io/enabled is there twice"
        );
    }
}
