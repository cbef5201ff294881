//! Tables in private network namespaces, changed and read back.

mod backends;

use rustix::io::Errno;

use super::*;
use crate::{
    lease::{Lease, Port},
    nat::{Options, condition, elements_held_only_by},
    netlink::namespace::{private, run},
};

const BACKENDS: [Backend; 2] = [Backend::Netlink, Backend::Nft];

fn nat(backend: Backend) -> Nat {
    Nat::new(backend, std::env::var_os("PATH").as_deref())
}

/// Runs the body of a test with each backend, each time on an empty ruleset.
fn with_each_backend(body: impl Fn(Backend)) {
    for backend in BACKENDS {
        run("nft flush ruleset");
        body(backend);
    }
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

/// Leases written as `tcp 8080 80` or `udp 192.0.2.1 8080 80`.
fn forwarding(id: &str, number: u8, leases: &[&str]) -> Forwarding {
    let lease = |text: &&str| {
        let words: Vec<_> = text.split(' ').collect();
        let numbers = &words[words.len() - 2..];
        let address = if words.len() == 4 { words[1] } else { "" };
        Lease {
            host: crate::lease::HostPort {
                protocol: crate::lease::Protocol::from_name(words[0]).unwrap(),
                port: port(numbers[0].parse().unwrap()),
                address: address.parse().unwrap(),
            },
            container_port: port(numbers[1].parse().unwrap()),
            name: None,
            group: None,
            claim: None,
            rest: None,
        }
    };
    Forwarding {
        attachment: crate::lease::Attachment {
            network: "net".parse().unwrap(),
            container: id.parse().unwrap(),
            interface: "eth0".parse().unwrap(),
        },
        pod: None,
        container: crate::lease::ContainerAddresses {
            v4: Some(Ipv4Addr::new(10, 88, 0, number)),
            v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into())),
        },
        link: Some("cni0".parse().unwrap()),
        sandbox: None,
        health: None,
        since: 0,
        leases: leases.iter().map(lease).collect(),
    }
}

fn table(options: &Options) -> Table {
    Table::new(&"net".parse().unwrap(), options)
}

fn snat() -> Options {
    Options { snat: true, ..Options::default() }
}

fn listed() -> String {
    run("nft -s list table inet portclaim_net")
}

/// Compares with a file in `golden`; `UPDATE_GOLDEN=1` writes it.
fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nat/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{}", path.display());
}

#[test]
fn a_full_table_is_listed_as_golden() {
    private(|| {
        with_each_backend(|backend| {
            let mut web =
                forwarding("web0123456789abcdef", 5, &["tcp 8080 80", "udp 192.0.2.1 53 53"]);
            web.leases.extend(
                forwarding("x", 5, &["sctp 2001:db8::1 9 9", "tcp 0.0.0.0 81 81", "tcp :: 82 82"])
                    .leases,
            );
            web.pod = Some(crate::lease::Pod {
                namespace: "default".parse().unwrap(),
                name: "web-0".parse().unwrap(),
                uid: None,
            });
            nat(backend).rebuild(&table(&snat()), [&web]).unwrap();
            assert_golden("full.nft", &listed());
            let json = run("nft -j list table inet portclaim_net");
            assert!(json.contains("\"map\""), "{json}");
        });
    });
}

#[test]
fn options_are_listed_as_golden() {
    private(|| {
        with_each_backend(|backend| {
            let conditions_v4 = condition::parse_v4(&[
                "ip saddr 10.0.0.0/8 ip daddr != 192.0.2.1",
                "ip saddr { 10.1.0.0/16, 10.1.2.0/24, 198.51.100.7 }",
                "!",
                "-s",
                "10.2.0.0/16",
                "-d 0.0.0.0/0 ! -i cali+ --in-interface eth0",
                "iifname \"eth1\" iifname != { lo, cni* } meta mark 0x10 mark != 5",
                "tcp dport 1-1023 th sport { 53, 80-90 }",
            ])
            .unwrap();
            let conditions_v6 =
                condition::parse_v6(&["ip6 saddr != fd00::/8 ! -d 2001:db8::1 -s ::/0"]).unwrap();
            let masq_all = Options { masq_all: true, conditions_v4, conditions_v6, ..snat() };
            nat(backend).rebuild(&table(&masq_all), []).unwrap();
            assert_golden("options.nft", &listed());
            assert!(nat(backend).is_intact(&table(&masq_all)).unwrap());
            let quiet = Options { masq_all: true, ..Options::default() };
            assert!(!nat(backend).is_intact(&table(&quiet)).unwrap(), "other options, other rules");
            let descendant = Options { lineage: 7, ..quiet.clone() };
            assert!(
                !nat(backend).is_intact(&table(&descendant)).unwrap(),
                "other lineage, other table"
            );
            nat(backend).rebuild(&table(&quiet), []).unwrap();
            assert!(nat(backend).is_intact(&table(&quiet)).unwrap());
            assert!(!listed().contains("masquerade"), "{}", listed());
        });
    });
}

