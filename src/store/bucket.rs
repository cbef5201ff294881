//! Buckets: values that hold many small entries. sled's pages hold 16 values at most,
//! whatever their size, and opening goes through all pages; an index with a value for
//! each entry has as many pages as the records themselves.
//!
//! ```text
//! bucket   1, then the entries by their keys: a key and a value, each with its length (4)
//! ```

use super::{
    StoreError,
    database::Database,
    part::{push_part, split_part},
    record,
    tree::Tree,
    view::View,
};

const SCHEMA: u8 = 1;

/// The entries of a bucket, by their keys.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

impl View {
    /// The entries of a bucket whose keys begin like this.
    pub(super) fn bucket(
        &self,
        tree: Tree,
        bucket: &[u8],
        prefix: &[u8],
    ) -> Result<Entries, StoreError> {
        let Some(database) = &self.database else { return Ok(Entries::new()) };
        let mut entries = database.entries(tree, bucket)?;
        entries.retain(|(key, _)| key.starts_with(prefix));
        Ok(entries)
    }

    /// The value of an entry.
    pub(super) fn entry(
        &self,
        tree: Tree,
        bucket: &[u8],
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let database = self.database.as_ref();
        database.map_or(Ok(None), |database| database.entry(tree, bucket, key))
    }

    /// The entries of all buckets whose own keys begin like this.
    pub(super) fn buckets(
        &self,
        tree: Tree,
        prefix: Vec<u8>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> {
        self.scan(tree, prefix).flat_map(move |bucket| {
            let entries = bucket.and_then(|(key, value)| read(tree, &key, &value));
            let (entries, error) = match entries {
                Ok(entries) => (entries, None),
                Err(error) => (Entries::new(), Some(Err(error))),
            };
            entries.into_iter().map(Ok).chain(error)
        })
    }
}

impl Database {
    /// The value of an entry.
    pub(super) fn entry(
        &self,
        tree: Tree,
        bucket: &[u8],
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let entries = self.entries(tree, bucket)?.into_iter();
        Ok(entries.filter(|(other, _)| other == key).map(|(_, value)| value).next())
    }

    /// Puts an entry into a bucket, in place of any that was there.
    pub(super) fn put_entry(
        &mut self,
        tree: Tree,
        bucket: &[u8],
        key: &[u8],
        value: &[u8],
    ) -> Result<(), StoreError> {
        let mut entries = self.entries(tree, bucket)?;
        match entries.binary_search_by(|(other, _)| other.as_slice().cmp(key)) {
            Ok(at) => entries[at].1 = value.to_vec(),
            Err(at) => entries.insert(at, (key.to_vec(), value.to_vec())),
        }
        self.put(tree, bucket, &write(&entries))
    }

    /// Removes an entry from a bucket, if it is there, and returns those that are left.
    pub(super) fn delete_entry(
        &mut self,
        tree: Tree,
        bucket: &[u8],
        key: &[u8],
    ) -> Result<Entries, StoreError> {
        let mut entries = self.entries(tree, bucket)?;
        if let Ok(at) = entries.binary_search_by(|(other, _)| other.as_slice().cmp(key)) {
            entries.remove(at);
            if entries.is_empty() {
                self.delete(tree, bucket)?;
            } else {
                self.put(tree, bucket, &write(&entries))?;
            }
        }
        Ok(entries)
    }

    fn entries(&self, tree: Tree, bucket: &[u8]) -> Result<Entries, StoreError> {
        let value = self.get(tree, bucket)?;
        value.map_or(Ok(Entries::new()), |value| read(tree, bucket, &value))
    }
}

fn write(entries: &Entries) -> Vec<u8> {
    let mut bucket = vec![SCHEMA];
    for part in entries.iter().flat_map(|(key, value)| [key, value]) {
        push_part(&mut bucket, part);
    }
    bucket
}

fn read(tree: Tree, key: &[u8], bucket: &[u8]) -> Result<Entries, StoreError> {
    let damage = || record::damaged(tree, key);
    let (&schema, mut rest) = bucket.split_first().ok_or_else(damage)?;
    record::supported(tree, key, schema.into())?;
    let mut entries = Entries::new();
    while !rest.is_empty() {
        let mut part = || split_part(&mut rest).ok_or_else(damage).map(<[u8]>::to_vec);
        entries.push((part()?, part()?));
    }
    Ok(entries)
}
