//! How a new generation takes its place, and older ones go.
//!
//! Nothing that could be read some day is deleted: a damaged generation is
//! renamed, and only when there is something to put in its place.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{
    StoreError,
    error::At,
    generation::{CURRENT, DURABLE, GENERATION, Link, numbers, path},
    inventory::is_whole,
    seal::{Seal, sync},
};

pub(super) const DAMAGED: &str = "damaged.";

/// What is known of the new generation.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) number: u64,
    /// The generation that it is made of, which is kept to fall back on.
    pub(super) base: Option<u64>,
    /// Newer ones that could not be read.
    pub(super) damaged: Vec<u64>,
    /// Whether it must survive a power cut.
    pub(super) durable: bool,
}

/// Makes a closed and sealed directory the current generation. All that takes
/// disk space comes before the first change that anyone can see.
pub(super) fn publish(dir: &Path, new: &Path, plan: &Plan) -> Result<(), StoreError> {
    let generation = path(dir, plan.number);
    let before = [CURRENT, DURABLE].map(|link| Link::read(dir, link).map(|to| (link, to)));
    fs::rename(new, &generation).at("rename", new)?;
    if let Err(e) = make_current(dir, plan) {
        // Not acknowledged: as if it had never been.
        for before in before {
            if let Err(e) = before.and_then(|(link, to)| restore(dir, link, to)) {
                log::error!("cannot put a link back: {}", e.with_cause());
            }
        }
        remove(&generation);
        return Err(e);
    }
    if let Err(e) = prune(dir, plan) {
        log::warn!("cannot remove old generations: {}", e.with_cause());
    }
    Ok(())
}

fn make_current(dir: &Path, plan: &Plan) -> Result<(), StoreError> {
    prepare(dir, CURRENT, plan.number)?;
    if plan.durable {
        prepare(dir, DURABLE, plan.number)?;
        sync(dir)?;
    }
    // Killed in between, this leaves a dangling link: the next writer falls back
    // to the same base.
    for number in &plan.damaged {
        set_aside(dir, *number)?;
    }
    replace(dir, CURRENT)?;
    if plan.durable {
        sync(dir)?;
        replace(dir, DURABLE)?;
        sync(dir)?;
    }
    Ok(())
}

/// Makes a link what it was, whether it has changed or was about to.
fn restore(dir: &Path, link: &str, before: Link) -> Result<(), StoreError> {
    drop(fs::remove_file(prepared(dir, link)));
    match before {
        now if now == Link::read(dir, link)? => Ok(()),
        Link::To(number) => prepare(dir, link, number).and_then(|()| replace(dir, link)),
        // It was of no use.
        Link::Absent | Link::Broken => {
            let path = dir.join(link);
            fs::remove_file(&path).at("remove", &path)
        }
    }
}

/// Makes the current generation, as it is and whatever its journal holds, what the next
/// boot starts from.
pub(super) fn make_durable(dir: &Path, number: u64) -> Result<(), StoreError> {
    Seal::sync(&path(dir, number))?;
    prepare(dir, DURABLE, number)?;
    sync(dir)?;
    replace(dir, DURABLE)?;
    sync(dir)
}

/// Where a link is made before it takes its place.
fn prepared(dir: &Path, link: &str) -> PathBuf {
    dir.join(format!("{link}.new"))
}

fn prepare(dir: &Path, link: &str, number: u64) -> Result<(), StoreError> {
    let new = prepared(dir, link);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).at("remove", &new),
        _ => {}
    }
    symlink(format!("{GENERATION}{number}"), &new).at("create", &new)
}

fn replace(dir: &Path, link: &str) -> Result<(), StoreError> {
    let path = dir.join(link);
    fs::rename(prepared(dir, link), &path).at("replace", &path)
}

/// Removes all generations that are neither linked nor the base of this one.
fn prune(dir: &Path, plan: &Plan) -> Result<(), StoreError> {
    let mut kept: BTreeSet<u64> = plan.base.into_iter().collect();
    kept.insert(plan.number);
    kept.extend(Link::read(dir, DURABLE)?.number());
    for number in numbers(dir)? {
        if !kept.contains(&number) {
            remove(&path(dir, number));
        }
    }
    Ok(())
}

/// Gives up what is kept to fall back on, so that leases can be given back on a
/// disk that is full; unless it may be needed, because `current` is not whole.
/// Tells whether there was something to give up.
pub(super) fn make_room(dir: &Path) -> Result<bool, StoreError> {
    let Some(current) = Link::read(dir, CURRENT)?.number() else { return Ok(false) };
    if !Seal::read(&path(dir, current)).is_ok_and(|seal| is_whole(&seal, &path(dir, current))) {
        return Ok(false);
    }
    let mut made = false;
    let durable = Link::read(dir, DURABLE)?.number();
    for number in numbers(dir)? {
        if number != current && Some(number) != durable {
            log::warn!("{} has no room left: generation {number} is given up", dir.display());
            remove(&path(dir, number));
            made = true;
        }
    }
    Ok(made)
}

/// Removes generations that no link ever led to.
pub(super) fn remove_unlinked(dir: &Path, numbers: &[u64]) {
    for number in numbers {
        remove(&path(dir, *number));
    }
}

/// A failure costs disk space and nothing else; the next commit tries again.
fn remove(generation: &Path) {
    if let Err(e) = fs::remove_dir_all(generation) {
        log::warn!("cannot remove {}: {e}", generation.display());
    }
}

fn set_aside(dir: &Path, number: u64) -> Result<(), StoreError> {
    let from = path(dir, number);
    let mut to = dir.join(format!("{DAMAGED}{number}"));
    let mut again = 1;
    while to.symlink_metadata().is_ok() {
        again += 1;
        to = dir.join(format!("{DAMAGED}{number}.{again}"));
    }
    match fs::rename(&from, &to) {
        // The link was dangling.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        renamed => renamed.at("rename", &from)?,
    }
    log::error!("{} is damaged and was set aside as {}", from.display(), to.display());
    Ok(())
}