#[test]
fn what_is_forwarded_may_be_marked_for_others() {
    private(|| {
        with_each_backend(|backend| {
            for options in [snat(), Options::default()] {
                let table = table(&Options { marks: true, ..options });
                nat(backend).rebuild(&table, []).unwrap();
                assert!(nat(backend).is_intact(&table).unwrap());
            }
            let lines = listed();
            let (_, chain) = lines.split_once("chain forward {").unwrap();
            let lines = chain
                .lines()
                .skip(1)
                .take(5)
                .map(|line| line.trim().split(" comment ").next().unwrap().to_owned());
            let mark = "meta mark set meta mark | 0x00001000";
            assert_eq!(
                lines.collect::<Vec<_>>(),
                [
                    "type filter hook forward priority mangle - 10; policy accept;".to_owned(),
                    format!("ct status dnat ip daddr . meta l4proto . th dport @forwarded4 {mark}"),
                    format!("ct status dnat ip saddr . meta l4proto . th sport @forwarded4 {mark}"),
                    format!(
                        "ct status dnat ip6 daddr . meta l4proto . th dport @forwarded6 {mark}"
                    ),
                    format!(
                        "ct status dnat ip6 saddr . meta l4proto . th sport @forwarded6 {mark}"
                    ),
                ]
            );
        });
    });
}

#[test]
fn a_flushed_ruleset_is_noticed_and_rebuilt() {
    private(|| {
        with_each_backend(|backend| {
            let (table, web) = (table(&snat()), forwarding("web", 5, &["tcp 8080 80"]));
            let mut nat = nat(backend);
            assert!(!nat.is_intact(&table).unwrap());
            nat.change(&table, &elements(&web), &[]).unwrap();
            nat.rebuild(&table, []).unwrap();
            assert!(nat.is_intact(&table).unwrap());
            nat.change(&table, &[], &elements(&web)).unwrap();
            assert_eq!(nat.check(&table, &elements(&web)).unwrap(), []);
            let before = listed();

            for damage in [
                "nft flush ruleset",
                "nft flush chain inet portclaim_net output",
                "nft add rule inet portclaim_net guard accept",
                "nft delete table inet portclaim_net",
            ] {
                run(damage);
                assert!(!nat.is_intact(&table).unwrap(), "{damage}");
                assert!(!nat.check(&table, &[]).unwrap().is_empty(), "{damage}");
                nat.rebuild(&table, [&web, &web]).unwrap();
                assert!(nat.is_intact(&table).unwrap(), "{damage}");
                assert_eq!(listed(), before, "{damage}");
            }
        });
    });
}

#[test]
fn changes_are_idempotent_and_replace_what_is_not_ours() {
    private(|| {
        with_each_backend(|backend| {
            let table = table(&snat());
            let (old, new) =
                (forwarding("old", 5, &["tcp 8080 80"]), forwarding("new", 6, &["tcp 8080 81"]));
            let mut nat = nat(backend);
            nat.rebuild(&table, [&old]).unwrap();

            let handle = || run("nft -a list table inet portclaim_net");
            let before = handle();
            nat.change(&table, &[], &elements(&old)).unwrap();
            assert_eq!(handle(), before);

            // The key is held by another container: replaced in one transaction.
            let differences: Vec<_> = nat
                .check(&table, &elements(&new))
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(
                differences[0],
                "map any4_addr of table inet portclaim_net leads from 8080/tcp to 10.88.0.5 and not to 10.88.0.6"
            );
            assert_eq!(
                differences[1],
                "map any4_port of table inet portclaim_net leads from 8080/tcp to 80 and not to 81"
            );
            assert_eq!(
                differences[2],
                "set forwarded4 of table inet portclaim_net has no element 10.88.0.6:81/tcp"
            );
            nat.change(&table, &[], &elements(&new)).unwrap();
            assert_eq!(nat.check(&table, &elements(&new)).unwrap(), []);

            // What the old owner held and the new one replaced is left alone.
            nat.change(&table, &elements_held_only_by(&old, [&new]), &[]).unwrap();
            assert_eq!(nat.check(&table, &elements(&new)).unwrap(), []);
            assert!(!listed().contains("10.88.0.5"), "{}", listed());

            nat.change(&table, &elements(&new), &[]).unwrap();
            nat.change(&table, &elements(&new), &[]).unwrap();
            assert!(!listed().contains("elements"), "{}", listed());

            // The same forwarding on both sides stays as it is.
            nat.change(&table, &elements(&new), &elements(&new)).unwrap();
            assert_eq!(nat.check(&table, &elements(&new)).unwrap(), []);
        });
    });
}

