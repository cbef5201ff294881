//! Many who ask at once, while containers come and go.

use std::{
    net::{Ipv4Addr, Shutdown, SocketAddr},
    thread,
};

use super::Server;
use crate::{
    chain::Container,
    http::{Connection, peak_memory},
    node::Node,
    recovery::{add, fixed, network},
};

const CLIENTS: usize = 8;
const STREAMS: usize = 12;
/// How often each asks.
const TIMES: usize = 250;
const MEGABYTE: u64 = 1_000_000;

/// What is asked, in turns.
const MIX: [&str; 8] = [
    "/v1/ports",
    "/v1/ports?q=stay",
    "/",
    "/v1/ports/8000/tcp",
    "/metrics",
    "/?sort=-port&limit=10",
    "/v1/groups",
    "/healthz",
];

/// Nobody gets an error, and what it takes in memory stays small.
pub fn many_ask_while_containers_come_and_go() {
    let node = Node::new(false);
    for number in 0..10 {
        add(&node, &Container::on_paper(&format!("stay{number}"), 2), fixed(8000 + number));
    }
    let server = Server::start(&node, "127.0.0.1", &[]);
    let from = Ipv4Addr::LOCALHOST.into();
    let to = SocketAddr::new(from, server.port);
    let connect = || node.host.enter(|| Connection::open(from, to).unwrap());
    thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|_| {
                let mut stream = connect();
                assert_eq!(stream.get("/v1/events").unwrap().0, 200);
                let end = stream.end();
                let told = scope.spawn(move || stream.drain().unwrap());
                (end, told)
            })
            .collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let mut connection = connect();
                scope.spawn(move || {
                    for time in 0..TIMES {
                        let path = MIX[(client + time) % MIX.len()];
                        let (status, length) = connection.get(path).unwrap();
                        assert!(status == 200 && length > 0, "{path}: {status}");
                    }
                })
            })
            .collect();
        for number in 0..20 {
            let container = Container::on_paper(&format!("go{number}"), 3);
            add(&node, &container, fixed(9000));
            network().del(&node, &container).run(&node).succeeded();
        }
        for client in clients {
            client.join().unwrap();
        }
        for (end, told) in streams {
            assert!(!told.is_finished(), "nobody is sent away");
            end.shutdown(Shutdown::Both).unwrap();
            told.join().unwrap();
        }
    });
    let peak = peak_memory(server.process.id()).unwrap();
    assert!(peak < 64 * MEGABYTE, "{peak} bytes");
}
