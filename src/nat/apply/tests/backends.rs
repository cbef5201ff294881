//! Two backends, one ruleset: whatever is done, by the one or the other or both in
//! turn, `nft` lists the same, and the kernel holds the same, byte for byte.

use std::collections::BTreeSet;

use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};

use super::*;
use crate::netlink::Request;

/// Every object of the tables of ours, as the kernel tells of it, but for what it
/// numbers itself.
fn objects() -> Vec<String> {
    /// What is asked for, and the attributes that are of no interest: handles, how often
    /// it is used, and where it stands.
    const KINDS: [(&str, u16, &[u16]); 4] =
        [("table", 1, &[3, 4]), ("chain", 4, &[2, 6]), ("rule", 7, &[3, 6]), ("set", 10, &[16])];
    let mut socket = Socket::netfilter().unwrap();
    let mut objects = Vec::new();
    let mut sets = BTreeSet::new();
    for (name, kind, passed_over) in KINDS {
        let request = Request::new((wire::SUBSYSTEM << 8) + kind, 0, &[1, 0, 0, 0]);
        let found = socket.dump(&request, |message| {
            let attributes = message.attributes(4);
            if name == "set" {
                let of = |kind| attributes.text(kind).unwrap().to_owned();
                sets.insert((of(1), of(2)));
            }
            // nft notes there what the text of a rule says anyway.
            let is_anonymous = name == "set" && attributes.text(2).unwrap().starts_with("__");
            let passed_over =
                |kind: u16| passed_over.contains(&kind) || (is_anonymous && kind == 13);
            let attributes = attributes.filter(|attribute| !passed_over(attribute.kind));
            let values: Vec<_> =
                attributes.map(|a| format!("{} {:02x?}", a.kind, a.value)).collect();
            Some(format!("{name}: {}", values.join(", ")))
        });
        objects.extend(found.unwrap());
    }
    for (table, set) in sets {
        let mut request = Request::new((wire::SUBSYSTEM << 8) + 13, 0, &[1, 0, 0, 0]);
        request.text(1, &table).text(2, &set);
        let elements = socket.dump(&request, |message| {
            let list = message.attributes(4).nested(3)?;
            Some(list.map(|element| format!("{:02x?}", element.value)).collect::<Vec<_>>())
        });
        // In the order of a hash.
        let mut elements = elements.unwrap().concat();
        elements.sort();
        objects.push(format!("{table} {set}: {}", elements.join("; ")));
    }
    objects
}

