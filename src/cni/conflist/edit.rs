//! A conflist with portclaim put into it, or taken out: texts in, texts out. What is
//! not portclaim's stays as it is written, to the blank.

use std::{cmp::Reverse, ops::Range};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{CAPABILITIES, Conflist, ConflistFault, OURS, PORTMAP};
use crate::cni::{
    JsonError,
    json::{self, Object},
};

/// Why a conflist cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It cannot be read.
    #[error("it is not JSON: {0}")]
    Json(#[from] JsonError),
    /// It has no chain.
    #[error("it is no conflist: it has no array \"plugins\" of objects")]
    Shape,
    /// Without portclaim, nothing is there.
    #[error("it has no plugin that makes an interface")]
    NoInterface,
    /// Containers would not get ports.
    #[error(transparent)]
    Fault(#[from] ConflistFault),
}

/// Puts portclaim into a conflist: in place of `portmap`, with the keys that `portmap`
/// has there, or behind all others. None where it is in there.
pub fn add(text: &str) -> Result<Option<String>, EditError> {
    let entries = entries(text)?;
    if entries.iter().any(|entry| entry.is(OURS)) {
        return Ok(None);
    }
    let last = entries.last().ok_or(EditError::NoInterface)?.text;
    let added = if let Some(portmap) = entries.iter().find(|entry| entry.is(PORTMAP)) {
        splice(text, span(text, portmap.text), &in_place_of(portmap))
    } else {
        let blank = blank_before(text, last);
        let end = span(text, last).end;
        splice(text, end..end, &format!(",{blank}{}", new_entry(blank)))
    };
    let faults = Conflist::parse(added.as_bytes()).map(|list| list.faults()).unwrap_or_default();
    match faults.into_iter().find(ConflistFault::is_fatal) {
        Some(fault) => Err(fault.into()),
        None => Ok(Some(added)),
    }
}

/// Takes portclaim out of a conflist, and puts `portmap` back in its place where it was
/// there `before`. None where portclaim is not in there.
pub fn remove(text: &str, before: Option<&str>) -> Result<Option<String>, EditError> {
    let present = entries(text)?;
    let Some(at) = present.iter().position(|entry| entry.is(OURS)) else { return Ok(None) };
    let ours = span(text, present[at].text);
    let before = before.and_then(|before| entries(before).ok()).unwrap_or_default();
    let portmap = before.iter().find(|entry| entry.is(PORTMAP));
    let has_portmap = present.iter().any(|entry| entry.is(PORTMAP));
    let previous = at.checked_sub(1).map(|at| span(text, present[at].text));
    let next = present.get(at + 1).map(|entry| span(text, entry.text));
    let removed = match (portmap, previous, next) {
        (Some(portmap), _, _) if !has_portmap => splice(text, ours, portmap.text),
        (_, Some(previous), _) => splice(text, previous.end..ours.end, ""),
        (_, None, Some(next)) => splice(text, ours.start..next.start, ""),
        (_, None, None) => return Err(EditError::NoInterface),
    };
    // Somebody may have added it more than once.
    Ok(Some(remove(&removed, None)?.unwrap_or(removed)))
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    plugins: Vec<&'a RawValue>,
}

/// One plugin of the chain, as it is written.
struct Entry<'a> {
    text: &'a str,
    keys: Object<'a>,
}

impl<'a> Entry<'a> {
    fn parse(text: &'a str) -> Result<Self, EditError> {
        let keys = Object::parse(text).map_err(|_| EditError::Shape)?;
        Ok(Self { text, keys })
    }

    /// A key and its value.
    fn find(&self, name: &str) -> Option<(&'a str, &'a str)> {
        // The last one counts, as for whoever else reads the file.
        let found = self.keys.0.iter().rev().find(|(key, _)| json::key(key) == name);
        found.map(|(key, value)| (key.get(), value.get()))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.find(name).map(|(_, value)| value)
    }

    fn is(&self, kind: &str) -> bool {
        let found = self.get("type").map(serde_json::from_str::<String>);
        found.is_some_and(|found| found.is_ok_and(|found| found == kind))
    }
}

fn entries(text: &str) -> Result<Vec<Entry<'_>>, EditError> {
    serde_json::from_str::<&RawValue>(text).map_err(JsonError::from)?;
    let list: List = serde_json::from_str(text).map_err(|_| EditError::Shape)?;
    list.plugins.into_iter().map(|raw| Entry::parse(raw.get())).collect()
}

