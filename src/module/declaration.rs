//! Which ports a module is to have by a name, as templates need them.
//!
//! ```json
//! [{"claim": "web", "group": "http", "preferred_port": 8080, "random": false, "protocol": "tcp"}]
//! ```

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::lease::{ClaimName, Excerpt, GroupName, ParseNameError, Port, Protocol, Strategy};

/// A claim that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Its name (`claim`).
    pub claim: ClaimName,
    /// The group that its port is taken from (`group`); none: the default group.
    pub group: Option<GroupName>,
    /// The port that it gets if that is free (`preferred_port`).
    pub preferred: Option<Port>,
    /// How another one is chosen: `random`, true where it is not said, is
    /// [`Strategy::Random`], false [`Strategy::Sequential`].
    pub strategy: Strategy,
    /// The protocol (`protocol`): TCP or UDP; none: the group's first of these.
    pub protocol: Option<Protocol>,
}

/// Why declarations are refused.
#[derive(Debug, thiserror::Error)]
pub enum DeclarationError {
    /// Not JSON, or not an array.
    #[error("{file} is not a JSON array of objects")]
    Shape {
        /// The file, as the caller calls it.
        file: String,
        /// What is wrong, and where.
        #[source]
        cause: serde_json::Error,
    },
    /// An entry is not an object.
    #[error("{file}[{index}] is {value}: an object with claim is allowed")]
    Entry {
        /// The file.
        file: String,
        /// Position of the entry, from 0.
        index: usize,
        /// The entry, as JSON.
        value: Excerpt,
    },
    /// A key has a value that it cannot have.
    #[error("{file}[{index}].{key} is {value}: {allowed}")]
    Value {
        /// The file.
        file: String,
        /// Position of the entry, from 0.
        index: usize,
        /// The key.
        key: &'static str,
        /// The value, as JSON.
        value: Excerpt,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A name has not the form it must have.
    #[error("{file}[{index}].{key} is not usable")]
    Name {
        /// The file.
        file: String,
        /// Position of the entry, from 0.
        index: usize,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        #[source]
        cause: ParseNameError,
    },
    /// A key that has no meaning.
    #[error(
        "{file}[{index}] has the key {key}: claim, group, preferred_port, random and protocol are allowed"
    )]
    Unknown {
        /// The file.
        file: String,
        /// Position of the entry, from 0.
        index: usize,
        /// The key.
        key: Excerpt,
    },
    /// A key is written twice.
    #[error("{file}[{index}] has {key} twice")]
    Twice {
        /// The file.
        file: String,
        /// Position of the entry, from 0.
        index: usize,
        /// The key.
        key: &'static str,
    },
    /// No `claim`.
    #[error("{file}[{index}] has no claim")]
    Missing {
        /// The file.
        file: String,
        /// Position of the entry, from 0.
        index: usize,
    },
    /// Two entries are about the same claim.
    #[error("{file}[{first}] and [{index}] both declare claim {claim:?}")]
    Repeated {
        /// The file.
        file: String,
        /// Position of the one, from 0.
        first: usize,
        /// Position of the other.
        index: usize,
        /// The claim.
        claim: String,
    },
}

impl Declaration {
    /// Reads the claims of a file that errors call `file`, in its order. Null counts
    /// as absent.
    pub fn parse_all(file: &str, text: &str) -> Result<Vec<Self>, DeclarationError> {
        let entries: Vec<&RawValue> = serde_json::from_str(text)
            .map_err(|cause| DeclarationError::Shape { file: file.to_owned(), cause })?;
        let mut declarations: Vec<Declaration> = Vec::with_capacity(entries.len());
        let mut indices = BTreeMap::new();
        for (index, raw) in entries.into_iter().enumerate() {
            let declaration = Entry { file, index }.parse(raw)?;
            if let Some(first) = indices.insert(declaration.claim.clone(), index) {
                return Err(DeclarationError::Repeated {
                    file: file.to_owned(),
                    first,
                    index,
                    claim: declaration.claim.into(),
                });
            }
            declarations.push(declaration);
        }
        Ok(declarations)
    }
}

