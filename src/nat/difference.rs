//! What the kernel holds otherwise than it should, to be read by people.

use std::fmt;

use super::element::Element;

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
