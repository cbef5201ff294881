//! Making the kernel hold what the store says.
//!
//! Reads are single netlink requests about one table; every change is one
//! transaction, by netlink or by `nft`, so the kernel holds all of it or nothing.
//!
//! Limits: whoever empties one of the maps and leaves the rules alone is noticed
//! only by those whose elements are compared ([`Nat::check`], [`Nat::change`]).
//! The caller holds the node's lock: between reading and changing, other
//! processes of ours must not change the same table.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use super::{
    Difference, NatError,
    element::{Element, elements},
    json,
    kernel::{self, Held},
    program,
    ruleset::{self, Table},
    transaction::Step,
    wire,
};
use crate::{
    lease::{Backend, Forwarding},
    netlink::{End, Failed, Socket},
};

/// How much of what nft printed an error quotes. It repeats the input of every
/// command that failed.
const QUOTED_LINES: usize = 3;
const QUOTED_LENGTH: usize = 400;
/// How often a change is tried where others change the table in between.
const CHANGE_ATTEMPTS: u32 = 3;

/// What rules there are under a table's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// None: there is no such table, or it was flushed.
    None,
    /// Those that the table should have.
    Intact,
    /// Others: of another version, configuration or lineage, or not all.
    Other,
}

/// nftables on this host. The socket is opened and the program looked for when
/// they are first needed.
#[derive(Debug)]
pub struct Nat {
    backend: Backend,
    path: Option<OsString>,
    program: Option<PathBuf>,
    socket: Option<Socket>,
    drifted: u64,
}

impl Nat {
    /// `path` is the `PATH` to look for programs in, before the usual directories.
    #[must_use]
    pub fn new(backend: Backend, path: Option<&OsStr>) -> Self {
        Self { backend, path: path.map(OsStr::to_owned), program: None, socket: None, drifted: 0 }
    }

    /// By which way it is changed.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// How many elements were met, as others were changed, that were not what was left.
    #[must_use]
    pub fn drifted(&self) -> u64 {
        self.drifted
    }

    /// What rules the kernel has under the table's name. Says nothing about
    /// elements.
    pub fn rules(&mut self, table: &Table) -> Result<Rules, NatError> {
        let found = self.read(
            || format!("list the rules of table inet {}", table.name()),
            |socket| kernel::rules(socket, table.name()),
        )?;
        let comments = found.iter().map(|(chain, comment)| (&**chain, &**comment));
        Ok(if found.is_empty() {
            Rules::None
        } else if table.comments().eq(comments) {
            Rules::Intact
        } else {
            Rules::Other
        })
    }

    /// Whether the table is there and has the rules it should have.
    pub fn is_intact(&mut self, table: &Table) -> Result<bool, NatError> {
        Ok(self.rules(table)? == Rules::Intact)
    }

    /// Every way in which the kernel differs from the table and these elements;
    /// other elements are not looked at.
    pub fn check(
        &mut self,
        table: &Table,
        elements: &[Element],
    ) -> Result<Vec<Difference>, NatError> {
        let mut differences = Vec::new();
        if !self.is_intact(table)? {
            differences.push(Difference::Rules { table: table.name().to_owned() });
        }
        differences.extend(self.compare(table, elements)?);
        Ok(differences)
    }

    /// Every way in which the kernel differs from these elements. Costs one
    /// request for each.
    pub fn compare(
        &mut self,
        table: &Table,
        elements: &[Element],
    ) -> Result<Vec<Difference>, NatError> {
        let mut differences = Vec::new();
        let name = || table.name().to_owned();
        for element in elements {
            match self.held(table, element)? {
                None => differences
                    .push(Difference::Missing { table: name(), element: element.clone() }),
                Some(held) if held.data != element.data_bytes() => {
                    differences.push(Difference::Elsewhere {
                        table: name(),
                        element: element.clone(),
                        found: show(&held.data),
                    });
                }
                Some(_) => {}
            }
        }
        Ok(differences)
    }

    /// Removes elements and adds others, in one transaction.
    ///
    /// What is to be removed and is absent, or is there with other data (it is
    /// not what was added then), is left alone, and so is what is to be added
    /// and is there. What is there under the key of an element to be added, with
    /// other data or another owner, is replaced. Where others, which do not hold the
    /// node's lock, changed that between reading and writing, it is read again.
    ///
    /// The table must be there unless there is nothing to add: see
    /// [`Nat::is_intact`] and [`Nat::rebuild`].
    pub fn change(
        &mut self,
        table: &Table,
        remove: &[Element],
        add: &[Element],
    ) -> Result<(), NatError> {
        let what = || format!("change the elements of table inet {}", table.name());
        self.transact_anew(what, |nat| nat.plan(table, remove, add))
    }

