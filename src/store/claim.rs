//! Claims: what is kept of them, who uses them, and when they expire.
//!
//! A claim is in use, or unused until it expires, or unused since a time that
//! nobody knows: the end of a boot, or a release while the clock was wrong. One
//! of the last kind does not expire; `expire_claims` gives it its time.
//!
//! Clocks: a machine without a battery boots in 1970 and jumps later. The store
//! keeps the latest time that it was told, and goes by that when it is told one a
//! little earlier. A clock that is far behind is not believed: nothing expires by
//! it, and what becomes unused under it waits for a better one. Limits: a clock
//! that was ahead was believed, so that nothing expires until that time has come;
//! and so was one that was behind when the store had not been told better.
//!
//! Durability: after a power cut the store starts from `durable`. So all that
//! `reserve`, `unreserve` and `expire_claims` change is durable, also that an unused
//! claim is in use again, for else it could expire from under its holder. That a
//! claim became unused need not be: without it, the claim lives longer.

use crate::lease::{
    Attachment, Claim, ClaimKey, HostPort, Namespace, Owner, Port, PortMap, Protocol,
};

use super::{
    Draft, StoreError, database::Database, error::At, port_index::PortIndex, record, tree::Tree,
    view::View,
};

/// The key of the latest time that was told, in `Tree::Meta`.
const TIME_KEY: &[u8] = b"time";
/// What claims are kept under in the index of expiries that have no time yet.
const NO_TIME: u64 = 0;
/// By how many seconds a clock may be behind and still be believed: who waited for
/// the lock tells an old time, and clocks are set back a little.
const LAG: u64 = 60 * 60;

impl View {
    /// The claim that is known by this key.
    pub fn claim(&self, key: &ClaimKey) -> Result<Option<Claim>, StoreError> {
        self.claim_at(&record::claim_key(key))
    }

    /// All claims: those of no namespace, then by namespace, claim, name of the
    /// port and name of the protocol.
    pub fn claims(&self) -> Result<Vec<Claim>, StoreError> {
        self.claims_below(Vec::new())
    }

    /// The claims of a namespace; of none: those of containers in no pod.
    pub fn claims_of(&self, namespace: Option<&Namespace>) -> Result<Vec<Claim>, StoreError> {
        self.claims_below(record::namespace_prefix(namespace))
    }

    /// The claims about a port, on whatever address, in use or not.
    pub fn claims_on(&self, protocol: Protocol, port: Port) -> Result<Vec<Claim>, StoreError> {
        let keys = self.claim_keys_on(protocol, port)?.into_iter();
        keys.map(|(_, key)| self.indexed_claim(&record::claim_key(&key))).collect()
    }

    /// The latest time that the store was told, in seconds since the Unix epoch.
    pub fn latest_time(&self) -> Result<Option<u64>, StoreError> {
        self.database.as_ref().map_or(Ok(None), Database::latest_time)
    }

    /// The claims that an attachment uses.
    pub fn claims_held_by(&self, holder: &Attachment) -> Result<Vec<Claim>, StoreError> {
        let prefix = record::holder_prefix(holder);
        let length = prefix.len();
        let keys = self.scan(Tree::ClaimHolder, prefix);
        keys.map(|entry| self.indexed_claim(&entry?.0[length..])).collect()
    }

    /// The ports of a protocol that a claim is about, on whatever address.
    pub fn claimed(&self, protocol: Protocol) -> Result<PortMap, StoreError> {
        self.port_map(PortIndex::Claims, protocol)
    }

    /// The claims about a port, on whatever address, by their keys.
    pub(super) fn claim_keys_on(
        &self,
        protocol: Protocol,
        port: Port,
    ) -> Result<Vec<(HostPort, ClaimKey)>, StoreError> {
        let entries = self.on_port(PortIndex::Claims, protocol, port)?.into_iter();
        let read = |(port, value): (HostPort, Vec<u8>)| {
            Ok((port, record::read_claim_of_port(&record::port_key(&port), &value)?))
        };
        entries.map(read).collect()
    }

    fn claims_below(&self, prefix: Vec<u8>) -> Result<Vec<Claim>, StoreError> {
        self.scan(Tree::Claim, prefix)
            .map(|entry| entry.and_then(|(key, value)| record::read_claim(&key, &value)))
            .collect()
    }

    fn claim_at(&self, key: &[u8]) -> Result<Option<Claim>, StoreError> {
        self.database.as_ref().map_or(Ok(None), |database| database.claim_at(key))
    }

