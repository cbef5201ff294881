//! Reading without the lock, from a private copy.

use std::ops::Deref;

use super::{Store, StoreError, generation::open_base, scratch::Scratch, view::View};

/// What the store held when it was read.
#[derive(Debug)]
pub struct Reader {
    // Dropped in this order: the database, then its directory.
    view: View,
    _scratch: Option<Scratch>,
}

impl Reader {
    pub(super) fn open(store: &Store) -> Result<Self, StoreError> {
        if !store.exists()? {
            return Ok(Self { view: View { database: None }, _scratch: None });
        }
        let (base, scratch) = open_base(store, Scratch::reading, false)?;
        Ok(Self { view: View { database: Some(base.database) }, _scratch: Some(scratch) })
    }
}

impl Deref for Reader {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}
