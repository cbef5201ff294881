use proptest::{prelude::*, strategy::Strategy as Generator};

use super::*;
use crate::lease::Strategy;

fn any_address() -> impl Generator<Value = HostAddress> {
    let texts = vec!["", "", "", "", "0.0.0.0", "::", "192.0.2.1", "192.0.2.2", "2001:db8::1"];
    prop::sample::select(texts).prop_map(|text| text.parse().unwrap())
}

fn any_protocols() -> impl Generator<Value = Protocols> {
    let tcp: Protocols = Protocol::Tcp.into();
    let all = vec![tcp, tcp, Protocol::Udp.into(), Protocols::TCP_AND_UDP, Protocols::ALL];
    prop::sample::select(all)
}

fn any_choice() -> impl Generator<Value = Choice> {
    let strategy = vec![Strategy::Random, Strategy::Sequential, Strategy::LeastRecentlyUsed];
    let dynamic = (
        prop::sample::select(vec!["g", "g", "h"]),
        prop::sample::select(strategy),
        prop::option::weighted(0.2, 10_u16..22),
        prop::option::weighted(0.3, 10_u16..22),
        prop::option::weighted(0.4, prop::sample::select(vec!["c0", "c1"])),
    );
    let dynamic = dynamic.prop_map(|(group, strategy, from, preferred, claim)| {
        Choice::Dynamic(Dynamic {
            group: group.parse().unwrap(),
            strategy,
            from: from.and_then(Port::new),
            preferred: preferred.and_then(Port::new),
            claim: claim.map(|name| name.parse().unwrap()),
        })
    });
    prop_oneof![1 => (8_u16..26).prop_map(|number| Choice::Static(port(number))), 6 => dynamic]
}

/// What a container asks for. The first is named `p0` and so on, so that claims
/// may be about several of them.
fn any_requests() -> impl Generator<Value = Vec<Request>> {
    let one = (any_choice(), any_protocols(), any_address(), 1_u16..4, 1_u16..5, any::<bool>());
    prop::collection::vec(one, 1..5).prop_map(|parts| {
        let request = |(at, part): (usize, (Choice, Protocols, HostAddress, u16, u16, bool))| {
            let (choice, protocols, address, container, count, is_same) = part;
            let container =
                if is_same { ContainerPort::Same } else { ContainerPort::Number(port(container)) };
            let request = Request { name: None, container, protocols, address, count, choice };
            request.named(&format!("p{at}"))
        };
        parts.into_iter().enumerate().map(request).collect()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Add {
        container: u8,
        old: Option<u8>,
        requests: Vec<Request>,
        seed: u64,
    },
    Del(u8),
    Wait(u64),
    /// A process of the host begins, or stops, to use a port.
    Use(u16),
}

fn any_step() -> impl Generator<Value = Step> {
    let add = (0_u8..6, prop::option::weighted(0.2, 0_u8..6), any_requests(), any::<u64>());
    prop_oneof![
        6 => add.prop_map(|(container, old, requests, seed)| Step::Add {
            container, old, requests, seed
        }),
        3 => (0_u8..6).prop_map(Step::Del),
        1 => (1_u64..100).prop_map(Step::Wait),
        1 => (10_u16..22).prop_map(Step::Use),
    ]
}

fn overlap(requests: &[Request]) -> bool {
    let ports: Vec<HostPort> = requests.iter().flat_map(Request::static_ports).collect();
    ports.iter().enumerate().any(|(at, a)| ports[..at].iter().any(|b| a.conflicts_with(b)))
}

/// What stands in the way of one plan, and what it has taken.
struct Naive<'n> {
    node: &'n Node,
    others: Vec<(HostPort, Owner)>,
    taken: Vec<HostPort>,
}

impl<'n> Naive<'n> {
    fn new(node: &'n Node, own: &[Attachment]) -> Self {
        let is_own =
            |holder: &Owner| matches!(holder, Owner::Attachment(holder) if own.contains(holder));
        let others = node.holdings().filter(|(_, holder)| !is_own(holder)).collect();
        Self { node, others, taken: Vec::new() }
    }

    fn keys(request: &Request) -> Vec<ClaimKey> {
        let Choice::Dynamic(Dynamic { claim: Some(claim), .. }) = &request.choice else {
            return Vec::new();
        };
        let key = |protocol| ClaimKey {
            namespace: Some("shop".parse().unwrap()),
            claim: claim.clone(),
            name: request.name.clone().unwrap(),
            protocol,
        };
        request.protocols.iter().map(key).collect()
    }

    /// Whether a dynamic request may have its ports here.
    fn fits(&self, request: &Request, first: Port) -> bool {
        let Choice::Dynamic(dynamic) = &request.choice else { unreachable!() };
        let (pool, own) = (&self.node.pools[&dynamic.group].ports, Self::keys(request));
        let foreign = self.node.claims.values().filter(|claim| !own.contains(&claim.key));
        let reserved: Vec<HostPort> = foreign.flat_map(Claim::ports).collect();
        request.on(first).is_some_and(|held| {
            held.into_iter().all(|(host, _)| {
                pool.contains(host.port)
                    && !self.others.iter().any(|(other, _)| other.conflicts_with(&host))
                    && !reserved.iter().any(|other| other.conflicts_with(&host))
                    && !self.taken.iter().any(|other| other.conflicts_with(&host))
                    && !self.node.in_use.iter().any(|other| other.conflicts_with(&host))
            })
        })
    }

    fn take(&mut self, request: &Request, first: Port) {
        self.taken.extend(request.on(first).unwrap().into_iter().map(|(host, _)| host));
    }

    /// Whether there is a place for each of the requests, by trying them all.
    fn all_fit(&mut self, requests: &[&Request]) -> bool {
        let Some((request, rest)) = requests.split_first() else { return true };
        let Choice::Dynamic(dynamic) = &request.choice else { unreachable!() };
        let lowest = dynamic.from.unwrap_or(port(1));
        let firsts: Vec<Port> = self.node.pools[&dynamic.group].ports.iter().collect();
        firsts.into_iter().filter(|first| *first >= lowest).any(|first| {
            if !self.fits(request, first) {
                return false;
            }
            let before = self.taken.len();
            self.take(request, first);
            let found = self.all_fit(rest);
            self.taken.truncate(before);
            found
        })
    }

    /// Takes what static requests and claims get, and returns the rest.
    fn take_what_is_owed<'r>(&mut self, requests: &'r [Request]) -> Vec<&'r Request> {
        self.taken.extend(requests.iter().flat_map(Request::static_ports));
        let (mut rest, node) = (Vec::new(), self.node);
        for request in requests.iter().filter(|it| matches!(it.choice, Choice::Dynamic(_))) {
            let keys = Self::keys(request);
            let mut records = keys.iter().filter_map(|key| node.claims.get(key));
            match records.find(|record| self.fits(request, record.port)) {
                Some(record) => self.take(request, record.port),
                None => rest.push(request),
            }
        }
        rest
    }
}