/// The entry of `portmap`, made one of portclaim: its type, what it was, and the
/// capabilities that it does not have.
fn in_place_of(portmap: &Entry) -> String {
    let (key, kind) = portmap.find("type").expect("portmap is known by its type");
    let blank = blank_between(portmap.text, key);
    let mut kinds = format!("\"{OURS}\",{blank}\"formerly\": \"{PORTMAP}\"");
    let mut edits = Vec::new();
    let found = portmap.get("capabilities");
    let object = found.and_then(|found| Object::parse(found).ok());
    match (found, object.as_ref().and_then(|object| Some((object, object.0.last()?)))) {
        (Some(_), Some((object, (key, value)))) => {
            let blank = blank_between(portmap.text, key.get());
            let has = |name: &&str| object.0.iter().any(|(key, _)| json::key(key) == **name);
            let absent = CAPABILITIES.into_iter().filter(|name| !has(name));
            let added = absent.map(|name| format!(",{blank}\"{name}\": true"));
            let end = span(portmap.text, value.get()).end;
            edits.push((end..end, added.collect()));
        }
        (Some(found), None) => edits.push((span(portmap.text, found), capabilities())),
        (None, _) => kinds = format!("{kinds},{blank}\"capabilities\": {}", capabilities()),
    }
    edits.push((span(portmap.text, kind), kinds));
    // From the back, so that places stay what they are.
    edits.sort_by_key(|(range, _)| Reverse(range.start));
    edits
        .into_iter()
        .fold(portmap.text.to_owned(), |text, (range, instead)| splice(&text, range, &instead))
}

/// All of them, on one line.
fn capabilities() -> String {
    format!("{{ {} }}", CAPABILITIES.map(|name| format!("\"{name}\": true")).join(", "))
}

/// An entry of portclaim without options, on lines of its own where others are.
fn new_entry(blank: &str) -> String {
    let Some((_, margin)) = blank.rsplit_once('\n') else {
        return format!("{{ \"type\": \"{OURS}\", \"capabilities\": {} }}", capabilities());
    };
    let step = if margin.contains('\t') { "\t" } else { "  " };
    let lines = CAPABILITIES.map(|name| format!("{margin}{step}{step}\"{name}\": true"));
    format!(
        "{{\n{margin}{step}\"type\": \"{OURS}\",\n{margin}{step}\"capabilities\": {{\n{}\n\
         {margin}{step}}}\n{margin}}}",
        lines.join(",\n")
    )
}

/// Where a part that is borrowed from the text begins and ends.
fn span(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

/// The blanks and line breaks before a part that is borrowed from the text.
fn blank_before<'a>(text: &'a str, part: &str) -> &'a str {
    let before = &text[..span(text, part).start];
    &before[before.trim_end_matches([' ', '\t', '\r', '\n']).len()..]
}

/// What stands before a key, to be written before another one.
fn blank_between<'a>(text: &'a str, key: &str) -> &'a str {
    let blank = blank_before(text, key);
    if blank.is_empty() { " " } else { blank }
}

