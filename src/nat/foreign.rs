//! Chains of others that are to let pass what is forwarded here.
//!
//! A packet that one base chain accepts still passes all others of the hook, so no rule
//! of ours overrides somebody else's drop: the rule must stand in their chain. There it
//! asks for the mark that the tables of ours give to the packets of their connections
//! (see [`ruleset::ACCEPT_MARK`]), both ways, and to no others. It never changes, and
//! is known by its comment.

use std::process::Command;

use super::{
    Nat, NatError,
    apply::quote,
    kernel,
    rule::Statement,
    ruleset,
    transaction::{Foreign, Step},
    wire::family_number,
};
use crate::lease::{ForeignChain, ForeignFamily};

/// The comment of the rules, which tells them from others.
const COMMENT: &str = "portclaim";

impl Nat {
    /// Whether the chain lets pass what is forwarded here; none where there is no such
    /// chain.
    pub fn accepts(&mut self, chain: &ForeignChain) -> Result<Option<bool>, NatError> {
        match chain {
            ForeignChain::Nft { family, table, chain: name } => {
                let what = || format!("list the rules of table {} {table}", family.name());
                let number = family_number(*family);
                let chains = self.read(what, kernel::chains)?;
                let is_it = |held: &kernel::HeldChain| {
                    (held.family, &held.table, &held.name) == (number, table, name)
                };
                if !chains.iter().any(is_it) {
                    return Ok(None);
                }
                Ok(Some(!self.rules_in(*family, table, name)?.is_empty()))
            }
            ForeignChain::Iptables { v6, chain: name } => {
                let Some(listed) = self.iptables(*v6, &["--list-rules", name]).ok() else {
                    return Ok(None);
                };
                let comment = format!("--comment {COMMENT} ");
                Ok(Some(listed.lines().any(|line| line.contains(&comment))))
            }
        }
    }

    /// Puts the rule before all others of the chain, which must be there.
    pub fn accept(&mut self, chain: &ForeignChain) -> Result<(), NatError> {
        match chain {
            ForeignChain::Nft { family, table, chain: name } => {
                let place = Foreign { family: *family, table, chain: name };
                let statements = vec![Statement::HasMark(ruleset::ACCEPT_MARK), Statement::Accept];
                self.transact(&[Step::InsertRule(place, statements, COMMENT)], || {
                    format!("insert a rule into {chain}")
                })
            }
            ForeignChain::Iptables { v6, chain: name } => {
                self.change_iptables(*v6, "--insert", name)
            }
        }
    }

    /// Takes the rule out of the chain again. Where it is not, nothing is done.
    pub fn accept_no_more(&mut self, chain: &ForeignChain) -> Result<(), NatError> {
        if self.accepts(chain)? != Some(true) {
            return Ok(());
        }
        match chain {
            ForeignChain::Nft { family, table, chain: name } => {
                let place = Foreign { family: *family, table, chain: name };
                let handles = self.rules_in(*family, table, name)?.into_iter();
                let steps: Vec<_> = handles.map(|handle| Step::DeleteRule(place, handle)).collect();
                self.transact(&steps, || format!("delete a rule of {chain}"))
            }
            ForeignChain::Iptables { v6, chain: name } => {
                self.change_iptables(*v6, "--delete", name)
            }
        }
    }

    /// The handles of our rules in a chain.
    fn rules_in(
        &mut self,
        family: ForeignFamily,
        table: &str,
        chain: &str,
    ) -> Result<Vec<u32>, NatError> {
        let what = || format!("list the rules of table {} {table}", family.name());
        let rules =
            self.read(what, |socket| kernel::rules_of(socket, family_number(family), table))?;
        let own = rules.into_iter().filter(|rule| rule.chain == chain && rule.comment == COMMENT);
        Ok(own.map(|rule| rule.handle).collect())
    }

    fn change_iptables(&mut self, v6: bool, action: &str, chain: &str) -> Result<(), NatError> {
        let mark = format!("{0:#x}/{0:#x}", ruleset::ACCEPT_MARK);
        let matches = ["--match", "mark", "--mark", &mark, "--match", "comment"];
        let rest = ["--comment", COMMENT, "--jump", "ACCEPT"];
        self.iptables(v6, &[&[action, chain][..], &matches, &rest].concat()).map(drop)
    }

    /// What `iptables` or `ip6tables` prints.
    fn iptables(&mut self, v6: bool, arguments: &[&str]) -> Result<String, NatError> {
        let name = if v6 { "ip6tables" } else { "iptables" };
        let program = self.find(name).ok_or(NatError::IptablesNotFound(name))?;
        let mut command = Command::new(&program);
        // Others change the same tables, and older versions wait for each other.
        command.arg("--wait").args(arguments).env_clear().env("LC_ALL", "C");
        let output = command.output().map_err(|source| NatError::NftNotRun { program, source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(NatError::IptablesFailed {
            program: name,
            message: quote(&output.stderr),
            status: output.status,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lease::Backend,
        netlink::namespace::{private, run},
    };

    #[test]
    fn the_rule_comes_and_goes_in_every_kind_of_chain() {
        private(|| {
            run("nft add table inet filter");
            run(
                "nft add chain inet filter forward { type filter hook forward priority 0; policy drop; }",
            );
            run("nft add rule inet filter forward ct state established accept");
            run("iptables -P FORWARD DROP");
            run("iptables -A FORWARD -i lo -j ACCEPT");
            run("ip6tables -N DOCKER-USER");
            let before = run("nft list ruleset");
            for text in ["inet filter forward", "iptables FORWARD", "ip6tables DOCKER-USER"] {
                let chain: ForeignChain = text.parse().unwrap();
                let mut nat = Nat::new(Backend::Netlink, None);
                assert_eq!(nat.accepts(&chain).unwrap(), Some(false), "{text}");
                nat.accept(&chain).unwrap();
                assert_eq!(nat.accepts(&chain).unwrap(), Some(true), "{text}");
                assert_ne!(run("nft list ruleset"), before, "{text}");
                nat.accept_no_more(&chain).unwrap();
                nat.accept_no_more(&chain).unwrap();
                assert_eq!(nat.accepts(&chain).unwrap(), Some(false), "{text}");
                assert_eq!(run("nft list ruleset"), before, "{text}");
            }
            for absent in ["inet filter other", "ip nothing forward", "iptables NOTHING"] {
                let chain: ForeignChain = absent.parse().unwrap();
                assert_eq!(
                    Nat::new(Backend::Netlink, None).accepts(&chain).unwrap(),
                    None,
                    "{absent}"
                );
                Nat::new(Backend::Netlink, None).accept_no_more(&chain).unwrap();
                assert!(Nat::new(Backend::Netlink, None).accept(&chain).is_err(), "{absent}");
            }
            // What iptables has is still what it understands.
            assert!(run("iptables -S").contains("-P FORWARD DROP"));
        });
    }
}