/// What is true of each plan, however it came about.
fn assert_sound(node: &Node, own: &[Attachment], requests: &[Request], plan: &Plan) {
    let mut naive = Naive::new(node, own);
    let mut leases = plan.leases.as_slice();
    let mut claims = Vec::new();
    naive.taken.extend(requests.iter().flat_map(Request::static_ports));
    for request in requests {
        let (these, rest) = leases.split_at(request.leases() as usize);
        leases = rest;
        let first = these[0].host.port;
        let found: Vec<_> = these.iter().map(|it| (it.host, it.container_port)).collect();
        assert_eq!(request.on(first), Some(found), "a block, on each protocol");
        match &request.choice {
            Choice::Static(wanted) => {
                assert_eq!(first, *wanted);
                for lease in these {
                    let is_other = |(host, _): &(HostPort, _)| lease.host.conflicts_with(host);
                    assert!(!naive.others.iter().any(is_other));
                    let mut reserved = node.claims.values().flat_map(Claim::ports);
                    assert!(!reserved.any(|host| host.conflicts_with(&lease.host)));
                }
            }
            Choice::Dynamic(dynamic) => {
                assert!(naive.fits(request, first), "{request:?} at {first}");
                naive.take(request, first);
                let keys = Naive::keys(request);
                let is_old = |key: &ClaimKey| node.claims.get(key).is_some_and(|c| c.port == first);
                assert!(
                    dynamic.from.is_none_or(|from| first >= from) || keys.iter().any(is_old),
                    "{first} is too low"
                );
                claims.extend(keys.into_iter().map(|key| (key, first, request.count)));
            }
        }
    }
    assert!(leases.is_empty());
    let found: Vec<_> = plan.claims.iter().map(|it| (it.key.clone(), it.port, it.count)).collect();
    assert_eq!(found, claims);
}

