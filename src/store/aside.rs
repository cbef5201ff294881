//! Setting a whole store aside, damaged or not, so that a new one can begin.
//!
//! ```text
//! <dir>/removed-<name>/     the links and generations that there were
//! <dir>/lock                stays, and so does the directory: it may be mounted
//! ```
//!
//! The generation that holds moves last. Whoever is killed before that leaves the
//! store as it was to those who read it, and after that an empty one.

use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{
    Lock, StoreError,
    error::At,
    generation::{CURRENT, DURABLE, GENERATION, Link, numbers, path},
    inventory::entries,
    publish::DAMAGED,
    scratch,
    seal::sync,
    working,
};

/// What the names of directories begin with that hold a store set aside.
pub(super) const REMOVED: &str = "removed-";

impl Lock {
    /// Moves all that is stored into a new directory inside the store's, whose name
    /// ends with this one, and returns its path; none when there is nothing. What was
    /// set aside before stays.
    pub fn set_aside(&mut self, name: &str) -> Result<Option<PathBuf>, StoreError> {
        let dir = &self.store.dir;
        scratch::remove_leftovers(dir)?;
        let parts = parts(dir)?;
        if parts.is_empty() {
            return Ok(None);
        }
        let target = create(dir, name)?;
        for part in parts {
            let to = target.join(part.file_name().unwrap_or_default());
            fs::rename(&part, to).at("move", &part)?;
        }
        sync(&target)?;
        sync(dir)?;
        // It goes on from what is no longer there.
        if let Some(work) = &self.store.work {
            drop(working::take(work, dir)?);
        }
        Ok(Some(target))
    }
}

/// Everything that is of a store, in the order in which it may go: what is read last
/// first, then the links, then what they lead to.
pub(super) fn parts(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let truth = match Link::read(dir, CURRENT)? {
        Link::To(number) if path(dir, number).is_dir() => Some(number),
        _ => numbers(dir)?.first().copied(),
    };
    let truth = truth.map(|number| path(dir, number));
    let mut parts = entries(dir)?;
    parts.retain(|path| is_part(path));
    let is_link = |path: &Path| [CURRENT, DURABLE].iter().any(|link| path.ends_with(link));
    parts.sort_by_key(|path| (Some(path) == truth.as_ref(), is_link(path)));
    Ok(parts)
}

fn is_part(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_link = |link| name == link || name == format!("{link}.new");
    is_link(CURRENT)
        || is_link(DURABLE)
        || [GENERATION, DAMAGED].iter().any(|p| name.starts_with(p))
}

fn create(dir: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let mut path = dir.join(format!("{REMOVED}{name}"));
    let mut again = 1;
    loop {
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                again += 1;
                path = dir.join(format!("{REMOVED}{name}.{again}"));
            }
            created => return created.at("create", &path).map(|()| path),
        }
    }
}
