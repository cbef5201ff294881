//! What all calls since boot came to.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::Path,
};

use super::{ATTEMPTS, CALLS, Counter, FULL, Growth, LARGEST, TOTALS, first_log, grow, log, read};

/// How many counters there are at most: more than any node's groups need, and few
/// enough to keep.
const COUNTERS: usize = 4096;

/// What there is to count, since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals(BTreeMap<Counter, u64>);

impl Totals {
    /// Reads them, without a lock. Nothing where no call has left anything.
    pub fn read(run_dir: &Path) -> io::Result<Self> {
        let dir = run_dir.join(CALLS);
        for _ in 0..ATTEMPTS {
            let Some((first, mut counts)) = read_totals(&dir)? else {
                return Ok(Self::default());
            };
            for number in [first, first + 1] {
                if let Some(text) = read_log(&dir, number)? {
                    add_up(&mut counts, &text);
                }
            }
            // If a log was added to the totals meanwhile, it may have been missed.
            if first_log(&dir)? == Some(first) {
                return Ok(Self::parse(&counts));
            }
        }
        Err(ErrorKind::ResourceBusy.into())
    }

    /// What is not understood is of another version, and passed over.
    fn parse(counts: &Growth) -> Self {
        let known =
            counts.iter().filter_map(|(name, count)| Some((name.parse().ok()?, count.as_u64()?)));
        Self(known.collect())
    }

    /// All counters that ever grew, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&Counter, u64)> {
        self.0.iter().map(|(counter, count)| (counter, *count))
    }
}

/// The totals, and the first log that is not in them; none where nothing is.
pub(super) fn read_totals(dir: &Path) -> io::Result<Option<(u64, Growth)>> {
    let Some(text) = read(&dir.join(TOTALS), LARGEST)? else { return Ok(None) };
    let parse = || {
        let (first, counts) = text.split_once('\n')?;
        Some((first.parse().ok()?, serde_json::from_str(counts).ok()?))
    };
    parse().map(Some).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// A log, with all lines that count; none without it.
pub(super) fn read_log(dir: &Path, number: u64) -> io::Result<Option<String>> {
    read(&log(dir, number), 2 * FULL)
}

/// Adds what the lines of a log say.
pub(super) fn add_up(counts: &mut Growth, log: &str) {
    let mut at = 0;
    for line in log.split_inclusive('\n') {
        // It begins with the end of the line before.
        let counts_here = at <= FULL;
        at += line.len() as u64;
        let Ok(growth) = serde_json::from_str::<Growth>(line) else { continue };
        if !counts_here {
            return;
        }
        for (counter, by) in growth {
            if let Some(by) = by.as_u64()
                && (counts.contains_key(&counter) || counts.len() < COUNTERS)
            {
                grow(counts, counter, by);
            }
        }
    }
}