fn splice(text: &str, range: Range<usize>, instead: &str) -> String {
    [&text[..range.start], instead, &text[range.end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Calico, flannel and podman write them: how, and what becomes of it.
    const ADDED: [(&str, &str); 6] = [
        (
            "{\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"type\": \"bridge\"\n    }\n  ]\n}\n",
            "{\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"type\": \"bridge\"\n    },\n    {\n      \
             \"type\": \"portclaim\",\n      \"capabilities\": {\n        \"portMappings\": true,\n        \
             \"portClaims\": true,\n        \"io.kubernetes.cri.pod-annotations\": true\n      }\n    \
             }\n  ]\n}\n",
        ),
        (
            "{\"plugins\":[\n\t{\"type\":\"ptp\"}]}",
            "{\"plugins\":[\n\t{\"type\":\"ptp\"},\n\t{\n\t\t\"type\": \"portclaim\",\n\t\t\"capabilities\": \
             {\n\t\t\t\"portMappings\": true,\n\t\t\t\"portClaims\": true,\n\t\t\t\
             \"io.kubernetes.cri.pod-annotations\": true\n\t\t}\n\t}]}",
        ),
        (
            r#"{"plugins":[{"type":"ptp"}, {"type":"tuning"}]}"#,
            r#"{"plugins":[{"type":"ptp"}, {"type":"tuning"}, { "type": "portclaim", "capabilities": { "portMappings": true, "portClaims": true, "io.kubernetes.cri.pod-annotations": true } }]}"#,
        ),
        (
            r#"{"plugins":[{"type":"ptp"},{"capabilities":{"portMappings":true},"snat":true,"type":"portmap"},{"type":"tuning"}]}"#,
            r#"{"plugins":[{"type":"ptp"},{"capabilities":{"portMappings":true, "portClaims": true, "io.kubernetes.cri.pod-annotations": true},"snat":true,"type":"portclaim", "formerly": "portmap"},{"type":"tuning"}]}"#,
        ),
        (
            r#"{"plugins": [{"type": "ptp"}, {"type": "portmap", "snat": false}]}"#,
            r#"{"plugins": [{"type": "ptp"}, {"type": "portclaim", "formerly": "portmap", "capabilities": { "portMappings": true, "portClaims": true, "io.kubernetes.cri.pod-annotations": true }, "snat": false}]}"#,
        ),
        (
            "{\"plugins\": [{\"type\": \"ptp\"}, {\n  \"type\": \"portmap\",\n  \"capabilities\": {\n    \
             \"portMappings\": true,\n    \"io.kubernetes.cri.pod-annotations\": false\n  }\n}]}",
            "{\"plugins\": [{\"type\": \"ptp\"}, {\n  \"type\": \"portclaim\",\n  \"formerly\": \"portmap\",\n  \"capabilities\": {\n    \
             \"portMappings\": true,\n    \"io.kubernetes.cri.pod-annotations\": false,\n    \
             \"portClaims\": true\n  }\n}]}",
        ),
    ];

    #[test]
    fn what_is_added_can_be_removed() {
        for (before, after) in ADDED {
            assert_eq!(add(before).unwrap().as_deref(), Some(after), "{before}");
            assert_eq!(add(after), Ok(None), "{after}");
            assert_eq!(remove(after, Some(before)).unwrap().as_deref(), Some(before), "{after}");
            assert_eq!(remove(before, Some(before)), Ok(None), "{before}");
        }
    }

    #[test]
    fn what_others_have_changed_meanwhile_stays() {
        let before = r#"{"plugins": [{"type": "ptp"}, {"type": "portmap", "snat": true}]}"#;
        for (text, expected) in [
            (
                r#"{"plugins": [{"type": "ptp", "mtu": 1400}, {"type": "portclaim"}, {"type": "tuning"}]}"#,
                r#"{"plugins": [{"type": "ptp", "mtu": 1400}, {"type": "portmap", "snat": true}, {"type": "tuning"}]}"#,
            ),
            (
                r#"{"plugins": [{"type": "portmap"}, {"type": "portclaim"}]}"#,
                r#"{"plugins": [{"type": "portmap"}]}"#,
            ),
            (
                r#"{"plugins": [{"type": "portclaim"}, {"type": "ptp"} , {"type": "portclaim"}]}"#,
                r#"{"plugins": [{"type": "portmap", "snat": true}, {"type": "ptp"}]}"#,
            ),
        ] {
            assert_eq!(remove(text, Some(before)).unwrap().as_deref(), Some(expected));
        }
        let text = r#"{"plugins": [{"type": "portclaim"}, {"type": "ptp"}]}"#;
        let alone = r#"{"plugins": [{"type": "ptp"}]}"#;
        for before in [None, Some(""), Some("{}"), Some(alone)] {
            assert_eq!(remove(text, before).unwrap().as_deref(), Some(alone), "{before:?}");
        }
    }

    #[test]
    fn what_is_no_chain_is_left_alone() {
        for (text, message) in [
            ("", "it is not JSON: EOF while parsing a value at line 1 column 0"),
            ("{\"plugins\": [}", "it is not JSON: expected value at line 1 column 14"),
            ("[]", "it is no conflist: it has no array \"plugins\" of objects"),
            ("{\"type\": \"bridge\"}", "it is no conflist: it has no array \"plugins\" of objects"),
            ("{\"plugins\": [1]}", "it is no conflist: it has no array \"plugins\" of objects"),
            ("{\"plugins\": []}", "it has no plugin that makes an interface"),
            (
                r#"{"plugins": [{"type": "ptp"}, {"type": "portmap"}, {"type": "portmap"}]}"#,
                "portclaim and portmap are in one chain: both would forward the same ports",
            ),
            (
                r#"{"plugins": [{"type": "portmap"}, {"type": "tuning"}]}"#,
                "portclaim stands before the plugin that makes the interface",
            ),
        ] {
            assert_eq!(add(text).unwrap_err().to_string(), message, "{text}");
        }
        let alone = r#"{"plugins": [{"type": "portclaim"}]}"#;
        assert_eq!(remove(alone, None), Err(EditError::NoInterface));
    }
}
