use super::*;

fn claimed(claim: &str) -> Request {
    one().named("http").under(claim)
}

#[test]
fn a_claim_gets_its_port_again() {
    let mut node = Node::new([("g", "10-19")]);
    let first = node.add("a", &[claimed("web")], 1).unwrap();
    for round in 0..20 {
        node.del(if round == 0 { "a" } else { "b" });
        let neighbours: Vec<_> = (1..=9).map(|to| one().to(to)).collect();
        let taken = node.add("n", &neighbours, round).unwrap();
        assert!(!numbers(&taken).contains(&numbers(&first)[0]));
        assert!(node.plan("m", &[one()], round).is_err(), "the last one is reserved");
        assert_eq!(numbers(&node.add("b", &[claimed("web")], round).unwrap()), numbers(&first));
        node.del("n");
    }
}

#[test]
fn a_claim_is_held_by_one_at_a_time() {
    let mut node = Node::new([("g", "10-19")]);
    let first = node.add("a", &[claimed("web")], 1).unwrap();
    let error = node.plan("b", &[one(), claimed("web")], 1).unwrap_err();
    assert_eq!(error.to_string(), "claim shop/web (http/tcp) is held by a/eth0");
    // Another port of the claim, another protocol, another claim.
    assert!(node.plan("b", &[one().named("admin").under("web")], 1).is_ok());
    assert!(node.plan("b", &[claimed("web").of(Protocol::Udp)], 1).is_ok());
    assert!(node.plan("b", &[claimed("api")], 1).is_ok());
    assert!(node.plan("b", &[claimed("web").of(Protocols::TCP_AND_UDP)], 1).is_err());
    let handed_over = node.add_instead_of(&["a"], "b", &[claimed("web")], 2).unwrap();
    assert_eq!(numbers(&handed_over), numbers(&first));
    assert_eq!(handed_over.claims[0].holder, Some(attachment("b")));
}

#[test]
fn claims_come_before_what_is_preferred_or_drawn() {
    let mut node = Node::new([("g", "10-12")]);
    node.add("a", &[claimed("web").preferring(11)], 1).unwrap();
    node.del("a");
    for seed in 0..10 {
        let requests = [one().to(1).preferring(11), claimed("web").preferring(12)];
        let plan = node.plan("b", &requests, seed).unwrap();
        assert_eq!(numbers(&plan)[1], 11);
        assert_ne!(numbers(&plan)[0], 11);
        assert_eq!(
            sorted(&node.plan("c", &[1, 2].map(|to| one().to(to)), seed).unwrap()),
            [10, 12]
        );
    }
    let error = node.plan("b", &[fixed(11)], 1).unwrap_err();
    assert_eq!(error.to_string(), "host port 11/tcp is reserved by claim shop/web (http/tcp)");
    assert!(node.plan("b", &[fixed(11).of(Protocol::Udp)], 1).is_ok());
}

#[test]
fn a_reservation_is_on_its_address_only() {
    let mut node = Node::new([("g", "10")]);
    node.add("a", &[claimed("web").at("192.0.2.1")], 1).unwrap();
    node.del("a");
    assert!(node.plan("b", &[one()], 1).is_err());
    assert!(node.plan("b", &[one().at("192.0.2.1")], 1).is_err());
    assert!(node.plan("b", &[one().at("192.0.2.2")], 1).is_ok());
    // For its own user it may also become wider.
    assert_eq!(numbers(&node.plan("b", &[claimed("web")], 1).unwrap()), [10]);
}

#[test]
fn a_claim_keeps_its_port_while_it_rests_and_below_the_base() {
    let mut node = Node::new([("g", "10-99")]);
    node.add("a", &[claimed("web").preferring(10)], 1).unwrap();
    node.del("a");
    assert!(node.releases[&(Protocol::Tcp, port(10))].rested > node.now);
    assert_eq!(numbers(&node.plan("b", &[claimed("web").from(50)], 1).unwrap()), [10]);
}

#[test]
fn a_claim_moves_when_its_port_no_longer_does() {
    let mut node = Node::new([("g", "10-14")]);
    node.add("a", &[claimed("web").preferring(11)], 1).unwrap();
    node.del("a");

    let mut used = node.clone();
    used.in_use.insert(tcp(11));
    let plan = used.add("b", &[claimed("web")], 1).unwrap();
    assert_ne!(numbers(&plan), [11]);
    assert_eq!(plan.claims[0].port, plan.leases[0].host.port);
    assert_eq!(used.claims.len(), 1);

    let mut smaller = node.clone();
    smaller.pools = Node::new([("g", "12-14")]).pools;
    assert!(numbers(&smaller.plan("b", &[claimed("web")], 1).unwrap())[0] >= 12);

    // Larger, with a neighbour in the way: its own port is free for it still.
    node.fill("12,14");
    let plan = node.plan("b", &[claimed("web").block(2)], 1).unwrap();
    assert_eq!(numbers(&plan), [10, 11]);
    assert_eq!((plan.claims[0].port, plan.claims[0].count), (port(10), 2));
    // And while it moves, nobody else gets what it leaves.
    node.in_use.insert(tcp(11));
    for seed in 0..10 {
        let plan = node.plan("b", &[one(), claimed("web")], seed).unwrap();
        assert_eq!(sorted(&plan), [10, 13]);
    }
}