    fn indexed_claim(&self, key: &[u8]) -> Result<Claim, StoreError> {
        self.claim_at(key)?.ok_or_else(|| record::damaged(Tree::Claim, key))
    }

    /// Whether an attachment holds this port under this claim. Modules have none.
    fn is_held_under(
        &self,
        claim: &ClaimKey,
        port: &HostPort,
        holder: &Owner,
    ) -> Result<bool, StoreError> {
        let Owner::Attachment(holder) = holder else { return Ok(false) };
        let Some(forwarding) = self.forwarding(holder)? else { return Ok(false) };
        let mut leases = forwarding.leases.iter().filter(|lease| lease.host == *port);
        Ok(leases.all(|lease| lease.claim_key(forwarding.namespace()).as_ref() == Some(claim)))
    }
}

impl Draft<'_> {
    /// Puts down a claim, in place of what was known by its key, which it returns.
    /// In use, it has no expiry, whatever it says; unused and without one, it gets
    /// one from the next `expire_claims`. A port that another claim is about is
    /// refused (`Claimed`), and so is one that is held, but not under this claim
    /// (`Conflict`). Makes the commit durable, unless nothing changes.
    pub fn reserve(&mut self, claim: &Claim) -> Result<Option<Claim>, StoreError> {
        let mut claim = claim.clone();
        claim.expires = claim.expires.filter(|_| claim.holder.is_none());
        let before = self.claim(&claim.key)?;
        if before.as_ref() == Some(&claim) {
            return Ok(before);
        }
        if !before.as_ref().is_some_and(|before| has_same_ports(before, &claim)) {
            self.refuse_conflicts(&claim)?;
        }
        self.database_mut().put_claim(before.as_ref(), &claim)?;
        self.make_durable();
        Ok(before)
    }

    /// Removes a claim, in use or not, and returns it. Its ports stay with who
    /// holds them. Makes the commit durable if there was one.
    pub fn unreserve(&mut self, key: &ClaimKey) -> Result<Option<Claim>, StoreError> {
        let claim = self.claim(key)?;
        if let Some(claim) = &claim {
            self.database_mut().delete_claim(claim)?;
            self.make_durable();
        }
        Ok(claim)
    }

    /// Removes the claims that have expired at this time, in seconds since the
    /// Unix epoch, and returns them; makes the commit durable if there were any.
    /// Those that are unused since a time that nobody knows are from now on unused
    /// since now. Does nothing by a clock that is far behind what the store was
    /// told before. Takes as long as there are such claims.
    pub fn expire_claims(&mut self, unix: u64) -> Result<Vec<Claim>, StoreError> {
        let Some(now) = self.database_mut().tell_time(unix)? else {
            return Ok(Vec::new());
        };
        // After a power cut this is done again, with a later time.
        for claim in self.expiring(NO_TIME)? {
            if claim.expires.is_none() {
                let stamped = Claim { expires: Some(expiry(&claim, now)), ..claim.clone() };
                self.database_mut().put_claim(Some(&claim), &stamped)?;
            }
        }
        let expired = self.expiring(now)?;
        for claim in &expired {
            self.database_mut().delete_claim(claim)?;
            self.make_durable();
        }
        Ok(expired)
    }

    /// The claims that are found in the index of expiries up to this time.
    fn expiring(&self, unix: u64) -> Result<Vec<Claim>, StoreError> {
        let database = self.database();
        let index = database.tree(Tree::ClaimExpiry);
        let end = unix.saturating_add(1);
        let keys = index.range(..record::expiry_prefix(end)).keys().map(|key| {
            let key = key.at("read", database.path())?;
            let claim = record::claim_of_expiry_key(&key);
            self.indexed_claim(claim.ok_or_else(|| record::damaged(Tree::ClaimExpiry, &key))?)
        });
        keys.collect()
    }

    /// Nobody uses any more what this attachment used.
    pub(super) fn end_uses_by(&mut self, holder: &Attachment, unix: u64) -> Result<(), StoreError> {
        let claims = self.claims_held_by(holder)?;
        if claims.is_empty() {
            return Ok(());
        }
        let now = self.database_mut().tell_time(unix)?;
        for claim in claims {
            let expires = now.map(|now| expiry(&claim, now));
            let unused = Claim { holder: None, expires, ..claim.clone() };
            self.database_mut().put_claim(Some(&claim), &unused)?;
        }
        Ok(())
    }

    fn refuse_conflicts(&self, claim: &Claim) -> Result<(), StoreError> {
        for wanted in claim.ports() {
            for (port, other) in self.claim_keys_on(wanted.protocol, wanted.port)? {
                if other != claim.key && port.conflicts_with(&wanted) {
                    return Err(StoreError::Claimed { port, claim: other });
                }
            }
            for (port, holder) in self.holders(wanted.protocol, wanted.port)? {
                if port.conflicts_with(&wanted)
                    && !self.is_held_under(&claim.key, &port, &holder)?
                {
                    return Err(StoreError::Conflict { port, holder });
                }
            }
        }
        Ok(())
    }
}