fn held() -> (String, Vec<String>) {
    (run("nft -s list ruleset"), objects())
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// `KEY [!=] VALUE` or `KEY [!=] { VALUE, … }`.
fn conditions_of(key: &'static str, values: Vec<&'static str>) -> impl Strategy<Value = String> {
    let operator = select(vec!["", "==", "!="]);
    let set = vec(select(values), 1..5).prop_map(|values| match &values[..] {
        [only] => (*only).to_owned(),
        values => format!("{{ {} }}", values.join(", ")),
    });
    (operator, set).prop_map(move |(operator, set)| format!("{key} {operator} {set}"))
}

fn conditions(
    header: &'static str,
    prefixes: Vec<&'static str>,
) -> impl Strategy<Value = Vec<String>> {
    let key = |end| {
        if header == "ip" { ["ip saddr", "ip daddr"][end] } else { ["ip6 saddr", "ip6 daddr"][end] }
    };
    let links = vec!["eth0", "eth1", "lo", "cni*", "cali*", "a*", "fifteen-letters", "cal"];
    let marks = vec!["0", "1", "0x10", "0x1000", "4294967295"];
    let ports = vec!["0", "1", "80", "81", "82-90", "443", "1024-65535", "65535", "0-79", "91-100"];
    let transports = ["tcp", "udp", "sctp", "th"];
    let of_ports = select(transports.to_vec()).prop_flat_map(move |transport| {
        let key = |field| match (transport, field) {
            ("tcp", "d") => "tcp dport",
            ("tcp", _) => "tcp sport",
            ("udp", "d") => "udp dport",
            ("udp", _) => "udp sport",
            ("sctp", "d") => "sctp dport",
            ("sctp", _) => "sctp sport",
            (_, "d") => "th dport",
            _ => "th sport",
        };
        let one = prop_oneof![
            conditions_of(key("d"), ports.clone()),
            conditions_of(key("s"), ports.clone())
        ];
        vec(one, 0..3)
    });
    let others = prop_oneof![
        conditions_of(key(0), prefixes.clone()),
        conditions_of(key(1), prefixes),
        conditions_of("iifname", links),
        conditions_of("meta mark", marks),
    ];
    (vec(others, 0..5), of_ports, any::<prop::sample::Index>()).prop_map(|(mut all, ports, at)| {
        for condition in ports {
            let at = at.index(all.len() + 1);
            all.insert(at, condition);
        }
        all
    })
}

fn options() -> impl Strategy<Value = Options> {
    let v4 = conditions(
        "ip",
        vec![
            "0.0.0.0/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.0/23",
            "11.0.0.0/8",
            "192.0.2.1",
            "192.0.2.2/31",
            "224.0.0.0/3",
            "255.255.255.255",
            "0.0.0.0",
        ],
    );
    let v6 = conditions(
        "ip6",
        vec![
            "::/0",
            "::1",
            "fd00::/8",
            "fe80::/10",
            "2001:db8::/32",
            "2001:db9::/33",
            "ff00::/8",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::5/127",
        ],
    );
    (any::<[bool; 3]>(), v4, v6, any::<u64>()).prop_map(|(flags, v4, v6, lineage)| Options {
        snat: flags[0],
        masq_all: flags[1],
        marks: flags[2],
        conditions_v4: condition::parse_v4(&v4).unwrap(),
        conditions_v6: condition::parse_v6(&v6).unwrap(),
        lineage,
    })
}

#[test]
fn every_option_and_condition_makes_the_same_rules() {
    private(|| {
        let made = |options: &Options, backend| {
            nat(backend).rebuild(&table(options), []).unwrap();
            held()
        };
        let same = runner(60).run(&options(), |options| {
            let [netlink, nft] = BACKENDS.map(|backend| made(&options, backend));
            prop_assert_eq!(&netlink.0, &nft.0);
            prop_assert_eq!(&netlink.1, &nft.1);
            // Each finds in order what the other has made.
            prop_assert!(nat(Backend::Netlink).is_intact(&table(&options)).unwrap());
            Ok(())
        });
        same.unwrap_or_else(|error| panic!("{error}"));
    });
}

/// What is done to the tables of two networks.
#[derive(Clone, Debug)]
enum Deed {
    /// A change of elements: what forwardings go and what come, by their numbers.
    Change(Vec<usize>, Vec<usize>),
    Rebuild(Vec<usize>),
    RebuildBoth(Vec<usize>),
    Delete,
    Probe,
    /// Somebody else's doing.
    Flush,
}

fn deeds() -> impl Strategy<Value = Vec<(Deed, bool)>> {
    let some = || vec(0..FORWARDINGS, 0..4);
    let deed = prop_oneof![
        6 => (some(), some()).prop_map(|(remove, add)| Deed::Change(remove, add)),
        2 => some().prop_map(Deed::Rebuild),
        1 => some().prop_map(Deed::RebuildBoth),
        1 => Just(Deed::Delete),
        1 => Just(Deed::Probe),
        1 => Just(Deed::Flush),
    ];
    vec((deed, any::<bool>()), 1..10)
}

const FORWARDINGS: usize = 6;

fn forwardings() -> [Forwarding; FORWARDINGS] {
    [
        forwarding("a", 5, &["tcp 8080 80", "udp 8080 80"]),
        forwarding("b", 6, &["tcp 8080 80"]),
        forwarding("c", 5, &["tcp 8081 80", "sctp 9 9"]),
        forwarding("d", 7, &["tcp 192.0.2.1 8080 443", "udp 2001:db8::1 53 53"]),
        forwarding("e", 8, &["tcp 0.0.0.0 81 81", "tcp :: 81 82"]),
        forwarding("f", 9, &["tcp 65535 1", "tcp 1 65535"]),
    ]
}

fn carry_out(deed: &Deed, backend: Backend) {
    let mut nat = nat(backend);
    let forwardings = forwardings();
    let chosen = |numbers: &[usize]| -> Vec<_> {
        numbers.iter().map(|number| forwardings[*number].clone()).collect()
    };
    let (table, other) = (table(&snat()), Table::new(&"other".parse().unwrap(), &snat()));
    match deed {
        Deed::Change(remove, add) => {
            if !nat.is_intact(&table).unwrap() {
                nat.rebuild(&table, []).unwrap();
            }
            let (remove, add) = (elements_of(&chosen(remove)), elements_of(&chosen(add)));
            nat.change(&table, &remove, &add).unwrap();
        }
        Deed::Rebuild(numbers) => nat.rebuild(&table, &chosen(numbers)).unwrap(),
        Deed::RebuildBoth(numbers) => {
            let all = chosen(numbers);
            nat.rebuild_all(&[(&table, &all), (&other, &all[..all.len() / 2])]).unwrap();
        }
        Deed::Delete => {
            nat.delete(&[table.name().to_owned(), "portclaim_none".to_owned()]).unwrap();
        }
        Deed::Probe => nat.probe(&table).unwrap(),
        Deed::Flush => drop(run("nft flush ruleset")),
    }
}

#[test]
fn whoever_does_it_the_same_comes_of_it() {
    private(|| {
        let done = |deeds: &[(Deed, bool)], backend: &dyn Fn(bool) -> Backend| {
            run("nft flush ruleset");
            for (deed, is_netlink) in deeds {
                carry_out(deed, backend(*is_netlink));
            }
            held()
        };
        let same = runner(24).run(&deeds(), |deeds| {
            let by_netlink = done(&deeds, &|_| Backend::Netlink);
            prop_assert_eq!(&done(&deeds, &|_| Backend::Nft), &by_netlink);
            let in_turn = |is_netlink| if is_netlink { Backend::Netlink } else { Backend::Nft };
            prop_assert_eq!(&done(&deeds, &in_turn), &by_netlink);
            Ok(())
        });
        same.unwrap_or_else(|error| panic!("{error}"));
    });
}
