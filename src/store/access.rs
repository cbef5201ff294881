//! Who may read: root, and the group that an operator has let into the directory.
//!
//! ```text
//! <dir>               root:root 0700, or root:portclaim 2750
//! <dir>/generation.N                  0700              0750
//! <dir>/generation.N/db               0600              0640
//! ```
//!
//! With the set-group-ID bit all that is made below has the directory's group. Nobody
//! but root ever writes, and the lock is root's alone.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use super::{StoreError, error::At};

/// Set-group-ID, and reading and entering for the group.
const OPEN: u32 = 0o2050;

/// Reading and entering for the group.
const READABLE: u32 = 0o050;

/// Lets those read what is in `new`, below `dir`, who may read `dir`.
pub(super) fn open_as(dir: &Path, new: &Path) -> Result<(), StoreError> {
    let mode = fs::metadata(dir).at("look at", dir)?.permissions().mode();
    if mode & OPEN == OPEN { open(new) } else { Ok(()) }
}

/// Whether those may read what is in the generation who may read `dir`, and nobody else.
pub(super) fn is_open_as(dir: &Path, generation: &Path) -> Result<bool, StoreError> {
    let look = |path: &Path| fs::metadata(path).at("look at", path);
    let (dir, generation) = (look(dir)?, look(generation)?);
    let is_open = dir.mode() & OPEN == OPEN;
    Ok(is_open == (generation.mode() & READABLE == READABLE)
        && (!is_open || dir.gid() == generation.gid()))
}

fn open(dir: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).at("list", dir)? {
        let path = entry.at("list", dir)?.path();
        if path.is_dir() {
            open(&path)?;
        } else {
            let readable = Permissions::from_mode(0o640);
            fs::set_permissions(&path, readable).at("open to its group", &path)?;
        }
    }
    fs::set_permissions(dir, Permissions::from_mode(0o750)).at("open to its group", dir)
}
