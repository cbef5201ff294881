//! What a new flow costs, by how many mappings there are.
//!
//! A packet crosses a veth pair in the system call that sends it. So the time of
//! the sendto(2) that sends the first packet of a UDP flow is that of all its way,
//! from the client through the host (conntrack, NAT, routing) to the container;
//! and the time of a connect(2) that of a TCP handshake, three such ways.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_linger;

use crate::{
    Extent,
    plugin::{Call, Mapping, Plugin},
    progress,
    report::{Report, Target},
    site::{ADDRESS, Container, FIRST_PORT, Site},
    statistic::Samples,
};

/// Wanted of portclaim at this many mappings.
const TARGET: (u16, Target) = (10_000, Target(1.1));

/// Flows of a batch, each from a port of its own.
const BATCH: u16 = 100;
/// Mappings that a container of portclaim's has, each to a port of its own from
/// this one on.
const CONTAINER_PORTS: u16 = 50;
const FIRST_CONTAINER_PORT: u16 = 1000;

/// What leads to containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A plugin's mappings.
    Plugin(Plugin),
    /// Nothing but a route.
    Route,
}

impl Way {
    const ALL: [Self; 3] =
        [Self::Plugin(Plugin::Portclaim), Self::Plugin(Plugin::Portmap), Self::Route];

    fn name(self) -> &'static str {
        match self {
            Self::Plugin(plugin) => plugin.name(),
            Self::Route => "neither, and no conntrack",
        }
    }
}

/// Where flows go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// All to the mapping that came last: what the mappings beside it cost.
    One,
    /// Each to a random one of all: what it costs besides that everything on the
    /// way, from the neighbour to the container, is out of the cache.
    Any,
}

impl Aim {
    const ALL: [Self; 2] = [Self::One, Self::Any];

    fn name(self) -> &'static str {
        match self {
            Self::One => "one port",
            Self::Any => "any of them",
        }
    }
}

/// A node with its mappings, and what was measured for each aim.
struct Variant {
    way: Way,
    site: Site,
    mappings: u16,
    clients: Clients,
    samples: [Samples; Aim::ALL.len()],
}

/// Both ends of the flows.
enum Clients {
    /// Sockets that send; the containers drop and count.
    Udp(Vec<UdpSocket>),
    /// Sockets that listen on all ports of the containers.
    Tcp(Vec<TcpListener>),
}

/// Measures new flows at each number of mappings, and without any.
pub fn measure(extent: &Extent, report: &mut Report) {
    let mut rows = Vec::new();
    for protocol in ["udp", "tcp"] {
        let mut variants = Vec::new();
        for way in Way::ALL {
            for &mappings in extent.flow_sizes {
                progress(&format!("new {protocol} flows: {mappings} mappings, {}", way.name()));
                variants.push(Variant::new(way, protocol, mappings));
            }
        }
        progress(&format!("new {protocol} flows: measuring"));
        // The first batch finds the neighbours.
        for batch in 0..=extent.batches {
            for variant in &mut variants {
                for aim in Aim::ALL {
                    let samples = variant.batch(aim);
                    if batch > 0 {
                        variant.samples[aim as usize].append(samples);
                    }
                }
            }
        }
        for aim in Aim::ALL {
            rows.extend(rows_of(protocol, aim, &variants));
        }
    }
    report.table(
        "A new flow",
        "flow | to | through | mappings | ratio to 1 | target | time",
        rows,
        "IPv4, from a client outside through a host port to a container; all arrived. UDP: \
         sendto(2) of the first packet, which takes it all the way. TCP: connect(2), a handshake. \
         To one port, the mapping that came last, it shows what the others beside it cost; to any \
         of them, also what it costs to go somewhere else each time, out of the cache, as the \
         plain routes to as many containers do.",
    );
}

fn rows_of(protocol: &str, aim: Aim, variants: &[Variant]) -> Vec<String> {
    let row = |variant: &Variant| {
        let first = variants.iter().find(|v| v.way == variant.way).expect("this is one");
        let (size, target) = TARGET;
        let is_portclaim = variant.way == Way::Plugin(Plugin::Portclaim);
        let has_target = is_portclaim && variant.mappings == size && aim == Aim::One;
        let samples = &variant.samples[aim as usize];
        let ratio = samples.ratio(&first.samples[aim as usize]);
        let ratio = Target::cells_of(has_target.then_some(target), ratio, "");
        let mappings = variant.mappings;
        let (to, through) = (aim.name(), variant.way.name());
        format!("{protocol} | {to} | {through} | {mappings} | {ratio} | {samples}")
    };
    variants.iter().map(row).collect()
}