fn assert_justified(
    node: &Node,
    own: &[Attachment],
    requests: &[Request],
    error: PlanError<Infallible>,
) {
    let mut naive = Naive::new(node, own);
    match error {
        PlanError::Held { wanted, holder } => {
            let is_it = |(host, by): &(HostPort, _)| *by == holder && host.conflicts_with(&wanted);
            assert!(naive.others.iter().any(is_it));
        }
        PlanError::Reserved { wanted, claim } => {
            assert!(node.claims[&claim].ports().any(|host| host.conflicts_with(&wanted)));
        }
        PlanError::ClaimHeld { claim, holder } => {
            assert!(requests.iter().any(|request| Naive::keys(request).contains(&*claim)));
            assert!(node.claims[&*claim].holder == Some(holder.clone()) && !own.contains(&holder));
        }
        PlanError::Exhausted(exhaustion) => {
            let rest = naive.take_what_is_owed(requests);
            let is_free_to_move = own.iter().all(|it| !node.forwardings.contains_key(it));
            let has_wishes = rest.iter().any(
                |request| matches!(&request.choice, Choice::Dynamic(it) if it.preferred.is_some()),
            );
            // Ports that are kept or preferred are not moved for others.
            if is_free_to_move && !has_wishes || rest.len() == 1 {
                assert!(!naive.all_fit(&rest), "there is room: {exhaustion}");
            }
        }
        PlanError::Twice { wanted } => panic!("{wanted} is not asked for twice"),
        PlanError::Ledger(never) => match never {},
    }
}

proptest! {
    /// Containers come and go on two groups that overlap. However they do: no two
    /// leases conflict, and none lies on another's claim; dynamic ports are in their
    /// group's pool, in one block, and not used by the host; a claim that holds
    /// keeps its port; and a plan is refused only for what a naive search finds
    /// true as well. The same call again changes nothing.
    #[test]
    fn plans_agree_with_a_naive_model(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut node = Node::new([("g", "10-17,19-20"), ("h", "15-21")]);
        for step in steps {
            match step {
                Step::Add { container, old, requests, seed } => {
                    if overlap(&requests) {
                        continue; // refused before a plan is made
                    }
                    let owner = format!("a{container}");
                    let old: Vec<String> = old.iter().map(|it| format!("a{it}")).collect();
                    let old: Vec<&str> = old.iter().map(String::as_str).collect();
                    let own: Vec<_> = old.iter().chain([&owner.as_str()]).map(|it| attachment(it)).collect();
                    let before = node.clone();
                    match node.add_instead_of(&old, &owner, &requests, seed) {
                        Ok(plan) => {
                            assert_sound(&before, &own, &requests, &plan);
                            let again = node.plan(&owner, &requests, seed ^ 1);
                            let has_fixed = requests.iter().any(|it| !it.static_ports().is_empty());
                            prop_assert!(has_fixed || again == Ok(plan), "{:?}", again);
                        }
                        Err(error) => assert_justified(&before, &own, &requests, error),
                    }
                }
                Step::Del(container) => node.del(&format!("a{container}")),
                Step::Wait(seconds) => node.now += Duration::from_secs(seconds),
                Step::Use(number) => {
                    if !node.in_use.remove(&tcp(number)) && node.holdings().all(|(it, _)| it.port != port(number)) {
                        node.in_use.insert(tcp(number));
                    }
                }
            }
        }
    }

    /// One block in a pool of random fragments is found whenever there is a place.
    #[test]
    fn a_free_run_is_found(
        full in prop::collection::btree_set(100_u16..160, 0..50), count in 1_u16..8, seed in any::<u64>(),
    ) {
        let mut node = Node::new([("g", "100-159")]);
        let held: Vec<_> = full.iter().map(|number| fixed(*number)).collect();
        node.add("b", &held, 0).unwrap();
        let is_run = |first: u16| (first..first + count).all(|n| n < 160 && !full.contains(&n));
        let runs: Vec<u16> = (100..160).filter(|first| is_run(*first)).collect();
        match node.plan("a", &[one().block(count)], seed) {
            Ok(plan) => prop_assert!(runs.contains(&numbers(&plan)[0])),
            Err(error) => prop_assert!(runs.is_empty(), "{}", error),
        }
    }

    /// A claim that was made keeps its port through everything that its neighbours
    /// ask for and however often its pod goes and comes.
    #[test]
    fn claims_never_move_while_their_ports_do(
        steps in prop::collection::vec((0_u8..4, any_requests(), any::<u64>()), 1..24),
    ) {
        let mut node = Node::new([("g", "10-17,19-20"), ("h", "15-21")]);
        let web = [one().named("web").under("kept").of(Protocols::TCP_AND_UDP).block(2)];
        let first = node.add("web", &web, 0).unwrap();
        for (container, requests, seed) in steps {
            match container {
                0 => node.del("web"),
                1 => {
                    let again = node.add("web", &web, seed).unwrap();
                    prop_assert_eq!(numbers(&again), numbers(&first));
                }
                _ if overlap(&requests) => {}
                _ => _ = node.add(&format!("a{container}"), &requests, seed),
            }
        }
    }
}
