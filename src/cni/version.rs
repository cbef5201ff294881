//! The versions of the specification that are spoken.

use std::fmt;

use serde_json::json;

/// A version of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

impl CniVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The oldest version, which has ADD, DEL and VERSION.
    pub const OLDEST: Self = Self::V0_3_0;

    /// The newest version.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As in the key `cniVersion`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version that is written like this, if it is spoken.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The reply to VERSION (CNI SPEC, section 2, "VERSION"): in the version
    /// that was asked for, so that an old runtime can read it.
    #[must_use]
    pub fn reply(self) -> String {
        json!({
            "cniVersion": self.as_str(),
            "supportedVersions": Self::ALL.map(Self::as_str),
        })
        .to_string()
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
