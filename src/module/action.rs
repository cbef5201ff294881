//! The actions `allocate-ports` and `deallocate-ports`, as programs write them.
//!
//! ```text
//! allocate-ports     {"ports", "protocol", "module_id"?, "keep_existing"?, "group"?, "to"?}
//! deallocate-ports   {"protocol", "module_id"?}
//! ```

use serde_json::{Map, Value, json};

use crate::{
    cni::JsonError,
    lease::{Endpoint, Excerpt, GroupName, ModuleId, Port, Protocol},
};

const ALLOCATE: &str = "allocate-ports";
const DEALLOCATE: &str = "deallocate-ports";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A block of ports.
    Allocate(Allocation),
    /// The end of all blocks.
    Deallocate(Deallocation),
}

/// A block of neighbouring ports that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// For which module; none: for the one that asks.
    pub module: Option<ModuleId>,
    /// The transport protocol: TCP or UDP.
    pub protocol: Protocol,
    /// How many ports, 1 to 65535.
    pub count: u16,
    /// Whether what the module has of the protocol stays beside it.
    pub keep_existing: bool,
    /// The group to take them from; none: the module's own, or the node's default.
    pub group: Option<GroupName>,
    /// Where to forward them to.
    pub to: Option<Endpoint>,
}

/// All ports of a protocol that are given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deallocation {
    /// Of which module; none: of the one that asks.
    pub module: Option<ModuleId>,
    /// The transport protocol: TCP or UDP.
    pub protocol: Protocol,
}

/// Why what is asked for is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// There is no such action.
    #[error("there is no action {0}: \"allocate-ports\" and \"deallocate-ports\" are known")]
    Unknown(Excerpt),
    /// No JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// JSON, and no object.
    #[error("{0} is no object")]
    Object(Excerpt),
    /// A key that is needed and not there.
    #[error("key \"{0}\" is missing")]
    Missing(&'static str),
    /// A key that means nothing.
    #[error("key {key} is not known: {known} are")]
    Key {
        /// The key.
        key: Excerpt,
        /// Those that are.
        known: String,
    },
    /// A value that is not allowed.
    #[error("{key} is {value}: {allowed}")]
    Value {
        /// Of which key.
        key: &'static str,
        /// What it is.
        value: Excerpt,
        /// What it may be.
        allowed: &'static str,
    },
    /// The last port of a block would be forwarded beyond 65535.
    #[error("{count} ports cannot be forwarded to {to}: there are not so many above it")]
    Beyond {
        /// How many ports are asked for.
        count: u16,
        /// Where to.
        to: Endpoint,
    },
}

impl Action {
    /// Reads an action with its data.
    pub fn parse(name: &str, data: &Value) -> Result<Self, ActionError> {
        let known = match name {
            ALLOCATE => &["ports", "module_id", "protocol", "keep_existing", "group", "to"][..],
            DEALLOCATE => &["module_id", "protocol"],
            other => return Err(ActionError::Unknown(Excerpt::quoted(other))),
        };
        let Some(keys) = data.as_object() else {
            return Err(ActionError::Object(Excerpt::plain(&data.to_string())));
        };
        if let Some(unknown) = keys.keys().find(|key| !known.contains(&key.as_str())) {
            let (key, known) = (Excerpt::quoted(unknown), known.join(", "));
            return Err(ActionError::Key { key, known });
        }
        let keys = Keys(keys);
        let module = keys.parsed("module_id", "the name of a module is allowed")?;
        let protocol = keys.protocol()?;
        if name == DEALLOCATE {
            return Ok(Self::Deallocate(Deallocation { module, protocol }));
        }
        Allocation {
            module,
            protocol,
            count: keys.count()?,
            keep_existing: keys.flag("keep_existing")?,
            group: keys.parsed("group", "the name of a group is allowed")?,
            to: keys.parsed("to", "an address and port like \"10.0.0.5:8080\" are allowed")?,
        }
        .checked()
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Allocate(_) => ALLOCATE,
            Self::Deallocate(_) => DEALLOCATE,
        }
    }

    /// Its data, from which [`Action::parse`] makes the same again.
    #[must_use]
    pub fn data(&self) -> Value {
        let mut data = match self {
            Self::Allocate(wanted) => json!({
                "module_id": wanted.module,
                "protocol": wanted.protocol,
                "ports": wanted.count,
                "keep_existing": wanted.keep_existing,
                "group": wanted.group,
                "to": wanted.to,
            }),
            Self::Deallocate(gone) => json!({"module_id": gone.module, "protocol": gone.protocol}),
        };
        data.as_object_mut().expect("it is an object").retain(|_, value| !value.is_null());
        data
    }

    /// Whose ports are meant; none: those of the one that asks.
    #[must_use]
    pub fn module(&self) -> Option<&ModuleId> {
        match self {
            Self::Allocate(wanted) => wanted.module.as_ref(),
            Self::Deallocate(gone) => gone.module.as_ref(),
        }
    }
}

