//! What the first packet of a flow costs, by how many mappings there are.
//!
//! Measured is the time of the sendto(2) that sends it. A packet crosses a veth
//! pair in the system call that sends it, so that is all the way from the client
//! through the host (conntrack, NAT, routing) into the container, where it ends.

use std::{net::UdpSocket, process::Command, time::Instant};

use crate::{
    Extent,
    plugin::{Call, Mapping, Plugin},
    progress,
    report::{Report, Target},
    site::{ADDRESS, Container, FIRST_PORT, Site},
    statistic::Samples,
};

const TARGET: Target = Target(1.2);

/// Flows of a batch, each from a port of its own.
const BATCH: u16 = 200;
/// Mappings that a container of portclaim's has.
const PORTS_PER_CONTAINER: u16 = 100;

/// A node with its mappings, and clients.
struct Variant {
    site: Site,
    mappings: u16,
    /// Whether to send to containers themselves, past all plugins.
    direct: bool,
    sockets: Vec<UdpSocket>,
    samples: Samples,
}

/// Measures new flows at each number of mappings, and without any.
pub fn measure(extent: &Extent, report: &mut Report) {
    let mut variants = vec![Variant::new(Plugin::Portclaim, 1, true)];
    for &mappings in extent.flow_sizes {
        for plugin in Plugin::ALL {
            progress(&format!("flows: {mappings} mappings of {}", plugin.name()));
            let variant = Variant::new(plugin, mappings, false);
            variant.fill();
            variants.push(variant);
        }
    }
    progress("flows: measuring");
    // The first batch finds the neighbours.
    for batch in 0..=extent.batches {
        for variant in &mut variants {
            let samples = variant.batch();
            if batch > 0 {
                variant.samples.append(samples);
            }
        }
    }
    let (direct, variants) = variants.split_first().expect("there is one");
    let mut rows = Vec::new();
    for plugin in Plugin::ALL {
        let of_plugin: Vec<_> = variants.iter().filter(|v| v.site.plugin == plugin).collect();
        for variant in &of_plugin {
            let is_last = Some(&variant.mappings) == extent.flow_sizes.last();
            let target = (plugin == Plugin::Portclaim && is_last).then_some(TARGET);
            let ratio = variant.samples.ratio(&of_plugin[0].samples);
            rows.push(format!(
                "{} | {} | {} | {}",
                plugin.name(),
                variant.mappings,
                Target::cells_of(target, ratio, ""),
                variant.samples
            ));
        }
    }
    rows.push(format!("neither, and no conntrack | – | – | – | {}", direct.samples));
    report.table(
        "The first packet of a flow",
        "through | mappings | ratio to 1 | target | time",
        rows,
        "UDP over IPv4, from a client outside to a random one of the host ports and into a \
         container, which drops it; every packet was seen to arrive. The time is that of \
         sendto(2), which takes the packet all the way.",
    );
}

impl Variant {
    fn new(plugin: Plugin, mappings: u16, direct: bool) -> Self {
        let site = Site::new(plugin);
        let bind = |_| UdpSocket::bind("0.0.0.0:0").expect("some port is free");
        let sockets = site.client.enter(|| (0..BATCH).map(bind).collect());
        Self { site, mappings, direct, sockets, samples: Samples::default() }
    }

    /// Makes its mappings, to UDP ports.
    fn fill(&self) {
        match self.site.plugin {
            Plugin::Portmap => self.site.grow(0, self.mappings, Mapping::udp),
            Plugin::Portclaim => {
                let ports: Vec<_> = (FIRST_PORT..FIRST_PORT + self.mappings).collect();
                for (number, ports) in (0..).zip(ports.chunks(PORTS_PER_CONTAINER.into())) {
                    let mappings: Vec<_> = ports
                        .iter()
                        .map(|port| Mapping { container_port: *port, ..Mapping::udp(*port) })
                        .collect();
                    self.site.run(Call::new("ADD", &self.site, Container(number), &mappings));
                }
            }
        }
    }

    /// Sends the first packet of some flows, each to a random mapping.
    fn batch(&mut self) -> Samples {
        self.site.arrived();
        let mut samples = Samples::default();
        self.site.client.enter(|| {
            for socket in &self.sockets {
                let index = fastrand::u16(..self.mappings);
                let target = if self.direct {
                    format!("{}:80", Container(index).v4())
                } else {
                    format!("{ADDRESS}:{}", FIRST_PORT + index)
                };
                let target: std::net::SocketAddr = target.parse().expect("it is an address");
                let start = Instant::now();
                let sent = socket.send_to(b"hello", target);
                samples.push(start.elapsed());
                sent.expect("the client has a route");
            }
        });
        let arrived = self.site.arrived();
        assert_eq!(
            arrived,
            u64::from(BATCH),
            "packets through {} at {} mappings",
            self.site.plugin.name(),
            self.mappings
        );
        if !self.direct {
            self.forget();
        }
        samples
    }

    /// Empties conntrack's table, so that what comes next are new flows again.
    fn forget(&self) {
        let result = self.site.host.output(Command::new("conntrack").arg("--flush"), b"");
        let message = String::from_utf8_lossy(&result.stderr);
        assert!(result.status.success(), "conntrack --flush: {message}");
    }
}
