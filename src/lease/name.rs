//! Names from outside. Each type holds only what has the form it must have, so
//! that a name is safe in paths, rules, keys and messages.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Excerpt;

/// A name from outside that does not have the form it must have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name} {rule}")]
pub struct ParseNameError {
    what: &'static str,
    name: Excerpt,
    rule: &'static str,
}

impl ParseNameError {
    /// Says of what kind of name it is and which rule it breaks.
    pub(super) fn new(what: &'static str, name: &str, rule: &'static str) -> Self {
        Self { what, name: Excerpt::quoted(name), rule }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = ParseNameError;

            fn from_str(name: &str) -> Result<Self, ParseNameError> {
                let check: fn(&str) -> bool = $check;
                if check(name) {
                    Ok(Self(name.to_owned()))
                } else {
                    Err(ParseNameError::new($what, name, $rule))
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = ParseNameError;

            fn try_from(name: String) -> Result<Self, ParseNameError> {
                name.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A network's name: the key `name` of its configuration (CNI SPEC, section 1).
    NetworkName,
    "network name",
    is_cni_identifier,
    "does not begin with a letter or digit and go on with at most 254 letters, digits, '.', '_' or '-'"
);
name!(
    /// `CNI_CONTAINERID` (CNI SPEC, section 2, "Parameters").
    ContainerId,
    "container ID",
    is_cni_identifier,
    "does not begin with a letter or digit and go on with at most 254 letters, digits, '.', '_' or '-'"
);
name!(
    /// `CNI_IFNAME`, or a link of the host: what the kernel allows as the name
    /// of an interface (`dev_valid_name` in net/core/dev.c).
    InterfaceName,
    "interface name",
    is_interface_name,
    "is not 1 to 15 printable characters without '/', ':' and blanks, and neither '.' nor '..'"
);
name!(
    /// A Kubernetes namespace: a DNS label (RFC 1123).
    Namespace,
    "namespace",
    is_dns_label,
    "is not a DNS label: at most 63 lower-case letters, digits and '-', a letter or digit at both ends"
);
name!(
    /// A Kubernetes pod's name: a DNS subdomain as Kubernetes has it. It may contain
    /// dots; the names of static pods end with the node's name, which often does.
    PodName,
    "pod name",
    is_dns_subdomain,
    "is not a DNS subdomain: at most 253 lower-case letters, digits, '-' and '.', a letter or digit at both ends and beside each '.'"
);

name!(
    /// The name of a port that is asked for: a DNS label, as Kubernetes has it, so
    /// that it becomes a variable (`PORT_<NAME>`) without two becoming the same.
    PortName,
    "port name",
    is_dns_label,
    "is not a DNS label: at most 63 lower-case letters, digits and '-', a letter or digit at both ends"
);
name!(
    /// The name of a claim: a DNS subdomain, so that it may be a pod's name.
    ClaimName,
    "claim name",
    is_dns_subdomain,
    "is not a DNS subdomain: at most 253 lower-case letters, digits, '-' and '.', a letter or digit at both ends and beside each '.'"
);
name!(
    /// The name of a group: a key of `groups` in the configuration.
    GroupName,
    "group name",
    is_group_name,
    "is not 1 to 63 letters, digits, '-' and '_'"
);

name!(
    /// The name of a module: a service of the host that holds ports.
    ModuleId,
    "module name",
    is_module_id,
    "does not begin with a letter or digit and go on with at most 62 letters, digits, '.', '_' or '-'"
);

impl NetworkName {
    /// The network that the forwarded ports of modules are in. No configuration can
    /// have it: it is not what a network may be called.
    #[must_use]
    pub fn modules() -> Self {
        Self("_modules".to_owned())
    }
}

/// The longest name taken where the specification sets no limit: what the file
/// system takes as one name.
const NAME_MAX: usize = 255;

fn is_cni_identifier(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// As the name of a folder it is neither hidden nor leads elsewhere.
fn is_module_id(name: &str) -> bool {
    name.len() <= 63 && is_cni_identifier(name)
}

fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:".contains(&b))
}

fn is_dns_label(label: &str) -> bool {
    label.len() <= 63 && has_form_of_dns_label(label)
}

fn has_form_of_dns_label(label: &str) -> bool {
    let end = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    label.as_bytes().first().is_some_and(end)
        && label.as_bytes().last().is_some_and(end)
        && label.bytes().all(|b| end(&b) || b == b'-')
}

/// As Kubernetes has it (`IsDNS1123Subdomain` in apimachinery): unlike in RFC 1123,
/// a label may be longer than 63.
fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(has_form_of_dns_label)
}

fn is_group_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_path_or_a_rule_are_refused() {
        for name in ["", ".", "..", "../x", "a/b", "-a", "a b", "a\n", "a\0", "ü", &"a".repeat(256)]
        {
            assert!(name.parse::<ContainerId>().is_err(), "container {name:?}");
            assert!(name.parse::<NetworkName>().is_err(), "network {name:?}");
            assert!(name.parse::<ModuleId>().is_err(), "module {name:?}");
            assert!(name.parse::<PodName>().is_err(), "pod {name:?}");
            assert!(name.parse::<Namespace>().is_err(), "namespace {name:?}");
            assert!(name.parse::<PortName>().is_err(), "port {name:?}");
            assert!(name.parse::<ClaimName>().is_err(), "claim {name:?}");
            assert!(name.parse::<GroupName>().is_err() || name == "-a", "group {name:?}");
        }
        for name in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-chars-xx"] {
            assert!(name.parse::<InterfaceName>().is_err(), "interface {name:?}");
        }
        for name in ["a..b", ".a", "a.", "A"] {
            assert!(name.parse::<PodName>().is_err(), "pod {name:?}");
        }
    }

    #[test]
    fn names_of_real_systems_are_taken() {
        assert!("kube-proxy-ip-10-0-0-1.ec2.internal".parse::<PodName>().is_ok());
        assert!("a".repeat(253).parse::<PodName>().is_ok());
        assert!("a".repeat(254).parse::<PodName>().is_err());
        assert!("a".repeat(64).parse::<Namespace>().is_err());
        assert!("cbr0.100_x-y".parse::<NetworkName>().is_ok());
        assert!("veth1a2b3c4d@x".parse::<InterfaceName>().is_ok());
        assert!("0".parse::<Namespace>().is_ok());
        assert!("nextcloud-1.example_x".parse::<ModuleId>().is_ok());
    }
}
