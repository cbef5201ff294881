//! What there is in the directory, for who looks after it. Changes nothing.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    Store, StoreError,
    aside::REMOVED,
    error::At,
    generation::{CURRENT, DURABLE, Link, numbers, path},
    journal::Journal,
    publish::DAMAGED,
    scratch,
    seal::Seal,
};

/// What a store's directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The generations, the newest first.
    pub generations: Vec<Generation>,
    /// Links that lead to no generation that is there.
    pub broken_links: Vec<PathBuf>,
    /// Damaged generations that were set aside.
    pub damaged: Vec<PathBuf>,
    /// Whole stores that were set aside.
    pub removed: Vec<PathBuf>,
    /// What killed writers and readers left, and the next writer clears away.
    pub leftovers: Vec<PathBuf>,
}

/// A generation as it is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// The size of its files in bytes; none where its seal cannot be read.
    pub size: Option<u64>,
    /// Whether its files are what its seal says, and its journal can be read.
    pub is_whole: bool,
    /// Whether it was written in the running boot.
    pub is_of_boot: bool,
    /// Which of the links `current` and `durable` lead to it.
    pub links: Vec<&'static str>,
}

impl Store {
    /// What there is in the directory; nothing where there is none. A call that is at
    /// work meanwhile may be seen half-way.
    pub fn inventory(&self) -> Result<Inventory, StoreError> {
        let mut inventory = Inventory::default();
        let link = |name| Ok::<_, StoreError>((name, Link::read(&self.dir, name)?));
        let links = [link(CURRENT)?, link(DURABLE)?];
        for number in numbers(&self.dir)? {
            let folder = path(&self.dir, number);
            let seal = Seal::read(&folder);
            inventory.generations.push(Generation {
                number,
                size: seal.as_ref().ok().map(Seal::size),
                is_whole: seal.as_ref().is_ok_and(|seal| is_whole(seal, &folder)),
                is_of_boot: seal.is_ok_and(|seal| seal.boot == self.boot),
                links: links
                    .into_iter()
                    .filter(|(_, link)| *link == Link::To(number))
                    .map(|(name, _)| name)
                    .collect(),
            });
        }
        for (name, link) in links {
            let is_broken = match link {
                Link::Absent => false,
                Link::Broken => true,
                Link::To(number) => inventory.generations.iter().all(|g| g.number != number),
            };
            if is_broken {
                inventory.broken_links.push(self.dir.join(name));
            }
        }
        for path in entries(&self.dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(DAMAGED) {
                inventory.damaged.push(path);
            } else if name.starts_with(REMOVED) {
                inventory.removed.push(path);
            }
        }
        for dir in [Some(&self.dir), self.work.as_ref()].into_iter().flatten() {
            let mut dead = entries(dir)?;
            dead.retain(|path| scratch::is_leftover(path));
            inventory.leftovers.append(&mut dead);
        }
        Ok(inventory)
    }
}

/// Whether a generation is what its seal says, and all of its journal is there.
pub(super) fn is_whole(seal: &Seal, folder: &Path) -> bool {
    let journal = |id| Journal::read(folder).is_ok_and(|journal| journal.is_whole(id));
    seal.holds(folder) && seal.id.is_none_or(journal)
}

/// What is in a directory, sorted; nothing where there is none.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let listed = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.at("list", dir)?,
    };
    let mut paths = Vec::new();
    for entry in listed {
        paths.push(entry.at("list", dir)?.path());
    }
    paths.sort();
    Ok(paths)
}
