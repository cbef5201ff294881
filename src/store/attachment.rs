//! The records of attachments, and the indexes that lead to them.

use crate::lease::{Attachment, Forwarding, InterfaceName, NetworkName};

use super::{StoreError, database::Database, port_index::PortIndex, record, tree::Tree};

impl Database {
    /// Puts down a record of which there is none, and all that leads to it.
    pub(super) fn put_attachment(&mut self, forwarding: &Forwarding) -> Result<(), StoreError> {
        let owner = &forwarding.attachment;
        let (bucket, key) = place(owner);
        self.put_entry(Tree::Attachment, &bucket, &key, &record::forwarding(forwarding))?;
        for lease in &forwarding.leases {
            self.put_port(PortIndex::Leases, &lease.host, &record::owner(owner))?;
        }
        for (tree, bucket, key) in index_entries(forwarding) {
            self.put_entry(tree, &bucket, &key, &[])?;
        }
        self.count_link(forwarding, 1)
    }

    /// Removes a record and everything that leads to it.
    pub(super) fn delete_attachment(&mut self, forwarding: &Forwarding) -> Result<(), StoreError> {
        for lease in &forwarding.leases {
            self.delete_port(PortIndex::Leases, &lease.host)?;
        }
        for (tree, bucket, key) in index_entries(forwarding) {
            self.delete_entry(tree, &bucket, &key)?;
        }
        self.count_link(forwarding, -1)?;
        let (bucket, key) = place(&forwarding.attachment);
        self.delete_entry(Tree::Attachment, &bucket, &key).map(drop)
    }

    /// How many attachments of the network are behind a link of the host.
    pub(super) fn behind_link(
        &self,
        network: &NetworkName,
        link: &InterfaceName,
    ) -> Result<u64, StoreError> {
        let key = record::key([network.as_str(), link.as_str()]);
        let count = self.get(Tree::Link, &key)?;
        count.map_or(Ok(0), |count| record::read_number(Tree::Link, &key, &count))
    }

    fn count_link(&mut self, forwarding: &Forwarding, change: i64) -> Result<(), StoreError> {
        let Some(link) = &forwarding.link else { return Ok(()) };
        let network = &forwarding.attachment.network;
        let count = self.behind_link(network, link)?.saturating_add_signed(change);
        let key = record::key([network.as_str(), link.as_str()]);
        match count {
            0 => self.delete(Tree::Link, &key),
            count => self.put(Tree::Link, &key, &record::number(count)),
        }
    }
}

/// The bucket and the key of an attachment's record.
fn place(owner: &Attachment) -> (Vec<u8>, Vec<u8>) {
    let (network, container) = (owner.network.as_str(), owner.container.as_str());
    let bucket = record::attachment_bucket(network.as_bytes(), container.as_bytes());
    (bucket, record::attachment_key(owner))
}

/// The entries of the indexes that lead to a record: the tree, the bucket and the key.
fn index_entries(forwarding: &Forwarding) -> Vec<(Tree, Vec<u8>, Vec<u8>)> {
    let Attachment { network, container, interface } = &forwarding.attachment;
    let (container, interface) = (container.as_str(), interface.as_str());
    let mut entries = Vec::new();
    for address in forwarding.container.iter() {
        let owner = record::attachment_key(&forwarding.attachment);
        let key = [record::address_prefix(address).as_slice(), &owner].concat();
        entries.push((Tree::Address, record::address_bucket(network, address), key));
    }
    if let Some(pod) = &forwarding.pod {
        let key = record::key([pod.name.as_str(), container, interface, network.as_str()]);
        entries.push((Tree::Pod, record::pod_bucket(pod), key));
    }
    entries
}
