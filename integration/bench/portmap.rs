//! Many mappings of portmap at once, rule by rule what its ADD makes.
//!
//! 10,000 executions of portmap would take half an hour. What is written for the
//! first container of a node is compared with what portmap itself makes for it,
//! so a portmap that makes other rules fails the bench.

use std::{fmt::Write as _, process::Command};

use crate::{
    namespace::Namespace,
    plugin::{Call, Mapping, Plugin},
    site::{Container, Site},
};

/// What is there as soon as there is one container.
const SHARED: &str = "\
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark 0x2000/0x2000
";

/// Where the rules of a container begin.
const CHAIN_PREFIX: &str = "CNI-DN-";

/// Adds the rules of these containers to a node.
pub fn prefill(site: &Site, containers: &[(Container, Mapping)]) {
    let Some(first) = containers.first() else { return };
    compare(first);
    restore(&site.host, containers, |container| {
        // portmap takes as many digits of a hash.
        format!("{CHAIN_PREFIX}{}", &container.id()[64 - 21..])
    });
}

fn restore(
    host: &Namespace,
    containers: &[(Container, Mapping)],
    chain: impl Fn(&Container) -> String,
) {
    let mut text = String::from("*nat\n");
    if !save(host).contains("-j CNI-HOSTPORT-MASQ") {
        for name in ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"] {
            writeln!(text, ":{name} - [0:0]").expect("a String takes all");
        }
        text += SHARED;
    }
    for (container, _) in containers {
        writeln!(text, ":{} - [0:0]", chain(container)).expect("a String takes all");
    }
    for (container, mapping) in containers {
        text += &rules(*container, mapping, &chain(container));
    }
    text += "COMMIT\n";
    run(host, Command::new("iptables-restore").arg("--noflush"), &text);
}

/// The rules of one container.
fn rules(container: Container, mapping: &Mapping, chain: &str) -> String {
    let Mapping { host_port, container_port, protocol } = mapping;
    let (id, address) = (container.id(), container.v4());
    let own = format!("-A {chain}");
    let port = format!("-p {protocol} -m {protocol} --dport {host_port}");
    format!(
        "{own} -s 10.88.0.0/16 {port} -j CNI-HOSTPORT-SETMARK\n\
         {own} -s 127.0.0.1/32 {port} -j CNI-HOSTPORT-SETMARK\n\
         {own} {port} -j DNAT --to-destination {address}:{container_port}\n\
         -A CNI-HOSTPORT-DNAT -p {protocol} \
         -m comment --comment \"dnat name: \\\"bench\\\" id: \\\"{id}\\\"\" \
         -m multiport --dports {host_port} -j {chain}\n"
    )
}

/// Panics unless portmap makes for this container what `restore` does.
fn compare(one: &(Container, Mapping)) {
    let (container, mapping) = one;
    let theirs = Site::new(Plugin::Portmap);
    theirs.run(Call::new("ADD", &theirs, *container, &[*mapping]));
    let theirs = save(&theirs.host);
    let chain = theirs.split([' ', '\n', ':']).find(|word| word.starts_with(CHAIN_PREFIX));
    let chain = chain.unwrap_or_else(|| panic!("portmap made no chain: {theirs}"));
    let ours = Site::new(Plugin::Portmap);
    restore(&ours.host, &[*one], |_| chain.to_owned());
    assert_eq!(theirs, save(&ours.host), "portmap makes other rules than these");
}

/// All rules for NAT, without the date and what packets were counted.
fn save(host: &Namespace) -> String {
    let text = run(host, Command::new("iptables-save").args(["-t", "nat"]), "");
    let rules = text.lines().filter(|line| !line.starts_with('#'));
    let rules: Vec<_> = rules.map(|line| line.split(" [").next().unwrap_or(line)).collect();
    rules.join("\n")
}

fn run(host: &Namespace, command: &mut Command, stdin: &str) -> String {
    let output = host.output(command, stdin.as_bytes());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {message}");
    String::from_utf8(output.stdout).expect("rules are text")
}
