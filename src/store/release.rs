//! Releases: when ports were given back, and until when they rest.
//!
//! A release is forgotten once the port has rested, unless its lease had it
//! remembered; then it stays until the port is leased again or the boot ends.

use std::time::Duration;

use crate::lease::{HostPort, Port, Protocol, Release, Rest};

use super::{Draft, StoreError, database::Database, error::At, record, tree::Tree, view::View};

/// The finest time that is kept.
const TICK: Duration = Duration::from_millis(1);

impl View {
    /// The release of a port, if it is remembered, on whatever address it was.
    pub fn release_of(
        &self,
        protocol: Protocol,
        port: Port,
    ) -> Result<Option<Release>, StoreError> {
        let key = record::port_prefix(protocol, port);
        let value = self.entry(Tree::Release, &record::release_bucket(&key), &key)?;
        value.map(|value| record::read_release(&key, &value)).transpose()
    }

    /// The ports of a protocol whose release is remembered, the lowest first, on
    /// whatever address they were.
    pub fn releases(&self, protocol: Protocol) -> Result<Vec<(Port, Release)>, StoreError> {
        let releases = self.buckets(Tree::Release, vec![protocol.number()]).map(|entry| {
            let (key, value) = entry?;
            let port = match key[..] {
                [_, high, low] => Port::new(u16::from_be_bytes([high, low])),
                _ => None,
            };
            let port = port.ok_or_else(|| record::damaged(Tree::Release, &key))?;
            Ok((port, record::read_release(&key, &value)?))
        });
        releases.collect()
    }
}

impl Draft<'_> {
    /// Forgets the releases of ports that have rested at `now`, the time since
    /// boot (`CLOCK_BOOTTIME`), and are not to be remembered for longer. Takes as
    /// long as there are such ports.
    pub fn forget_rested(&mut self, now: Duration) -> Result<(), StoreError> {
        let database = self.database();
        let end = record::rested_prefix(now.saturating_add(TICK));
        let buckets = database.tree(Tree::Rested).range(..=record::rested_bucket(now)).keys();
        let buckets = buckets.collect::<sled::Result<Vec<_>>>().at("read", database.path())?;
        for bucket in buckets {
            let rested = self.bucket(Tree::Rested, &bucket, &[])?.into_iter().map(|(key, _)| key);
            for key in rested.filter(|key| key.as_slice() < end.as_slice()) {
                self.database_mut().delete_entry(Tree::Rested, &bucket, &key)?;
                let port = &key[end.len()..];
                let bucket = record::release_bucket(port);
                self.database_mut().delete_entry(Tree::Release, &bucket, port)?;
            }
        }
        Ok(())
    }
}

impl Database {
    /// Notes that a port is given back. What another address of the port still
    /// has to rest is kept.
    pub(super) fn put_release(
        &mut self,
        host: &HostPort,
        rest: Rest,
        at: Duration,
        by_module: bool,
    ) -> Result<(), StoreError> {
        if rest.cooldown == 0 && !rest.is_remembered {
            return Ok(());
        }
        let (protocol, port) = (host.protocol, host.port);
        let before = self.delete_release(host)?;
        let rested = at.saturating_add(Duration::from_millis(rest.cooldown));
        // What a container's release still has to rest, it has to rest for all.
        let by_module =
            by_module && before.is_none_or(|before| before.by_module || before.rested <= at);
        let rested = before.map_or(rested, |before| before.rested.max(rested));
        let release = record::release(Release { at, rested, by_module });
        let key = record::port_prefix(protocol, port);
        self.put_entry(Tree::Release, &record::release_bucket(&key), &key, &release)?;
        if !rest.is_remembered {
            let key = record::rested_key(rested, protocol, port);
            self.put_entry(Tree::Rested, &record::rested_bucket(rested), &key, &[])?;
        }
        Ok(())
    }

    /// Forgets the release of a port, if it has one.
    pub(super) fn delete_release(
        &mut self,
        host: &HostPort,
    ) -> Result<Option<Release>, StoreError> {
        let (protocol, port) = (host.protocol, host.port);
        let key = record::port_prefix(protocol, port);
        let bucket = record::release_bucket(&key);
        let Some(value) = self.entry(Tree::Release, &bucket, &key)? else {
            return Ok(None);
        };
        let release = record::read_release(&key, &value)?;
        self.delete_entry(Tree::Release, &bucket, &key)?;
        // There is none where it was to be remembered.
        let key = record::rested_key(release.rested, protocol, port);
        self.delete_entry(Tree::Rested, &record::rested_bucket(release.rested), &key)?;
        Ok(Some(release))
    }
}
