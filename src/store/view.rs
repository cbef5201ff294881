//! What can be asked of the store, by readers and writers alike.

use std::net::IpAddr;

use crate::lease::{
    Attachment, ContainerId, Forwarding, HostPort, InterfaceName, Namespace, NetworkName, Owner,
    Pod, Port, PortMap, Protocol,
};

use super::{StoreError, database::Database, error::At, port_index::PortIndex, record, tree::Tree};

/// A key and its value.
pub(super) type Entry = (sled::IVec, sled::IVec);

/// What the store held at one moment.
#[derive(Debug)]
pub struct View {
    /// None where there is no store: everything is empty then.
    pub(super) database: Option<Database>,
}

impl View {
    /// A number that stays the same from commit to commit, and is another one
    /// where the store has lost commits: after it fell back to an older
    /// generation, or began anew. What was made in the kernel under another
    /// lineage may be about leases that nobody knows of any more.
    #[must_use]
    pub fn lineage(&self) -> u64 {
        self.database.as_ref().map_or(0, Database::lineage)
    }

    /// What the attachment holds.
    pub fn forwarding(&self, owner: &Attachment) -> Result<Option<Forwarding>, StoreError> {
        self.forwarding_at(&record::attachment_key(owner))
    }

    /// What is held for an interface of a container, whatever the network.
    pub fn of_interface(
        &self,
        container: &ContainerId,
        interface: &InterfaceName,
    ) -> Result<Vec<Forwarding>, StoreError> {
        self.records(record::prefix([container.as_str(), interface.as_str()]))
    }

    /// All that is held under a network's name.
    pub fn of_network(&self, network: &NetworkName) -> Result<Vec<Forwarding>, StoreError> {
        self.keys_of_network(network).map(|key| self.indexed(&key?)).collect()
    }

    /// All that attachments hold.
    pub fn forwardings(&self) -> Result<Vec<Forwarding>, StoreError> {
        self.records(Vec::new())
    }

    /// The records of the attachments whose keys begin like this.
    fn records(&self, prefix: Vec<u8>) -> Result<Vec<Forwarding>, StoreError> {
        self.scan(Tree::Attachment, prefix)
            .map(|entry| entry.and_then(|(key, value)| record::read_forwarding(&key, &value)))
            .collect()
    }

    /// Who holds a port, and on which addresses of the host.
    pub fn holders(
        &self,
        protocol: Protocol,
        port: Port,
    ) -> Result<Vec<(HostPort, Owner)>, StoreError> {
        let attachments = self.on_port(PortIndex::Leases, protocol, port).map(|entry| {
            let (port, (key, value)) = entry?;
            Ok((port, Owner::Attachment(record::read_owner(&key, &value)?)))
        });
        let modules = self.on_port(PortIndex::Modules, protocol, port).map(|entry| {
            let (port, (key, value)) = entry?;
            Ok((port, Owner::Module(record::read_module_of_port(&key, &value)?)))
        });
        attachments.chain(modules).collect()
    }

    /// The ports of a protocol that have a holder, on whatever address.
    pub fn held(&self, protocol: Protocol) -> Result<PortMap, StoreError> {
        let mut held = self.port_map(PortIndex::Leases, protocol)?;
        held.include(&self.port_map(PortIndex::Modules, protocol)?);
        Ok(held)
    }

    /// Whether nothing is held under a network's name.
    pub fn network_is_empty(&self, network: &NetworkName) -> Result<bool, StoreError> {
        Ok(self.keys_of_network(network).next().transpose()?.is_none())
    }

    /// Whether an attachment of the network is behind a link of the host.
    pub fn link_is_used(
        &self,
        network: &NetworkName,
        link: &InterfaceName,
    ) -> Result<bool, StoreError> {
        let prefix = record::prefix([network.as_str(), link.as_str()]);
        Ok(self.scan(Tree::Link, prefix).next().transpose()?.is_some())
    }

    /// What attachments of the network hold that have this address. More than one
    /// has it when a runtime gave it to the next container without a DEL for the
    /// one before.
    pub fn of_address(
        &self,
        network: &NetworkName,
        address: IpAddr,
    ) -> Result<Vec<Forwarding>, StoreError> {
        let address = address.to_string();
        let prefix = record::prefix([network.as_str(), &address]);
        self.owner_keys(Tree::Address, prefix, network).map(|key| self.indexed(&key?)).collect()
    }

