//! Who may change whose ports, and how many there may be: the modules file.
//!
//! ```json
//! {"mail1": {"user": "mail1", "tcp-ports-demand": 4, "authorizations": "node:portsadm"}}
//! ```
//!
//! A module changes its own ports only, and only with an authorization for it; it
//! has as many as it demands at most. The cluster changes all of them, however
//! many. Without a file, a module has every authorization and no limit.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use serde_json::Value;

use super::{Action, Allocation};
use crate::{
    cni::{JsonError, config::Settings},
    lease::{Excerpt, Group, GroupName, ModuleId, Port, PortSet, Protocol, Protocols},
};

/// What a module may be authorized for; nothing else grants anything.
const AUTHORIZATIONS: [(&str, Authorization); 3] = [
    ("node:portsadm", Authorization { may_forward: false }),
    ("node:fwadm,portsadm", Authorization { may_forward: true }),
    ("node:tunadm,portsadm", Authorization { may_forward: false }),
];

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever runs the node.
    Cluster,
    /// A module.
    Module(ModuleId),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("the cluster"),
            Self::Module(module) => write!(f, "module {module}"),
        }
    }
}

/// What an authorization for ports says beyond that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Authorization {
    /// Whether ports may be forwarded to other hosts, as the firewall does.
    may_forward: bool,
}

/// The modules of the node and what each may have.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// None without a file.
    modules: Option<BTreeMap<ModuleId, Entry>>,
}

/// What the file says of a module.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Entry {
    /// Whose processes are the module's.
    user: Option<User>,
    tcp_ports_demand: u16,
    udp_ports_demand: u16,
    authorizations: Option<String>,
    /// What its ports are taken from, where it does not say.
    group: Option<GroupName>,
}

/// A user, by name or number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged)]
enum User {
    Number(u32),
    Name(String),
}

/// Why the modules file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not the JSON that it should be.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// What is said of one module is wrong.
    #[error("module {module}: {reason}")]
    Entry {
        /// The module.
        module: ModuleId,
        /// What is wrong.
        reason: Excerpt,
    },
    /// Whoever it is, it is not known which of the two asks.
    #[error("modules {first} and {second} have the same user")]
    User {
        /// The one.
        first: ModuleId,
        /// The other.
        second: ModuleId,
    },
}

/// Why a module does not get what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The cluster must say which module it means.
    #[error("no module is named: the cluster changes the ports of one")]
    Unnamed,
    /// A user of the host that no module belongs to.
    #[error("user {0} is not the user of a module")]
    Stranger(u32),
    /// A user of the host that two modules belong to.
    #[error("user {uid} is the user of modules {first} and {second}")]
    Shared {
        /// The user.
        uid: u32,
        /// The one.
        first: ModuleId,
        /// The other.
        second: ModuleId,
    },
    /// The ports of another module.
    #[error("module {caller} may not change the ports of module {module}")]
    Other {
        /// Who asks.
        caller: ModuleId,
        /// Whose they are.
        module: ModuleId,
    },
    /// The modules file has no such module.
    #[error("module {0} may not change ports: the modules file does not name it")]
    Unlisted(ModuleId),
    /// The modules file does not authorize it.
    #[error(
        "module {module} may not change ports: its authorizations are {found}, and \
         \"node:portsadm\", \"node:fwadm,portsadm\" or \"node:tunadm,portsadm\" is needed"
    )]
    Unauthorized {
        /// The module.
        module: ModuleId,
        /// What the file says.
        found: Excerpt,
    },
    /// Forwarding to other hosts is the firewall's.
    #[error("module {0} may not forward ports: its authorizations are not \"node:fwadm,portsadm\"")]
    Forwarding(ModuleId),
    /// There is no such group.
    #[error("there is no group \"{0}\"")]
    UnknownGroup(GroupName),
    /// The group is for the pods of some namespaces.
    #[error("group \"{0}\" is for pods: a module may use those without namespaces")]
    Group(GroupName),
    /// The group is for other protocols.
    #[error("group \"{group}\" is for {allowed}, {wanted} is asked for")]
    Protocol {
        /// The group.
        group: GroupName,
        /// Its protocols.
        allowed: Protocols,
        /// What is asked for.
        wanted: Protocols,
    },
    /// A port that the group does not have.
    #[error("{key} {port} is not in group \"{group}\", which has {ports}")]
    Outside {
        /// Where it is asked for.
        key: &'static str,
        /// The port.
        port: Port,
        /// The group.
        group: GroupName,
        /// Its ports.
        ports: PortSet,
    },
    /// More than the module demands.
    #[error(
        "module {module} would have {wanted} {protocol} ports: {protocol}-ports-demand is {most}"
    )]
    MaxPorts {
        /// The module.
        module: ModuleId,
        /// The protocol.
        protocol: Protocol,
        /// How many it would have.
        wanted: u32,
        /// How many it may have.
        most: u16,
    },
}

