//! The trees of the database; `record` draws what is in them.

/// The trees of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Attachment,
    Port,
    Held,
    Address,
    Pod,
    Link,
    Release,
    Rested,
    Claim,
    ClaimPort,
    Claimed,
    ClaimHolder,
    ClaimExpiry,
    Module,
    ModulePort,
    ModuleHeld,
    Meta,
}

impl Tree {
    /// Every tree, in the order of its number.
    pub(super) const ALL: [Self; 17] = [
        Self::Attachment,
        Self::Port,
        Self::Held,
        Self::Address,
        Self::Pod,
        Self::Link,
        Self::Release,
        Self::Rested,
        Self::Claim,
        Self::ClaimPort,
        Self::Claimed,
        Self::ClaimHolder,
        Self::ClaimExpiry,
        Self::Module,
        Self::ModulePort,
        Self::ModuleHeld,
        Self::Meta,
    ];

    /// Whether it is about attachments, which do not outlive the boot.
    pub(super) fn is_of_boot(self) -> bool {
        match self {
            Self::Attachment
            | Self::Port
            | Self::Held
            | Self::Address
            | Self::Pod
            | Self::Link
            | Self::Release
            | Self::Rested
            | Self::ClaimHolder => true,
            Self::Claim
            | Self::ClaimPort
            | Self::Claimed
            | Self::ClaimExpiry
            | Self::Module
            | Self::ModulePort
            | Self::ModuleHeld
            | Self::Meta => false,
        }
    }

    /// Whether it only leads to records of other trees.
    pub(super) fn is_index(self) -> bool {
        match self {
            Self::Port
            | Self::Held
            | Self::Address
            | Self::Pod
            | Self::Link
            | Self::ClaimPort
            | Self::Claimed
            | Self::ModulePort
            | Self::ModuleHeld => true,
            Self::Attachment
            | Self::Release
            | Self::Rested
            | Self::Claim
            | Self::ClaimHolder
            | Self::ClaimExpiry
            | Self::Module
            | Self::Meta => false,
        }
    }

    /// Its name in the database.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Attachment => "attachment",
            Self::Port => "port",
            Self::Held => "held",
            Self::Address => "address",
            Self::Pod => "pod",
            Self::Link => "link",
            Self::Release => "release",
            Self::Rested => "rested",
            Self::Claim => "claim",
            Self::ClaimPort => "claim-port",
            Self::Claimed => "claimed",
            Self::ClaimHolder => "claim-holder",
            Self::ClaimExpiry => "claim-expiry",
            Self::Module => "module",
            Self::ModulePort => "module-port",
            Self::ModuleHeld => "module-held",
            Self::Meta => "meta",
        }
    }
}
