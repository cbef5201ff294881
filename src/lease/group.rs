//! Groups: named pools of host ports, and who may have how many of them.

use std::{fmt, str::FromStr, time::Duration};

use wildmatch::WildMatch;

use super::{Namespace, ParseNameError, PortSet, Protocols};

/// A named pool of host ports with its policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The ports that may be given in its name. Never empty.
    pub ports: PortSet,
    /// The protocols that may be asked for. Never empty.
    pub protocols: Protocols,
    /// How a port is chosen, where the request does not say.
    pub strategy: Strategy,
    /// The namespaces whose pods may use it; none: every container.
    pub namespaces: Option<Vec<NamespaceGlob>>,
    /// The most ports of it that one pod holds, each protocol counted.
    pub max_per_pod: Option<u32>,
    /// The most ports of it that the pods and claims of one namespace hold, each
    /// protocol counted.
    pub max_per_namespace: Option<u32>,
    /// How long a port rests after its release.
    pub cooldown: Duration,
    /// How long a claim is kept that nobody uses.
    pub claim_ttl: Duration,
}

impl Group {
    /// Whether a container of this namespace, or of none, may use it.
    #[must_use]
    pub fn admits(&self, namespace: Option<&Namespace>) -> bool {
        admits(self.namespaces.as_deref(), namespace)
    }

    /// Whether each of these protocols may be asked for.
    #[must_use]
    pub fn has_all(&self, protocols: Protocols) -> bool {
        protocols.iter().all(|protocol| self.protocols.contains(protocol))
    }
}

/// Whether a list of globs, where there is one, lets a container of this
/// namespace in. One without a namespace is let in only by no list at all.
#[must_use]
pub fn admits(globs: Option<&[NamespaceGlob]>, namespace: Option<&Namespace>) -> bool {
    globs.is_none_or(|globs| {
        namespace.is_some_and(|namespace| globs.iter().any(|glob| glob.matches(namespace)))
    })
}

/// How a port is chosen among those that are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Each with the same probability.
    Random,
    /// The lowest.
    Sequential,
    /// One that was never leased since the node was booted, the lowest first; else
    /// the one that was given back longest ago.
    LeastRecentlyUsed,
}

/// A pattern of namespaces: a name in which `*` stands for any characters, or
/// none, and `?` for one.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceGlob(WildMatch);

impl NamespaceGlob {
    /// Whether the namespace fits.
    #[must_use]
    pub fn matches(&self, namespace: &Namespace) -> bool {
        self.0.matches(namespace.as_str())
    }
}

impl FromStr for NamespaceGlob {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let may = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-*?".contains(&b);
        if (1..=63).contains(&text.len()) && text.bytes().all(may) {
            return Ok(Self(WildMatch::new(text)));
        }
        let rule = "is not 1 to 63 lower-case letters, digits, '-', '*' and '?'";
        Err(ParseNameError::new("namespace pattern", text, rule))
    }
}

impl fmt::Display for NamespaceGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (glob, yes, no) in [
            ("games", "games", "games-2"),
            ("games-*", "games-2", "games"),
            ("*", "a", ".."),
            ("?ame*", "games", "ame"),
            ("*-prod", "web-prod", "web-prod-2"),
        ] {
            let glob: NamespaceGlob = glob.parse().unwrap();
            let matches = |name: &str| name.parse().is_ok_and(|name| glob.matches(&name));
            assert!(!matches(no), "{glob} and {no}");
            assert!(matches(yes), "{glob} and {yes}");
        }
        for wrong in ["", "A", "a b", "a.b", "[ab]", "a\u{202e}"] {
            assert!(wrong.parse::<NamespaceGlob>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_container_without_a_namespace_is_let_in_by_no_list_only() {
        let all = ["*".parse().unwrap()];
        assert!(admits(None, None) && !admits(Some(&all), None));
        assert!(admits(Some(&all), Some(&"a".parse().unwrap())));
        assert!(!admits(Some(&[]), Some(&"a".parse().unwrap())));
    }
}
