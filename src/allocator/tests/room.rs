use super::*;

fn refusal(planned: Planned) -> Exhaustion {
    match planned {
        Err(PlanError::Exhausted(exhaustion)) => *exhaustion,
        other => panic!("{other:?}"),
    }
}

#[test]
fn exhaustion_begins_exactly_after_the_last_port() {
    let three = [1, 2, 3].map(|to| one().to(to));
    for seed in 0..10 {
        assert!(Node::new([("g", "10-11,65535")]).plan("a", &three, seed).is_ok());
        let error = Node::new([("g", "10-11")]).plan("a", &three, seed).unwrap_err();
        assert_eq!(error.to_string(), "group \"g\" has no free tcp port: 2 of 2 leased");
    }
    let error = Node::new([("g", "")]).plan("a", &[one()], 1).unwrap_err();
    assert_eq!(error.to_string(), "group \"g\" has no free tcp port: all are excluded");
    let mut node = Node::new([("g", "1000-1063")]);
    let pod: Vec<Request> = (1..=64).map(|to| one().to(to).of(Protocols::TCP_AND_UDP)).collect();
    assert_eq!(node.add("a", &pod, 1).unwrap().leases.len(), 128);
    assert_eq!(refusal(node.plan("b", &[one().of(Protocol::Udp)], 1)).leased, 64);
    assert!(node.plan("b", &[one().of(Protocol::Sctp)], 1).is_ok());
}

#[test]
fn a_refusal_says_what_has_become_of_the_ports() {
    let mut node = Node::new([("g", "100-119")]);
    node.pools.values_mut().for_each(|pool| pool.excluded = 12);
    node.fill("100-102,115");
    node.add("b", &[fixed(103).block(5)], 0).unwrap();
    node.add("c", &[one().named("x").under("x").preferring(108).block(4)], 0).unwrap();
    node.del("c");
    node.in_use.extend([113, 114].map(tcp));
    let refused = refusal(node.plan("a", &[one().block(5)], 1));
    assert_eq!(
        refused.to_string(),
        "group \"g\" has no block of 5 free tcp ports: 9 of 20 leased, 4 reserved by claims, \
         2 used by host processes, 12 more are excluded"
    );
    assert_eq!(refused.holders, [(attachment("b").into(), 5), (attachment("filler").into(), 4)]);
    let refused = refusal(node.plan("a", &[one().from(116).block(5).of(Protocols::ALL)], 1));
    assert_eq!(
        refused.to_string(),
        "group \"g\" has no block of 5 free tcp+udp+sctp ports from 116 up: 0 of 4 leased, \
         12 more are excluded"
    );
    let mut two = [one().at("192.0.2.1").from(119), one().at("192.0.2.1").from(119)];
    two[1].container = ContainerPort::Same;
    node.pools.values_mut().for_each(|pool| pool.excluded = 1);
    assert_eq!(
        refusal(node.plan("a", &two, 1)).to_string(),
        "group \"g\" has no free tcp port on 192.0.2.1 from 119 up: 1 of 1 leased, \
         1 more is excluded"
    );
}

#[test]
fn one_number_serves_several_protocols_and_addresses() {
    let mut node = Node::new([("g", "7")]);
    let on = |address: &str| one().at(address);
    let requests = [one().of(Protocol::Udp), on("192.0.2.1"), on("192.0.2.2"), on("::")];
    assert_eq!(numbers(&node.add("a", &requests, 1).unwrap()), [7, 7, 7, 7]);
    assert!(node.plan("b", &[on("0.0.0.0")], 1).is_err());
    assert!(node.plan("b", &[one()], 1).is_err());
    assert!(node.plan("b", &[on("192.0.2.3")], 1).is_ok());
}

#[test]
fn several_protocols_get_one_number_that_is_free_on_all() {
    let mut node = Node::new([("g", "10-15")]);
    node.fill("10-12");
    let udp: Vec<_> = [13, 14].map(|n| fixed(n).of(Protocol::Udp)).into();
    node.add("u", &udp, 0).unwrap();
    for seed in 0..10 {
        let mut both = one().of(Protocols::TCP_AND_UDP);
        both.container = ContainerPort::Same;
        let plan = node.plan("a", &[one(), both], seed).unwrap();
        assert_eq!(numbers(&plan)[1..], [15, 15]);
        let leases = &plan.leases[1..];
        assert_eq!(leases[0].host.protocol, Protocol::Tcp);
        assert_eq!(leases[1].host.protocol, Protocol::Udp);
        assert!(leases.iter().all(|lease| lease.container_port == lease.host.port));
    }
}

#[test]
fn blocks_are_found_in_fragments() {
    let mut node = Node::new([("g", "10-39,50-59,65530-65535")]);
    node.fill("12,15,19,24,30,36,53,57");
    for (count, firsts) in [(6, vec![65530]), (5, vec![25, 31, 65530, 65531])] {
        let found: BTreeSet<u16> = (0..40)
            .map(|seed| {
                let plan = node.plan("a", &[one().block(count).to(80)], seed).unwrap();
                let numbers = numbers(&plan);
                assert!(
                    numbers.is_sorted_by(|a, b| a + 1 == *b)
                        && plan.leases.len() == usize::from(count)
                );
                let last = plan.leases.last().unwrap().container_port;
                assert_eq!(last, port(80 + count - 1), "container ports run alongside");
                numbers[0]
            })
            .collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), firsts);
    }
    assert!(node.plan("a", &[one().block(7)], 0).is_err());
}

