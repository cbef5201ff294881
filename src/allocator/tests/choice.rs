use super::*;

#[test]
fn a_static_port_goes_to_the_first_who_asks() {
    let mut node = Node::new([("g", "1-10")]);
    let first = node.add("a", &[fixed(8080).to(80)], 0).unwrap();
    let lease = Lease {
        host: tcp(8080),
        container_port: port(80),
        name: None,
        group: None,
        claim: None,
        rest: None,
    };
    assert_eq!(first, Plan { leases: vec![lease], claims: Vec::new() });
    let error = node.plan("b", &[fixed(8079).block(2)], 0).unwrap_err();
    assert_eq!(error.to_string(), "host port 8080/tcp is held by a/eth0");
    assert_eq!(node.plan("a", &[fixed(8080)], 0).unwrap(), first);
    assert_eq!(node.plan_instead_of(&["a"], "b", &[fixed(8080)], 0).unwrap(), first);
}

#[test]
fn what_keeps_dynamic_ports_away_does_not_keep_static_ones() {
    let mut node = Node::new([("g", "1-10")]);
    node.release(tcp(8080), 0, COOLDOWN);
    node.in_use.insert(tcp(8080));
    assert!(node.plan("a", &[fixed(8080)], 0).is_ok());
}

#[test]
fn a_static_port_is_not_given_twice() {
    let node = Node::new([]);
    let error = node.plan("a", &[fixed(80), fixed(79).block(2).at("::")], 0).unwrap_err();
    assert_eq!(error.to_string(), "host port [::]:80/tcp is asked for twice");
    assert!(node.plan("a", &[fixed(80).at("0.0.0.0"), fixed(80).at("::")], 0).is_ok());
}

#[test]
fn dynamic_ports_never_take_a_static_one_of_the_same_plan() {
    let node = Node::new([("g", "10-12")]);
    for seed in 0..20 {
        let plan = node.plan("a", &[one().to(1), fixed(10), one().to(2)], seed).unwrap();
        assert_eq!(numbers(&plan)[1], 10);
        assert_eq!(sorted(&plan), [10, 11, 12]);
    }
}

#[test]
fn a_lease_says_where_it_comes_from_and_how_it_rests() {
    let mut node = Node::new([("g", "10-29"), ("lru", "40")]);
    node.pools.values_mut().for_each(|pool| pool.cooldown = Duration::from_millis(1500));
    node.pools.get_mut(&"lru".parse().unwrap()).unwrap().is_remembered = true;
    let requests = [one().named("web").under("site").to(80).block(2), from_group("lru").named("x")];
    let plan = node.plan("a", &requests, 1).unwrap();
    let first = plan.leases[0].host.port;
    let lease = |at, number: Port, group: &str, name: &str| Lease {
        host: HostPort { port: number, ..tcp(1) },
        container_port: port(80_u16 + at),
        name: Some(name.parse().unwrap()),
        group: Some(group.parse().unwrap()),
        claim: (group == "g").then(|| "site".parse().unwrap()),
        rest: Some(Rest { cooldown: 1500, is_remembered: group == "lru" }),
    };
    let second = first.above(1).unwrap();
    assert_eq!(
        plan.leases,
        [lease(0, first, "g", "web"), lease(1, second, "g", "web"), lease(0, port(40), "lru", "x")]
    );
    assert_eq!(plan.claims.len(), 1);
    let claim = &plan.claims[0];
    assert_eq!(claim.key.to_string(), "shop/site (web/tcp)");
    assert_eq!((claim.port, claim.count, claim.ttl), (first, 2, 30 * 24 * 3600));
    assert_eq!(claim.holder, Some(attachment("a")));
}

#[test]
fn sequential_takes_the_lowest_from_the_base_up() {
    let mut node = Node::new([("g", "30000-31000")]);
    let pod = [30558, 30558].map(|base| one().by(Strategy::Sequential).from(base));
    assert_eq!(numbers(&node.add("a", &pod, 1).unwrap()), [30558, 30559]);
    assert_eq!(numbers(&node.add("b", &pod, 2).unwrap()), [30560, 30561]);
    node.del("a");
    assert_eq!(numbers(&node.add("c", &pod, 3).unwrap()), [30562, 30563], "those rest");
    node.now += COOLDOWN;
    assert_eq!(numbers(&node.add("d", &pod, 4).unwrap()), [30558, 30559]);
    let other = one().by(Strategy::Sequential);
    assert_eq!(numbers(&node.add("e", &[other], 4).unwrap()), [30000]);
}