impl Variant {
    fn new(way: Way, protocol: &'static str, mappings: u16) -> Self {
        let plugin = if let Way::Plugin(plugin) = way { plugin } else { Plugin::Portclaim };
        let site = Site::new(plugin);
        let mapping = move |host_port| Mapping { protocol, ..Mapping::tcp(host_port) };
        match way {
            Way::Plugin(Plugin::Portmap) => site.grow(0, mappings, mapping),
            Way::Plugin(Plugin::Portclaim) => fill(&site, mappings, mapping),
            Way::Route => {}
        }
        let clients = if protocol == "udp" {
            let bind = |_| UdpSocket::bind("0.0.0.0:0").expect("some port is free");
            Clients::Udp(site.client.enter(|| (0..BATCH).map(bind).collect()))
        } else {
            let ports = (FIRST_CONTAINER_PORT..).take(CONTAINER_PORTS.into()).chain([80]);
            Clients::Tcp(site.containers.enter(|| ports.map(listen).collect()))
        };
        Self { way, site, mappings, clients, samples: Default::default() }
    }

    /// Begins some flows.
    fn batch(&self, aim: Aim) -> Samples {
        let samples = match &self.clients {
            Clients::Udp(sockets) => self.send(sockets, aim),
            Clients::Tcp(listeners) => self.connect(listeners, aim),
        };
        if self.way != Way::Route {
            self.forget();
        }
        samples
    }

    fn send(&self, sockets: &[UdpSocket], aim: Aim) -> Samples {
        self.site.arrived();
        let send = |socket: &UdpSocket| {
            let target = self.target(aim);
            let start = Instant::now();
            let sent = socket.send_to(b"hello", target);
            let time = start.elapsed();
            sent.expect("the client has a route");
            time
        };
        let samples = self.site.client.enter(|| sockets.iter().map(send).collect());
        let (through, mappings) = (self.way.name(), self.mappings);
        let arrived = self.site.arrived();
        assert_eq!(arrived, u64::from(BATCH), "packets through {through} at {mappings} mappings");
        samples
    }

    fn connect(&self, listeners: &[TcpListener], aim: Aim) -> Samples {
        let connect = |_| {
            let target = self.target(aim);
            let start = Instant::now();
            let stream = TcpStream::connect(target);
            let time = start.elapsed();
            let stream = stream.unwrap_or_else(|error| panic!("{target}: {error}"));
            // A reset leaves nothing behind that would hold the port.
            set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket has the option");
            time
        };
        let samples = self.site.client.enter(|| (0..BATCH).map(connect).collect());
        let accepted = listeners.iter().map(|listener| {
            let is_some = || match listener.accept() {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) => panic!("accept: {error}"),
            };
            std::iter::repeat_with(is_some).take_while(|is_some| *is_some).count()
        });
        assert_eq!(accepted.sum::<usize>(), usize::from(BATCH), "connections to containers");
        samples
    }

    /// Where a flow goes to.
    fn target(&self, aim: Aim) -> SocketAddr {
        let index = match aim {
            Aim::One => self.mappings - 1,
            Aim::Any => fastrand::u16(..self.mappings),
        };
        match self.way {
            Way::Plugin(_) => (ADDRESS, FIRST_PORT + index).into(),
            Way::Route => (Container(index).v4(), 80).into(),
        }
    }

    /// Empties conntrack's table, so that what comes next are new flows again.
    fn forget(&self) {
        let result = self.site.host.output(Command::new("conntrack").arg("--flush"), b"");
        let message = String::from_utf8_lossy(&result.stderr);
        assert!(result.status.success(), "conntrack --flush: {message}");
    }
}

/// Gives portclaim's containers many mappings each, to be quick; the kernel holds
/// as many elements as for one each.
fn fill(site: &Site, mappings: u16, mapping: impl Fn(u16) -> Mapping) {
    let ports: Vec<_> = (FIRST_PORT..FIRST_PORT + mappings).collect();
    for (number, ports) in (0..).zip(ports.chunks(CONTAINER_PORTS.into())) {
        let mappings: Vec<_> = (FIRST_CONTAINER_PORT..)
            .zip(ports)
            .map(|(container_port, port)| Mapping { container_port, ..mapping(*port) })
            .collect();
        site.run(Call::new("ADD", site, Container(number), &mappings));
    }
}

fn listen(port: u16) -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
    listener.set_nonblocking(true).expect("a socket can be non-blocking");
    listener
}
