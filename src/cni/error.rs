//! The error that is printed on stdout (CNI SPEC, section 5, "Error").

use serde::Serialize;

use super::CniVersion;

/// An error as the runtime reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorReply {
    /// The version that the configuration asked for, else the newest.
    #[serde(rename = "cniVersion")]
    pub version: &'static str,
    /// Up to 99 of the specification, from 100 of this plugin.
    pub code: u32,
    /// One fact with its values.
    pub msg: String,
    /// What to do about it; may be empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub details: &'static str,
}

impl ErrorReply {
    /// An error in the given version.
    #[must_use]
    pub fn new(version: CniVersion, code: u32, msg: String, details: &'static str) -> Self {
        Self { version: version.as_str(), code, msg, details }
    }

    /// As JSON, on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers can be written as JSON")
    }
}
