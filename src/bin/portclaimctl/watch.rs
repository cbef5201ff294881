//! Waiting until the store holds something else: each commit is appended to the journal
//! that the link `current` in `dataDir` leads to, or replaces the link. Nothing is
//! polled, and nothing locked.
//!
//! Limits: a folder above `dataDir` that is renamed or replaced is not noticed.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use portclaim::store;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

/// What ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something was committed, or `dataDir` came or went.
    Changed,
    /// Whoever reads standard output has gone.
    Unread,
}

/// A watch on a directory, whether it is there or not.
pub struct Watch {
    inotify: OwnedFd,
    data_dir: PathBuf,
    /// What is watched: `data_dir`, or the lowest folder above it that is there.
    folder: PathBuf,
    /// Its number; none once it has gone.
    number: Option<i32>,
    /// The number of the current journal; none where there is none.
    journal: Option<i32>,
}

impl Watch {
    /// Begins: what changes from now on ends the next wait.
    pub fn new(data_dir: &Path) -> anyhow::Result<Self> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).context("cannot watch for changes")?;
        let data_dir = std::path::absolute(data_dir)
            .with_context(|| format!("cannot find {}", data_dir.display()))?;
        let folder = data_dir.clone();
        let mut watch = Self { inotify, data_dir, folder, number: None, journal: None };
        watch.arm()?;
        Ok(watch)
    }

    /// Waits until there is something to read anew.
    pub fn wait(&mut self) -> anyhow::Result<Wake> {
        loop {
            let stdout = io::stdout();
            let mut descriptors = [
                PollFd::new(&self.inotify, PollFlags::IN),
                // A reader that goes is reported in any case.
                PollFd::new(&stdout, PollFlags::empty()),
            ];
            match poll(&mut descriptors, None) {
                Err(Errno::INTR) => continue,
                polled => polled.context("cannot wait for changes")?,
            };
            let gone = PollFlags::ERR | PollFlags::HUP;
            if descriptors[1].revents().intersects(gone) {
                return Ok(Wake::Unread);
            }
            if self.drain()? {
                return Ok(Wake::Changed);
            }
        }
    }

    /// Waits until there is something to read anew, so long at most.
    pub fn wait_for(&mut self, limit: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).context("cannot wait so long")?;
            let mut descriptors = [PollFd::new(&self.inotify, PollFlags::IN)];
            match poll(&mut descriptors, Some(&left)) {
                Err(Errno::INTR) => continue,
                Ok(0) => return Ok(()),
                polled => polled.context("cannot wait for changes")?,
            };
            if self.drain()? {
                return Ok(());
            }
        }
    }

    /// Reads the events there are, and tells whether one matters.
    fn drain(&mut self) -> anyhow::Result<bool> {
        let mut matters = false;
        let mut is_gone = false;
        let mut is_nearer = false;
        let mut is_moved = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("cannot watch for changes"),
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                matters = true;
                continue;
            }
            if Some(event.wd()) == self.journal {
                matters |= flags.contains(ReadFlags::MODIFY);
                continue;
            }
            // Events of a watch that was given up may still be in the queue.
            if Some(event.wd()) != self.number {
                continue;
            }
            let over = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
            is_gone |= flags.intersects(over);
            let name = event.file_name().map(std::ffi::CStr::to_bytes);
            if self.folder == self.data_dir {
                is_moved |= name == Some(store::CURRENT.as_bytes());
            } else {
                let rest = self.data_dir.strip_prefix(&self.folder).ok();
                let next = rest.and_then(|rest| rest.iter().next());
                is_nearer |= name == next.map(std::ffi::OsStr::as_encoded_bytes);
            }
        }
        if is_gone || is_nearer {
            let was_there = self.folder == self.data_dir;
            self.arm()?;
            matters |= was_there || self.folder == self.data_dir;
        } else if is_moved {
            matters = true;
            self.arm_journal()?;
        }
        Ok(matters)
    }

    /// Watches the journal of the current generation. What is appended before is read
    /// all the same: whoever is woken reads after this.
    fn arm_journal(&mut self) -> anyhow::Result<()> {
        if let Some(number) = self.journal.take() {
            // It goes by itself with its generation.
            _ = inotify::remove_watch(&self.inotify, number);
        }
        let path = self.data_dir.join(store::CURRENT).join(store::JOURNAL);
        match inotify::add_watch(&self.inotify, &path, WatchFlags::MODIFY) {
            Ok(number) => self.journal = Some(number),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot watch {}", path.display()));
            }
        }
        Ok(())
    }

    /// Watches `data_dir`, or what is nearest to it.
    fn arm(&mut self) -> anyhow::Result<()> {
        if let Some(number) = self.number.take() {
            // It may have gone by itself.
            _ = inotify::remove_watch(&self.inotify, number);
        }
        let own = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        let flags = own | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        loop {
            // What is made between two of these steps is seen in the next round: a
            // folder is watched before it is looked whether there is one below.
            for folder in self.data_dir.ancestors() {
                match inotify::add_watch(&self.inotify, folder, flags) {
                    Ok(number) => {
                        self.folder = folder.to_owned();
                        self.number = Some(number);
                        break;
                    }
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(error) => {
                        return Err(error)
                            .with_context(|| format!("cannot watch {}", folder.display()));
                    }
                }
            }
            let rest = self.data_dir.strip_prefix(&self.folder).unwrap_or(Path::new(""));
            let below = rest.iter().next().map(|next| self.folder.join(next));
            match (below, self.number) {
                (Some(below), Some(number)) if below.is_dir() => {
                    _ = inotify::remove_watch(&self.inotify, number);
                }
                _ => return self.arm_journal(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, os::unix::fs::symlink};

    use super::*;

    fn commit(dir: &Path, number: u32) {
        let (new, generation) = (dir.join("new"), format!("generation.{number}"));
        fs::create_dir_all(dir.join(&generation)).unwrap();
        append(&dir.join(&generation));
        symlink(generation, &new).unwrap();
        fs::rename(new, dir.join("current")).unwrap();
    }

    fn append(generation: &Path) {
        let mut file = fs::File::options();
        let file = file.create(true).append(true).open(generation.join("journal"));
        file.unwrap().write_all(b"x").unwrap();
    }

    #[test]
    fn commits_are_noticed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        fs::create_dir(&dir).unwrap();
        let mut watch = Watch::new(&dir).unwrap();
        fs::create_dir(dir.join("writing.1.1")).unwrap();
        fs::write(dir.join("lock"), "").unwrap();
        assert!(!watch.drain().unwrap());
        commit(&dir, 1);
        assert!(watch.drain().unwrap());
        assert!(!watch.drain().unwrap());
        commit(&dir, 2);
        commit(&dir, 3);
        assert!(watch.drain().unwrap());
        for _ in 0..2 {
            append(&dir.join("current"));
            assert!(watch.drain().unwrap());
            assert!(!watch.drain().unwrap());
        }
        append(&dir.join("generation.2"));
        assert!(!watch.drain().unwrap());
        fs::remove_dir_all(dir.join("generation.3")).unwrap();
        assert!(!watch.drain().unwrap());
        let mut later = Watch::new(&dir).unwrap();
        commit(&dir, 4);
        append(&dir.join("current"));
        for watch in [&mut watch, &mut later] {
            assert!(watch.drain().unwrap());
            append(&dir.join("current"));
            assert!(watch.drain().unwrap());
        }
    }

    #[test]
    fn a_directory_may_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("var/lib/data");
        let mut watch = Watch::new(&dir).unwrap();
        assert!(!watch.drain().unwrap());
        fs::create_dir(root.path().join("other")).unwrap();
        fs::create_dir(root.path().join("var")).unwrap();
        assert!(!watch.drain().unwrap());
        fs::create_dir_all(&dir).unwrap();
        commit(&dir, 1);
        assert!(watch.drain().unwrap());
        commit(&dir, 2);
        assert!(watch.drain().unwrap());
        // As somebody does with a damaged one.
        fs::rename(&dir, root.path().join("damaged")).unwrap();
        assert!(watch.drain().unwrap());
        fs::create_dir(&dir).unwrap();
        assert!(watch.drain().unwrap());
        commit(&dir, 1);
        assert!(watch.drain().unwrap());
        fs::remove_dir_all(root.path().join("var")).unwrap();
        assert!(watch.drain().unwrap());
        fs::create_dir_all(&dir).unwrap();
        assert!(watch.drain().unwrap());
        commit(&dir, 1);
        assert!(watch.drain().unwrap());
    }
}
