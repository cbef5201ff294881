//! Making the kernel hold what the store says.
//!
//! Reads are single netlink requests about one table; every change is one
//! transaction of `nft`, so the kernel holds all of it or nothing.
//!
//! Limits: whoever empties one of the maps and leaves the rules alone is noticed
//! only by those whose elements are compared ([`Nat::check`], [`Nat::change`]).
//! The caller holds the node's lock: between reading and changing, other
//! processes of ours must not change the same table.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use nftables::schema::Nftables;

use super::{
    element::{Element, elements},
    kernel::{self, Held},
    program,
    ruleset::{self, Table},
};
use crate::{lease::Forwarding, netlink::Socket};

/// How much of what nft printed an error quotes. It repeats the input of every
/// command that failed.
const QUOTED_LINES: usize = 3;
const QUOTED_LENGTH: usize = 400;

/// nftables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The program is not installed.
    #[error("cannot find nft in PATH, /usr/sbin, /sbin or /usr/local/sbin")]
    NftNotFound,
    /// The program could not be run.
    #[error("cannot run {}", program.display())]
    NftNotRun {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// nft or the kernel refused.
    #[error("cannot {what}: nft: {message} ({status})")]
    NftFailed {
        /// What was to be done.
        what: String,
        /// The first lines of what it printed.
        message: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The program is not installed.
    #[error("cannot find {0} in PATH, /usr/sbin, /sbin or /usr/local/sbin")]
    IptablesNotFound(&'static str),
    /// iptables or the kernel refused.
    #[error("{program}: {message} ({status})")]
    IptablesFailed {
        /// Its name.
        program: &'static str,
        /// The first lines of what it printed.
        message: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The kernel could not be asked.
    #[error("cannot {what} by netlink")]
    Netlink {
        /// What was to be read.
        what: String,
        /// Why.
        source: io::Error,
    },
}

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

/// What the kernel holds otherwise than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The table is absent, or its rules are not those of this version and
    /// configuration.
    Rules {
        /// The table.
        table: String,
    },
    /// An element is absent.
    Missing {
        /// The table.
        table: String,
        /// The element that should be there.
        element: Element,
    },
    /// A map leads elsewhere.
    Elsewhere {
        /// The table.
        table: String,
        /// The element that should be there.
        element: Element,
        /// What its key leads to.
        found: String,
    },
    /// An element of a lease is said to be somebody else's.
    Named {
        /// The table.
        table: String,
        /// The element that should be there.
        element: Element,
        /// Whose it is said to be.
        found: Option<String>,
    },
    /// An element is there, and nothing needs it.
    Foreign {
        /// The table.
        table: String,
        /// The map or set.
        set: &'static str,
        /// Its key, to be read.
        element: String,
        /// What it leads to, in a map.
        found: Option<String>,
        /// Whose it is said to be.
        owner: Option<String>,
    },
}

impl Difference {
    /// The element that should be there.
    #[must_use]
    pub fn element(&self) -> Option<&Element> {
        match self {
            Self::Missing { element, .. }
            | Self::Elsewhere { element, .. }
            | Self::Named { element, .. } => Some(element),
            Self::Rules { .. } | Self::Foreign { .. } => None,
        }
    }

    /// The name of the table.
    #[must_use]
    pub fn table(&self) -> &str {
        match self {
            Self::Rules { table }
            | Self::Missing { table, .. }
            | Self::Elsewhere { table, .. }
            | Self::Named { table, .. }
            | Self::Foreign { table, .. } => table,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |element: &Element| if element.set().is_map() { "map" } else { "set" };
        match self {
            Self::Rules { table } => {
                write!(f, "table inet {table} is absent or its rules are not those configured")
            }
            Self::Missing { table, element } => write!(
                f,
                "{} {} of table inet {table} has no element {element}",
                kind(element),
                element.set().name(),
            ),
            Self::Elsewhere { table, element, found } => write!(
                f,
                "{} {} of table inet {table} leads from {element} to {found} and not to {}",
                kind(element),
                element.set().name(),
                element.target().unwrap_or_default(),
            ),
            Self::Named { table, element, found } => write!(
                f,
                "{} {} of table inet {table} says that {element} is of {} and not of {}",
                kind(element),
                element.set().name(),
                found.as_deref().unwrap_or("nobody"),
                element.comment().unwrap_or("nobody"),
            ),
            Self::Foreign { table, set, element, found, owner } => {
                match found {
                    Some(found) => {
                        write!(
                            f,
                            "map {set} of table inet {table} leads from {element} to {found}"
                        )?;
                    }
                    None => write!(f, "set {set} of table inet {table} has element {element}")?,
                }
                if let Some(owner) = owner {
                    write!(f, " ({owner})")?;
                }
                write!(f, ", which no lease needs")
            }
        }
    }
}

/// nftables on this host. The socket is opened and the program looked for when
/// they are first needed.
#[derive(Debug)]
pub struct Nat {
    path: Option<OsString>,
    program: Option<PathBuf>,
    socket: Option<Socket>,
    drifted: u64,
}

impl Nat {
    /// `path` is the `PATH` to look for nft in, before the usual directories.
    #[must_use]
    pub fn new(path: Option<&OsStr>) -> Self {
        Self { path: path.map(OsStr::to_owned), program: None, socket: None, drifted: 0 }
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
    /// other data or another owner, is replaced. When that leaves nothing to do,
    /// nft is not run.
    ///
    /// The table must be there unless there is nothing to add: see
    /// [`Nat::is_intact`] and [`Nat::rebuild`].
    pub fn change(
        &mut self,
        table: &Table,
        remove: &[Element],
        add: &[Element],
    ) -> Result<(), NatError> {
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
        if removed.is_empty() && added.is_empty() {
            return Ok(());
        }
        let what = || format!("change the elements of table inet {}", table.name());
        self.run(&table.change(&removed, &added), false, what)
    }

    /// Replaces the table, whatever it holds and whether or not it is there, by
    /// one with the elements of these forwardings, in one transaction. Packets
    /// meet the old table or the new one, never none.
    pub fn rebuild<'a>(
        &mut self,
        table: &Table,
        forwardings: impl IntoIterator<Item = &'a Forwarding>,
    ) -> Result<(), NatError> {
        let transaction = ruleset::replacement(&[(table, elements_of(forwardings))]);
        self.run(&transaction, false, || format!("write table inet {}", table.name()))
    }

    /// Does the same to several tables, all in one transaction.
    pub fn rebuild_all(&mut self, tables: &[(&Table, &[Forwarding])]) -> Result<(), NatError> {
        if tables.is_empty() {
            return Ok(());
        }
        let content = tables.iter().map(|(table, held)| (*table, elements_of(*held)));
        let transaction = ruleset::replacement(&content.collect::<Vec<_>>());
        self.run(&transaction, false, || {
            let names: Vec<_> = tables.iter().map(|(table, _)| table.name()).collect();
            format!("write tables inet {}", names.join(", "))
        })
    }

    /// Deletes tables of ours, by their names, in one transaction.
    pub fn delete(&mut self, tables: &[String]) -> Result<(), NatError> {
        if tables.is_empty() {
            return Ok(());
        }
        let what = || format!("delete tables inet {}", tables.join(", "));
        self.run(&ruleset::deletion(tables), false, what)
    }

    /// Asks nft and the kernel whether they would take the table, and changes
    /// nothing.
    pub fn probe(&mut self, table: &Table) -> Result<(), NatError> {
        self.run(&ruleset::replacement(&[(table, Vec::new())]), true, || {
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
        let failed = |source| NatError::Netlink { what: what(), source };
        let socket = match &mut self.socket {
            Some(socket) => socket,
            None => self.socket.insert(Socket::netfilter().map_err(failed)?),
        };
        ask(socket).map_err(failed)
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

    pub(super) fn run(
        &mut self,
        transaction: &Nftables<'_>,
        check: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), NatError> {
        let program = self.program()?;
        let output = program::run(program, transaction, check)
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
