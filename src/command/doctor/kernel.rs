//! nft, and what the kernel is set to.

use super::{ConflistFile, Diagnoses, Operator};
use crate::{
    host,
    lease::Backend,
    nat::{self, Table},
};

/// Before it, what portclaim writes is misunderstood.
const OLDEST_NFT: [u32; 3] = [1, 0, 6];

impl Operator<'_> {
    pub(super) fn look_at_nftables(&mut self, found: &mut Diagnoses) {
        if self.node.nat.backend() == Backend::Nft && !self.look_at_nft(found) {
            return;
        }
        // The kernel's own complaint would not tell that it is about permission.
        if !host::is_root() {
            return;
        }
        let table = Table::new(
            &"doctor".parse().expect("it is a name"),
            &nat::Options { snat: true, ..nat::Options::default() },
        );
        if found.read("nf_tables", self.node.nat.probe(&table)).is_some() {
            found.ok("nf_tables", "the kernel would take a table");
        }
    }

    /// Tells whether it is there at all.
    fn look_at_nft(&mut self, found: &mut Diagnoses) -> bool {
        const CHECK: &str = "nft";
        let Some((program, version)) = found.read(CHECK, self.node.nat.version()) else {
            return false;
        };
        let program = program.display();
        match version {
            None => found.warn(
                CHECK,
                format!("{program} does not tell its version"),
                "portclaim is tested with nft 1.0.6 and later",
            ),
            Some(version) => {
                let text = format!("{program} is {}", version.map(|n| n.to_string()).join("."));
                if version < OLDEST_NFT {
                    found.fail(CHECK, text, "install nft 1.0.6 or later");
                } else {
                    found.ok(CHECK, text);
                }
            }
        }
        true
    }
}

/// Settings that decide whether packets get through.
pub(super) fn look_at_settings(found: &mut Diagnoses, conflists: &[ConflistFile]) {
    let mut is = |check, key: &str, value: &str| {
        found.read(check, host::setting(key)).map(|found| found.as_deref() == Some(value))
    };
    let forward_v4 = is("ip_forward", "net/ipv4/ip_forward", "1");
    let forward_v6 = is("ip_forward", "net/ipv6/conf/all/forwarding", "1");
    let strict = is("rp_filter", "net/ipv4/conf/all/rp_filter", "1");
    let bridged = is("br_netfilter", "net/bridge/bridge-nf-call-iptables", "1");
    match forward_v4 {
        Some(true) => found.ok("ip_forward", "IPv4 is forwarded"),
        Some(false) => found.fail(
            "ip_forward",
            "net.ipv4.ip_forward is 0: no packet reaches a container from outside",
            "sysctl --write net.ipv4.ip_forward=1, and a file in /etc/sysctl.d",
        ),
        None => {}
    }
    match forward_v6 {
        Some(true) => found.ok("ip_forward", "IPv6 is forwarded"),
        Some(false) => found.warn(
            "ip_forward",
            "net.ipv6.conf.all.forwarding is not 1: containers are not reached by IPv6",
            "sysctl --write net.ipv6.conf.all.forwarding=1, if containers have IPv6",
        ),
        None => {}
    }
    match strict {
        Some(true) => found.warn(
            "rp_filter",
            "net.ipv4.conf.all.rp_filter is 1: what comes in by another link than its replies \
             would leave by is dropped",
            "nothing on a host with one uplink; else set it to 2",
        ),
        Some(false) => found.ok("rp_filter", "packets may come in by any link"),
        None => {}
    }
    let without_hairpin = conflists.iter().filter(|file| {
        let list = file.content.as_ref();
        list.is_some_and(|list| list.has_portclaim() && list.has_bridge_without_hairpin())
    });
    let names: Vec<_> = without_hairpin.map(|file| file.path.display().to_string()).collect();
    match bridged {
        Some(true) if !names.is_empty() => found.warn(
            "br_netfilter",
            format!(
                "br_netfilter is on and the bridge of {} has no hairpinMode: a container does not \
                 reach its own host port",
                names.join(", ")
            ),
            "add \"hairpinMode\": true to the plugin bridge, if containers need that",
        ),
        Some(true) => found.ok("br_netfilter", "on; bridges have hairpinMode"),
        Some(false) => found.ok("br_netfilter", "off"),
        None => {}
    }
}