#[test]
fn a_claim_grows_and_shrinks_in_place() {
    let mut node = Node::new([("g", "10-99")]);
    let first = numbers(&node.add("a", &[claimed("web")], 1).unwrap())[0];
    for (count, protocols) in [
        (4, Protocols::from(Protocol::Tcp)),
        (4, Protocols::TCP_AND_UDP),
        (2, Protocol::Udp.into()),
        (1, Protocols::ALL),
    ] {
        let request = claimed("web").block(count).of(protocols);
        let plan = node.add("a", &[request], 2).unwrap();
        assert_eq!(plan.leases[0].host.port.number(), first);
        assert_eq!(plan.claims.len(), protocols.len() as usize);
        assert!(plan.claims.iter().all(|it| (it.port, it.count) == (port(first), count)));
    }
}

#[test]
fn a_repeated_request_keeps_its_port_also_while_it_rests() {
    let mut node = Node::new([("g", "1000-1999")]);
    let requests = [one().to(1), one().to(2), fixed(99), one().to(5).block(3)];
    let before = node.add("a", &requests, 5).unwrap();
    let swapped = [3, 1, 0].map(|at| requests[at].clone());
    let after = node.plan("a", &swapped, 6).unwrap();
    let expected = [&before.leases[3..6], &before.leases[1..2], &before.leases[..1]].concat();
    assert_eq!(after.leases, expected);
    assert_eq!(node.plan_instead_of(&["a"], "b", &swapped, 6).unwrap().leases, expected);
    node.pools = Node::new([("g", "2000-2999")]).pools;
    let moved = node.plan("a", &swapped, 6).unwrap();
    assert!(moved.leases.iter().all(|lease| lease.host.port >= port(2000)));
}

#[test]
fn what_was_held_is_known_by_its_name() {
    let mut node = Node::new([("g", "1000-9999"), ("h", "1000-9999")]);
    let before = node.add("a", &[one().named("x"), one().named("y"), one()], 5).unwrap();
    let [x, y, unnamed] = numbers(&before)[..] else { panic!() };
    let after = |requests: &[Request]| numbers(&node.plan("a", requests, 6).unwrap());
    assert_eq!(after(&[one().named("y").to(8080), one().named("x")]), [y, x]);
    assert_eq!(after(&[one()]), [unnamed]);
    for other in [
        one().named("z"),
        one().to(81),
        one().of(Protocol::Udp),
        one().at("::"),
        from_group("h"),
        one().from(unnamed + 1),
    ] {
        assert_ne!(after(std::slice::from_ref(&other)), [unnamed], "{other:?}");
    }
    // Each is used once, and may become smaller.
    let [first, second] = after(&[one(), one()])[..] else { panic!() };
    assert!(first == unnamed && second != unnamed);
}

#[test]
fn a_port_that_leads_to_itself_is_kept_as_such() {
    let mut node = Node::new([("g", "1000-9999")]);
    let same = Request { container: ContainerPort::Same, ..one().block(2) };
    let before = node.add("a", &[one(), same.clone()], 5).unwrap();
    assert_eq!(node.plan("a", &[same], 6).unwrap().leases, before.leases[1..]);
}

#[test]
fn kept_ports_come_before_preferred_ones() {
    let mut node = Node::new([("g", "10-19")]);
    node.add("a", &[one().named("x").preferring(15)], 1).unwrap();
    let requests = [one().preferring(15), one().named("x").preferring(12)];
    assert_eq!(numbers(&node.plan("a", &requests, 1).unwrap())[1], 15);
}

/// What was held without a claim gets one later, and stays.
#[test]
fn a_new_claim_begins_with_what_was_held() {
    let mut node = Node::new([("g", "1000-9999")]);
    let before = node.add("a", &[one().named("http")], 1).unwrap();
    let after = node.plan_instead_of(&["a"], "b", &[claimed("web")], 2).unwrap();
    assert_eq!(numbers(&after), numbers(&before));
    assert_eq!(after.claims[0].port, before.leases[0].host.port);
}
