//! What the plugin's calls leave behind to be counted: how many there were and how long
//! they took, what was given and refused, what of the kernel had to be put right.
//!
//! ```text
//! <runDir>/calls/totals   7                                    the log that is not in it yet
//!                         {"calls/ADD/10000":41,"time/ADD":371220,…}
//! <runDir>/calls/log.7    {"calls/ADD/10000":1,"time/ADD":9120,…}      a line for each call
//! <runDir>/calls/log.8    what comes when log.7 is full
//! <runDir>/calls/lock     root's own, held by whoever adds up
//! ```
//!
//! A call appends its line with one write, when its reply is out, and waits for nobody.
//! A log is full at 64 KiB: a line that begins before that counts, and one that begins
//! behind it does not, so its call writes it again, into the next log. A full log thus
//! never changes in what counts. Whoever finds one adds it to the totals, which replace
//! the former by rename(2), makes the log after the next and removes the full one; of
//! several, one does it, and the others have better things to do. Lines are whole, or
//! they are no JSON and are passed over.
//!
//! So what is there is bounded, nobody is kept waiting, readers need no lock, and each
//! call counts once since boot, whether anybody reads or not.
//!
//! Limits: calls do not count for which memory has no room, those that have no
//! configuration to say where `runDir` is, and, on a node without an ADD since boot,
//! other verbs. If the one who adds up is stopped while two logs fill, those that come
//! then do not count.

mod counter;
mod totals;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

pub use counter::{BOUNDS, Counter};
use rustix::{
    fs::{FlockOperation, flock},
    thread::gettid,
};
use serde_json::{Map, Value};
pub use totals::Totals;

use crate::{
    cni::Verb,
    lease::{GroupName, Protocol},
};

/// The folder.
const CALLS: &str = "calls";
const TOTALS: &str = "totals";
/// Held by whoever adds up.
const LOCK: &str = "lock";
/// Where a log is full, in bytes.
const FULL: u64 = 64 * 1024;
/// The largest totals that are read, in bytes.
const LARGEST: u64 = 1 << 20;
/// How often a call looks again when the logs were changed under it.
const ATTEMPTS: u32 = 8;

/// By how much each counter grows, by its name.
type Growth = Map<String, Value>;

/// What one call came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(Growth);

impl Tally {
    /// The call itself, and how long it took.
    pub fn call(&mut self, verb: Verb, took: Duration) {
        self.grow(&Counter::Calls(verb, counter::bound(took)), 1);
        self.grow(&Counter::Time(verb), counter::micros(took));
    }

    /// How long it waited for the store's lock.
    pub fn wait(&mut self, waited: Duration) {
        self.grow(&Counter::Waits(counter::bound(waited)), 1);
        self.grow(&Counter::WaitTime, counter::micros(waited));
    }

    /// A host port that was given.
    pub fn port(&mut self, group: Option<&GroupName>, protocol: Protocol) {
        self.grow(&Counter::Ports(group.cloned(), protocol), 1);
    }

    /// That it failed, with which CNI code and why, in a word.
    pub fn refusal(&mut self, verb: Verb, code: u32, reason: &'static str) {
        self.grow(&Counter::Refusals(verb, code, reason.to_owned()), 1);
    }

    /// Tables that were not as they had been left, and were made anew.
    pub fn tables(&mut self, count: u64) {
        self.grow(&Counter::Tables, count);
    }

    /// Elements that were not what the database says.
    pub fn elements(&mut self, count: u64) {
        self.grow(&Counter::Elements, count);
    }

    fn grow(&mut self, counter: &Counter, by: u64) {
        if by > 0 {
            grow(&mut self.0, counter.to_string(), by);
        }
    }

    /// Adds it to what there is in `runDir`; where nothing is, only if the call may
    /// create it. Reports nothing: who called the plugin has its reply.
    pub fn leave(&self, run_dir: &Path, may_create: bool) {
        if let Err(error) = self.append(&run_dir.join(CALLS), may_create) {
            log::debug!("this call is not counted in {}: {error}", run_dir.display());
        }
    }

