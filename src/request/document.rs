//! The JSON form of what is asked for, in `runtimeConfig.portClaims` and in the
//! annotation `hostport.io/ports`: an array of objects with these fields.
//!
//! ```text
//! containerPort  number from 1 to 65535, or "same": the number of the host port
//! name           DNS label; no two of a container share one
//! protocol       "tcp" (default), "udp", "sctp", "tcp+udp", in any case
//! hostIP         as in portMappings
//! count          number from 1, default 1: so many neighbouring ports
//! hostPort       number from 1 to 65535: this host port, and no other
//! group, preferredPort, claim   for a host port without a number; a claim needs a name
//! ```
//!
//! A field that is null counts as absent. Unlike the keys of `portMappings`,
//! fields are taken in this spelling only, and others are refused.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    ContainerPort,
    ask::{self, Ask, CONTAINER_PORTS, Fit, Place, Source, Wish},
};
use crate::{
    cni::{
        JsonError,
        json::{self, Object},
    },
    lease::{Excerpt, HostAddress, Pod, Port, Protocol},
};

/// Why a document is refused. Places are characters of the whole text, from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON.
    #[error("{source}, character {character}: this is not JSON: {reason}")]
    Syntax {
        /// What is read.
        r#source: Source,
        /// Where it is wrong.
        character: usize,
        /// What is wrong.
        reason: Excerpt,
    },
    /// JSON, but no array of objects.
    #[error("{source}, character {character}: {value} is not {expected}")]
    Shape {
        /// What is read.
        r#source: Source,
        /// Where the value begins.
        character: usize,
        /// The value.
        value: Excerpt,
        /// What should be there.
        expected: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("{place}, character {character}: {field} is {value}: {allowed}")]
    Value {
        /// The entry.
        place: Place,
        /// Where the value begins.
        character: usize,
        /// The field.
        field: &'static str,
        /// The value.
        value: Excerpt,
        /// What is allowed.
        allowed: &'static str,
    },
    /// There is no such field.
    #[error("{place}, character {character}: {field} is not known: {} are allowed", FIELDS.join(", "))]
    Unknown {
        /// The entry.
        place: Place,
        /// Where the field begins.
        character: usize,
        /// The field.
        field: Excerpt,
    },
    /// A field is there twice.
    #[error("{place}, character {character}: {field} is there a second time")]
    Twice {
        /// The entry.
        place: Place,
        /// Where the second one begins.
        character: usize,
        /// The field.
        field: &'static str,
    },
    /// A field that must be there is not.
    #[error("{place}, character {character}: containerPort is missing")]
    Missing {
        /// The entry.
        place: Place,
        /// Where the entry begins.
        character: usize,
    },
    /// A field needs another one, or cannot be with it.
    #[error("{place}, character {character}: {field} {reason}")]
    Together {
        /// The entry.
        place: Place,
        /// Where the field's value begins.
        character: usize,
        /// The field.
        field: &'static str,
        /// Why it cannot be there.
        reason: &'static str,
    },
    /// The last ports of a block do not exist.
    #[error(
        "{place}, character {character}: a block of {count} from {field} {first} up ends beyond 65535"
    )]
    Beyond {
        /// The entry.
        place: Place,
        /// Where the field's value begins.
        character: usize,
        /// The field.
        field: &'static str,
        /// The first port.
        first: Port,
        /// How many are asked for.
        count: u16,
    },
}

const FIELDS: [&str; 9] = [
    "name",
    "containerPort",
    "protocol",
    "group",
    "count",
    "hostPort",
    "preferredPort",
    "hostIP",
    "claim",
];

/// What a document asks for. `source` is where it is from, `pod` whose claims may
/// be meant.
pub(super) fn parse(
    text: &str,
    source: Source,
    pod: Option<&Pod>,
) -> Result<Vec<Ask>, DocumentError> {
    let shape = |raw: &RawValue, expected| DocumentError::Shape {
        source,
        character: ask::character(text, raw.get()),
        value: Excerpt::plain(raw.get()),
        expected,
    };
    let syntax = |error: serde_json::Error| {
        let error = JsonError::from(error);
        let (character, reason) = (error.character(text), error.reason().clone());
        DocumentError::Syntax { source, character, reason }
    };
    let whole: &RawValue = serde_json::from_str(text).map_err(syntax)?;
    let entries: Vec<&RawValue> =
        serde_json::from_str(whole.get()).map_err(|_| shape(whole, "an array of objects"))?;
    let entries = entries.into_iter().enumerate().map(|(index, raw)| {
        let object = Object::parse(raw.get()).map_err(|_| shape(raw, "an object"))?;
        let place = Place { source, index };
        Entry::new(text, place, raw, &object)?.ask(pod)
    });
    entries.collect()
}

/// One entry of a document: the values of its fields, in the order of [`FIELDS`].
struct Entry<'a> {
    text: &'a str,
    place: Place,
    start: usize,
    values: [Option<&'a RawValue>; FIELDS.len()],
}

