//! Making the kernel hold what the store says.
//!
//! Reads are single netlink requests about one table; every change is one
//! transaction of `nft`, so the kernel holds all of it or nothing.
//!
//! Limits: whoever empties one of the maps and leaves the rules alone is noticed
//! only by those whose elements are compared ([`Nat::check`], [`Nat::change`]).
//! The caller holds the node's lock: between reading and changing, other
//! processes of ours must not change the same table.

use std::{
    ffi::{OsStr, OsString},
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use nftables::schema::Nftables;

use super::{
    element::{Element, elements},
    kernel::{self, Held},
    program,
    ruleset::Table,
};
use crate::{lease::Forwarding, netlink::Socket};

/// How much of what nft printed an error quotes. It repeats the input of every
/// command that failed.
const QUOTED_LINES: usize = 3;
const QUOTED_LENGTH: usize = 400;

/// nftables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The program is not installed.
    #[error("cannot find nft in PATH, /usr/sbin, /sbin or /usr/local/sbin")]
    NftNotFound,
    /// The program could not be run.
    #[error("cannot run {}", program.display())]
    NftNotRun {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// nft or the kernel refused.
    #[error("cannot {what}: nft: {message} ({status})")]
    NftFailed {
        /// What was to be done.
        what: String,
        /// The first lines of what it printed.
        message: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The kernel could not be asked.
    #[error("cannot {what} by netlink")]
    Netlink {
        /// What was to be read.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// What the kernel holds otherwise than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The table is absent, or its rules are not those of this version and
    /// configuration.
    Rules {
        /// The table.
        table: String,
    },
    /// An element is absent.
    Missing {
        /// The table.
        table: String,
        /// The element that should be there.
        element: Element,
    },
    /// A map leads elsewhere.
    Elsewhere {
        /// The table.
        table: String,
        /// The element that should be there.
        element: Element,
        /// What its key leads to.
        found: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |element: &Element| if element.set().is_map() { "map" } else { "set" };
        match self {
            Self::Rules { table } => {
                write!(f, "table inet {table} is absent or its rules are not those configured")
            }
            Self::Missing { table, element } => write!(
                f,
                "{} {} of table inet {table} has no element {element}",
                kind(element),
                element.set().name(),
            ),
            Self::Elsewhere { table, element, found } => write!(
                f,
                "{} {} of table inet {table} leads from {element} to {found} and not to {}",
                kind(element),
                element.set().name(),
                element.target().unwrap_or_default(),
            ),
        }
    }
}

/// nftables on this host. The socket is opened and the program looked for when
/// they are first needed.
#[derive(Debug)]
pub struct Nat {
    path: Option<OsString>,
    program: Option<PathBuf>,
    socket: Option<Socket>,
}

impl Nat {
    /// `path` is the `PATH` to look for nft in, before the usual directories.
    #[must_use]
    pub fn new(path: Option<&OsStr>) -> Self {
        Self { path: path.map(OsStr::to_owned), program: None, socket: None }
    }

    /// Whether the table is there and has the rules it should have. Says nothing
    /// about elements.
    pub fn is_intact(&mut self, table: &Table) -> Result<bool, NatError> {
        let found = self.read(
            || format!("list the rules of table inet {}", table.name()),
            |socket| kernel::rules(socket, table),
        )?;
        Ok(table.comments().eq(found.iter().map(|(chain, comment)| (&**chain, &**comment))))
    }

    /// Every way in which the kernel differs from the table and these elements;
    /// other elements are not looked at. Costs one request for each.
    pub fn check(
        &mut self,
        table: &Table,
        elements: &[Element],
    ) -> Result<Vec<Difference>, NatError> {
        let mut differences = Vec::new();
        let name = || table.name().to_owned();
        if !self.is_intact(table)? {
            differences.push(Difference::Rules { table: name() });
        }
        for element in elements {
            match self.held(table, element)? {
                None => differences
                    .push(Difference::Missing { table: name(), element: element.clone() }),
                Some(held) if held.data != element.data_bytes() => {
                    differences.push(Difference::Elsewhere {
                        table: name(),
                        element: element.clone(),
                        found: show(&held.data),
                    });
                }
                Some(_) => {}
            }
        }
        Ok(differences)
    }

    /// Removes elements and adds others, in one transaction.
    ///
    /// What is to be removed and is absent, or is there with other data (it is
    /// not what was added then), is left alone, and so is what is to be added
    /// and is there. What is there under the key of an element to be added, with
    /// other data or another owner, is replaced. When that leaves nothing to do,
    /// nft is not run.
    ///
    /// The table must be there unless there is nothing to add: see
    /// [`Nat::is_intact`] and [`Nat::rebuild`].
    pub fn change(
        &mut self,
        table: &Table,
        remove: &[Element],
        add: &[Element],
    ) -> Result<(), NatError> {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for element in add {
            match self.held(table, element)? {
                Some(held) if is_held(element, &held) => continue,
                Some(held) => {
                    log::warn!(
                        "table inet {} map {} leads from {element} to {} ({}): replaced",
                        table.name(),
                        element.set().name(),
                        show(&held.data),
                        held.comment.as_deref().unwrap_or("no comment"),
                    );
                    removed.push(element);
                }
                None => {}
            }
            added.push(element);
        }
        for element in remove.iter().filter(|e| !add.iter().any(|a| a.is_same_key(e))) {
            match self.held(table, element)? {
                Some(held) if held.data == element.data_bytes() => removed.push(element),
                Some(held) => log::warn!(
                    "table inet {} map {} leads from {element} to {} and not to {}: left alone",
                    table.name(),
                    element.set().name(),
                    show(&held.data),
                    element.target().unwrap_or_default(),
                ),
                None => {}
            }
        }
        if removed.is_empty() && added.is_empty() {
            return Ok(());
        }
        let what = || format!("change the elements of table inet {}", table.name());
        self.run(&table.change(&removed, &added), false, what)
    }

    /// Replaces the table, whatever it holds and whether or not it is there, by
    /// one with the elements of these forwardings, in one transaction. Packets
    /// meet the old table or the new one, never none.
    pub fn rebuild<'a>(
        &mut self,
        table: &Table,
        forwardings: impl IntoIterator<Item = &'a Forwarding>,
    ) -> Result<(), NatError> {
        let mut seen = std::collections::HashSet::new();
        let all: Vec<_> = forwardings
            .into_iter()
            .flat_map(elements)
            .filter(|element| seen.insert(element.identity()))
            .collect();
        self.run(&table.replacement(&all), false, || format!("write table inet {}", table.name()))
    }

    /// Asks nft and the kernel whether they would take the table, and changes
    /// nothing.
    pub fn probe(&mut self, table: &Table) -> Result<(), NatError> {
        self.run(&table.replacement(&[]), true, || {
            format!("check whether table inet {} can be written", table.name())
        })
    }

    fn held(&mut self, table: &Table, element: &Element) -> Result<Option<Held>, NatError> {
        self.read(
            || {
                let set = element.set().name();
                format!("read element {element} of {set} in table inet {}", table.name())
            },
            |socket| kernel::element(socket, table, element),
        )
    }

    fn read<T>(
        &mut self,
        what: impl Fn() -> String,
        ask: impl FnOnce(&mut Socket) -> io::Result<T>,
    ) -> Result<T, NatError> {
        let failed = |source| NatError::Netlink { what: what(), source };
        let socket = match &mut self.socket {
            Some(socket) => socket,
            None => self.socket.insert(Socket::netfilter().map_err(failed)?),
        };
        ask(socket).map_err(failed)
    }

    fn program(&mut self) -> Result<&Path, NatError> {
        if self.program.is_none() {
            self.program = program::find(self.path.as_deref());
        }
        self.program.as_deref().ok_or(NatError::NftNotFound)
    }

    fn run(
        &mut self,
        transaction: &Nftables<'_>,
        check: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), NatError> {
        let program = self.program()?;
        let output = program::run(program, transaction, check)
            .map_err(|source| NatError::NftNotRun { program: program.to_owned(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let printed = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        Err(NatError::NftFailed { what: what(), message: quote(printed), status: output.status })
    }
}

fn is_held(element: &Element, held: &Held) -> bool {
    held.data == element.data_bytes() && held.comment.as_deref() == element.comment()
}

/// What a map leads to, from its bytes.
fn show(data: &[u8]) -> String {
    if let Ok(octets) = <[u8; 4]>::try_from(data) {
        Ipv4Addr::from(octets).to_string()
    } else if let Ok(octets) = <[u8; 16]>::try_from(data) {
        Ipv6Addr::from(octets).to_string()
    } else if let Ok(port) = <[u8; 2]>::try_from(data) {
        u16::from_be_bytes(port).to_string()
    } else {
        format!("{data:02x?}")
    }
}

/// The first lines of what nft printed, in one.
fn quote(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut quoted: String = lines.take(QUOTED_LINES).collect::<Vec<_>>().join("; ");
    if let Some((end, _)) = quoted.char_indices().nth(QUOTED_LENGTH) {
        quoted.truncate(end);
        quoted.push('…');
    }
    if quoted.is_empty() { "it printed nothing".to_owned() } else { quoted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lease::{Lease, Port},
        nat::{Options, condition, elements_held_only_by},
        netlink::namespace::{private, run},
    };

    fn nat() -> Nat {
        Nat::new(std::env::var_os("PATH").as_deref())
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
                group: None,
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

    /// Compares with a file beside this one; `UPDATE_GOLDEN=1` writes it.
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
            nat().rebuild(&table(&snat()), [&web]).unwrap();
            assert_golden("full.nft", &listed());
            let json = run("nft -j list table inet portclaim_net");
            assert!(json.contains("\"map\""), "{json}");
        });
    }

    #[test]
    fn options_are_listed_as_golden() {
        private(|| {
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
            let masq_all = Options { snat: true, masq_all: true, conditions_v4, conditions_v6 };
            nat().rebuild(&table(&masq_all), []).unwrap();
            assert_golden("options.nft", &listed());
            assert!(nat().is_intact(&table(&masq_all)).unwrap());
            let quiet = Options { masq_all: true, ..Options::default() };
            assert!(!nat().is_intact(&table(&quiet)).unwrap(), "other options, other rules");
            nat().rebuild(&table(&quiet), []).unwrap();
            assert!(nat().is_intact(&table(&quiet)).unwrap());
            assert!(!listed().contains("masquerade"), "{}", listed());
        });
    }

    #[test]
    fn a_flushed_ruleset_is_noticed_and_rebuilt() {
        private(|| {
            let (table, web) = (table(&snat()), forwarding("web", 5, &["tcp 8080 80"]));
            let mut nat = nat();
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
    }

    #[test]
    fn changes_are_idempotent_and_replace_what_is_not_ours() {
        private(|| {
            let table = table(&snat());
            let (old, new) =
                (forwarding("old", 5, &["tcp 8080 80"]), forwarding("new", 6, &["tcp 8080 81"]));
            let mut nat = nat();
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
    }

    #[test]
    fn foreign_tables_are_not_touched() {
        private(|| {
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
            let mut nat = nat();
            assert!(!nat.is_intact(&table).unwrap());
            nat.rebuild(&table, [&web]).unwrap();
            assert!(nat.is_intact(&table).unwrap());
            nat.change(&table, &elements(&web), &[]).unwrap();
            nat.change(&table, &[], &elements(&web)).unwrap();
            nat.rebuild(&table, []).unwrap();
            assert_eq!(others(), before);
        });
    }

    /// Forwarded, such a connection would hang: the kernel drops the replies.
    #[test]
    fn loopback_over_ipv6_is_refused_at_once() {
        private(|| {
            run("ip link add cni0 type bridge");
            run("ip link set cni0 up");
            run("ip address add fd00::1/64 dev cni0 nodad");
            nat().rebuild(&table(&snat()), [&forwarding("web", 5, &["tcp 8080 80"])]).unwrap();
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
    }

    #[test]
    fn a_probe_changes_nothing() {
        private(|| {
            nat().probe(&table(&snat())).unwrap();
            assert_eq!(run("nft list tables"), "");
        });
    }

    #[test]
    fn what_nft_says_is_in_the_error() {
        private(|| {
            let web = forwarding("web", 5, &["tcp 8080 80"]);
            let error =
                nat().change(&table(&snat()), &[], &elements(&web)).unwrap_err().to_string();
            assert!(
                error.starts_with("cannot change the elements of table inet portclaim_net: nft: "),
                "{error}"
            );
            assert!(error.contains("No such file or directory"), "{error}");
        });
    }

    #[test]
    fn the_longest_names_are_taken() {
        private(|| {
            let name = format!("a.b_c-{}", "d".repeat(249));
            let table = Table::new(&name.parse().unwrap(), &snat());
            assert_eq!(table.name().len(), 255);
            let mut nat = nat();
            nat.rebuild(&table, [&forwarding("web", 5, &["tcp 8080 80"])]).unwrap();
            assert!(nat.is_intact(&table).unwrap());
        });
    }

    #[test]
    fn nft_is_run_where_path_has_it() {
        // Alone in its process: a thread that forks meanwhile would hold the script
        // open for writing, and it could not be run.
        private(|| {
            let directory = tempfile::tempdir().unwrap();
            let mut nat = Nat::new(Some(directory.path().as_os_str()));
            // Nothing there: the usual directories.
            assert!(nat.program().unwrap().ends_with("nft"));
            let script = directory.path().join("nft");
            std::fs::write(&script, "#!/bin/sh\necho a line; echo >&2 'no rights'; exit 3\n")
                .unwrap();
            let mut nat = Nat::new(Some(directory.path().as_os_str()));
            assert_ne!(nat.program().unwrap(), script, "it is not executable");
            run(&format!("chmod +x {}", script.display()));
            let mut nat = Nat::new(Some(directory.path().as_os_str()));
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

    /// `cargo test --release costs -- --ignored --nocapture`
    #[test]
    #[ignore = "measures"]
    fn costs() {
        private(|| {
            let table = table(&snat());
            let mut nat = nat();
            let time = |what: &str, action: &mut dyn FnMut()| {
                let start = std::time::Instant::now();
                action();
                println!("{what}: {:?}", start.elapsed());
            };
            for count in [0u16, 2000, 10_000] {
                let all: Vec<_> = (0..count)
                    .map(|n| {
                        let mut f = forwarding("web", 5, &[&format!("tcp {} 80", 20_000 + n)]);
                        f.container.v4 = Some(Ipv4Addr::from(0x0a58_0100 + u32::from(n)));
                        f.container.v6 =
                            Some(Ipv6Addr::from((0xfd00 << 112) + 0x100 + u128::from(n)));
                        f
                    })
                    .collect();
                let web = elements(&forwarding("web", 5, &["tcp 8080 80"]));
                println!("{count} forwardings, {} elements to change", web.len());
                time(" rebuild", &mut || nat.rebuild(&table, &all).unwrap());
                for _ in 0..3 {
                    time(" is_intact", &mut || assert!(nat.is_intact(&table).unwrap()));
                    time(" add", &mut || nat.change(&table, &[], &web).unwrap());
                    time(" add again", &mut || nat.change(&table, &[], &web).unwrap());
                    time(" check", &mut || assert!(nat.check(&table, &web).unwrap().is_empty()));
                    time(" one get", &mut || drop(nat.held(&table, &web[0]).unwrap()));
                    time(" remove", &mut || nat.change(&table, &web, &[]).unwrap());
                }
                time(" probe", &mut || nat.probe(&table).unwrap());
            }
        });
    }
}