    fn append(&self, dir: &Path, may_create: bool) -> io::Result<()> {
        // An earlier line that is not whole shall not spoil this one.
        let line = format!("\n{}\n", Value::from(self.0.clone()));
        for _ in 0..ATTEMPTS {
            let Some(first) = first_log(dir)? else {
                if !may_create {
                    return Ok(());
                }
                begin(dir)?;
                continue;
            };
            match append_to(&log(dir, first), &line) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // It is in the totals by now.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            let counts = append_to(&log(dir, first + 1), &line);
            fold(dir)?;
            match counts {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::ResourceBusy.into())
    }
}

/// Removes what all calls have left.
pub fn clear(run_dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(run_dir.join(CALLS)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn grow(counts: &mut Growth, counter: String, by: u64) {
    let count = counts.entry(counter).or_insert(Value::from(0));
    *count = count.as_u64().unwrap_or(0).saturating_add(by).into();
}

fn log(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log.{number}"))
}

/// Whether the line counts: it does not where the log is full.
fn append_to(log: &Path, line: &str) -> io::Result<bool> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file = OpenOptions::new().append(true).custom_flags(flags).open(log)?;
    if file.metadata()?.len() >= FULL {
        return Ok(false);
    }
    // Not `write_all`: between two writes there may be one of another call.
    if file.write(line.as_bytes())? < line.len() {
        return Err(ErrorKind::StorageFull.into());
    }
    let end = file.stream_position()?;
    Ok(end - (line.len() as u64) < FULL)
}

/// The number of the first log that is not in the totals; none where nothing is.
fn first_log(dir: &Path) -> io::Result<Option<u64>> {
    // A number, the end of its line, and no more.
    let Some(text) = read(&dir.join(TOTALS), 24)? else { return Ok(None) };
    let number = text.lines().next().and_then(|line| line.parse().ok());
    number.map(Some).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// The text of a file, up to so many bytes; none without the file.
fn read(path: &Path, limit: u64) -> io::Result<Option<String>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Makes what the first call of a boot finds missing. Others may do the same at once.
fn begin(dir: &Path) -> io::Result<()> {
    let everybody = Permissions::from_mode(0o755);
    for folder in dir.parent().into_iter().chain([dir]) {
        match DirBuilder::new().mode(0o755).create(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            // Whatever the umask of the runtime is.
            created => created.and_then(|()| fs::set_permissions(folder, everybody.clone()))?,
        }
    }
    for number in [0, 1] {
        create(&log(dir, number))?;
    }
    let new = write_totals(dir, 0, &Growth::new())?;
    let linked = fs::hard_link(&new, dir.join(TOTALS));
    fs::remove_file(new)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A file that everybody may read, as it is if it is there.
fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    Ok(file)
}

/// Writes totals, to be put in their place.
fn write_totals(dir: &Path, first: u64, counts: &Growth) -> io::Result<PathBuf> {
    let new = dir.join(format!("{TOTALS}.{}", gettid().as_raw_nonzero()));
    // Of one that was killed, and had the same number.
    _ = fs::remove_file(&new);
    let text = format!("{first}\n{}\n", Value::from(counts.clone()));
    let written = create(&new).and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = written {
        _ = fs::remove_file(&new);
        return Err(error);
    }
    Ok(new)
}

/// Adds the first log to the totals if it is full, unless somebody else is at it.
fn fold(dir: &Path) -> io::Result<()> {
    // The folder itself everybody may open, and lock.
    let guard = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(LOCK))?;
    if flock(&guard, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let Some((first, mut counts)) = totals::read_totals(dir)? else { return Ok(()) };
    let Some(text) = totals::read_log(dir, first)? else { return Ok(()) };
    if (text.len() as u64) < FULL {
        return Ok(());
    }
    totals::add_up(&mut counts, &text);
    create(&log(dir, first + 2))?;
    let new = write_totals(dir, first + 1, &counts)?;
    fs::rename(new, dir.join(TOTALS))?;
    // Also that of one who was killed here.
    for done in [Some(first), first.checked_sub(1)].into_iter().flatten() {
        _ = fs::remove_file(log(dir, done));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
