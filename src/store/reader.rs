//! Reading without the lock, from a private copy.

use std::{ops::Deref, path::Path};

use super::{
    Store, StoreError,
    generation::open_base,
    scratch::{self, Scratch},
    view::View,
};

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
        match (Self::copy_to(&store.dir, store), &store.spare) {
            (Err(e), Some(spare)) if e.takes_no_more() => {
                super::create_dir(spare)?;
                scratch::remove_leftovers(spare)?;
                Self::copy_to(spare, store)
            }
            (read, _) => read,
        }
    }

    fn copy_to(dir: &Path, store: &Store) -> Result<Self, StoreError> {
        let scratch = Scratch::reading(dir)?;
        let base = open_base(&store.dir, &store.boot, &scratch)?;
        Ok(Self { view: View { database: Some(base.database) }, _scratch: Some(scratch) })
    }
}

impl Deref for Reader {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}
