//! What the kernel does with a lease, compared with what the store says.

use std::fmt;

use portclaim::nat::Difference;

/// What the kernel does with packets for a host port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// What the store says.
    Present,
    /// Some of what forwards them is not there.
    Missing,
    /// They go somewhere else.
    Elsewhere(String),
    /// It cannot be asked.
    Unknown,
}

impl State {
    /// What these differences come to.
    pub fn of(differences: &[Difference]) -> Self {
        let mut elsewhere = differences.iter().filter_map(|difference| match difference {
            Difference::Elsewhere { found, .. } => Some(found.clone()),
            _ => None,
        });
        let is_missing = |difference: &Difference| {
            matches!(difference, Difference::Rules { .. } | Difference::Missing { .. })
        };
        match elsewhere.next() {
            Some(found) => Self::Elsewhere(found),
            None if differences.iter().any(is_missing) => Self::Missing,
            // Who an element is said to belong to says nothing of packets.
            None => Self::Present,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("present"),
            Self::Missing => f.write_str("missing"),
            Self::Elsewhere(found) => write!(f, "leads to {found}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use portclaim::nat::elements;

    use super::*;
    use crate::view::lease::tests::forwarding;

    #[test]
    fn what_leads_elsewhere_is_said_before_what_is_missing() {
        let element = elements(&forwarding("shop/web", &["80/tcp"])).remove(0);
        let table = "portclaim_net".to_owned();
        let missing = Difference::Missing { table: table.clone(), element: element.clone() };
        let elsewhere = Difference::Elsewhere { table, element, found: "10.9.9.9".into() };
        assert_eq!(State::of(&[]), State::Present);
        assert_eq!(State::of(std::slice::from_ref(&missing)).to_string(), "missing");
        assert_eq!(State::of(&[missing, elsewhere]).to_string(), "leads to 10.9.9.9");
    }
}
