//! Generations: which one to start from.
//!
//! In the boot that wrote it, the truth is `current` and its journal, else the
//! generation before it and both journals. `durable` tells the boot: its target was
//! fsynced whole, so no power cut tears its seal. In a later boot the truth is
//! `durable` and what the power cut left of its journal; what came after that was only
//! ever about attachments, and is used only where its seal shows that it is whole and
//! `durable` is not.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    Store, StoreError,
    copy::copy,
    create_dir,
    database::{Database, size_of},
    error::At,
    journal::{Journal, Position},
    scratch::Scratch,
    seal::Seal,
    working,
};

/// The link to the newest generation. Each commit replaces it by rename(2).
pub const CURRENT: &str = "current";
/// The link to the newest generation that was fsynced whole.
pub(super) const DURABLE: &str = "durable";

pub(super) const GENERATION: &str = "generation.";

/// Where a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Absent,
    To(u64),
    Broken,
}

impl Link {
    pub(super) fn read(dir: &Path, name: &str) -> Result<Self, StoreError> {
        let path = dir.join(name);
        match fs::read_link(&path) {
            Ok(target) => Ok(target.to_str().and_then(number).map_or(Self::Broken, Self::To)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::Absent),
            // No link at all.
            Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(Self::Broken),
            Err(e) => Err(e).at("read", &path),
        }
    }

    pub(super) fn number(self) -> Option<u64> {
        if let Self::To(number) = self { Some(number) } else { None }
    }
}

/// A database that was opened in a private directory.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) database: Database,
    /// The generation that it came from; none in a new store.
    pub(super) number: Option<u64>,
    /// What a commit may be appended to: none unless the generation is the current one,
    /// of this boot and this version, and whole.
    pub(super) journal: Option<Appendix>,
    /// Newer generations that could not be read.
    pub(super) damaged: Vec<u64>,
    /// The number for the generation that is made of it.
    pub(super) next: u64,
    /// Whether the next commit must be durable: none in this boot was.
    pub(super) durable: bool,
    /// Generations that were never linked: their writers were killed.
    pub(super) unlinked: Vec<u64>,
    /// Whether the database is due to be rebuilt.
    pub(super) bloated: bool,
}

/// The journal of the current generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Appendix {
    pub(super) generation: u64,
    /// Where the journal ends.
    pub(super) end: Position,
    /// Whether the generation was fsynced whole.
    pub(super) is_durable: bool,
    /// Whether another generation is due, however long the journal is: there is none to
    /// fall back on, or none that this one was made of, as after a boot.
    pub(super) is_last: bool,
}

/// What there is in the directory.
#[derive(Debug)]
struct Survey {
    current: Link,
    durable: Link,
    /// Whether `durable` was written in the running boot.
    durable_is_of_boot: bool,
    /// Whether anything was.
    is_of_boot: bool,
    /// The numbers of all generations, the highest first.
    numbers: Vec<u64>,
    /// What to start from, the best first.
    candidates: Vec<u64>,
}

impl Survey {
    fn of(dir: &Path, boot: &str) -> Result<Self, StoreError> {
        let current = Link::read(dir, CURRENT)?;
        let durable = Link::read(dir, DURABLE)?;
        let numbers = numbers(dir)?;
        let newest: Vec<u64> = match current {
            Link::To(current) => {
                let before = numbers.iter().find(|number| **number < current);
                [current].into_iter().chain(before.copied()).collect()
            }
            Link::Absent | Link::Broken => numbers.iter().copied().take(2).collect(),
        };
        let is_of_boot =
            |number: u64| Seal::read(&path(dir, number)).is_ok_and(|seal| seal.boot == boot);
        let durable_is_of_boot = durable.number().is_some_and(is_of_boot);
        let any_is_of_boot = durable_is_of_boot || newest.iter().copied().any(is_of_boot);
        let mut candidates = newest;
        if let Link::To(durable) = durable
            && !any_is_of_boot
        {
            candidates.retain(|candidate| *candidate != durable);
            candidates.insert(0, durable);
        }
        Ok(Self {
            current,
            durable,
            durable_is_of_boot,
            is_of_boot: any_is_of_boot,
            numbers,
            candidates,
        })
    }

