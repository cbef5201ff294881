//! The environment variables of a call (CNI SPEC, section 2, "Parameters").

use std::fmt;

use crate::lease::{ContainerId, InterfaceName, ParseNameError, Pod};

/// The most characters of a value that an error repeats.
const SHOWN: usize = 80;

/// What a runtime can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Take ports and forward them.
    Add,
    /// Give them back.
    Del,
    /// Compare what is with what should be.
    Check,
    /// Remove what no valid attachment holds.
    Gc,
    /// Say whether ADD could work.
    Status,
    /// List the versions spoken.
    Version,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 6] =
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// As in `CNI_COMMAND`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the environment cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// A variable that the verb needs is not set, or empty.
    #[error("environment variable {0} is missing")]
    Missing(&'static str),
    /// `CNI_COMMAND` is none of the specification's.
    #[error("CNI_COMMAND {0:?} is not one of ADD, DEL, CHECK, GC, STATUS, VERSION")]
    Verb(String),
    /// A name does not have the form it must have.
    #[error("{variable} is not usable")]
    Name {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        source: ParseNameError,
    },
}

/// The variables of one call, not yet looked at: which of them are needed
/// depends on the verb.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    command: String,
    container: String,
    netns: String,
    interface: String,
    args: String,
    path: String,
}

impl Environment {
    /// Takes the variables from `get`; one that is not set is like an empty one.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name| get(name).unwrap_or_default();
        Self {
            command: get("CNI_COMMAND"),
            container: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            interface: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
            path: get("CNI_PATH"),
        }
    }

    /// `CNI_COMMAND`.
    pub fn verb(&self) -> Result<Verb, EnvironmentError> {
        if self.command.is_empty() {
            return Err(EnvironmentError::Missing("CNI_COMMAND"));
        }
        let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == self.command);
        verb.ok_or_else(|| EnvironmentError::Verb(self.command.chars().take(SHOWN).collect()))
    }

    /// `CNI_CONTAINERID`.
    pub fn container(&self) -> Result<ContainerId, EnvironmentError> {
        name("CNI_CONTAINERID", &self.container)
    }

    /// `CNI_IFNAME`.
    pub fn interface(&self) -> Result<InterfaceName, EnvironmentError> {
        name("CNI_IFNAME", &self.interface)
    }

    /// Fails when `CNI_NETNS` is not set: ADD and CHECK act on a container that
    /// is there. The namespace itself is not entered.
    pub fn require_netns(&self) -> Result<(), EnvironmentError> {
        if self.netns.is_empty() {
            return Err(EnvironmentError::Missing("CNI_NETNS"));
        }
        Ok(())
    }

    /// `CNI_NETNS`, the path of the container's network namespace; empty: not set.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// `CNI_PATH`, where other plugins are; empty: not set.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The pod of `K8S_POD_NAMESPACE`, `K8S_POD_NAME` and `K8S_POD_UID` in
    /// `CNI_ARGS`. None without Kubernetes: variables that are not set, or names
    /// that no pod can have (podman passes the container's name there).
    #[must_use]
    pub fn pod(&self) -> Option<Pod> {
        const UID_MAX: usize = 128;
        let value = |key: &str| {
            let mut pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        let uid = value("K8S_POD_UID").filter(|uid| {
            (1..=UID_MAX).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_graphic())
        });
        Some(Pod {
            namespace: value("K8S_POD_NAMESPACE")?.parse().ok()?,
            name: value("K8S_POD_NAME")?.parse().ok()?,
            uid: uid.map(str::to_owned),
        })
    }
}

fn name<T>(variable: &'static str, value: &str) -> Result<T, EnvironmentError>
where
    T: std::str::FromStr<Err = ParseNameError>,
{
    if value.is_empty() {
        return Err(EnvironmentError::Missing(variable));
    }
    value.parse().map_err(|source| EnvironmentError::Name { variable, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::read(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn verbs_are_exactly_those_of_the_specification() {
        let verb = |name| environment(&[("CNI_COMMAND", name)]).verb();
        assert_eq!(verb("ADD"), Ok(Verb::Add));
        assert_eq!(verb("STATUS"), Ok(Verb::Status));
        assert_eq!(verb("add"), Err(EnvironmentError::Verb("add".into())));
        assert_eq!(verb(""), Err(EnvironmentError::Missing("CNI_COMMAND")));
    }

    #[test]
    fn errors_name_the_variable_and_the_value() {
        let error = environment(&[("CNI_CONTAINERID", "../x")]).container().unwrap_err();
        assert_eq!(error.to_string(), "CNI_CONTAINERID is not usable");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.starts_with("container ID \"../x\" does not"));
        let error = environment(&[]).interface().unwrap_err();
        assert_eq!(error.to_string(), "environment variable CNI_IFNAME is missing");
    }

    #[test]
    fn pods_are_found_in_the_arguments_of_every_runtime() {
        let pod = |args| environment(&[("CNI_ARGS", args)]).pod();
        let containerd = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;\
                          K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=b2c1";
        let found = pod(containerd).unwrap();
        assert_eq!(
            (found.to_string().as_str(), found.uid.as_deref()),
            ("default/web-0", Some("b2c1"))
        );
        for args in ["", ";;=;x", "K8S_POD_NAME=web-0", "K8S_POD_NAMESPACE=;K8S_POD_NAME="] {
            assert_eq!(pod(args), None, "{args}");
        }
        assert_eq!(pod("K8S_POD_NAMESPACE=..;K8S_POD_NAME=../../etc"), None);
        // Kubernetes takes such names. Taken as a container without a pod, it would
        // be outside of its namespace's quotas.
        let long = "a".repeat(253);
        let args = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={long}");
        let found = pod(&args).unwrap();
        assert_eq!((found.namespace.as_str(), found.name.as_str()), ("shop", long.as_str()));
        assert_eq!(pod("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=").unwrap().uid, None);
    }
}