#[test]
fn a_lower_bound_holds_for_every_strategy() {
    let strategies = [Strategy::Random, Strategy::Sequential, Strategy::LeastRecentlyUsed];
    for (seed, strategy) in strategies.into_iter().cycle().take(30).enumerate() {
        let node = Node::new([("g", "10-19")]);
        let three = [1, 2, 3].map(|to| one().by(strategy).from(17).to(to));
        assert_eq!(sorted(&node.plan("a", &three, seed as u64).unwrap()), [17, 18, 19]);
        let low = one().from(17).preferring(12);
        assert!(numbers(&node.plan("a", &[low], seed as u64).unwrap())[0] >= 17);
    }
}

#[test]
fn least_recently_used_takes_fresh_ports_and_then_the_oldest() {
    let mut node = Node::new([("g", "10-15")]);
    for (number, ago) in [(10, 300), (11, 500), (13, 400), (14, 5), (15, 20)] {
        node.release(tcp(number), ago, COOLDOWN);
    }
    let order: Vec<u16> = (0..6)
        .map(|at| {
            let asked = [one().by(Strategy::LeastRecentlyUsed)];
            numbers(&node.add(&format!("a{at}"), &asked, 0).unwrap())[0]
        })
        .collect();
    assert_eq!(order, [12, 11, 13, 10, 15, 14]);
}

#[test]
fn the_newest_release_in_a_block_decides() {
    let mut node = Node::new([("g", "10-15")]);
    let udp = |number| HostPort { protocol: Protocol::Udp, ..tcp(number) };
    for (host, ago) in [
        (tcp(10), 900),
        (tcp(11), 100),
        (tcp(12), 200),
        (tcp(13), 800),
        (udp(13), 300),
        (tcp(15), 80),
    ] {
        node.release(host, ago, Duration::ZERO);
    }
    let block = one().block(2).by(Strategy::LeastRecentlyUsed);
    assert_eq!(numbers(&node.plan("a", std::slice::from_ref(&block), 0).unwrap()), [13, 14]);
    let both = block.of(Protocols::TCP_AND_UDP);
    assert_eq!(numbers(&node.plan("a", &[both], 0).unwrap()), [13, 13, 14, 14]);
    node.release(udp(12), 50, Duration::ZERO);
    let both = one().of(Protocols::TCP_AND_UDP).by(Strategy::LeastRecentlyUsed);
    let four = [1, 2, 3, 4].map(|to| both.clone().to(to));
    let plan = node.plan("a", &four, 0).unwrap();
    assert_eq!(numbers(&plan), [14, 14, 10, 10, 13, 13, 11, 11]);
}

#[test]
fn ports_that_cool_down_are_taken_last_and_the_longest_rested_first() {
    for strategy in [Strategy::Random, Strategy::Sequential, Strategy::LeastRecentlyUsed] {
        let mut node = Node::new([("g", "10-13")]);
        for (number, ago) in [(10, 5), (11, 50), (12, 60), (13, 20)] {
            node.release(tcp(number), ago, COOLDOWN);
        }
        let order: Vec<u16> = (0..4)
            .map(|at| {
                let asked = [one().by(strategy)];
                numbers(&node.add(&format!("a{at}"), &asked, 3).unwrap())[0]
            })
            .collect();
        assert_eq!(order, [12, 11, 13, 10]);
    }
}

#[test]
fn a_block_rests_as_long_as_one_of_its_ports() {
    let mut node = Node::new([("g", "10-15")]);
    node.release(tcp(12), 1, COOLDOWN);
    for seed in 0..10 {
        assert_eq!(numbers(&node.plan("a", &[one().block(3)], seed).unwrap()), [13, 14, 15]);
    }
    node.release(tcp(15), 30, COOLDOWN);
    assert_eq!(numbers(&node.plan("a", &[one().block(3)], 0).unwrap()), [13, 14, 15]);
    assert_eq!(numbers(&node.plan("a", &[one().block(2)], 0).unwrap())[0] % 3, 1);
}

#[test]
fn ports_that_the_host_uses_are_passed_over() {
    let mut node = Node::new([("g", "10-12")]);
    node.in_use.insert(tcp(10));
    node.in_use.insert(HostPort { address: "192.0.2.1".parse().unwrap(), ..tcp(11) });
    for seed in 0..10 {
        assert_eq!(numbers(&node.plan("a", &[one()], seed).unwrap()), [12]);
        let two = [1, 2].map(|to| one().at("::").to(to));
        assert_eq!(sorted(&node.plan("a", &two, seed).unwrap()), [11, 12]);
    }
}

#[test]
fn a_preferred_port_is_taken_if_it_is_free() {
    let mut node = Node::new([("g", "10-29")]);
    node.release(tcp(15), 0, COOLDOWN);
    let wish = |first| one().preferring(first).block(2);
    assert_eq!(numbers(&node.add("a", &[wish(15)], 0).unwrap()), [15, 16]);
    assert!(!numbers(&node.plan("b", &[wish(16)], 0).unwrap()).contains(&16));
    node.in_use.insert(tcp(20));
    assert_ne!(numbers(&node.plan("b", &[wish(19)], 0).unwrap())[0], 19);
    assert_ne!(numbers(&node.plan("b", &[wish(29)], 0).unwrap())[0], 29);
    let plan = node.plan("b", &[one(), wish(22), fixed(25), wish(24)], 7).unwrap();
    assert_eq!(numbers(&plan)[1], 22);
    assert!(!numbers(&plan)[4..].contains(&24));
}

