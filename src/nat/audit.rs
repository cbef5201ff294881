//! All that the kernel holds of our tables, compared with all that it should.
//!
//! For operators: dumps whole maps, where [`Nat::check`] asks for single elements.

use std::{collections::HashMap, path::PathBuf};

use super::{
    Difference, Nat, NatError, Rules, Table,
    apply::{elements_of, show},
    element::{Element, Set},
    kernel, program, ruleset,
};
use crate::lease::{Forwarding, InterfaceName};

/// A chain that packets enter by a hook, or that has a name to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// As nft names it: `ip`, `inet`, …
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub name: String,
    /// Whether forwarded packets enter it.
    pub is_of_forward: bool,
    /// Whether packets that no rule accepts are dropped.
    pub drops: bool,
}

impl Nat {
    /// The names of the tables of ours that there are, sorted.
    pub fn tables(&mut self) -> Result<Vec<String>, NatError> {
        let mut tables = self.read(|| "list the tables".to_owned(), kernel::tables)?;
        tables.retain(|name| ruleset::is_ours(name));
        tables.sort();
        Ok(tables)
    }

    /// Every way in which a table differs from what these forwardings need: its
    /// elements, and its rules, where it is known what they should be. A table that
    /// is absent differs by its rules only.
    pub fn audit<'a>(
        &mut self,
        table: &Table,
        knows_rules: bool,
        forwardings: impl IntoIterator<Item = &'a Forwarding>,
    ) -> Result<Vec<Difference>, NatError> {
        let mut differences = Vec::new();
        let rules = self.rules(table)?;
        if rules == Rules::None || (knows_rules && rules == Rules::Other) {
            differences.push(Difference::Rules { table: table.name().to_owned() });
        }
        if rules == Rules::None {
            return Ok(differences);
        }
        let wanted = elements_of(forwardings);
        for set in Set::ALL {
            let wanted = wanted.iter().filter(|element| element.set() == set);
            differences.extend(self.audit_set(table.name(), set, wanted)?);
        }
        Ok(differences)
    }

    /// The elements of a table, by its name, which nobody needs.
    pub fn strays(&mut self, table: &str) -> Result<Vec<Difference>, NatError> {
        let mut strays = Vec::new();
        for set in Set::ALL {
            strays.extend(self.audit_set(table, set, [])?);
        }
        Ok(strays)
    }

    /// The host's links that a table, by its name, has been told of.
    pub fn links(&mut self, table: &str) -> Result<Vec<InterfaceName>, NatError> {
        let held = self.elements(table, Set::Links)?;
        let link = |(key, _): (Vec<u8>, _)| {
            let name = key.split(|byte| *byte == 0).next()?;
            std::str::from_utf8(name).ok()?.parse().ok()
        };
        Ok(held.into_iter().filter_map(link).collect())
    }

    /// The chains of other tables than ours.
    pub fn other_chains(&mut self) -> Result<Vec<Chain>, NatError> {
        /// `NF_INET_FORWARD`.
        const FORWARD: u32 = 2;
        /// `NF_DROP`.
        const DROP: u32 = 0;
        let chains = self.read(|| "list the chains".to_owned(), kernel::chains)?;
        let chain = |held: kernel::HeldChain| {
            let family = match held.family {
                1 => "inet",
                2 => "ip",
                10 => "ip6",
                // Bridges, links and ARP: nothing that is forwarded by address.
                _ => return None,
            };
            let is_ours = family == "inet" && ruleset::is_ours(&held.table);
            (!is_ours).then_some(Chain {
                family,
                table: held.table,
                name: held.name,
                is_of_forward: held.hook == Some(FORWARD),
                drops: held.hook.is_some() && held.policy == Some(DROP),
            })
        };
        Ok(chains.into_iter().filter_map(chain).collect())
    }

    /// Where nft is, and its version, where it tells one.
    pub fn version(&mut self) -> Result<(PathBuf, Option<[u32; 3]>), NatError> {
        let program = self.program()?.to_owned();
        let version = program::version(&program)
            .map_err(|source| NatError::NftNotRun { program: program.clone(), source })?;
        Ok((program, version))
    }

    fn audit_set<'a>(
        &mut self,
        table: &str,
        set: Set,
        wanted: impl IntoIterator<Item = &'a Element>,
    ) -> Result<Vec<Difference>, NatError> {
        let mut held: HashMap<_, _> = self.elements(table, set)?.into_iter().collect();
        let mut differences = Vec::new();
        let table = || table.to_owned();
        for element in wanted {
            let element = element.clone();
            match held.remove(&element.key_bytes()) {
                None => differences.push(Difference::Missing { table: table(), element }),
                Some(held) if held.data != element.data_bytes() => {
                    let found = show(&held.data);
                    differences.push(Difference::Elsewhere { table: table(), element, found });
                }
                Some(held) if held.comment.as_deref() != element.comment() => {
                    let found = held.comment;
                    differences.push(Difference::Named { table: table(), element, found });
                }
                Some(_) => {}
            }
        }
        let mut strays: Vec<_> = held.into_iter().collect();
        strays.sort_by(|(a, _), (b, _)| a.cmp(b));
        differences.extend(strays.into_iter().map(|(key, held)| Difference::Foreign {
            table: table(),
            set: set.name(),
            element: Element::show_key(set, &key),
            found: set.is_map().then(|| show(&held.data)),
            owner: held.comment,
        }));
        Ok(differences)
    }

    fn elements(
        &mut self,
        table: &str,
        set: Set,
    ) -> Result<Vec<(Vec<u8>, kernel::Held)>, NatError> {
        self.read(
            || format!("list {} of table inet {table}", set.name()),
            |socket| kernel::elements(socket, table, set),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lease::Backend,
        nat::Options,
        netlink::namespace::{private, run},
    };

    fn forwarding(id: &str, port: u16, address: &str) -> Forwarding {
        serde_json::from_str(&format!(
            r#"{{"network":"net","containerID":"{id}","ifname":"eth0","since":0,"link":"cni0",
                "container":{{"v4":"{address}"}},
                "leases":[{{"protocol":"tcp","hostPort":{port},"containerPort":80}}]}}"#
        ))
        .unwrap()
    }

    #[test]
    fn every_difference_of_a_table_is_found() {
        private(|| {
            let table = Table::new(&"net".parse().unwrap(), &Options::default());
            let [web, old] =
                [forwarding("web", 8080, "10.0.0.5"), forwarding("old", 8081, "10.0.0.6")];
            let mut nat = Nat::new(Backend::Netlink, None);
            let audit = |nat: &mut Nat, wanted: &[&Forwarding]| {
                let found = nat.audit(&table, true, wanted.iter().copied()).unwrap();
                found.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            let rules = "table inet portclaim_net is absent or its rules are not those configured";
            assert_eq!(audit(&mut nat, &[&web]), [rules]);
            nat.rebuild(&table, [&web, &old]).unwrap();
            assert_eq!(audit(&mut nat, &[&web, &old]), [""; 0]);
            assert_eq!(
                audit(&mut nat, &[&web]),
                [
                    "map any4_addr of table inet portclaim_net leads from 8081/tcp to 10.0.0.6 \
                     (old/eth0), which no lease needs",
                    "map any4_port of table inet portclaim_net leads from 8081/tcp to 80, \
                     which no lease needs",
                    "set forwarded4 of table inet portclaim_net has element 10.0.0.6:80/tcp, \
                     which no lease needs",
                    "set hairpin4 of table inet portclaim_net has element 10.0.0.6 . 10.0.0.6, \
                     which no lease needs",
                ]
            );
            assert_eq!(nat.strays("portclaim_net").unwrap().len(), 9, "the link is shared");
            assert_eq!(nat.strays("portclaim_absent").unwrap(), []);
            let moved = forwarding("new", 8081, "10.0.0.6");
            assert_eq!(
                audit(&mut nat, &[&web, &moved]),
                [
                    "map any4_addr of table inet portclaim_net says that 8081/tcp is of old/eth0 and \
                  not of new/eth0"
                ]
            );
            let links: Vec<_> = nat.links("portclaim_net").unwrap();
            assert_eq!(links, ["cni0".parse().unwrap()]);
        });
    }

    #[test]
    fn several_tables_are_written_and_deleted_at_once() {
        private(|| {
            run("nft add table inet portclaim");
            run("nft add table ip portclaim_net");
            let [a, b] =
                ["a", "b"].map(|name| Table::new(&name.parse().unwrap(), &Options::default()));
            let web = forwarding("web", 8080, "10.0.0.5");
            let mut nat = Nat::new(Backend::Netlink, None);
            nat.rebuild_all(&[(&a, &[web]), (&b, &[])]).unwrap();
            assert_eq!(nat.tables().unwrap(), ["portclaim_a", "portclaim_b"]);
            assert!(nat.is_intact(&a).unwrap() && nat.is_intact(&b).unwrap());
            assert_eq!(ruleset::network_of("portclaim_a"), Some("a".parse().unwrap()));
            nat.delete(&["portclaim_a".to_owned(), "portclaim_gone".to_owned()]).unwrap();
            assert_eq!(nat.tables().unwrap(), ["portclaim_b"]);
            assert_eq!(run("nft list tables").lines().count(), 3);
        });
    }

    #[test]
    fn chains_of_others_are_found_with_their_policy() {
        private(|| {
            run("nft add table ip filter");
            run(
                "nft add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
            );
            run(
                "nft add chain ip filter INPUT { type filter hook input priority 0; policy drop; }",
            );
            run("nft add chain ip filter CNI-HOSTPORT-DNAT");
            let mut nat = Nat::new(Backend::Netlink, None);
            let table = Table::new(&"net".parse().unwrap(), &Options::default());
            nat.rebuild(&table, []).unwrap();
            let found = nat.other_chains().unwrap();
            let found: Vec<_> =
                found.iter().map(|c| (c.name.as_str(), c.is_of_forward, c.drops)).collect();
            assert_eq!(
                found,
                [
                    ("FORWARD", true, true),
                    ("INPUT", false, true),
                    ("CNI-HOSTPORT-DNAT", false, false)
                ]
            );
        });
    }
}
