//! Copies generations out, checking every byte, and databases in, summing it up.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use super::{
    StoreError,
    error::At,
    seal::{Seal, Sum, create},
};

/// Copies the files of a generation into an empty directory. What is wrong with
/// the generation is `StoreError::Seal`; `Io` is about the copy, or about a
/// machine that is out of memory or descriptors.
pub(super) fn copy(generation: &Path, to: &Path) -> Result<Seal, StoreError> {
    let seal = Seal::read(generation)?;
    for (name, sum) in &seal.files {
        let (source, target) = (generation.join(name), to.join(name));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        let from = match File::open(&source) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(StoreError::Seal { path: source });
            }
            opened => opened.at("open", &source)?,
        };
        let mut file = create(&target)?;
        let copied = Sum::of(from, |bytes| file.write_all(bytes).at("write", &target), &source);
        match copied {
            Ok(copied) if copied == *sum => {}
            Err(StoreError::Io { path, source: e, .. }) if path == source && is_broken(&e) => {
                return Err(StoreError::Seal { path });
            }
            Ok(_) => return Err(StoreError::Seal { path: source }),
            Err(e) => return Err(e),
        }
    }
    Ok(seal)
}

/// Copies the files of a closed database into an empty directory, and sums them
/// up by their path.
pub(super) fn copy_closed(from: &Path, to: &Path) -> Result<BTreeMap<PathBuf, Sum>, StoreError> {
    let mut files = BTreeMap::new();
    copy_below(from, to, Path::new(""), &mut files)?;
    Ok(files)
}

fn copy_below(
    from: &Path,
    to: &Path,
    inside: &Path,
    files: &mut BTreeMap<PathBuf, Sum>,
) -> Result<(), StoreError> {
    for entry in fs::read_dir(from).at("list", from)? {
        let entry = entry.at("list", from)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let inside = inside.join(entry.file_name());
        if source.is_dir() {
            fs::create_dir(&target).at("create", &target)?;
            copy_below(&source, &target, &inside, files)?;
        } else {
            let from = File::open(&source).at("open", &source)?;
            let mut file = create(&target)?;
            let sum = Sum::of(from, |bytes| file.write_all(bytes).at("write", &target), &source)?;
            files.insert(inside, sum);
        }
    }
    Ok(())
}

/// What a broken disk, or a directory in the place of a file, says.
fn is_broken(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EISDIR))
}