/// The keys of an entry, in their order and with those that are there twice.
struct Keys(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Keys(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Where in which file.
#[derive(Clone, Copy)]
struct Entry<'a> {
    file: &'a str,
    index: usize,
}

impl Entry<'_> {
    fn parse(self, raw: &RawValue) -> Result<Declaration, DeclarationError> {
        let Self { file, index } = self;
        let Ok(Keys(keys)) = serde_json::from_str(raw.get()) else {
            let value = Excerpt::plain(raw.get());
            return Err(DeclarationError::Entry { file: file.to_owned(), index, value });
        };
        let (mut claim, mut group, mut preferred, mut random) = (None, None, None, None);
        let mut protocol = None;
        for (key, value) in keys {
            match key.as_str() {
                "claim" => self.set("claim", value, &mut claim)?,
                "group" => self.set("group", value, &mut group)?,
                "preferred_port" => self.set("preferred_port", value, &mut preferred)?,
                "random" => self.set("random", value, &mut random)?,
                "protocol" => self.set("protocol", value, &mut protocol)?,
                _ => {
                    let key = Excerpt::quoted(&key);
                    return Err(DeclarationError::Unknown { file: file.to_owned(), index, key });
                }
            }
        }
        let claim = self.name("claim", claim)?;
        let claim = claim.ok_or(DeclarationError::Missing { file: file.to_owned(), index })?;
        let group = self.name("group", group)?;
        let port = |value: Value| {
            let port = value.as_u64().and_then(|port| Port::new(port.try_into().ok()?));
            port.ok_or_else(|| {
                self.wrong("preferred_port", &value, "a number from 1 to 65535 is allowed")
            })
        };
        let is_random = |value: Value| {
            value.as_bool().ok_or_else(|| self.wrong("random", &value, "true or false is allowed"))
        };
        let preferred = preferred.map(port).transpose()?;
        let is_random = random.map(is_random).transpose()?.unwrap_or(true);
        let strategy = if is_random { Strategy::Random } else { Strategy::Sequential };
        let protocol_of = |value: Value| match value.as_str().and_then(Protocol::from_name) {
            Some(protocol @ (Protocol::Tcp | Protocol::Udp)) => Ok(protocol),
            _ => Err(self.wrong("protocol", &value, "\"tcp\" or \"udp\" is allowed")),
        };
        let protocol = protocol.map(protocol_of).transpose()?;
        Ok(Declaration { claim, group, preferred, strategy, protocol })
    }

    fn set(
        self,
        key: &'static str,
        value: Value,
        to: &mut Option<Value>,
    ) -> Result<(), DeclarationError> {
        if to.is_some() {
            return Err(DeclarationError::Twice {
                file: self.file.to_owned(),
                index: self.index,
                key,
            });
        }
        *to = Some(value).filter(|value| !value.is_null());
        Ok(())
    }

    fn name<T: FromStr<Err = ParseNameError>>(
        self,
        key: &'static str,
        value: Option<Value>,
    ) -> Result<Option<T>, DeclarationError> {
        let Some(value) = value else { return Ok(None) };
        let name = value.as_str().ok_or_else(|| self.wrong(key, &value, "a text is allowed"))?;
        name.parse().map(Some).map_err(|cause| DeclarationError::Name {
            file: self.file.to_owned(),
            index: self.index,
            key,
            cause,
        })
    }

    fn wrong(self, key: &'static str, value: &Value, allowed: &'static str) -> DeclarationError {
        DeclarationError::Value {
            file: self.file.to_owned(),
            index: self.index,
            key,
            value: Excerpt::plain(&value.to_string()),
            allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declarations(text: &str) -> Result<Vec<Declaration>, String> {
        Declaration::parse_all("ports.json", text)
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let text = r#"[
            {"claim": "web"},
            {"claim": "web-0.https", "group": "HTTP_1", "preferred_port": 65535, "random": false,
             "protocol": "UDP"},
            {"claim": "dns", "group": null, "preferred_port": null, "random": true}
        ]"#;
        let web = Declaration {
            claim: "web".parse().unwrap(),
            group: None,
            preferred: None,
            strategy: Strategy::Random,
            protocol: None,
        };
        let https = Declaration {
            claim: "web-0.https".parse().unwrap(),
            group: Some("HTTP_1".parse().unwrap()),
            preferred: Port::new(65535),
            strategy: Strategy::Sequential,
            protocol: Some(Protocol::Udp),
        };
        let dns = Declaration { claim: "dns".parse().unwrap(), ..web.clone() };
        assert_eq!(declarations(text).unwrap(), [web, https, dns]);
        assert_eq!(declarations(" [] ").unwrap(), []);
    }

    #[test]
    fn errors_name_entry_key_value_and_what_is_allowed() {
        const PORTS: &str = "a number from 1 to 65535 is allowed";
        for (entry, message) in [
            ("{}", "[1] has no claim".to_owned()),
            (r#"{"claim": null}"#, "[1] has no claim".to_owned()),
            ("7", "[1] is 7: an object with claim is allowed".to_owned()),
            (r#"{"claim": 7}"#, "[1].claim is 7: a text is allowed".to_owned()),
            (
                r#"{"claim": "Web"}"#,
                "[1].claim is not usable: claim name \"Web\" is not a DNS subdomain: at most 253 \
                 lower-case letters, digits, '-' and '.', a letter or digit at both ends and \
                 beside each '.'"
                    .to_owned(),
            ),
            (
                r#"{"claim": "b", "group": "a b"}"#,
                "[1].group is not usable: group name \"a b\" is not 1 to 63 letters, digits, '-' \
                 and '_'"
                    .to_owned(),
            ),
            (r#"{"claim": "b", "group": []}"#, "[1].group is []: a text is allowed".to_owned()),
            (r#"{"claim": "b", "preferred_port": 0}"#, format!("[1].preferred_port is 0: {PORTS}")),
            (
                r#"{"claim": "b", "preferred_port": 65536}"#,
                format!("[1].preferred_port is 65536: {PORTS}"),
            ),
            (r#"{"claim": "b", "preferred_port": -1}"#, format!("[1].preferred_port is -1: {PORTS}")),
            (r#"{"claim": "b", "preferred_port": 80.5}"#, format!("[1].preferred_port is 80.5: {PORTS}")),
            (
                r#"{"claim": "b", "preferred_port": "80"}"#,
                format!("[1].preferred_port is \"80\": {PORTS}"),
            ),
            (
                r#"{"claim": "b", "protocol": "sctp"}"#,
                "[1].protocol is \"sctp\": \"tcp\" or \"udp\" is allowed".to_owned(),
            ),
            (r#"{"claim": "b", "random": 1}"#, "[1].random is 1: true or false is allowed".to_owned()),
            (
                r#"{"claim": "b", "preferredPort": 80}"#,
                "[1] has the key \"preferredPort\": claim, group, preferred_port, random and protocol are allowed"
                    .to_owned(),
            ),
            (r#"{"claim": "b", "claim": "c"}"#, "[1] has claim twice".to_owned()),
            (r#"{"claim": "a"}"#, "[0] and [1] both declare claim \"a\"".to_owned()),
        ] {
            let text = format!(r#"[{{"claim": "a"}}, {entry}]"#);
            assert_eq!(declarations(&text), Err(format!("ports.json{message}")), "{entry}");
        }
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for text in ["", "{}", "[", r#"[{"claim": "a"}] x"#, r#"[{"claim" "a"}]"#, "\0"] {
            let error = declarations(text).unwrap_err();
            assert!(error.starts_with("ports.json is not a JSON array of objects: "), "{error}");
        }
        assert!(declarations(&"[".repeat(1_000_000)).is_err());
    }
}