#[test]
fn foreign_tables_are_not_touched() {
    private(|| {
        with_each_backend(|backend| {
            let foreign = "table ip kube-proxy {
            map service-ips {
                type ipv4_addr . inet_proto . inet_service : verdict
                elements = { 172.30.0.41 . tcp . 80 : goto service }
            }
            chain service {
                meta l4proto tcp dnat to 10.180.0.1:80
            }
            chain nat-prerouting {
                type nat hook prerouting priority dstnat; policy accept;
                ip daddr . meta l4proto . th dport vmap @service-ips
            }
        }
        table inet portclaim_net2 {
            set links {
                type ifname
                elements = { x }
            }
        }
        ";
            let file = "/tmp/foreign.nft";
            // A mount namespace of its own, but not a file system of its own.
            run("mount -t tmpfs none /tmp");
            std::fs::write(file, foreign).unwrap();
            run(&format!("nft -f {file}"));
            let others = || {
                run("nft -a list table ip kube-proxy")
                    + &run("nft -a list table inet portclaim_net2")
            };
            let before = others();
            let (table, web) = (table(&snat()), forwarding("web", 5, &["tcp 8080 80"]));
            let mut nat = nat(backend);
            assert!(!nat.is_intact(&table).unwrap());
            nat.rebuild(&table, [&web]).unwrap();
            assert!(nat.is_intact(&table).unwrap());
            nat.change(&table, &elements(&web), &[]).unwrap();
            nat.change(&table, &[], &elements(&web)).unwrap();
            nat.rebuild(&table, []).unwrap();
            assert_eq!(others(), before);
        });
    });
}

/// Forwarded, such a connection would hang: the kernel drops the replies.
#[test]
fn loopback_over_ipv6_is_refused_at_once() {
    private(|| {
        run("ip link add cni0 type bridge");
        run("ip link set cni0 up");
        run("ip address add fd00::1/64 dev cni0 nodad");
        with_each_backend(|backend| {
            nat(backend)
                .rebuild(&table(&snat()), [&forwarding("web", 5, &["tcp 8080 80"])])
                .unwrap();
            let connect = |address: &str| {
                let timeout = std::time::Duration::from_millis(300);
                std::net::TcpStream::connect_timeout(&address.parse().unwrap(), timeout)
                    .unwrap_err()
                    .kind()
            };
            assert_eq!(connect("[::1]:8080"), io::ErrorKind::ConnectionRefused);
            assert_ne!(connect("[fd00::1]:8080"), io::ErrorKind::ConnectionRefused);
            assert_eq!(connect("[fd00::1]:8081"), io::ErrorKind::ConnectionRefused);
        });
    });
}

#[test]
fn a_probe_changes_nothing() {
    private(|| {
        with_each_backend(|backend| {
            nat(backend).probe(&table(&snat())).unwrap();
            assert_eq!(run("nft list tables"), "");
        });
    });
}