impl<'a> Entry<'a> {
    fn new(
        text: &'a str,
        place: Place,
        raw: &RawValue,
        object: &Object<'a>,
    ) -> Result<Self, DocumentError> {
        let mut found = [None; FIELDS.len()];
        for (key, value) in &object.0 {
            let name = json::key(key);
            let character = || ask::character(text, key.get());
            let Some(at) = FIELDS.iter().position(|field| *field == name) else {
                let field = Excerpt::quoted(&name);
                return Err(DocumentError::Unknown { place, character: character(), field });
            };
            if found[at].replace(*value).is_some() {
                let field = FIELDS[at];
                return Err(DocumentError::Twice { place, character: character(), field });
            }
        }
        let values = found.map(|value| value.filter(|raw| !json::is_null(raw)));
        Ok(Self { text, place, start: ask::character(text, raw.get()), values })
    }

    fn find(&self, field: &str) -> Option<&'a RawValue> {
        let at = FIELDS.iter().position(|name| *name == field);
        self.values[at.expect("the field is one of FIELDS")]
    }

    /// Where the value of a field begins, else the entry.
    fn character(&self, field: &str) -> usize {
        self.find(field).map_or(self.start, |raw| ask::character(self.text, raw.get()))
    }

    fn wrong(&self, field: &'static str, raw: &RawValue, allowed: &'static str) -> DocumentError {
        let value = Excerpt::plain(raw.get());
        let character = self.character(field);
        DocumentError::Value { place: self.place, character, field, value, allowed }
    }

    /// A field that is a text, read by `parse`, whose error says what is allowed.
    fn text<T>(
        &self,
        field: &'static str,
        parse: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Result<Option<T>, DocumentError> {
        let Some(raw) = self.find(field) else { return Ok(None) };
        let text: Option<Cow<'_, str>> = json::text(raw);
        let text = text.ok_or_else(|| self.wrong(field, raw, "a text is allowed"))?;
        parse(&text).map(Some).map_err(|allowed| self.wrong(field, raw, allowed))
    }

    fn port(
        &self,
        field: &'static str,
        allowed: &'static str,
    ) -> Result<Option<Port>, DocumentError> {
        let port =
            |raw: &RawValue| ask::port(raw.get()).ok_or_else(|| self.wrong(field, raw, allowed));
        self.find(field).map(port).transpose()
    }

    fn container(&self) -> Result<ContainerPort, DocumentError> {
        const FIELD: &str = "containerPort";
        match self.find(FIELD) {
            None => Err(DocumentError::Missing { place: self.place, character: self.start }),
            Some(raw) if json::text(raw).as_deref() == Some("same") => Ok(ContainerPort::Same),
            Some(_) => {
                let port = self.port(FIELD, "a number from 1 to 65535, or \"same\", is allowed")?;
                Ok(ContainerPort::Number(port.expect("the field is there")))
            }
        }
    }

    /// Refuses a block that ends where there are no ports.
    fn refuse_beyond(
        &self,
        field: &'static str,
        first: Port,
        count: u16,
    ) -> Result<(), DocumentError> {
        if first.above(count - 1).is_some() {
            return Ok(());
        }
        let (place, character) = (self.place, self.character(field));
        Err(DocumentError::Beyond { place, character, field, first, count })
    }

    fn together(&self, field: &'static str, reason: &'static str) -> DocumentError {
        let character = self.character(field);
        DocumentError::Together { place: self.place, character, field, reason }
    }

    fn ask(&self, pod: Option<&Pod>) -> Result<Ask, DocumentError> {
        let container = self.container()?;
        let name = self.text("name", |text| {
            text.parse().map_err(|_| {
                "a DNS label is allowed: at most 63 lower-case letters, digits and '-', a letter \
                 or digit at both ends"
            })
        })?;
        let protocols = self.text("protocol", |text| {
            ask::protocols(text).ok_or("tcp, udp, sctp or tcp+udp is allowed")
        })?;
        let address = self.text("hostIP", ask::host_address)?;
        // A number of ports is a number from 1 to 65535, as a port is.
        let count = self.port("count", CONTAINER_PORTS)?.map_or(1, Port::number);
        let host = self.port("hostPort", CONTAINER_PORTS)?;
        let fit = Fit {
            group: self.text("group", |text| {
                text.parse().map_err(|_| "1 to 63 letters, digits, '-' and '_' are allowed")
            })?,
            preferred: self.port("preferredPort", CONTAINER_PORTS)?,
            claim: self.text("claim", |text| ask::claim_name(text, pod))?,
            ..Fit::default()
        };
        if let ContainerPort::Number(first) = container {
            self.refuse_beyond("containerPort", first, count)?;
        }
        if let Some(first) = fit.preferred {
            self.refuse_beyond("preferredPort", first, count)?;
        }
        if fit.claim.is_some() && name.is_none() {
            return Err(self.together("claim", "cannot be given without name"));
        }
        let wish = match host {
            None => Wish::Dynamic(fit),
            Some(first) => {
                let excluded = ["group", "preferredPort", "claim"];
                if let Some(field) = excluded.into_iter().find(|field| self.find(field).is_some()) {
                    return Err(self.together(field, "cannot be given together with hostPort"));
                }
                self.refuse_beyond("hostPort", first, count)?;
                Wish::Static(first)
            }
        };
        Ok(Ask {
            place: self.place,
            name,
            container,
            protocols: protocols.unwrap_or(Protocol::Tcp.into()),
            address: address.unwrap_or(HostAddress::Any),
            count,
            wish,
        })
    }
}