impl Allocation {
    /// The action, once it is known that each port leads somewhere.
    pub fn checked(self) -> Result<Action, ActionError> {
        match self {
            Self { to: Some(to), count, .. } if to.port().above(count.max(1) - 1).is_none() => {
                Err(ActionError::Beyond { count, to })
            }
            allocation => Ok(Action::Allocate(allocation)),
        }
    }
}

/// The keys of an action; null counts as absent.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn parsed<T: std::str::FromStr>(
        &self,
        key: &'static str,
        allowed: &'static str,
    ) -> Result<Option<T>, ActionError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        parsed.map(Some).ok_or_else(|| wrong(key, value, allowed))
    }

    fn protocol(&self) -> Result<Protocol, ActionError> {
        let value = self.get("protocol").ok_or(ActionError::Missing("protocol"))?;
        match value.as_str().and_then(Protocol::from_name) {
            Some(protocol @ (Protocol::Tcp | Protocol::Udp)) => Ok(protocol),
            _ => Err(wrong("protocol", value, "\"tcp\" or \"udp\" is allowed")),
        }
    }

    fn count(&self) -> Result<u16, ActionError> {
        let value = self.get("ports").ok_or(ActionError::Missing("ports"))?;
        let count = value.as_u64().and_then(|count| u16::try_from(count).ok());
        let count = count.and_then(Port::new).map(Port::number);
        count.ok_or_else(|| wrong("ports", value, "a whole number from 1 to 65535 is allowed"))
    }

    fn flag(&self, key: &'static str) -> Result<bool, ActionError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(key, other, "true or false is allowed")),
        }
    }
}

fn wrong(key: &'static str, value: &Value, allowed: &'static str) -> ActionError {
    ActionError::Value { key, value: Excerpt::plain(&value.to_string()), allowed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, data: &Value) -> Result<Action, String> {
        Action::parse(name, data).map_err(|error| error.to_string())
    }

    #[test]
    fn actions_are_read_as_they_are_written() {
        let all = json!({
            "ports": 4, "module_id": "mail1", "protocol": "TCP", "keep_existing": true,
            "group": "services", "to": "10.0.0.5:25",
        });
        let expected = Allocation {
            module: Some("mail1".parse().unwrap()),
            protocol: Protocol::Tcp,
            count: 4,
            keep_existing: true,
            group: Some("services".parse().unwrap()),
            to: Some("10.0.0.5:25".parse().unwrap()),
        };
        assert_eq!(parse(ALLOCATE, &all), Ok(Action::Allocate(expected)));
        for (name, data) in [
            (ALLOCATE, all),
            (ALLOCATE, json!({"ports": 65535, "protocol": "udp", "module_id": null})),
            (DEALLOCATE, json!({"protocol": "udp"})),
            (DEALLOCATE, json!({"protocol": "tcp", "module_id": "a"})),
        ] {
            let action = parse(name, &data).unwrap();
            assert_eq!(parse(action.name(), &action.data()), Ok(action));
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        let number = "a whole number from 1 to 65535 is allowed";
        for (name, data, message) in [
            (
                "x\u{202e}",
                json!({}),
                "there is no action \"x\\u{202e}\": \"allocate-ports\" and \"deallocate-ports\" are known",
            ),
            (ALLOCATE, json!([]), "[] is no object"),
            (ALLOCATE, json!({"ports": 1}), "key \"protocol\" is missing"),
            (ALLOCATE, json!({"protocol": "tcp"}), "key \"ports\" is missing"),
            (ALLOCATE, json!({"ports": 0, "protocol": "tcp"}), &format!("ports is 0: {number}")),
            (
                ALLOCATE,
                json!({"ports": 1.5, "protocol": "tcp"}),
                &format!("ports is 1.5: {number}"),
            ),
            (
                ALLOCATE,
                json!({"ports": 65536, "protocol": "tcp"}),
                &format!("ports is 65536: {number}"),
            ),
            (
                ALLOCATE,
                json!({"ports": 1, "protocol": "sctp"}),
                "protocol is \"sctp\": \"tcp\" or \"udp\" is allowed",
            ),
            (
                ALLOCATE,
                json!({"ports": 1, "protocol": "tcp", "keep_existing": "yes"}),
                "keep_existing is \"yes\": true or false is allowed",
            ),
            (
                ALLOCATE,
                json!({"ports": 1, "protocol": "tcp", "module_id": "../x"}),
                "module_id is \"../x\": the name of a module is allowed",
            ),
            (
                ALLOCATE,
                json!({"ports": 3, "protocol": "tcp", "to": "10.0.0.5:65534"}),
                "3 ports cannot be forwarded to 10.0.0.5:65534: there are not so many above it",
            ),
            (
                DEALLOCATE,
                json!({"ports": 1, "protocol": "tcp"}),
                "key \"ports\" is not known: module_id, protocol are",
            ),
        ] {
            assert_eq!(parse(name, &data).unwrap_err(), message);
        }
    }
}
