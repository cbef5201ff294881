//! Everything a verb can fail with, and the one place where it becomes a CNI
//! error code.

use crate::{
    cni::{CniVersion, ConfigError, EnvironmentError, ErrorReply},
    host::HostError,
    lease::{Attachment, ClaimKey, HostAddress, HostPort},
    module::Refusal,
    nat::{NatError, ParseConditionError},
    publish::PublishError,
    request::RequestError,
    store::StoreError,
};

/// Why a verb has failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment variables.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `conditionsV4` or `conditionsV6`.
    #[error(transparent)]
    Condition(#[from] ParseConditionError),
    /// What the container asks for.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The container has no address at all.
    #[error("prevResult has no address on interface {interface}")]
    NoAddress {
        /// `CNI_IFNAME`.
        interface: String,
    },
    /// The container has no address of a family that is asked for.
    #[error(
        "hostIP {:?} cannot be forwarded: prevResult has no {family} address on interface {interface}",
        .address.to_string()
    )]
    Unreachable {
        /// The host's addresses that are asked for.
        address: HostAddress,
        /// The families that would do.
        family: &'static str,
        /// `CNI_IFNAME`.
        interface: String,
    },
    /// Another owner holds a port that is asked for by number.
    #[error("host port {wanted} is held by {holder}")]
    Held {
        /// What is asked for.
        wanted: HostPort,
        /// Who holds it, and the pod behind it.
        holder: String,
    },
    /// Two requests of one container ask for one port by number.
    #[error("host port {0} is asked for twice")]
    Twice(HostPort),
    /// A claim keeps a port that is asked for by number.
    #[error("host port {wanted} is reserved by claim {claim}")]
    Reserved {
        /// What is asked for.
        wanted: HostPort,
        /// What it is kept for.
        claim: ClaimKey,
    },
    /// Somebody else uses the claim.
    #[error("claim {claim} is held by {holder}")]
    ClaimHeld {
        /// The claim.
        claim: ClaimKey,
        /// Who uses it, and the pod behind it.
        holder: String,
    },
    /// What a service of the host asks for and may not have.
    #[error(transparent)]
    Module(#[from] Refusal),
    /// One of several things that are asked for.
    #[error("{what}")]
    Of {
        /// Which.
        what: String,
        /// What is wrong with it.
        #[source]
        cause: Box<Error>,
    },
    /// A group has no port left.
    #[error("{0}")]
    Exhausted(String),
    /// A process of the host listens on a port that is asked for by number.
    #[error("a process of the host listens on port {0}")]
    Listening(HostPort),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// nftables.
    #[error(transparent)]
    Nat(#[from] NatError),
    /// Something of the host could not be read or set.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A published file.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// CHECK has found that something is not as it should be.
    #[error("attachment {attachment} is not as it should be: {}", .differences.join("; "))]
    Different {
        /// The attachment.
        attachment: Box<Attachment>,
        /// What differs.
        differences: Vec<String>,
    },
    /// STATUS has found that ADD would fail.
    #[error("ADD would fail")]
    Unavailable(#[source] Box<Error>),
    /// A verb that goes on after an error has met several.
    #[error("{}", .0.iter().map(Self::with_causes).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
}

impl Error {
    /// One error as it is, several as one.
    pub(super) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.pop() {
            None => Ok(()),
            Some(only) if errors.is_empty() => Err(only),
            Some(last) => {
                errors.push(last);
                Err(Self::Several(errors))
            }
        }
    }

    /// As the runtime reads it.
    #[must_use]
    pub fn reply(&self, version: CniVersion) -> ErrorReply {
        let (code, details) = self.code();
        ErrorReply::new(version, code, self.with_causes(), details)
    }

    /// The error and what caused it, on one line.
    #[must_use]
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        self.code().1
    }

    /// Why, in a word, for those who count. What shares a code is told apart where
    /// somebody else has to do something about it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Of { cause, .. } | Self::Unavailable(cause) => cause.reason(),
            Self::Several(errors) => errors.first().map_or("several", Self::reason),
            Self::Store(StoreError::Locked { .. }) => "locked",
            Self::Store(StoreError::Schema { .. }) => "newer-database",
            Self::Store(StoreError::Claimed { .. }) | Self::Reserved { .. } => "reserved",
            Self::ClaimHeld { .. } => "claim-held",
            _ => match self.code().0 {
                1 | 2 | 7 => "configuration",
                4 => "environment",
                6 => "not-json",
                100 => "held",
                101 => "exhausted",
                102 => "policy",
                103 => "listening",
                104 => "nftables",
                105 => "damaged",
                106 => "different",
                _ => "files",
            },
        }
    }

    /// The code (CNI SPEC, section 5, "Error"; ours from 100) and what to do.
    fn code(&self) -> (u32, &'static str) {
        match self {
            Self::Config(ConfigError::Version { .. } | ConfigError::VerbVersion { .. }) => {
                (1, "change cniVersion in the conflist")
            }
            Self::Config(ConfigError::Unsupported { .. }) => (2, "change the configuration"),
            Self::Environment(_) => (4, "portclaim is a CNI plugin: a container runtime calls it"),
            Self::Store(
                StoreError::Io { .. }
                | StoreError::Database { .. }
                | StoreError::Panicked { .. }
                | StoreError::Closing { .. },
            )
            | Self::Host(_)
            | Self::Publish(_) => (5, "check that the file system is there, writable and not full"),
            Self::Config(ConfigError::Json(_) | ConfigError::TooLarge) => {
                (6, "check what the runtime passes on stdin")
            }
            Self::Request(RequestError::Policy(_)) => (
                102,
                "ask for less or for other ports, or have the node's operator change groups, static or maxPerPod",
            ),
            Self::Of { cause, .. } => cause.code(),
            Self::Module(_) => {
                (102, "ask for less, or have the node's operator change the modules file")
            }
            Self::Request(RequestError::Annotation(_)) => (
                7,
                "correct the pod's annotations, in a Deployment or StatefulSet those of its template",
            ),
            Self::Request(_) | Self::Twice(_) => (7, "change what the container asks for"),
            Self::Config(_) | Self::Condition(_) => (7, "change the network configuration"),
            Self::NoAddress { .. } => {
                (7, "put portclaim behind the plugin that gives the interface its addresses")
            }
            Self::Unreachable { .. } => {
                (7, "ask for a host IP of a family that the network gives to containers")
            }
            Self::Store(StoreError::Locked { .. }) => (
                11,
                "another call is still at work (portclaimctl doctor names it); the runtime tries again",
            ),
            Self::ClaimHeld { .. } => (
                11,
                "the runtime tries again until the holder is gone; pods that run side by side need claims of their own",
            ),
            Self::Unavailable(_) => (50, "mend what is named; ADD is refused until then"),
            Self::Held { .. }
            | Self::Store(StoreError::Conflict { .. } | StoreError::Claimed { .. }) => {
                (100, "use another host port, or remove the holder (portclaimctl list names all)")
            }
            Self::Reserved { .. } => (
                100,
                "use another host port, or give the claim up (portclaimctl release claim:NAMESPACE/CLAIM)",
            ),
            Self::Exhausted(_) => (
                101,
                "remove what holds its ports (portclaimctl list names them, portclaimctl gc forgets those that are gone), or have the node's operator change groups or exclude",
            ),
            Self::Listening(_) => (
                103,
                "use another port, stop the process (ss -lntup), or set hostListeners to \"shadow\"",
            ),
            Self::Nat(_) => (
                104,
                "ask portclaimctl doctor: the kernel must have nf_tables, and nft be installed where backend is \"nft\"",
            ),
            Self::Store(
                StoreError::Damaged { .. }
                | StoreError::Seal { .. }
                | StoreError::Record { .. }
                | StoreError::Link { .. }
                | StoreError::Boot { .. },
            ) => (
                105,
                "portclaimctl reset sets the database aside; then restart the pods that have host ports, and keep it for a bug report",
            ),
            Self::Store(StoreError::Schema { .. }) => {
                (105, "install the newer version of portclaim again")
            }
            Self::Different { .. } => (
                106,
                "portclaimctl check names every difference and portclaimctl restore puts it right; where the container itself has changed, delete and add it",
            ),
            Self::Several(errors) => errors.first().map_or((5, ""), Self::code),
        }
    }
}
