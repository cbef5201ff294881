//! The choice among what is free.

use super::{
    Ledger,
    candidate::{Ports, Wish},
};
use crate::lease::{Port, PortMap, Protocol, Strategy};

/// How many ports may turn out not to be free before all of them are asked about:
/// chance finds a free one in so many nineteen times of twenty where nine of ten
/// are not.
const TRIES: usize = 28;

impl<'a, L: Ledger> Ports<'a, L> {
    /// The lowest port that the wish gets by its strategy; none when nothing is
    /// left that does. Ports that rest only when there is nothing else, and then
    /// those first that were given back longest ago.
    pub(super) fn draw(
        &mut self,
        wish: &Wish<'a>,
        rng: &mut fastrand::Rng,
    ) -> Result<Option<Port>, L::Error> {
        let mut tries = TRIES;
        let found = self.choose(wish, rng, &mut tries)?;
        if found.is_some() || tries > 0 {
            return Ok(found);
        }
        self.settle(wish)?;
        self.choose(wish, rng, &mut { TRIES })
    }

    fn choose(
        &mut self,
        wish: &Wish<'a>,
        rng: &mut fastrand::Rng,
        tries: &mut usize,
    ) -> Result<Option<Port>, L::Error> {
        let count = wish.request.count;
        let free = self.free(wish)?;
        // There may be thousands of releases, and most ports have none: a few of the
        // candidates show it.
        let mut few = TRIES;
        let early = match wish.dynamic.strategy {
            Strategy::Random => self.any(wish, free.clone().runs(count), rng, &mut few)?,
            Strategy::Sequential => self.lowest(wish, &free.clone().runs(count), &mut few)?,
            Strategy::LeastRecentlyUsed => None,
        };
        if early.is_some() {
            return Ok(early);
        }
        let rested = self.rested(wish, &free)?;
        let found = match wish.dynamic.strategy {
            Strategy::Random => self.any(wish, rested.runs(count), rng, tries)?,
            Strategy::Sequential => self.lowest(wish, &rested.runs(count), tries)?,
            Strategy::LeastRecentlyUsed => {
                let mut fresh = rested.clone();
                for protocol in wish.request.protocols.iter() {
                    fresh.subtract(&self.released(protocol)?.all);
                }
                match self.lowest(wish, &fresh.runs(count), tries)? {
                    None if *tries > 0 => self.oldest(wish, &rested.runs(count), tries)?,
                    found => found,
                }
            }
        };
        match found {
            None if *tries > 0 => self.oldest(wish, &free.runs(count), tries),
            found => Ok(found),
        }
    }

    /// One of the ports from this on that is not free, or rests.
    fn unfit(&mut self, wish: &Wish<'a>, first: Port) -> Result<Option<Port>, L::Error> {
        match self.blocked(wish, first)? {
            None => self.resting(wish, first),
            blocked => Ok(blocked),
        }
    }

    /// One of the ports from this on that rests.
    fn resting(&self, wish: &Wish<'a>, first: Port) -> Result<Option<Port>, L::Error> {
        for port in (0..wish.request.count).filter_map(|at| first.above(at)) {
            for protocol in wish.request.protocols.iter() {
                if self.rests(protocol, port)? {
                    return Ok(Some(port));
                }
            }
        }
        Ok(None)
    }

    /// What of these ports does not rest.
    pub(super) fn rested(&mut self, wish: &Wish<'a>, ports: &PortMap) -> Result<PortMap, L::Error> {
        let mut rested = ports.clone();
        for protocol in wish.request.protocols.iter() {
            rested.subtract(&self.released(protocol)?.resting);
        }
        Ok(rested)
    }

    /// Each of the candidates that are free and rested with the same probability. One
    /// drawn from all of them, and again from the others while it is not, is drawn
    /// uniformly from those that are; also when they are told apart on the way.
    fn any(
        &mut self,
        wish: &Wish<'a>,
        mut firsts: PortMap,
        rng: &mut fastrand::Rng,
        tries: &mut usize,
    ) -> Result<Option<Port>, L::Error> {
        loop {
            let size = firsts.len();
            if size == 0 || *tries == 0 {
                return Ok(None);
            }
            let first = firsts.nth(rng.u32(..size)).expect("the index is below the size");
            let Some(unfit) = self.unfit(wish, first)? else { return Ok(Some(first)) };
            *tries -= 1;
            firsts_around(unfit, wish.request.count).for_each(|first| firsts.remove(first));
        }
    }

    /// The lowest of the candidates that are free and rested.
    fn lowest(
        &mut self,
        wish: &Wish<'a>,
        firsts: &PortMap,
        tries: &mut usize,
    ) -> Result<Option<Port>, L::Error> {
        for first in firsts.iter() {
            if self.unfit(wish, first)?.is_none() {
                return Ok(Some(first));
            }
            *tries -= 1;
            if *tries == 0 {
                break;
            }
        }
        Ok(None)
    }

    /// The one of the candidates whose newest release is the oldest, the lowest of
    /// several. Those without a release are not looked at: whoever asks has found
    /// none of them free.
    fn oldest(
        &mut self,
        wish: &Wish<'a>,
        firsts: &PortMap,
        tries: &mut usize,
    ) -> Result<Option<Port>, L::Error> {
        if firsts.is_empty() {
            return Ok(None);
        }
        // The releases are gone through from the oldest on, and each takes its port
        // out of `newer`. The first candidate without a port in it is the one.
        let protocols: Vec<Protocol> = wish.request.protocols.iter().collect();
        let mut newer = Vec::with_capacity(protocols.len());
        for protocol in &protocols {
            newer.push(self.released(*protocol)?.all.clone());
        }
        let is_older = |newer: &[PortMap], first: Port| {
            let mut ports = (0..wish.request.count).filter_map(|at| first.above(at));
            !ports.any(|port| newer.iter().any(|newer| newer.contains(port)))
        };
        let mut passed = vec![0; protocols.len()];
        loop {
            let next = protocols.iter().enumerate().filter_map(|(at, protocol)| {
                let (age, port) = self.by_age(wish.request.address, *protocol).get(passed[at])?;
                Some((*age, *port, at))
            });
            let Some((_, port, at)) = next.min() else { break };
            passed[at] += 1;
            newer[at].remove(port);
            for first in firsts_around(port, wish.request.count) {
                if !firsts.contains(first) || !is_older(&newer, first) {
                    continue;
                }
                if self.blocked(wish, first)?.is_none() {
                    return Ok(Some(first));
                }
                *tries -= 1;
                if *tries == 0 {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }
}

/// Those of the numbers from which on `count` ports include this one, lowest first.
fn firsts_around(port: Port, count: u16) -> impl Iterator<Item = Port> {
    let lowest = port.number().saturating_sub(count - 1).max(1);
    (lowest..=port.number()).filter_map(Port::new)
}