impl Policy {
    /// Reads the modules file.
    pub fn parse(text: &[u8]) -> Result<Self, PolicyError> {
        let written: BTreeMap<ModuleId, Value> =
            serde_json::from_slice(text).map_err(JsonError::from)?;
        let mut modules = BTreeMap::new();
        let mut users: BTreeMap<User, ModuleId> = BTreeMap::new();
        for (module, value) in written {
            let entry: Entry = serde_json::from_value(value).map_err(|error| {
                let reason = JsonError::from(error).reason().clone();
                PolicyError::Entry { module: module.clone(), reason }
            })?;
            if let Some(user) = &entry.user
                && let Some(first) = users.insert(user.clone(), module.clone())
            {
                return Err(PolicyError::User { first, second: module });
            }
            modules.insert(module, entry);
        }
        Ok(Self { modules: Some(modules) })
    }

    /// Who it is that has this user, and this name in the host's list of users.
    /// The superuser is the cluster.
    pub fn caller(&self, uid: u32, name: Option<&str>) -> Result<Caller, Refusal> {
        /// Users that the host does not know, such as another user namespace's,
        /// have this one (`/proc/sys/kernel/overflowuid`): anybody's.
        const OVERFLOW: u32 = 65534;
        if uid == 0 {
            return Ok(Caller::Cluster);
        }
        let is_of = |entry: &Entry| match &entry.user {
            Some(User::Number(number)) => *number == uid,
            Some(User::Name(user)) => Some(user.as_str()) == name,
            None => false,
        };
        let modules = self.modules.iter().flatten().filter(|_| uid != OVERFLOW);
        let mut found = modules.filter(|(_, entry)| is_of(entry)).map(|(module, _)| module.clone());
        match (found.next(), found.next()) {
            (None, _) => Err(Refusal::Stranger(uid)),
            (Some(module), None) => Ok(Caller::Module(module)),
            // By name and by number.
            (Some(first), Some(second)) => Err(Refusal::Shared { uid, first, second }),
        }
    }

    /// Whose ports the caller changes by this action, if it may.
    pub fn permit(&self, caller: &Caller, action: &Action) -> Result<ModuleId, Refusal> {
        let forwards = matches!(action, Action::Allocate(Allocation { to: Some(_), .. }));
        self.permit_change(caller, action.module(), forwards)
    }

    /// Whose ports the caller changes, if it may: those of this module, or its own,
    /// and whether they are forwarded then.
    pub fn permit_change(
        &self,
        caller: &Caller,
        asked: Option<&ModuleId>,
        forwards: bool,
    ) -> Result<ModuleId, Refusal> {
        let Caller::Module(own) = caller else {
            return asked.cloned().ok_or(Refusal::Unnamed);
        };
        if let Some(module) = asked.filter(|module| *module != own) {
            return Err(Refusal::Other { caller: own.clone(), module: module.clone() });
        }
        if let Some(modules) = &self.modules {
            let entry = modules.get(own).ok_or_else(|| Refusal::Unlisted(own.clone()))?;
            let authorization = entry.authorization(own)?;
            if forwards && !authorization.may_forward {
                return Err(Refusal::Forwarding(own.clone()));
            }
        }
        Ok(own.clone())
    }

