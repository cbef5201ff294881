//! The store, its lock and its directories.

use std::time::Duration;

use super::{Diagnoses, Operator};
use crate::{host, store::StoreError};

/// When this was written: no clock that is right says less.
const EARLIEST: u64 = 1_760_000_000;
/// By how much a clock may be behind what the store was told.
const LAG: Duration = Duration::from_hours(1);
/// Below this, a commit may not find room.
const ROOM: u64 = 16 * 1024 * 1024;

impl Operator<'_> {
    pub(super) fn look_at_lock(&self, found: &mut Diagnoses) {
        const CHECK: &str = "lock";
        let path = self.data_dir.join("lock");
        let Some(holders) = found.read(CHECK, host::lock_holders(&path)) else { return };
        if holders.is_empty() {
            return found.ok(CHECK, format!("nobody holds {}", path.display()));
        }
        let holders: Vec<_> = holders
            .iter()
            .map(|holder| {
                let command = holder.command.as_deref().unwrap_or("?");
                format!("process {} ({command})", holder.id)
            })
            .collect();
        found.warn(
            CHECK,
            format!("{} is held by {}", path.display(), holders.join(", ")),
            "nothing, if a container comes or goes just now; if it stays so, kill the process",
        );
    }

    pub(super) fn look_at_store(&self, found: &mut Diagnoses) {
        const CHECK: &str = "database";
        let dir = self.data_dir.display();
        match found.read(CHECK, self.node.store.exists()) {
            None => return,
            Some(false) => {
                return found.ok(CHECK, format!("there is none in {dir} yet"));
            }
            Some(true) => {}
        }
        let Some(inventory) = found.read(CHECK, self.node.store.inventory()) else { return };
        match self.node.store.read().and_then(|leases| {
            let held = leases.forwardings()?;
            let ports: usize = held.iter().map(|held| held.leases.len()).sum();
            Ok((held.len(), ports, leases.claims()?.len()))
        }) {
            Ok((attachments, ports, claims)) => found.ok(
                CHECK,
                format!(
                    "{dir} is readable: {attachments} attachments, {ports} ports, {claims} claims"
                ),
            ),
            Err(error @ StoreError::Damaged { .. }) => found.fail(
                CHECK,
                error.to_string(),
                "portclaimctl reset sets it aside; then restart the containers with host ports",
            ),
            Err(error) => drop(found.read::<()>(CHECK, Err(error))),
        }
        let generations: Vec<_> = inventory
            .generations
            .iter()
            .map(|generation| {
                let mut words = vec![match generation.size {
                    Some(size) => format!("{} KiB", size.div_ceil(1024)),
                    None => "no seal".to_owned(),
                }];
                words.extend(generation.links.iter().map(|link| (*link).to_owned()));
                for (holds, word) in [
                    (!generation.is_of_boot, "of an earlier boot"),
                    (!generation.is_whole, "damaged"),
                ] {
                    words.extend(holds.then(|| word.to_owned()));
                }
                format!("{} ({})", generation.number, words.join(", "))
            })
            .collect();
        let text = format!("generations {}", generations.join(", "));
        let damaged = inventory.generations.iter().any(|generation| !generation.is_whole);
        if damaged || !inventory.broken_links.is_empty() {
            let links: Vec<_> =
                inventory.broken_links.iter().map(|link| link.display().to_string()).collect();
            let broken = if links.is_empty() {
                String::new()
            } else {
                format!("; {} lead nowhere", links.join(" and "))
            };
            found.warn(
                "generations",
                text + &broken,
                "the next call falls back to what is whole: look for failing disks",
            );
        } else {
            found.ok("generations", text);
        }
        let aside: Vec<_> = inventory.damaged.iter().chain(&inventory.removed).collect();
        if !aside.is_empty() {
            let names: Vec<_> = aside.iter().map(|path| path.display().to_string()).collect();
            found.warn(
                "set-aside",
                format!("was set aside: {}", names.join(", ")),
                "keep it for a bug report, or remove it",
            );
        }
        if !inventory.leftovers.is_empty() {
            let count = inventory.leftovers.len();
            found.ok(
                "leftovers",
                format!("{count} directories of killed calls, which the next call clears away"),
            );
        }
    }

    pub(super) fn look_at_directories(&self, found: &mut Diagnoses) {
        let room = found.read("room", host::free_space(&self.data_dir));
        if let Some(Some(room)) = room {
            let text = format!("{} has {} MiB free", self.data_dir.display(), room / 1024 / 1024);
            if room < ROOM {
                found.warn("room", text, "make room: without it no container gets a port");
            } else {
                found.ok("room", text);
            }
        }
        let Some(in_memory) = found.read("runDir", host::is_in_memory(&self.node.run_dir)) else {
            return;
        };
        let dir = self.node.run_dir.display();
        if in_memory {
            found.ok("runDir", format!("{dir} is in memory"));
        } else {
            found.warn(
                "runDir",
                format!("{dir} is on a disk: each call waits for it, and files outlive a reboot"),
                "set runDir to a directory in memory, as /run is",
            );
        }
    }

    pub(super) fn look_at_clock(&self, found: &mut Diagnoses) {
        const CHECK: &str = "clock";
        let advice = "set the clock: claims expire by it";
        let now = self.moment.unix;
        let latest = self.node.store.read().and_then(|leases| leases.latest_time());
        // What cannot be read is told of already.
        let latest = latest.ok().flatten().unwrap_or_default();
        if now < EARLIEST {
            found.warn(CHECK, format!("the clock is wrong: {now} s since 1970"), advice);
        } else if latest > now + LAG.as_secs() {
            let behind = Duration::from_secs(latest - now);
            let behind = humantime::format_duration(behind);
            found.warn(CHECK, format!("the clock is {behind} behind what it was before"), advice);
        } else {
            found.ok(CHECK, "the clock has gone forwards");
        }
    }
}