impl Database {
    /// Nobody uses any claim any more, since a time that nobody knows.
    pub(super) fn end_uses(&mut self) -> Result<(), StoreError> {
        let keys = self.tree(Tree::ClaimHolder).iter().keys().collect::<sled::Result<Vec<_>>>();
        for key in keys.at("read", self.path())? {
            let claim = record::claim_of_holder_key(&key);
            let claim = claim.ok_or_else(|| record::damaged(Tree::ClaimHolder, &key))?;
            let claim = self.claim_at(claim)?.ok_or_else(|| record::damaged(Tree::Claim, claim))?;
            let unused = Claim { holder: None, expires: None, ..claim.clone() };
            self.put_claim(Some(&claim), &unused)?;
        }
        Ok(())
    }

    fn claim_at(&self, key: &[u8]) -> Result<Option<Claim>, StoreError> {
        let value = self.get(Tree::Claim, key)?;
        value.map(|value| record::read_claim(key, &value)).transpose()
    }

    /// Puts down a claim in place of what was there before.
    fn put_claim(&mut self, before: Option<&Claim>, claim: &Claim) -> Result<(), StoreError> {
        let keeps_ports = before.is_some_and(|before| has_same_ports(before, claim));
        if let Some(before) = before {
            let (tree, key) = state_key(before);
            self.delete(tree, &key)?;
            if !keeps_ports {
                self.delete_claim_ports(before)?;
            }
        }
        self.put(Tree::Claim, &record::claim_key(&claim.key), &record::claim(claim))?;
        let (tree, key) = state_key(claim);
        self.mark(tree, &key)?;
        if !keeps_ports {
            let value = record::claim_of_port(&claim.key);
            for port in claim.ports() {
                self.put_port(PortIndex::Claims, &port, &value)?;
            }
        }
        Ok(())
    }

    fn delete_claim(&mut self, claim: &Claim) -> Result<(), StoreError> {
        let (tree, key) = state_key(claim);
        self.delete(tree, &key)?;
        self.delete_claim_ports(claim)?;
        self.delete(Tree::Claim, &record::claim_key(&claim.key))
    }

    fn delete_claim_ports(&mut self, claim: &Claim) -> Result<(), StoreError> {
        claim.ports().try_for_each(|port| self.delete_port(PortIndex::Claims, &port))
    }

    fn latest_time(&self) -> Result<Option<u64>, StoreError> {
        let latest = self.get(Tree::Meta, TIME_KEY)?;
        latest.map(|value| record::read_number(Tree::Meta, TIME_KEY, &value)).transpose()
    }

    /// Takes in what a clock says; the time to go by, none if it is not believed.
    fn tell_time(&mut self, unix: u64) -> Result<Option<u64>, StoreError> {
        match self.latest_time()? {
            Some(latest) if unix <= latest => {
                Ok(Some(latest).filter(|latest| latest - unix <= LAG))
            }
            _ => {
                self.put(Tree::Meta, TIME_KEY, &record::number(unix))?;
                Ok(Some(unix))
            }
        }
    }
}

fn has_same_ports(a: &Claim, b: &Claim) -> bool {
    (a.port, a.count, a.address) == (b.port, b.count, b.address)
}

/// When a claim expires that is unused since this time.
fn expiry(claim: &Claim, unix: u64) -> u64 {
    unix.saturating_add(claim.ttl)
}

/// Where a claim is found by what it is: in use, or unused.
fn state_key(claim: &Claim) -> (Tree, Vec<u8>) {
    let key = record::claim_key(&claim.key);
    if let Some(holder) = &claim.holder {
        return (Tree::ClaimHolder, [record::holder_prefix(holder), key].concat());
    }
    let expiry = record::expiry_prefix(claim.expires.unwrap_or(NO_TIME));
    (Tree::ClaimExpiry, [expiry.as_slice(), &key].concat())
}
