//! What there is to say when a group has nothing left.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    Ledger,
    candidate::{Obstacle, Ports, Wish},
};
use crate::lease::{GroupName, HostAddress, HostPort, Owner, Port, PortMap, Protocols};

/// Why a request cannot be served from its group. Shown as `group "games" has no
/// free udp port: 1000 of 1000 leased`.
///
/// Each port is counted once, in the first of these that is true of it for one of
/// the protocols: leased, reserved, in use. Ports that the plan has given to other
/// requests of its own are leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhaustion {
    /// The group.
    pub group: GroupName,
    /// The protocols that were asked for.
    pub protocols: Protocols,
    /// How many neighbouring ports were asked for.
    pub count: u16,
    /// On which of the host's addresses.
    pub address: HostAddress,
    /// The lowest port that would have done, where the request says one.
    pub from: Option<Port>,
    /// How many ports the group has from there up, exclusions taken off.
    pub size: u32,
    /// How many of them are leased.
    pub leased: u32,
    /// How many of them a claim reserves that nobody uses.
    pub reserved: u32,
    /// How many of them processes of the host use.
    pub in_use: u32,
    /// How many ports of the group are excluded, of all it has.
    pub excluded: u32,
    /// Who holds how many of them, most first. The attachment itself and what goes
    /// with the plan are not among them.
    pub holders: Vec<(Owner, u32)>,
}

impl fmt::Display for Exhaustion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, protocols, count, .. } = self;
        match count {
            1 => write!(f, "group \"{group}\" has no free {protocols} port")?,
            _ => write!(f, "group \"{group}\" has no block of {count} free {protocols} ports")?,
        }
        if !self.address.is_any() {
            write!(f, " on {}", self.address)?;
        }
        if let Some(from) = self.from {
            write!(f, " from {from} up")?;
        }
        if self.size == 0 {
            return f.write_str(": all are excluded");
        }
        write!(f, ": {} of {} leased", self.leased, self.size)?;
        if self.reserved > 0 {
            write!(f, ", {} reserved by claims", self.reserved)?;
        }
        if self.in_use > 0 {
            write!(f, ", {} used by host processes", self.in_use)?;
        }
        match self.excluded {
            0 => Ok(()),
            1 => f.write_str(", 1 more is excluded"),
            more => write!(f, ", {more} more are excluded"),
        }
    }
}

impl<L: Ledger> Ports<'_, L> {
    /// What has become of the ports that the wish might have got. Asks the ledger
    /// about each of them that is occupied.
    pub(super) fn exhaustion(&mut self, wish: &Wish<'_>) -> Result<Exhaustion, L::Error> {
        let (request, from) = (wish.request, wish.dynamic.from);
        let mut exhaustion = Exhaustion {
            group: wish.dynamic.group.clone(),
            protocols: request.protocols,
            count: request.count,
            address: request.address,
            from,
            size: 0,
            leased: 0,
            reserved: 0,
            in_use: 0,
            excluded: wish.pool.excluded,
            holders: Vec::new(),
        };
        let meant = |hosts: &mut dyn Iterator<Item = &HostPort>| -> PortMap {
            let is_meant = |host: &&HostPort| {
                request.protocols.contains(host.protocol) && host.address.overlaps(&request.address)
            };
            hosts.filter(is_meant).map(|host| host.port).collect()
        };
        let taken = meant(&mut self.taken.iter());
        let in_use = meant(&mut self.situation.in_use.iter());
        let mut holders = BTreeMap::new();
        for port in wish.pool.ports.iter().filter(|port| from.is_none_or(|from| *port >= from)) {
            let mut held_by = BTreeSet::new();
            let mut is_reserved = false;
            for protocol in request.protocols.iter() {
                let host = HostPort { protocol, port, address: request.address };
                for obstacle in self.obstacles(host)? {
                    match obstacle {
                        Obstacle::Holder(holder) => _ = held_by.insert(holder.clone()),
                        Obstacle::Claim(claim) => is_reserved |= !wish.owns(claim),
                    }
                }
            }
            let is_leased = taken.contains(port) || !held_by.is_empty();
            let is_in_use = in_use.contains(port);
            for holder in held_by {
                *holders.entry(holder).or_insert(0) += 1;
            }
            exhaustion.size += 1;
            exhaustion.leased += u32::from(is_leased);
            exhaustion.reserved += u32::from(is_reserved && !is_leased);
            exhaustion.in_use += u32::from(is_in_use && !is_reserved && !is_leased);
        }
        exhaustion.holders = holders.into_iter().collect();
        // Stable: those with equally many stay in their order.
        exhaustion.holders.sort_by_key(|(_, ports)| Reverse(*ports));
        Ok(exhaustion)
    }
}