    /// What some attachment of the network holds, other than `except`: a sample
    /// by which to tell whether the kernel still has what it was given. Container
    /// IDs are hexadecimal numbers; the first from `chance` on is taken.
    pub fn any_of_network(
        &self,
        network: &NetworkName,
        except: &Attachment,
        chance: u32,
    ) -> Result<Option<Forwarding>, StoreError> {
        let Some(database) = &self.database else { return Ok(None) };
        let prefix = record::prefix([network.as_str()]);
        let from = [&prefix, format!("{chance:08x}").as_bytes()].concat();
        let index = database.tree(Tree::Network);
        let later = index
            .range(from..)
            .take_while(|entry| entry.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)));
        let except = record::attachment_key(except);
        for entry in later.chain(index.scan_prefix(&prefix)) {
            let (key, _) = entry.at("read", database.path())?;
            let owner = [&key[prefix.len()..], b"\0", network.as_str().as_bytes()].concat();
            if owner != except {
                return self.indexed(&owner).map(Some);
            }
        }
        Ok(None)
    }

    /// What is held for a container, on whatever interface and network.
    pub fn of_container(&self, container: &ContainerId) -> Result<Vec<Forwarding>, StoreError> {
        self.records(record::prefix([container.as_str()]))
    }

    /// What is held for a pod by this name: for its sandboxes, for there may be
    /// an old one beside the new one, and their interfaces.
    pub fn of_pod(&self, pod: &Pod) -> Result<Vec<Forwarding>, StoreError> {
        let prefix = record::prefix([pod.namespace.as_str(), pod.name.as_str()]);
        let length = prefix.len();
        self.scan(Tree::Pod, prefix).map(|entry| self.indexed(&entry?.0[length..])).collect()
    }

    /// What is held for the pods of a namespace.
    pub fn of_namespace(&self, namespace: &Namespace) -> Result<Vec<Forwarding>, StoreError> {
        let prefix = record::prefix([namespace.as_str()]);
        let length = prefix.len();
        let pods = self.scan(Tree::Pod, prefix).map(|entry| {
            let (key, _) = entry?;
            let owner = key[length..].splitn(2, |byte| *byte == 0).nth(1);
            self.indexed(owner.ok_or_else(|| record::damaged(Tree::Pod, &key))?)
        });
        pods.collect()
    }

    /// The keys of the records that the network index names.
    fn keys_of_network(
        &self,
        network: &NetworkName,
    ) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> {
        self.owner_keys(Tree::Network, record::prefix([network.as_str()]), network)
    }

    /// The keys of the records that an index names behind a prefix.
    fn owner_keys(
        &self,
        index: Tree,
        prefix: Vec<u8>,
        network: &NetworkName,
    ) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> {
        let name = network.as_str().as_bytes().to_vec();
        let length = prefix.len();
        self.scan(index, prefix).map(move |entry| {
            let (key, _) = entry?;
            Ok([&key[length..], b"\0", &name].concat())
        })
    }

    /// The record that an index leads to.
    fn indexed(&self, key: &[u8]) -> Result<Forwarding, StoreError> {
        self.forwarding_at(key)?.ok_or_else(|| record::damaged(Tree::Attachment, key))
    }

    fn forwarding_at(&self, key: &[u8]) -> Result<Option<Forwarding>, StoreError> {
        let value = self.get(Tree::Attachment, key)?;
        value.map(|value| record::read_forwarding(key, &value)).transpose()
    }

    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        match &self.database {
            Some(database) => database.tree(tree).get(key).at("read", database.path()),
            None => Ok(None),
        }
    }

    pub(super) fn scan(
        &self,
        tree: Tree,
        prefix: Vec<u8>,
    ) -> impl Iterator<Item = Result<Entry, StoreError>> {
        let database = self.database.iter();
        database.flat_map(move |database| {
            database.tree(tree).scan_prefix(&prefix).map(|entry| entry.at("read", database.path()))
        })
    }
}