/// At random, the first block leaves the second no room three times of four.
#[test]
fn what_fits_only_when_packed_is_packed() {
    let node = Node::new([("g", "10-17")]);
    for seed in 0..20 {
        let plan = node.plan("a", &[one().to(1), one().to(9).block(4), one().block(3)], seed);
        assert_eq!(sorted(&plan.unwrap()), (10..18).collect::<Vec<_>>());
    }
}

/// Every port of two groups is needed, and a third that reaches into both has
/// others.
#[test]
fn groups_that_overlap_share_what_there_is() {
    let node = Node::new([("a", "10-12"), ("b", "12-14"), ("c", "10,12,20-30")]);
    for seed in 0..20 {
        let requests = [
            from_group("a").to(1),
            from_group("a").to(2),
            from_group("a").to(3),
            from_group("c").from(12).to(4),
            from_group("b").to(5),
            from_group("b").to(6),
        ];
        let plan = node.plan("x", &requests, seed).unwrap();
        assert_eq!(sorted(&plan)[..5], [10, 11, 12, 13, 14]);
        assert!(numbers(&plan)[3] >= 20);
    }
    let error = refusal(node.plan("x", &[1, 2, 3, 4].map(|to| from_group("a").to(to)), 1));
    assert_eq!((error.leased, error.size), (3, 3));
}

/// The second request can only have port 20, in the larger group; the first, which
/// is drawn before it, takes that one time of three. Packed, the second comes first
/// and the first goes below it.
#[test]
fn a_lower_bound_counts_when_groups_overlap() {
    let node = Node::new([("a", "10-11,20"), ("b", "1-9,20")]);
    for seed in 0..20 {
        let requests = [from_group("a").to(1), from_group("b").from(10).to(2)];
        let plan = node.plan("x", &requests, seed).unwrap();
        assert!(numbers(&plan)[0] < 12 && numbers(&plan)[1] == 20);
    }
}

/// Which end of the longer run the block of four takes decides whether the rest
/// fits, and the lower one is wrong.
#[test]
fn a_wrong_place_is_taken_back() {
    let mut node = Node::new([("g", "1-5,7-10,12-15,17-20")]);
    node.fill("12-15,17-20");
    for seed in 0..20 {
        let blocks = [one().to(1).block(4), one().to(10).block(3), one().to(20).block(2)];
        let plan = node.plan("a", &blocks, seed).unwrap();
        assert_eq!(sorted(&plan), [1, 2, 3, 4, 5, 7, 8, 9, 10]);
        assert_eq!(numbers(&plan)[0], 7);
    }
}

/// The block of four lies in the middle of the others four times of five, and
/// leaves the block of three no room once of these.
#[test]
fn packing_leaves_resting_ports_alone_where_it_can() {
    let mut node = Node::new([("g", "10-17")]);
    node.release(tcp(10), 50, COOLDOWN);
    let found: BTreeSet<Vec<u16>> = (0..60)
        .map(|seed| {
            let blocks = [one().to(1).block(4), one().to(9).block(3)];
            numbers(&node.plan("a", &blocks, seed).unwrap())
        })
        .collect();
    let expected = [
        vec![11, 12, 13, 14, 15, 16, 17],
        vec![13, 14, 15, 16, 10, 11, 12],
        vec![14, 15, 16, 17, 11, 12, 13],
    ];
    assert_eq!(found, BTreeSet::from(expected));
}

#[test]
fn a_refused_plan_says_so_within_its_bound() {
    let mut node = Node::new([("a", "1000-1040"), ("b", "1000-1050")]);
    node.fill("1003,1007,1013,1019,1029");
    let requests: Vec<_> = (1..=16)
        .map(|to| from_group(if to % 2 == 0 { "a" } else { "b" }).to(to).block(3))
        .collect();
    assert!(node.plan("x", &requests, 1).is_err());
}
/// A module holds what it has, and nothing that anybody holds is free for it.
#[test]
fn modules_and_containers_keep_out_of_each_others_way() {
    let mut node = Node::new([("g", "10-19")]);
    node.modules = (10..14).map(|number| (tcp(number), "mail1".parse().unwrap())).collect();
    let error = node.plan("a", &[fixed(12)], 1).unwrap_err();
    assert_eq!(error.to_string(), "host port 12/tcp is held by module mail1");
    let added = node.add("a", &[one().block(4)], 1).unwrap();
    assert!(numbers(&added)[0] >= 14);
    let Err(PlanError::Exhausted(refused)) = node.plan("b", &[one().block(3)], 1) else { panic!() };
    assert_eq!((refused.leased, refused.holders.len()), (8, 2));
    assert!(refused.holders.contains(&(Owner::Module("mail1".parse().unwrap()), 4)));

    // What rests is free for a module, and what it has itself is not.
    node.del("a");
    let sequential = [one().block(6).by(Strategy::Sequential)];
    let situation = Situation {
        attachment: None,
        namespace: None,
        previous: &[],
        pools: &node.pools,
        in_use: &node.in_use,
        now: Duration::MAX,
    };
    let plan = plan(&sequential, situation, &node, &mut fastrand::Rng::with_seed(1)).unwrap();
    assert_eq!((numbers(&plan)[0], plan.claims.len()), (14, 0));
}
