//! The second attempt, when drawing one by one came to an end: all draws anew,
//! placed side by side, and places taken back where that leads nowhere.

use std::cmp::Reverse;

use super::{
    Ledger,
    candidate::{Ports, Wish},
};
use crate::lease::{Port, PortMap};

/// How many choices are taken back before an attempt is given up. To place blocks
/// in a fragmented pool is bin packing, so there is no bound within which every
/// placement that exists would be found; this many take some ten milliseconds.
pub(super) const RETRACTIONS: u32 = 1000;

/// A wish to be placed.
struct Item<'w, 'a> {
    wish: &'w Wish<'a>,
    /// Its place among the wishes.
    at: usize,
    /// The candidates there are before anything is placed.
    firsts: PortMap,
    /// How many.
    choices: u32,
    /// The item before this one that asks for the same. What of such items goes
    /// where makes no difference, so this one is only placed above it.
    twin: Option<usize>,
}

impl<'a, L: Ledger> Ports<'a, L> {
    /// The lowest port for each of the wishes, placed together: first without the
    /// ports that rest, then with them. None where no way was found. Takes nothing.
    pub(super) fn pack(&mut self, wishes: &[&mut Wish<'a>]) -> Result<Option<Vec<Port>>, L::Error> {
        for wish in wishes {
            self.settle(wish)?;
        }
        for is_rested in [true, false] {
            let items = self.items(wishes, is_rested)?;
            if items.iter().any(|item| item.choices == 0) {
                continue;
            }
            let before = self.mark();
            let mut placed = Vec::with_capacity(items.len());
            let found = self.place(&items, is_rested, &mut placed, &mut { RETRACTIONS })?;
            self.put_back(before);
            if found {
                let mut firsts: Vec<_> = items.iter().map(|item| item.at).zip(placed).collect();
                firsts.sort_unstable();
                return Ok(Some(firsts.into_iter().map(|(_, first)| first).collect()));
            }
        }
        Ok(None)
    }

    /// The wishes in the order in which they are placed: large ones first, then
    /// those with the fewest candidates.
    fn items<'w>(
        &mut self,
        wishes: &'w [&mut Wish<'a>],
        is_rested: bool,
    ) -> Result<Vec<Item<'w, 'a>>, L::Error> {
        let mut items = Vec::with_capacity(wishes.len());
        for (at, wish) in wishes.iter().enumerate() {
            let firsts = self.firsts(wish, is_rested)?;
            let choices = firsts.len();
            items.push(Item { wish, at, firsts, choices, twin: None });
        }
        items.sort_by_key(|item| {
            let request = item.wish.request;
            (Reverse(request.count), item.choices, Reverse(request.protocols.len()))
        });
        for at in 1..items.len() {
            let (earlier, rest) = items.split_at_mut(at);
            rest[0].twin = earlier.iter().rposition(|item| item.is_like(&rest[0]));
        }
        Ok(items)
    }

    /// Places what comes after what was `placed`; whether it could.
    fn place(
        &mut self,
        items: &[Item<'_, 'a>],
        is_rested: bool,
        placed: &mut Vec<Port>,
        retractions: &mut u32,
    ) -> Result<bool, L::Error> {
        let Some(Item { wish, twin, .. }) = items.get(placed.len()) else { return Ok(true) };
        let mut firsts = self.firsts(wish, is_rested)?;
        if let Some(twin) = twin {
            firsts.remove_below(placed[*twin]);
        }
        for first in firsts.iter() {
            let before = self.mark();
            self.take_from(wish, first);
            placed.push(first);
            if self.place(items, is_rested, placed, retractions)? {
                return Ok(true);
            }
            placed.pop();
            self.put_back(before);
            if *retractions == 0 {
                return Ok(false);
            }
            *retractions -= 1;
        }
        Ok(false)
    }

    fn firsts(&mut self, wish: &Wish<'a>, is_rested: bool) -> Result<PortMap, L::Error> {
        let free = self.free(wish)?;
        let free = if is_rested { self.rested(wish, &free)? } else { free };
        Ok(free.runs(wish.request.count))
    }
}

impl Item<'_, '_> {
    fn is_like(&self, other: &Self) -> bool {
        let (one, two) = (self.wish, other.wish);
        one.request.count == two.request.count
            && one.request.protocols == two.request.protocols
            && one.request.address == two.request.address
            // What one claim reserves is free for its own wish only.
            && one.records.is_empty()
            && two.records.is_empty()
            && self.firsts == other.firsts
    }
}