#[test]
fn what_nft_or_the_kernel_says_is_in_the_error() {
    private(|| {
        let (web, api) =
            (forwarding("web", 5, &["tcp 8080 80"]), forwarding("api", 6, &["udp 53 53"]));
        let change = |backend, change: &dyn Fn(&mut Nat) -> Result<(), NatError>| {
            let error = change(&mut nat(backend)).unwrap_err();
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", cause.unwrap_or_default())
        };
        let add = |nat: &mut Nat| nat.change(&table(&snat()), &[], &elements(&web));
        let error = change(Backend::Nft, &add);
        let start = "cannot change the elements of table inet portclaim_net: nft: ";
        assert!(error.starts_with(start), "{error}");
        assert!(error.contains("No such file or directory"), "{error}");
        assert_eq!(
            change(Backend::Netlink, &add),
            "cannot change the elements of table inet portclaim_net: the kernel refuses element \
             8080/tcp of map any4_addr of table inet portclaim_net: No such file or directory \
             (os error 2)"
        );

        // A message in the middle is refused: nothing is done, and it is named.
        let mut nat = nat(Backend::Netlink);
        nat.rebuild(&table(&snat()), [&web]).unwrap();
        run("nft flush chain inet portclaim_net hostports");
        run("nft delete map inet portclaim_net any4_port");
        let before = listed();
        let error = nat.change(&table(&snat()), &elements(&web), &elements(&api)).unwrap_err();
        let named = "element 53/udp of map any4_port of table inet portclaim_net";
        assert!(error.to_string().ends_with(named), "{error}");
        assert_eq!(listed(), before);
        // The next transaction is not disturbed by that.
        nat.rebuild(&table(&snat()), [&api]).unwrap();
        assert_eq!(nat.check(&table(&snat()), &elements(&api)).unwrap(), []);
    });
}

/// More answers than the socket holds: it then stayed congested, and the answer to
/// the next transaction, which was carried out, did not come through.
#[test]
fn after_a_thousand_refusals_the_next_change_is_answered() {
    private(|| {
        let absent: Vec<_> = (0..1000).map(|n| format!("tcp {0} {0}", 10_000 + n)).collect();
        let absent: Vec<_> = absent.iter().map(String::as_str).collect();
        let absent = elements(&forwarding("gone", 5, &absent));
        let absent: Vec<_> = absent.iter().collect();
        let web = forwarding("web", 6, &["tcp 8080 80"]);
        let table = table(&snat());
        let mut nat = nat(Backend::Netlink);
        nat.rebuild(&table, []).unwrap();
        let error = nat.transact(&table.change(&absent, &[]), || "delete".to_owned()).unwrap_err();
        let NatError::Refused { object, source, .. } = error else { panic!("{error:?}") };
        assert!(object.starts_with("element 10000/tcp of map any4_addr "), "{object}");
        assert_eq!(Errno::from_io_error(&source), Some(Errno::NOENT));
        nat.change(&table, &[], &elements(&web)).unwrap();
        assert_eq!(nat.check(&table, &elements(&web)).unwrap(), []);
    });
}

/// Others do not take the node's lock. An element that one of them deleted between
/// reading and deleting it made the kernel refuse all that was to be done with it.
#[test]
fn what_others_change_meanwhile_is_read_again() {
    private(|| {
        let table = table(&snat());
        let (web, api) =
            (forwarding("web", 5, &["tcp 8080 80"]), forwarding("api", 6, &["udp 53 53"]));
        let (old, new) = (elements(&web), elements(&api));
        let mut nat = nat(Backend::Netlink);
        nat.rebuild(&table, [&web]).unwrap();
        let mut plans = 0;
        let changed = nat.transact_anew(String::new, |nat| {
            plans += 1;
            let steps = nat.plan(&table, &old, &new);
            run("nft flush map inet portclaim_net any4_addr");
            steps
        });
        changed.unwrap();
        assert_eq!(plans, 2);
        assert_eq!(nat.check(&table, &new).unwrap(), []);
        assert!(!listed().contains("8080"), "{}", listed());
    });
}

#[test]
fn without_rights_the_kernel_says_so() {
    private(|| {
        // Only this thread's.
        let mut rights = rustix::thread::capabilities(None).unwrap();
        rights.effective.remove(rustix::thread::CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, rights).unwrap();
        let error = nat(Backend::Netlink).rebuild(&table(&snat()), []).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(error.to_string(), "cannot write table inet portclaim_net by netlink");
        assert_eq!(cause, "Operation not permitted (os error 1)");
    });
}

/// More than one datagram of the usual size, and more than one message of a set.
#[test]
fn thousands_of_forwardings_are_one_transaction() {
    private(|| {
        let listings = BACKENDS.map(|backend| {
            run("nft flush ruleset");
            let all: Vec<_> = (0..20)
                .map(|container| {
                    let leases: Vec<_> = (0..200)
                        .map(|n| format!("tcp {0} {0}", 10_000 + container * 200 + n))
                        .collect();
                    let leases: Vec<_> = leases.iter().map(String::as_str).collect();
                    let number = u8::try_from(container).unwrap();
                    forwarding(&format!("c{container}"), number, &leases)
                })
                .collect();
            nat(backend).rebuild(&table(&snat()), &all).unwrap();
            listed()
        });
        assert!(listings[0].len() > 500_000);
        assert!(listings[0] == listings[1], "they differ");
    });
}

