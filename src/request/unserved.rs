//! Which requests have no leases that answer them: CHECK compares what is asked
//! for with what is held.

use std::collections::HashMap;

use super::{Choice, ContainerPort, Request};
use crate::lease::{HostPort, Lease, Port};

/// A line for each request that is not answered by leases of its own: ports of
/// its name, address, protocols and container ports, of the number or the group
/// that it asks for. The leases of a block lie beside each other.
///
/// Requests are expected in the order in which the leases were given for them.
#[must_use]
pub fn unserved(requests: &[Request], leases: &[Lease]) -> Vec<String> {
    let mut left = Left::new(leases);
    let unanswered = requests.iter().filter(|request| !left.take(request));
    unanswered.map(|request| format!("no lease for {}", describe(request))).collect()
}

/// The leases that have not answered a request yet.
struct Left<'a> {
    order: &'a [Lease],
    by_host: HashMap<HostPort, &'a Lease>,
}

impl<'a> Left<'a> {
    fn new(leases: &'a [Lease]) -> Self {
        Self { order: leases, by_host: leases.iter().map(|lease| (lease.host, lease)).collect() }
    }

    /// Takes the leases that answer the request, if there are.
    fn take(&mut self, request: &Request) -> bool {
        let answer = match &request.choice {
            Choice::Static(first) => self.answer(request, *first),
            Choice::Dynamic(_) => {
                let protocol = request.protocols.iter().next();
                let firsts = self.order.iter().filter(|lease| {
                    Some(lease.host.protocol) == protocol
                        && lease.host.address == request.address
                        && lease.name == request.name
                });
                firsts.map(|lease| lease.host.port).find_map(|port| self.answer(request, port))
            }
        };
        let Some(answer) = answer else { return false };
        for host in answer {
            self.by_host.remove(&host);
        }
        true
    }

    /// What answers the request when its ports begin with `first`.
    fn answer(&self, request: &Request, first: Port) -> Option<Vec<HostPort>> {
        // Most ports are none of this request's: nothing is made for those.
        let address = request.address;
        let protocol = request.protocols.iter().next()?;
        self.by_host.get(&HostPort { protocol, port: first, address })?;
        let wanted = request.on(first)?;
        let is_held = |(host, container): &(HostPort, Port)| {
            self.by_host.get(host).is_some_and(|lease| {
                let group = match &request.choice {
                    Choice::Static(_) => None,
                    Choice::Dynamic(dynamic) => Some(&dynamic.group),
                };
                lease.name == request.name
                    && lease.container_port == *container
                    && lease.group.as_ref() == group
            })
        };
        if !wanted.iter().all(is_held) {
            return None;
        }
        Some(wanted.into_iter().map(|(host, _)| host).collect())
    }
}

