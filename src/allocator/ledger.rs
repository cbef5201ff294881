//! What a plan asks of the leases and claims there are.

use crate::lease::{Claim, ClaimKey, HostPort, Owner, Port, PortMap, Protocol, Release};

/// What a plan needs to know of the leases and claims there are. Claims that have
/// expired are not among them. A plan asks for each map and for the releases of a
/// protocol once at most, and only if it has to draw; for all releases, only if the
/// ports that come up first all rest.
pub trait Ledger {
    /// Why it cannot answer.
    type Error;

    /// Everything held on this port of this protocol, on whatever address.
    fn holders(
        &self,
        protocol: Protocol,
        port: Port,
    ) -> Result<Vec<(HostPort, Owner)>, Self::Error>;

    /// The claims about this port of this protocol, on whatever address, whether
    /// they are in use or not.
    fn claims_on(&self, protocol: Protocol, port: Port) -> Result<Vec<Claim>, Self::Error>;

    /// The claim that is known by this key.
    fn claim(&self, key: &ClaimKey) -> Result<Option<Claim>, Self::Error>;

    /// The ports of this protocol that have a holder, on whatever address.
    fn held(&self, protocol: Protocol) -> Result<PortMap, Self::Error>;

    /// The ports of this protocol that a claim is about, on whatever address.
    fn claimed(&self, protocol: Protocol) -> Result<PortMap, Self::Error>;

    /// The release of this port of this protocol, if it is remembered.
    fn release_of(&self, protocol: Protocol, port: Port) -> Result<Option<Release>, Self::Error>;

    /// The ports of this protocol whose release is remembered, each once, in no
    /// order. Ports that were leased again since may be among them.
    fn releases(&self, protocol: Protocol) -> Result<Vec<(Port, Release)>, Self::Error>;
}