#[test]
fn the_same_seed_makes_the_same_plan() {
    let node = Node::new([("g", "1000-9999")]);
    let requests = [one().to(1), one().block(5), one().of(Protocol::Udp)];
    let plan = node.plan("a", &requests, 1).unwrap();
    assert_eq!(node.plan("a", &requests, 1).unwrap(), plan);
    assert_ne!(node.plan("a", &requests, 2).unwrap(), plan);
}

#[test]
fn each_map_is_asked_for_once_and_only_to_draw() {
    let mut node = Node::new([("g", "10-99")]);
    let requests = [fixed(8080), one().preferring(11), one().named("x").under("x").preferring(12)];
    node.add("a", &requests, 0).unwrap();
    node.plan("a", &requests, 0).unwrap();
    assert!(node.asked.borrow().is_empty());
    let both = one().of(Protocols::TCP_AND_UDP);
    let requests = [one().to(1), both, one().at("::").to(2).block(2)];
    // For all releases only where the ports that come up all rest.
    for (is_resting, count) in [(false, 4), (true, 6)] {
        if is_resting {
            for port in 10..100 {
                node.release(tcp(port), 0, COOLDOWN);
                node.release(HostPort { protocol: Protocol::Udp, ..tcp(port) }, 0, COOLDOWN);
            }
        }
        node.plan("a", &requests, 0).unwrap();
        let asked = node.asked.take();
        assert_eq!(asked.len(), count);
        assert_eq!(asked.into_iter().collect::<BTreeSet<_>>().len(), count);
    }
}

/// Chi-square over 5,000 draws with fixed seeds, as the normal deviate that it
/// comes to (Wilson and Hilferty 1931): fewer than one in 100,000 fair generators
/// exceed 4.27.
fn assert_uniform(node: &Node, request: &Request, free: usize) {
    let mut counts = BTreeMap::new();
    for seed in 0..5_000 {
        let plan = node.plan("a", std::slice::from_ref(request), seed).unwrap();
        *counts.entry(numbers(&plan)[0]).or_insert(0_u32) += 1;
    }
    assert_eq!(counts.len(), free);
    let choices = f64::from(u16::try_from(free).unwrap());
    let (expected, freedom) = (5_000.0 / choices, choices - 1.0);
    let deviation = |&count: &u32| (f64::from(count) - expected).powi(2) / expected;
    let chi_square: f64 = counts.values().map(deviation).sum();
    let spread = 2.0 / (9.0 * freedom);
    let deviate = ((chi_square / freedom).cbrt() - (1.0 - spread)) / spread.sqrt();
    assert!(deviate < 4.27, "{deviate} from a chi-square of {chi_square}");
}

#[test]
fn the_choice_is_uniform_in_an_empty_pool() {
    assert_uniform(&Node::new([("g", "1-100")]), &one(), 100);
    assert_uniform(&Node::new([("g", "1-107")]), &one().block(8), 100);
}

#[test]
fn the_choice_is_uniform_in_a_full_pool() {
    let mut node = Node::new([("g", "1-1000")]);
    node.fill("1-300,351-950");
    assert_uniform(&node, &one(), 100);
}

/// In one draw of seven chance gives up and every candidate is asked about.
#[test]
fn the_choice_is_uniform_on_one_address() {
    let mut node = Node::new([("g", "1-100")]);
    let held: Vec<_> = (4..=97).map(|number| fixed(number).at("192.0.2.1")).collect();
    node.add("b", &held, 0).unwrap();
    assert_uniform(&node, &one().at("192.0.2.1"), 6);
    assert_uniform(&node, &one().at("0.0.0.0").block(2), 4);
}

/// Runs of 1 to 13 free ports, from which 100 blocks of 4 can be cut.
#[test]
fn the_choice_is_uniform_among_fragments() {
    let mut node = Node::new([("g", "1-1000")]);
    let (mut free, mut next, mut blocks) = (BTreeSet::new(), 1, 0_usize);
    for length in (1..=13).cycle() {
        let length = length.min(103 - blocks);
        free.extend(next..next + length);
        blocks += length.saturating_sub(3);
        next += length + 1;
        if blocks == 100 {
            break;
        }
    }
    let full = (1..=1000).filter(|number| !free.contains(number)).map(|n| n.to_string());
    node.fill(&full.collect::<Vec<_>>().join(","));
    assert_uniform(&node, &one().block(4), 100);
}