    /// The group that a module gets its ports from and their protocol, where it asks
    /// for these or for none.
    pub fn group<'s>(
        &self,
        settings: &'s Settings,
        module: &ModuleId,
        wanted: Option<&GroupName>,
        protocol: Option<Protocol>,
    ) -> Result<(&'s GroupName, &'s Group, Protocol), Refusal> {
        let entry = self.modules.as_ref().and_then(|modules| modules.get(module));
        let usual = entry.and_then(|entry| entry.group.as_ref());
        let name = wanted.or(usual).unwrap_or(&settings.default_group);
        let found = settings.groups.get_key_value(name);
        let (name, group) = found.ok_or_else(|| Refusal::UnknownGroup(name.clone()))?;
        // A group for no namespace at all is for modules only.
        if group.namespaces.as_ref().is_some_and(|globs| !globs.is_empty()) {
            return Err(Refusal::Group(name.clone()));
        }
        let known = [Protocol::Tcp, Protocol::Udp];
        let fitting = known.into_iter().filter(|known| protocol.is_none_or(|only| only == *known));
        match fitting.clone().find(|protocol| group.protocols.contains(*protocol)) {
            Some(protocol) => Ok((name, group, protocol)),
            None => Err(Refusal::Protocol {
                group: name.clone(),
                allowed: group.protocols,
                wanted: fitting.collect(),
            }),
        }
    }

    /// Refuses what would be more than a module demands, when it asks itself.
    pub fn refuse_more_than_demanded(
        &self,
        caller: &Caller,
        protocol: Protocol,
        wanted: u32,
    ) -> Result<(), Refusal> {
        let (Some(modules), Caller::Module(module)) = (&self.modules, caller) else {
            return Ok(());
        };
        let most = modules.get(module).map_or(0, |entry| match protocol {
            Protocol::Tcp => entry.tcp_ports_demand,
            Protocol::Udp => entry.udp_ports_demand,
            Protocol::Sctp => 0,
        });
        if wanted > u32::from(most) {
            return Err(Refusal::MaxPorts { module: module.clone(), protocol, wanted, most });
        }
        Ok(())
    }
}

