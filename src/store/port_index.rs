//! The indexes whose keys are host ports, each with a bitmap that sums it up: a
//! plan looks at all ports, and reads 256 small values for it at most.

use crate::lease::{HostPort, Port, PortMap, Protocol};

use super::{
    StoreError,
    database::Database,
    error::At,
    record,
    tree::Tree,
    view::{Entry, View},
};

/// An index by port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortIndex {
    /// Which attachment holds a port.
    Leases,
    /// Which module holds a port.
    Modules,
    /// Which claim is about a port.
    Claims,
}

impl PortIndex {
    fn tree(self) -> Tree {
        match self {
            Self::Leases => Tree::Port,
            Self::Modules => Tree::ModulePort,
            Self::Claims => Tree::ClaimPort,
        }
    }

    fn bitmap(self) -> Tree {
        match self {
            Self::Leases => Tree::Held,
            Self::Modules => Tree::ModuleHeld,
            Self::Claims => Tree::Claimed,
        }
    }
}

impl View {
    /// The entries of an index about a port, on whatever address.
    pub(super) fn on_port(
        &self,
        index: PortIndex,
        protocol: Protocol,
        port: Port,
    ) -> impl Iterator<Item = Result<(HostPort, Entry), StoreError>> {
        let tree = index.tree();
        self.scan(tree, record::port_prefix(protocol, port)).map(move |entry| {
            let entry = entry?;
            let port = record::read_port_key(&entry.0);
            Ok((port.ok_or_else(|| record::damaged(tree, &entry.0))?, entry))
        })
    }

    /// The ports of a protocol that an index knows.
    pub(super) fn port_map(
        &self,
        index: PortIndex,
        protocol: Protocol,
    ) -> Result<PortMap, StoreError> {
        let tree = index.bitmap();
        let mut map = PortMap::default();
        for entry in self.scan(tree, vec![protocol.number()]) {
            let (key, value) = entry?;
            let &[_, high] = &key[..] else { return Err(record::damaged(tree, &key)) };
            map.set_chunk(high, record::read_bits(tree, &key, &value)?);
        }
        Ok(map)
    }
}

impl Database {
    /// Puts a port into an index.
    pub(super) fn put_port(
        &mut self,
        index: PortIndex,
        port: &HostPort,
        value: &[u8],
    ) -> Result<(), StoreError> {
        self.put(index.tree(), &record::port_key(port), value)?;
        self.set_bit(index.bitmap(), port, true)
    }

    /// Takes a port out of an index, if it is there.
    pub(super) fn delete_port(
        &mut self,
        index: PortIndex,
        port: &HostPort,
    ) -> Result<(), StoreError> {
        self.delete(index.tree(), &record::port_key(port))?;
        let left = record::port_prefix(port.protocol, port.port);
        let left = self.tree(index.tree()).scan_prefix(left).next().transpose();
        let is_left = left.at("read", self.path())?.is_some();
        self.set_bit(index.bitmap(), port, is_left)
    }

    /// Makes the bitmap of an index, where there may be none.
    pub(super) fn sum_up(&mut self, index: PortIndex) -> Result<(), StoreError> {
        let keys = self.tree(index.tree()).iter().keys().collect::<sled::Result<Vec<_>>>();
        for key in keys.at("read", self.path())? {
            let port = record::read_port_key(&key);
            let port = port.ok_or_else(|| record::damaged(index.tree(), &key))?;
            self.set_bit(index.bitmap(), &port, true)?;
        }
        Ok(())
    }

    fn set_bit(&mut self, tree: Tree, port: &HostPort, is_set: bool) -> Result<(), StoreError> {
        let key = record::bits_key(port.protocol, port.port);
        let before = match self.tree(tree).get(key).at("read", self.path())? {
            Some(value) => record::read_bits(tree, &key, &value)?,
            None => [0; PortMap::CHUNK_BYTES],
        };
        let [_, low] = port.port.number().to_be_bytes();
        let (byte, bit) = (usize::from(low / 8), 1 << (low % 8));
        let mut bits = before;
        if is_set {
            bits[byte] |= bit;
        } else {
            bits[byte] &= !bit;
        }
        if bits == before {
            return Ok(());
        }
        if bits == [0; PortMap::CHUNK_BYTES] {
            return self.delete(tree, &key);
        }
        self.put(tree, &key, &record::bits(bits))
    }
}
