//! What a plan is made by: the questions that the allocator asks of its ledger.

use crate::{
    allocator::Ledger,
    lease::{Claim, ClaimKey, HostPort, Owner, Port, PortMap, Protocol, Release},
};

use super::{StoreError, View};

impl Ledger for View {
    type Error = StoreError;

    fn holders(
        &self,
        protocol: Protocol,
        port: Port,
    ) -> Result<Vec<(HostPort, Owner)>, StoreError> {
        self.holders(protocol, port)
    }

    fn claims_on(&self, protocol: Protocol, port: Port) -> Result<Vec<Claim>, StoreError> {
        self.claims_on(protocol, port)
    }

    fn claim(&self, key: &ClaimKey) -> Result<Option<Claim>, StoreError> {
        self.claim(key)
    }

    fn held(&self, protocol: Protocol) -> Result<PortMap, StoreError> {
        self.held(protocol)
    }

    fn claimed(&self, protocol: Protocol) -> Result<PortMap, StoreError> {
        self.claimed(protocol)
    }

    fn release_of(&self, protocol: Protocol, port: Port) -> Result<Option<Release>, StoreError> {
        self.release_of(protocol, port)
    }

    fn releases(&self, protocol: Protocol) -> Result<Vec<(Port, Release)>, StoreError> {
        self.releases(protocol)
    }
}
