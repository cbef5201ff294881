//! The ways of changing nftables.

/// By which way nftables is changed. Whatever it is, the same tables come of it, and
/// each takes over what the other has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Messages to the kernel.
    #[default]
    Netlink,
    /// The program `nft`, which must be there.
    Nft,
}