/// Their elements did not fit in one attribute, at which everything ended in a panic.
#[test]
fn thousands_of_prefixes_are_one_condition() {
    private(|| {
        let prefixes =
            (0..5000).map(|n| format!("10.{}.{}.0/24", n / 128, n % 128 * 2)).collect::<Vec<_>>();
        let conditions_v4 =
            condition::parse_v4(&[format!("ip saddr {{ {} }}", prefixes.join(", "))]).unwrap();
        let table = table(&Options { conditions_v4, ..snat() });
        let web = forwarding("web", 5, &["tcp 8080 80"]);
        let listings = BACKENDS.map(|backend| {
            run("nft flush ruleset");
            let mut nat = nat(backend);
            nat.probe(&table).unwrap();
            nat.rebuild(&table, [&web]).unwrap();
            assert!(nat.is_intact(&table).unwrap());
            let listing = listed();
            nat.change(&table, &elements(&web), &[]).unwrap();
            let left = nat.compare(&table, &elements(&web)).unwrap();
            assert_eq!(left.len(), elements(&web).len(), "{left:?}");
            listing
        });
        assert!(prefixes.iter().all(|prefix| listings[0].contains(prefix)));
        assert!(listings[0] == listings[1], "they differ");
    });
}

/// As many conditions as may be written fit in a rule of the kernel's, those with the
/// most expressions too; with hundreds, everything ended in a panic.
#[test]
fn as_many_conditions_as_are_allowed_fit() {
    let texts = |count| -> Vec<_> {
        let ports = ["tcp sport 1-9".to_owned(), "tcp dport 1-9".to_owned()];
        ports
            .into_iter()
            .chain((2..count).map(|n| format!("ip6 saddr != 2001:db8:{n:x}::/47")))
            .collect()
    };
    let refused = condition::parse_v6(&texts(25)).unwrap_err().to_string();
    assert!(refused.starts_with("there are 25 conditions: at most 24 are allowed"), "{refused}");
    private(|| {
        let conditions_v6 = condition::parse_v6(&texts(24)).unwrap();
        let table = table(&Options { conditions_v6, ..snat() });
        for backend in BACKENDS {
            nat(backend).rebuild(&table, []).unwrap();
            assert!(nat(backend).is_intact(&table).unwrap());
        }
    });
}

#[test]
fn the_longest_names_are_taken() {
    private(|| {
        with_each_backend(|backend| {
            let name = format!("a.b_c-{}", "d".repeat(249));
            let table = Table::new(&name.parse().unwrap(), &snat());
            assert_eq!(table.name().len(), 255);
            let mut nat = nat(backend);
            nat.rebuild(&table, [&forwarding("web", 5, &["tcp 8080 80"])]).unwrap();
            assert!(nat.is_intact(&table).unwrap());
        });
    });
}

#[test]
fn nft_is_run_where_path_has_it() {
    // Alone in its process: a thread that forks meanwhile would hold the script
    // open for writing, and it could not be run.
    private(|| {
        let directory = tempfile::tempdir().unwrap();
        let mut nat = Nat::new(Backend::Nft, Some(directory.path().as_os_str()));
        // Nothing there: the usual directories.
        assert!(nat.program().unwrap().ends_with("nft"));
        let script = directory.path().join("nft");
        std::fs::write(&script, "#!/bin/sh\necho a line; echo >&2 'no rights'; exit 3\n").unwrap();
        let mut nat = Nat::new(Backend::Nft, Some(directory.path().as_os_str()));
        assert_ne!(nat.program().unwrap(), script, "it is not executable");
        run(&format!("chmod +x {}", script.display()));
        let mut nat = Nat::new(Backend::Nft, Some(directory.path().as_os_str()));
        let error = nat.probe(&table(&snat())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot check whether table inet portclaim_net can be written: nft: no rights (exit status: 3)"
        );
    });
}

#[test]
fn long_outputs_are_quoted_short() {
    assert_eq!(quote(b"\n one\n\ntwo\nthree\nfour\n"), "one; two; three");
    assert_eq!(quote("é".repeat(1000).as_bytes()).chars().count(), 401);
    assert_eq!(quote(b" \n"), "it printed nothing");
}
