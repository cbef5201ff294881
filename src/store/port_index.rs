//! The indexes whose keys are host ports, each with a bitmap that sums it up: a
//! plan looks at all ports, and reads 256 small values for it at most.

use crate::lease::{HostPort, Port, PortMap, Protocol};

use super::{StoreError, database::Database, record, tree::Tree, view::View};

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
    /// The entries of an index about a port, on whatever address: the port, and what the
    /// index says of it.
    pub(super) fn on_port(
        &self,
        index: PortIndex,
        protocol: Protocol,
        port: Port,
    ) -> Result<Vec<(HostPort, Vec<u8>)>, StoreError> {
        let tree = index.tree();
        let bucket = record::port_bucket(protocol, port);
        let entries = self.bucket(tree, &bucket, &record::port_prefix(protocol, port))?;
        let read = |(key, value): (Vec<u8>, _)| {
            let port = record::read_port_key(&key);
            Ok((port.ok_or_else(|| record::damaged(tree, &key))?, value))
        };
        entries.into_iter().map(read).collect()
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
        let bucket = record::port_bucket(port.protocol, port.port);
        self.put_entry(index.tree(), &bucket, &record::port_key(port), value)?;
        self.set_bit(index.bitmap(), port, true)
    }

    /// Takes a port out of an index, if it is there.
    pub(super) fn delete_port(
        &mut self,
        index: PortIndex,
        port: &HostPort,
    ) -> Result<(), StoreError> {
        let bucket = record::port_bucket(port.protocol, port.port);
        let left = self.delete_entry(index.tree(), &bucket, &record::port_key(port))?;
        let same = record::port_prefix(port.protocol, port.port);
        let is_left = left.iter().any(|(key, _)| key.starts_with(&same));
        self.set_bit(index.bitmap(), port, is_left)
    }

    fn set_bit(&mut self, tree: Tree, port: &HostPort, is_set: bool) -> Result<(), StoreError> {
        let key = record::bits_key(port.protocol, port.port);
        let before = match self.get(tree, &key)? {
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