    /// Whether nothing was ever committed here, neither in this boot nor in an
    /// earlier one: the first commit makes generation 1, and makes it durable.
    fn is_new(&self) -> bool {
        let first_is_unfinished = match self.current {
            Link::Absent => true,
            Link::To(number) => number == 1 && !self.is_of_boot,
            Link::Broken => false,
        };
        self.durable == Link::Absent
            && first_is_unfinished
            && self.numbers.iter().all(|number| *number == 1)
    }

    fn next(&self) -> u64 {
        let highest = self.numbers.first().copied().max(self.current.number());
        highest.unwrap_or(0) + 1
    }

    /// Opens the working copy, where there is one that goes on from the current
    /// generation.
    fn open_working(&self, store: &Store) -> Result<Option<(Base, Scratch)>, StoreError> {
        let (Some(work), Some(number)) = (&store.work, self.current.number()) else {
            return Ok(None);
        };
        let generation = path(&store.dir, number);
        // Whatever is wrong here, it is found, and told, when the generation is opened.
        let (Ok(seal), Ok(journal)) = (Seal::read(&generation), Journal::read(&generation)) else {
            return Ok(None);
        };
        let Some(id) = seal.id.filter(|_| seal.boot == store.boot) else { return Ok(None) };
        let Some(scratch) = working::take(work, &store.dir)? else { return Ok(None) };
        let Some(database) = Database::open_working(scratch.path(), seal.lineage)? else {
            return Ok(None);
        };
        let is_whole = journal.is_whole(id);
        // What the generation was made of is where its journal starts.
        let held = database.position().and_then(|held| match journal.start.base {
            Some(base) if is_whole && base == held => Some(journal.start.position()),
            _ => Some(held).filter(|held| held.id == id),
        });
        // Others may have worked elsewhere since; then the journal is longer.
        let has_all = |held: Position| {
            held.length >= journal.length && (!is_whole || held.length > journal.end.length)
        };
        let journal = if is_whole && held == Some(journal.end) {
            Some(&journal)
        } else if held.is_some_and(has_all) {
            log::error!("{}; going on from {}", journal.damage(), scratch.path().display());
            None
        } else {
            return Ok(None);
        };
        let base = self.base(database, Some(number), journal, Vec::new(), &scratch)?;
        Ok(Some((base, scratch)))
    }

    /// Tries the candidates in turn; none when the link moved meanwhile, as it
    /// may when this is a reader.
    fn open(&self, dir: &Path, boot: &str, scratch: &Scratch) -> Result<Option<Base>, StoreError> {
        let mut causes = Vec::new();
        let mut damaged = Vec::new();
        if self.current == Link::Absent && self.is_new() {
            return self.base(fresh(scratch)?, None, None, damaged, scratch).map(Some);
        }
        if self.current.number().is_none() {
            causes.push(StoreError::Link { path: dir.join(CURRENT) });
        }
        for &candidate in &self.candidates {
            match open(&path(dir, candidate), boot, self.is_of_boot, scratch) {
                Ok((mut database, journal, is_of_boot)) => {
                    for cause in &causes {
                        let from = path(dir, candidate);
                        log::error!("{}; going on from {}", cause.with_cause(), from.display());
                    }
                    for damaged in &damaged {
                        go_on(&mut database, journal.as_ref(), &path(dir, *damaged))?;
                    }
                    if !is_of_boot {
                        database.end_boot()?;
                    }
                    let is_current = self.current == Link::To(candidate) && damaged.is_empty();
                    let journal = journal.as_ref().filter(|_| is_current && is_of_boot);
                    return self
                        .base(database, Some(candidate), journal, damaged, scratch)
                        .map(Some);
                }
                Err(e) if e.is_damage() => {
                    if Link::read(dir, CURRENT)? != self.current {
                        return Ok(None);
                    }
                    causes.push(e);
                    damaged.push(candidate);
                }
                Err(e) => return Err(e),
            }
        }
        if self.is_new() {
            scratch.clear()?;
            return self.base(fresh(scratch)?, None, None, damaged, scratch).map(Some);
        }
        Err(StoreError::Damaged { dir: dir.to_owned(), causes })
    }