fn describe(request: &Request) -> String {
    let last = match request.container {
        ContainerPort::Number(first) => first.above(request.count - 1),
        ContainerPort::Same => None,
    };
    let ports = match (request.container, last, request.count) {
        (ContainerPort::Number(first), Some(last), 2..) => format!("{first}-{last}"),
        (ContainerPort::Number(first), ..) => first.to_string(),
        (ContainerPort::Same, _, 1) => "same".to_owned(),
        (ContainerPort::Same, _, count) => format!("{count} times same"),
    };
    let ports = format!("{ports}/{}", request.protocols);
    match &request.name {
        Some(name) => format!("port \"{name}\" ({ports})"),
        None => format!("container port {ports}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{HostAddress, Protocol, Protocols, Strategy};
    use crate::request::Dynamic;

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    fn request(name: &str, container: u16, protocols: Protocols, count: u16, host: u16) -> Request {
        let dynamic = Dynamic {
            group: "default".parse().unwrap(),
            strategy: Strategy::Random,
            from: None,
            preferred: None,
            claim: None,
        };
        Request {
            name: name.parse().ok(),
            container: Port::new(container).map_or(ContainerPort::Same, ContainerPort::Number),
            protocols,
            address: HostAddress::Any,
            count,
            choice: Port::new(host).map_or(Choice::Dynamic(dynamic), Choice::Static),
        }
    }

    fn lease(name: &str, host: u16, container: u16, protocol: Protocol, group: &str) -> Lease {
        Lease {
            host: HostPort { protocol, port: port(host), address: HostAddress::Any },
            container_port: port(container),
            name: name.parse().ok(),
            group: group.parse().ok(),
            claim: None,
            rest: None,
        }
    }

    #[test]
    fn leases_answer_requests_of_their_kind_once() {
        const TCP: Protocol = Protocol::Tcp;
        const UDP: Protocol = Protocol::Udp;
        const D: &str = "default";
        let one = Protocols::from(TCP);
        let both = Protocols::TCP_AND_UDP;
        let web = request("", 80, one, 1, 0);
        let grpc = request("grpc", 19805, one, 1, 0);
        let fixed = request("", 80, one, 1, 8080);
        let game = request("game", 0, both, 1, 0);
        let block = request("b", 90, both, 2, 0);
        let none = "no lease for container port 80/tcp";
        for (requests, leases, expected) in [
            (vec![], vec![lease("", 1, 80, TCP, D)], vec![]),
            (vec![&web], vec![lease("", 10000, 80, TCP, D)], vec![]),
            (vec![&web], vec![], vec![none]),
            (vec![&web], vec![lease("", 10000, 80, UDP, D)], vec![none]),
            (vec![&web], vec![lease("", 10000, 81, TCP, D)], vec![none]),
            (vec![&web], vec![lease("", 10000, 80, TCP, "other")], vec![none]),
            (vec![&web], vec![lease("", 10000, 80, TCP, "")], vec![none]),
            (vec![&web], vec![lease("x", 10000, 80, TCP, D)], vec![none]),
            (vec![&web, &web], vec![lease("", 10000, 80, TCP, D)], vec![none]),
            (
                vec![&web, &web],
                vec![lease("", 10000, 80, TCP, D), lease("", 10001, 80, TCP, D)],
                vec![],
            ),
            (vec![&fixed], vec![lease("", 8080, 80, TCP, "")], vec![]),
            (vec![&fixed], vec![lease("", 8081, 80, TCP, "")], vec![none]),
            (vec![&fixed], vec![lease("", 8080, 80, TCP, D)], vec![none]),
            (
                vec![&grpc],
                vec![lease("http", 1, 19805, TCP, D)],
                vec!["no lease for port \"grpc\" (19805/tcp)"],
            ),
            (
                vec![&game],
                vec![lease("game", 7000, 7000, TCP, D), lease("game", 7000, 7000, UDP, D)],
                vec![],
            ),
            (
                vec![&game],
                vec![lease("game", 7000, 7000, TCP, D), lease("game", 7001, 7001, UDP, D)],
                vec!["no lease for port \"game\" (same/tcp+udp)"],
            ),
            (
                vec![&block],
                vec![
                    lease("b", 1, 90, TCP, D),
                    lease("b", 2, 91, TCP, D),
                    lease("b", 1, 90, UDP, D),
                    lease("b", 2, 91, UDP, D),
                ],
                vec![],
            ),
            (
                vec![&block],
                vec![
                    lease("b", 1, 90, TCP, D),
                    lease("b", 3, 91, TCP, D),
                    lease("b", 1, 90, UDP, D),
                    lease("b", 2, 91, UDP, D),
                ],
                vec!["no lease for port \"b\" (90-91/tcp+udp)"],
            ),
        ] {
            let requests: Vec<_> = requests.into_iter().cloned().collect();
            assert_eq!(unserved(&requests, &leases), expected);
        }
        let mut bound = lease("", 8080, 80, TCP, "");
        bound.host.address = HostAddress::AnyV4;
        assert_eq!(unserved(&[fixed], &[bound]), [none]);
    }
}