impl Entry {
    fn authorization(&self, module: &ModuleId) -> Result<Authorization, Refusal> {
        let written = self.authorizations.as_deref();
        let found = AUTHORIZATIONS.into_iter().find(|(text, _)| Some(*text) == written);
        found.map(|(_, authorization)| authorization).ok_or_else(|| Refusal::Unauthorized {
            module: module.clone(),
            found: written.map_or_else(|| Excerpt::plain("none"), Excerpt::quoted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ModuleId {
        name.parse().unwrap()
    }

    fn allocation(module: Option<&str>) -> Allocation {
        Allocation {
            module: module.map(id),
            protocol: Protocol::Tcp,
            count: 1,
            keep_existing: false,
            group: None,
            to: None,
        }
    }

    fn policy() -> Policy {
        let text = r#"{
            "mail1": {"user": "mail1", "tcp-ports-demand": 4, "authorizations": "node:portsadm"},
            "proxy": {"user": 1005, "udp-ports-demand": 1, "authorizations": "node:fwadm,portsadm"},
            "vpn": {"authorizations": "node:tunadm,portsadm", "group": "services"},
            "wrong": {"authorizations": "node:portsadm,fwadm"},
            "bare": {}
        }"#;
        Policy::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_module_changes_its_own_ports_and_the_cluster_all() {
        let (mail, policy) = (Caller::Module(id("mail1")), policy());
        let permit = |policy: &Policy, caller: &Caller, module| {
            let permitted = policy.permit(caller, &Action::Allocate(allocation(module)));
            permitted.map(|module| module.to_string()).map_err(|refusal| refusal.to_string())
        };
        for policy in [&policy, &Policy::default()] {
            assert_eq!(permit(policy, &Caller::Cluster, Some("any")), Ok("any".to_owned()));
            assert!(permit(policy, &Caller::Cluster, None).is_err());
            assert_eq!(permit(policy, &mail, None), Ok("mail1".to_owned()));
            assert_eq!(permit(policy, &mail, Some("mail1")), Ok("mail1".to_owned()));
            let refused = "module mail1 may not change the ports of module vpn";
            assert_eq!(permit(policy, &mail, Some("vpn")), Err(refused.to_owned()));
        }
        let other = Caller::Module(id("other"));
        assert!(permit(&Policy::default(), &other, None).is_ok());
        assert!(permit(&policy, &other, None).unwrap_err().contains("does not name it"));
    }

    #[test]
    fn only_the_three_authorizations_grant_anything() {
        let permit = |module| {
            policy().permit(&Caller::Module(id(module)), &Action::Allocate(allocation(None)))
        };
        for granted in ["mail1", "proxy", "vpn"] {
            assert!(permit(granted).is_ok(), "{granted}");
        }
        assert_eq!(
            permit("wrong").unwrap_err().to_string(),
            "module wrong may not change ports: its authorizations are \"node:portsadm,fwadm\", and \
             \"node:portsadm\", \"node:fwadm,portsadm\" or \"node:tunadm,portsadm\" is needed"
        );
        assert!(permit("bare").unwrap_err().to_string().contains("are none, and"));
        let to = Some("10.0.0.5:25".parse().unwrap());
        let forward = Action::Allocate(Allocation { to, ..allocation(None) });
        let permit = |caller: Caller| policy().permit(&caller, &forward);
        assert!(permit(Caller::Module(id("proxy"))).is_ok());
        assert_eq!(permit(Caller::Module(id("vpn"))), Err(Refusal::Forwarding(id("vpn"))));
    }

    #[test]
    fn callers_are_known_by_their_user() {
        let policy = policy();
        assert_eq!(policy.caller(0, Some("root")), Ok(Caller::Cluster));
        assert_eq!(policy.caller(1001, Some("mail1")), Ok(Caller::Module(id("mail1"))));
        assert_eq!(policy.caller(1005, None), Ok(Caller::Module(id("proxy"))));
        for (uid, name) in [(1001, None), (1002, Some("vpn")), (65534, Some("mail1"))] {
            assert_eq!(policy.caller(uid, name), Err(Refusal::Stranger(uid)));
        }
        let shared = Policy::parse(br#"{"a": {"user": "x"}, "b": {"user": 7}}"#).unwrap();
        let error = shared.caller(7, Some("x")).unwrap_err();
        assert_eq!(error.to_string(), "user 7 is the user of modules a and b");
        assert_eq!(Policy::default().caller(1001, Some("mail1")), Err(Refusal::Stranger(1001)));
    }

    #[test]
    fn a_module_has_as_many_ports_as_it_demands() {
        let policy = policy();
        let mail = Caller::Module(id("mail1"));
        let refuse = |caller: &Caller, protocol, wanted| {
            policy.refuse_more_than_demanded(caller, protocol, wanted).map_err(|e| e.to_string())
        };
        assert_eq!(refuse(&mail, Protocol::Tcp, 4), Ok(()));
        assert_eq!(refuse(&Caller::Cluster, Protocol::Tcp, 400), Ok(()));
        let refused = "module mail1 would have 5 tcp ports: tcp-ports-demand is 4";
        assert_eq!(refuse(&mail, Protocol::Tcp, 5), Err(refused.to_owned()));
        assert!(refuse(&mail, Protocol::Udp, 1).is_err());
    }

    #[test]
    fn a_file_that_is_wrong_is_refused() {
        for (text, message) in [
            ("[]", "expected a map"),
            (r#"{"../x": {}}"#, "module name \"../x\""),
            (r#"{"a": {"tcp-ports-demand": "4"}}"#, "module a: invalid type"),
            (r#"{"a": {"tcp-ports-demand": 65536}}"#, "module a: invalid value"),
            (r#"{"a": {"tcp_ports_demand": 4}}"#, "module a: unknown field"),
            (r#"{"a": {"user": "x"}, "b": {"user": "x"}}"#, "modules a and b have the same user"),
        ] {
            let error = Policy::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