    /// Carries out what `plan` makes of what is there; where that is outdated by then
    /// (something is gone or has come), of what is there now.
    fn transact_anew<'a>(
        &mut self,
        what: impl Fn() -> String,
        mut plan: impl FnMut(&mut Self) -> Result<Vec<Step<'a>>, NatError>,
    ) -> Result<(), NatError> {
        use io::ErrorKind::{AlreadyExists, NotFound};
        let drifted = self.drifted;
        let mut attempts = 1;
        loop {
            let steps = plan(self)?;
            match self.transact(&steps, &what) {
                Err(NatError::Refused { source, .. })
                    if attempts < CHANGE_ATTEMPTS
                        && matches!(source.kind(), NotFound | AlreadyExists) =>
                {
                    attempts += 1;
                    self.drifted = drifted;
                }
                done => return done,
            }
        }
    }

    fn plan<'a>(
        &mut self,
        table: &'a Table,
        remove: &'a [Element],
        add: &'a [Element],
    ) -> Result<Vec<Step<'a>>, NatError> {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for element in add {
            match self.held(table, element)? {
                Some(held) if is_held(element, &held) => continue,
                Some(held) => {
                    self.drifted += 1;
                    log::warn!(
                        "table inet {} map {} leads from {element} to {} ({}): replaced",
                        table.name(),
                        element.set().name(),
                        show(&held.data),
                        held.comment.as_deref().unwrap_or("no comment"),
                    );
                    removed.push(element);
                }
                None => {}
            }
            added.push(element);
        }
        let added_keys: HashSet<_> = add.iter().map(Element::identity).collect();
        for element in remove.iter().filter(|e| !added_keys.contains(&e.identity())) {
            match self.held(table, element)? {
                Some(held) if held.data == element.data_bytes() => removed.push(element),
                Some(held) => {
                    self.drifted += 1;
                    log::warn!(
                        "table inet {} map {} leads from {element} to {} and not to {}: left alone",
                        table.name(),
                        element.set().name(),
                        show(&held.data),
                        element.target().unwrap_or_default(),
                    );
                }
                None => {}
            }
        }
        Ok(table.change(&removed, &added))
    }

    /// Replaces the table, whatever it holds and whether or not it is there, by
    /// one with the elements of these forwardings, in one transaction. Packets
    /// meet the old table or the new one, never none.
    pub fn rebuild<'a>(
        &mut self,
        table: &Table,
        forwardings: impl IntoIterator<Item = &'a Forwarding>,
    ) -> Result<(), NatError> {
        let content = [(table, elements_of(forwardings))];
        let what = || format!("write table inet {}", table.name());
        self.transact(&ruleset::replacement(&content), what)
    }

    /// Does the same to several tables, all in one transaction.
    pub fn rebuild_all(&mut self, tables: &[(&Table, &[Forwarding])]) -> Result<(), NatError> {
        let content = tables.iter().map(|(table, held)| (*table, elements_of(*held)));
        let content: Vec<_> = content.collect();
        self.transact(&ruleset::replacement(&content), || {
            let names: Vec<_> = tables.iter().map(|(table, _)| table.name()).collect();
            format!("write tables inet {}", names.join(", "))
        })
    }

    /// Deletes tables of ours, by their names, in one transaction.
    pub fn delete(&mut self, tables: &[String]) -> Result<(), NatError> {
        let what = || format!("delete tables inet {}", tables.join(", "));
        self.transact(&ruleset::deletion(tables), what)
    }

    /// Asks the kernel, by way of the backend, whether it would take the table, and
    /// changes nothing.
    pub fn probe(&mut self, table: &Table) -> Result<(), NatError> {
        let content = [(table, Vec::new())];
        self.try_to(&ruleset::replacement(&content), End::Abort, || {
            format!("check whether table inet {} can be written", table.name())
        })
    }

    fn held(&mut self, table: &Table, element: &Element) -> Result<Option<Held>, NatError> {
        self.read(
            || {
                let set = element.set().name();
                format!("read element {element} of {set} in table inet {}", table.name())
            },
            |socket| kernel::element(socket, table.name(), element),
        )
    }

    pub(super) fn read<T>(
        &mut self,
        what: impl Fn() -> String,
        ask: impl FnOnce(&mut Socket) -> io::Result<T>,
    ) -> Result<T, NatError> {
        self.socket().and_then(ask).map_err(|source| {
            self.socket = None;
            NatError::Netlink { what: what(), source }
        })
    }

    /// To be dropped where something failed: answers may be left in it, or lost.
    fn socket(&mut self) -> io::Result<&mut Socket> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            none => Ok(none.insert(Socket::netfilter()?)),
        }
    }

    pub(super) fn program(&mut self) -> Result<&Path, NatError> {
        if self.program.is_none() {
            self.program = self.find(program::NFT);
        }
        self.program.as_deref().ok_or(NatError::NftNotFound)
    }

    /// A program, by its name.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        program::find(name, self.path.as_deref())
    }

    /// Carries out a transaction; nothing is asked where there is nothing to do.
    pub(super) fn transact(
        &mut self,
        steps: &[Step<'_>],
        what: impl Fn() -> String,
    ) -> Result<(), NatError> {
        if steps.is_empty() { Ok(()) } else { self.try_to(steps, End::Commit, what) }
    }

    fn try_to(
        &mut self,
        steps: &[Step<'_>],
        end: End,
        what: impl Fn() -> String,
    ) -> Result<(), NatError> {
        match self.backend {
            Backend::Netlink => self.send(steps, end, what),
            Backend::Nft => self.run(steps, end, what),
        }
    }

    fn send(
        &mut self,
        steps: &[Step<'_>],
        end: End,
        what: impl Fn() -> String,
    ) -> Result<(), NatError> {
        let (messages, steps_of) = wire::messages(steps);
        let socket = self.socket();
        let socket = socket.map_err(|source| NatError::Netlink { what: what(), source })?;
        socket.transact(wire::SUBSYSTEM, &messages, end).map_err(|failed| {
            self.socket = None;
            let what = what();
            let (message, source) = match failed {
                Failed::Unanswered(source) => return NatError::Unanswered { what, source },
                Failed::Refused { message, source } => (message, source),
            };
            match message.and_then(|message| steps.get(*steps_of.get(message)?)) {
                Some(step) => NatError::Refused { what, object: step.to_string(), source },
                None => NatError::Netlink { what, source },
            }
        })
    }

    fn run(
        &mut self,
        steps: &[Step<'_>],
        end: End,
        what: impl Fn() -> String,
    ) -> Result<(), NatError> {
        let program = self.program()?;
        let output = program::run(program, &json::commands(steps), end == End::Abort)
            .map_err(|source| NatError::NftNotRun { program: program.to_owned(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let printed = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        Err(NatError::NftFailed { what: what(), message: quote(printed), status: output.status })
    }
}

fn is_held(element: &Element, held: &Held) -> bool {
    held.data == element.data_bytes() && held.comment.as_deref() == element.comment()
}

/// What these need in their table, each element once.
pub(super) fn elements_of<'a>(
    forwardings: impl IntoIterator<Item = &'a Forwarding>,
) -> Vec<Element> {
    let mut seen = HashSet::new();
    let all = forwardings.into_iter().flat_map(elements);
    all.filter(|element| seen.insert(element.identity())).collect()
}

/// What a map leads to, from its bytes.
pub(super) fn show(data: &[u8]) -> String {
    if let Ok(octets) = <[u8; 4]>::try_from(data) {
        Ipv4Addr::from(octets).to_string()
    } else if let Ok(octets) = <[u8; 16]>::try_from(data) {
        Ipv6Addr::from(octets).to_string()
    } else if let Ok(port) = <[u8; 2]>::try_from(data) {
        u16::from_be_bytes(port).to_string()
    } else {
        format!("{data:02x?}")
    }
}

/// The first lines of what nft printed, in one.
pub(super) fn quote(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut quoted: String = lines.take(QUOTED_LINES).collect::<Vec<_>>().join("; ");
    if let Some((end, _)) = quoted.char_indices().nth(QUOTED_LENGTH) {
        quoted.truncate(end);
        quoted.push('…');
    }
    if quoted.is_empty() { "it printed nothing".to_owned() } else { quoted }
}

#[cfg(test)]
mod tests;
