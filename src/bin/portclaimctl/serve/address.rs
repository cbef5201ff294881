//! Under which address a port is shown.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use clap::Args;
use portclaim::lease::{HostAddress, Lease, Protocol};

/// Container ports that are nearly always pages.
const HTTP: [u16; 4] = [80, 3000, 8000, 8080];
const HTTPS: [u16; 2] = [443, 8443];

#[derive(Args)]
#[group(skip)]
pub struct Options {
    /// The address, or the name, by which clients reach the ports of this node from
    /// outside
    #[arg(long, value_name = "HOST")]
    external_address: Option<String>,

    /// The address of this node where there is no external one [default: that of the
    /// link towards the default route]
    #[arg(long, value_name = "HOST")]
    advertise_address: Option<String>,
}

impl Options {
    /// The addresses and names that are configured.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.external_address.iter().chain(&self.advertise_address)
    }
}

/// The addresses of this node, the first that is known before others.
#[derive(Debug, Default)]
pub struct Shown {
    configured: Option<String>,
    own: Option<IpAddr>,
}

impl Shown {
    pub fn new(options: &Options) -> Self {
        let configured = options.external_address.as_ref().or(options.advertise_address.as_ref());
        Self { configured: configured.cloned(), own: own_address() }
    }

    /// The address and port of a lease: `192.0.2.1:7000`, `[2001:db8::1]:7000`.
    pub fn of(&self, lease: &Lease) -> String {
        let port = lease.host.port.number();
        let specific = match lease.host.address {
            HostAddress::V4(address) => Some(IpAddr::from(address)),
            HostAddress::V6(address) => Some(IpAddr::from(address)),
            HostAddress::Any | HostAddress::AnyV4 | HostAddress::AnyV6 => None,
        };
        match (&self.configured, specific.or(self.own)) {
            (Some(host), _) => match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(address) => SocketAddr::new(address, port).to_string(),
                Err(_) => format!("{host}:{port}"),
            },
            (None, Some(address)) => SocketAddr::new(address, port).to_string(),
            (None, None) => port.to_string(),
        }
    }

    /// Where a browser may be sent to.
    pub fn url_of(&self, lease: &Lease) -> Option<String> {
        if lease.host.protocol != Protocol::Tcp {
            return None;
        }
        let port = lease.container_port.number();
        let name = lease.name.as_ref().map(portclaim::lease::PortName::as_str);
        let scheme = match name {
            Some("https") => "https",
            Some("http" | "web" | "ui") => "http",
            _ if HTTPS.contains(&port) => "https",
            _ if HTTP.contains(&port) => "http",
            _ => return None,
        };
        Some(format!("{scheme}://{}/", self.of(lease)))
    }
}

/// The address of the link towards the default route. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    // Of RFC 5737 and RFC 3849: nobody's.
    let towards = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    towards.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::lease::tests::forwarding;

    fn shown(configured: Option<&str>, own: Option<&str>) -> Shown {
        Shown {
            configured: configured.map(str::to_owned),
            own: own.map(|own| own.parse().unwrap()),
        }
    }

    #[test]
    fn an_address_is_written_as_clients_write_it() {
        let mut lease = forwarding("shop/web", &["80/tcp"]).leases.remove(0);
        for (configured, own, expected) in [
            (None, None, "80"),
            (None, Some("192.0.2.7"), "192.0.2.7:80"),
            (None, Some("2001:db8::7"), "[2001:db8::7]:80"),
            (Some("node.example"), Some("192.0.2.7"), "node.example:80"),
            (Some("[2001:db8::8]"), None, "[2001:db8::8]:80"),
            (Some("2001:db8::8"), None, "[2001:db8::8]:80"),
        ] {
            assert_eq!(shown(configured, own).of(&lease), expected);
        }
        lease.host.address = "198.51.100.1".parse().unwrap();
        assert_eq!(shown(None, Some("192.0.2.7")).of(&lease), "198.51.100.1:80");
        let link = shown(Some("n"), None).url_of(&lease);
        assert_eq!(link.as_deref(), Some("http://n:80/"));
        lease.name = "https".parse().ok();
        assert_eq!(shown(Some("n"), None).url_of(&lease).as_deref(), Some("https://n:80/"));
        lease.host.protocol = Protocol::Udp;
        assert_eq!(shown(Some("n"), None).url_of(&lease), None);
    }
}
