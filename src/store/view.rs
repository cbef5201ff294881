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
        self.attached(owner.network.as_str().as_bytes(), &record::attachment_key(owner))
    }

    /// What is held for an interface of a container, whatever the network.
    pub fn of_interface(
        &self,
        container: &ContainerId,
        interface: &InterfaceName,
    ) -> Result<Vec<Forwarding>, StoreError> {
        let mut held = Vec::new();
        for network in self.networks()? {
            let key = record::key([container.as_str(), interface.as_str()]);
            held.extend(self.attached(&network, &key)?);
        }
        Ok(held)
    }

    /// All that is held under a network's name.
    pub fn of_network(&self, network: &NetworkName) -> Result<Vec<Forwarding>, StoreError> {
        self.records(record::prefix([network.as_str()]))
    }

    /// All that attachments hold.
    pub fn forwardings(&self) -> Result<Vec<Forwarding>, StoreError> {
        self.records(Vec::new())
    }

    /// The records of the attachments in the buckets whose keys begin like this, in an
    /// order that people expect.
    fn records(&self, prefix: Vec<u8>) -> Result<Vec<Forwarding>, StoreError> {
        let read = |entry: Result<(Vec<u8>, Vec<u8>), _>| {
            entry.and_then(|(key, value)| record::read_forwarding(&key, &value))
        };
        let records = self.buckets(Tree::Attachment, prefix).map(read);
        let mut records = records.collect::<Result<Vec<_>, _>>()?;
        records.sort_by(|a, b| {
            let [a, b] = [&a.attachment, &b.attachment].map(|attachment| {
                (&attachment.container, &attachment.interface, &attachment.network)
            });
            a.cmp(&b)
        });
        Ok(records)
    }

    /// Who holds a port, and on which addresses of the host.
    pub fn holders(
        &self,
        protocol: Protocol,
        port: Port,
    ) -> Result<Vec<(HostPort, Owner)>, StoreError> {
        let mut holders = Vec::new();
        for (port, value) in self.on_port(PortIndex::Leases, protocol, port)? {
            let owner = record::read_owner(&record::port_key(&port), &value)?;
            holders.push((port, Owner::Attachment(owner)));
        }
        for (port, value) in self.on_port(PortIndex::Modules, protocol, port)? {
            let module = record::read_module_of_port(&record::port_key(&port), &value)?;
            holders.push((port, Owner::Module(module)));
        }
        Ok(holders)
    }

    /// The ports of a protocol that have a holder, on whatever address.
    pub fn held(&self, protocol: Protocol) -> Result<PortMap, StoreError> {
        let mut held = self.port_map(PortIndex::Leases, protocol)?;
        held.include(&self.port_map(PortIndex::Modules, protocol)?);
        Ok(held)
    }

    /// Whether nothing is held under a network's name.
    pub fn network_is_empty(&self, network: &NetworkName) -> Result<bool, StoreError> {
        let prefix = record::prefix([network.as_str()]);
        Ok(self.scan(Tree::Attachment, prefix).next().transpose()?.is_none())
    }

    /// Whether an attachment of the network is behind a link of the host.
    pub fn link_is_used(
        &self,
        network: &NetworkName,
        link: &InterfaceName,
    ) -> Result<bool, StoreError> {
        let Some(database) = &self.database else { return Ok(false) };
        Ok(database.behind_link(network, link)? > 0)
    }

    /// What attachments of the network hold that have this address. More than one
    /// has it when a runtime gave it to the next container without a DEL for the
    /// one before.
    pub fn of_address(
        &self,
        network: &NetworkName,
        address: IpAddr,
    ) -> Result<Vec<Forwarding>, StoreError> {
        let bucket = record::address_bucket(network, address);
        let prefix = record::address_prefix(address);
        let entries = self.bucket(Tree::Address, &bucket, &prefix)?;
        let network = network.as_str().as_bytes();
        entries.into_iter().map(|(key, _)| self.indexed(network, &key[prefix.len()..])).collect()
    }

    /// What some attachment of the network holds, other than `except`: a sample
    /// by which to tell whether the kernel still has what it was given. The first
    /// bucket from `chance` on is taken.
    pub fn any_of_network(
        &self,
        network: &NetworkName,
        except: &Attachment,
        chance: u32,
    ) -> Result<Option<Forwarding>, StoreError> {
        let Some(database) = &self.database else { return Ok(None) };
        let prefix = record::prefix([network.as_str()]);
        let name = network.as_str().as_bytes();
        let from = record::attachment_bucket(name, &chance.to_be_bytes());
        let index = database.tree(Tree::Attachment);
        let later = index
            .range(from..)
            .take_while(|bucket| bucket.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)));
        for bucket in later.chain(index.scan_prefix(&prefix)) {
            let (bucket, _) = bucket.at("read", database.path())?;
            for (key, value) in self.bucket(Tree::Attachment, &bucket, &[])? {
                if key != record::attachment_key(except) {
                    return record::read_forwarding(&key, &value).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// What is held for a container, on whatever interface and network.
    pub fn of_container(&self, container: &ContainerId) -> Result<Vec<Forwarding>, StoreError> {
        let mut held = Vec::new();
        for network in self.networks()? {
            let bucket = record::attachment_bucket(&network, container.as_str().as_bytes());
            let prefix = record::prefix([container.as_str()]);
            for (key, value) in self.bucket(Tree::Attachment, &bucket, &prefix)? {
                held.push(record::read_forwarding(&key, &value)?);
            }
        }
        Ok(held)
    }

    /// What is held for a pod by this name: for its sandboxes, for there may be
    /// an old one beside the new one, and their interfaces.
    pub fn of_pod(&self, pod: &Pod) -> Result<Vec<Forwarding>, StoreError> {
        let prefix = record::prefix([pod.name.as_str()]);
        let entries = self.bucket(Tree::Pod, &record::pod_bucket(pod), &prefix)?;
        entries.into_iter().map(|(key, _)| self.of_pod_key(&key)).collect()
    }

    /// What is held for the pods of a namespace.
    pub fn of_namespace(&self, namespace: &Namespace) -> Result<Vec<Forwarding>, StoreError> {
        let entries = self.buckets(Tree::Pod, record::prefix([namespace.as_str()]));
        entries.map(|entry| self.of_pod_key(&entry?.0)).collect()
    }

    /// The record that an entry of the index of pods leads to.
    fn of_pod_key(&self, key: &[u8]) -> Result<Forwarding, StoreError> {
        let names: Vec<&[u8]> = key.split(|byte| *byte == 0).collect();
        let &[_, container, interface, network] = names.as_slice() else {
            return Err(record::damaged(Tree::Pod, key));
        };
        self.indexed(network, &[container, interface].join(&0))
    }

    /// The names of the networks under which anything is held.
    fn networks(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let Some(database) = &self.database else { return Ok(Vec::new()) };
        let index = database.tree(Tree::Attachment);
        let mut networks = Vec::new();
        let mut from = Vec::new();
        while let Some(entry) = index.range(from.as_slice()..).next() {
            let (key, _) = entry.at("read", database.path())?;
            let network = record::network_of(&key).to_vec();
            // Behind all that begins with the name and a NUL.
            from = [network.as_slice(), &[1]].concat();
            networks.push(network);
        }
        Ok(networks)
    }

    /// The record that an index leads to.
    fn indexed(&self, network: &[u8], key: &[u8]) -> Result<Forwarding, StoreError> {
        self.attached(network, key)?.ok_or_else(|| record::damaged(Tree::Attachment, key))
    }

    /// The record of an attachment to a network, by its key in its bucket.
    fn attached(&self, network: &[u8], key: &[u8]) -> Result<Option<Forwarding>, StoreError> {
        let container = key.split(|byte| *byte == 0).next().unwrap_or_default();
        let bucket = record::attachment_bucket(network, container);
        let value = self.entry(Tree::Attachment, &bucket, key)?;
        value.map(|value| record::read_forwarding(key, &value)).transpose()
    }

    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        match &self.database {
            Some(database) => database.get(tree, key),
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
