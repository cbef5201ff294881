//! `portclaimctl conflist`: what installs portclaim on a network, and removes it.
//!
//! ```text
//! 10-mynet.conflist                    with portclaim
//! 10-mynet.conflist.before-portclaim   as it was; empty where it was not there
//! ```
//!
//! Runtimes read the folder at any time: every file takes its place at once, and the
//! names of the others end with nothing that a runtime looks for.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use portclaim::cni::conflist;

use crate::site;

#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Put portclaim into conflists: in place of portmap, or behind all other plugins.
    Add {
        /// The conflists.
        #[arg(required = true, value_name = "CONFLIST")]
        files: Vec<PathBuf>,

        /// Where a conflist is not there, copy this one.
        #[arg(long, value_name = "FILE")]
        new: Option<PathBuf>,

        /// Look whether that can be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make conflists again what they were before portclaim.
    Remove {
        /// The conflists.
        #[arg(required = true, value_name = "CONFLIST")]
        files: Vec<PathBuf>,
    },
}

pub fn run(out: &mut impl Write, options: &Options) -> anyhow::Result<ExitCode> {
    match &options.action {
        Action::Add { files, new, dry_run } => {
            for file in files {
                writeln!(out, "{}", add(file, new.as_deref(), *dry_run)?)?;
            }
        }
        Action::Remove { files } => {
            for file in files {
                writeln!(out, "{}", remove(file)?)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns what was done, or would be.
fn add(file: &Path, new: Option<&Path>, dry_run: bool) -> anyhow::Result<String> {
    let name = file.display();
    let Some(there) = existing(file)? else {
        let Some(new) = new else { bail!("there is no {name}") };
        let text = read(new)?;
        if site::parse(text.as_bytes(), new)?.is_empty() {
            bail!("{} has no plugin of type \"portclaim\"", new.display());
        }
        if dry_run {
            return Ok(format!("{name} would be there"));
        }
        replace(&before(file), "", None)?;
        replace(file, &text, None)?;
        return Ok(format!("{name} is there now"));
    };
    let text = read(&there)?;
    let added = conflist::add(&text).with_context(|| format!("cannot add portclaim to {name}"))?;
    let Some(added) = added else { return Ok(format!("{name} has portclaim already")) };
    // What portmap is told may be nothing that portclaim takes.
    site::parse(added.as_bytes(), file)?;
    if dry_run {
        return Ok(format!("{name} would have portclaim"));
    }
    let metadata = fs::metadata(&there).with_context(|| format!("cannot read {name}"))?;
    let backup = before(&there);
    replace(&backup, &text, Some(&metadata))?;
    replace(&there, &added, Some(&metadata))?;
    Ok(format!("{name} has portclaim now; {} is what it was", backup.display()))
}

/// Returns what was done.
fn remove(file: &Path) -> anyhow::Result<String> {
    let name = file.display();
    let Some(there) = existing(file)? else { return Ok(format!("there is no {name}")) };
    let text = read(&there)?;
    let backup = before(&there);
    let was = if backup.exists() { Some(read(&backup)?) } else { None };
    let added = was.as_deref().and_then(|was| conflist::add(was).ok().flatten());
    if was.as_deref() == Some("") {
        delete(&there)?;
        delete(&backup)?;
        return Ok(format!("{name} is gone, as it was not there before portclaim"));
    }
    if added.as_ref() == Some(&text) {
        fs::rename(&backup, &there).with_context(|| format!("cannot replace {name}"))?;
        return Ok(format!("{name} is what it was before portclaim"));
    }
    let removed = conflist::remove(&text, was.as_deref());
    let removed = removed.with_context(|| format!("cannot remove portclaim from {name}"))?;
    if let Some(removed) = &removed {
        let metadata = fs::metadata(&there).with_context(|| format!("cannot read {name}"))?;
        replace(&there, removed, Some(&metadata))?;
    }
    if was.is_some() {
        delete(&backup)?;
    }
    Ok(match removed {
        Some(_) => format!("{name} has no portclaim any more; other changes to it are kept"),
        None => format!("{name} has no portclaim"),
    })
}

/// The file behind all links; none where it is not there.
fn existing(file: &Path) -> anyhow::Result<Option<PathBuf>> {
    match fs::canonicalize(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn delete(file: &Path) -> anyhow::Result<()> {
    fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))
}

/// Where the conflist is kept as it was.
fn before(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".before-portclaim");
    name.into()
}

/// Puts the text in the place of the file, at once, with owner and mode of another one;
/// it is on disk before it is seen.
fn replace(file: &Path, text: &str, like: Option<&Metadata>) -> anyhow::Result<()> {
    const FOR_ALL_TO_READ: u32 = 0o644;
    let mut new = OsString::from(file);
    new.push(".portclaim-new");
    let new = PathBuf::from(new);
    let write = || {
        let mut out = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FOR_ALL_TO_READ)
            .open(&new)?;
        let mode = like.map_or(FOR_ALL_TO_READ, Metadata::mode);
        out.set_permissions(Permissions::from_mode(mode))?;
        let own = out.metadata()?;
        // In a container, root may not give files away.
        if let Some(like) = like.filter(|l| (l.uid(), l.gid()) != (own.uid(), own.gid())) {
            fchown(&out, Some(like.uid()), Some(like.gid()))?;
        }
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&new, file)
    };
    write().map_err(|error| {
        _ = fs::remove_file(&new);
        anyhow::Error::from(error).context(format!("cannot write {}", file.display()))
    })
}