    fn base(
        &self,
        database: Database,
        number: Option<u64>,
        journal: Option<&Journal>,
        damaged: Vec<u64>,
        scratch: &Scratch,
    ) -> Result<Base, StoreError> {
        let linked = self.current.number().or(number);
        let is_unlinked = |n: &u64| linked.is_none_or(|linked| *n > linked);
        let bloated = database.is_bloated(size_of(scratch.path())?);
        let appendix = |(generation, journal): (_, &Journal)| Appendix {
            generation,
            end: journal.end,
            is_durable: self.durable == Link::To(generation),
            is_last: journal.start.base.is_none()
                || self.numbers.iter().all(|other| *other >= generation),
        };
        Ok(Base {
            database,
            number,
            journal: number.zip(journal).map(appendix),
            damaged,
            next: self.next(),
            durable: !self.durable_is_of_boot,
            unlinked: self.numbers.iter().copied().filter(is_unlinked).collect(),
            bloated,
        })
    }
}

/// Opens what holds now in a private directory that `create` makes: a copy, or, for who
/// holds the lock, the working copy itself. Where there is no place for it in memory,
/// the disk will do.
pub(super) fn open_base(
    store: &Store,
    create: fn(&Path) -> Result<Scratch, StoreError>,
    may_take: bool,
) -> Result<(Base, Scratch), StoreError> {
    if may_take {
        let survey = Survey::of(&store.dir, &store.boot)?;
        match survey.open_working(store) {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => {}
            Err(e) => log::warn!("the working copy is of no use: {}", e.with_cause()),
        }
    }
    let open_in = |dir| {
        let scratch = create(dir)?;
        // The links may move meanwhile, each time because a writer committed.
        loop {
            let survey = Survey::of(&store.dir, &store.boot)?;
            if let Some(base) = survey.open(&store.dir, &store.boot, &scratch)? {
                return Ok((base, scratch));
            }
        }
    };
    if let Some(work) = &store.work {
        match create_dir(work).and_then(|()| open_in(work)) {
            Err(e @ StoreError::Io { .. }) => {
                let (e, dir) = (e.with_cause(), store.dir.display());
                log::warn!("{e}; working in {dir} instead");
            }
            opened => return opened,
        }
    }
    open_in(&store.dir)
}

/// An empty database, which descends from nothing.
fn fresh(scratch: &Scratch) -> Result<Database, StoreError> {
    let mut database = Database::open(scratch.path(), 0, 0)?;
    database.begin_lineage();
    Ok(database)
}

/// Opens a private copy of one generation, with what is in its journal, which comes too if
/// it can be gone on with; tells whether all that is of the running boot.
fn open(
    generation: &Path,
    boot: &str,
    must_be_of_boot: bool,
    scratch: &Scratch,
) -> Result<(Database, Option<Journal>, bool), StoreError> {
    scratch.clear()?;
    let seal = copy(generation, scratch.path())?;
    let is_of_boot = seal.boot == boot;
    if must_be_of_boot && !is_of_boot {
        return Err(StoreError::Boot { path: generation.to_owned() });
    }
    let mut database = Database::open(scratch.path(), seal.live, seal.lineage)?;
    let mut gone_through = None;
    if let Some(id) = seal.id {
        let journal = Journal::read(generation)?;
        // A power cut may end it anywhere behind what was synced.
        if journal.start.id != id || is_of_boot && !journal.is_whole(id) {
            return Err(journal.damage());
        }
        database.replay(&journal)?;
        gone_through = Some(journal);
    }
    if database.is_former() {
        database.migrate()?;
        gone_through = None;
    }
    Ok((database, gone_through, is_of_boot))
}

/// Does again what the journal of a damaged generation says, if that generation was made
/// of what the database holds.
fn go_on(
    database: &mut Database,
    before: Option<&Journal>,
    damaged: &Path,
) -> Result<(), StoreError> {
    let end = before.map(|before| before.end);
    match Journal::read(damaged) {
        Ok(journal) if end.is_some() && journal.start.base == end => database.replay(&journal),
        // What does not go on from there is part of what is lost.
        _ => Ok(()),
    }
}

/// Where a generation is.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{GENERATION}{number}"))
}

/// The number of `generation.<number>`, written the one way it is written here.
fn number(name: &str) -> Option<u64> {
    let number = name.strip_prefix(GENERATION)?.parse().ok()?;
    (format!("{GENERATION}{number}") == name).then_some(number)
}

/// The numbers of all generations, the highest first; none without a directory.
pub(super) fn numbers(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("list", dir)?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        numbers.extend(entry.at("list", dir)?.file_name().to_str().and_then(number));
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}
