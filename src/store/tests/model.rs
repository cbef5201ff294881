//! Random changes agree with a map in memory, whatever the question, also after
//! the store was closed and opened again.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::lease::InterfaceName;

#[derive(Clone, Debug)]
enum Step {
    Insert(Forwarding),
    Remove(Attachment),
    Commit,
    Abandon,
}

fn attachment() -> impl Strategy<Value = Attachment> {
    // Names that begin alike: a prefix of one must not find the other.
    let names = (
        prop::sample::select(vec!["n", "nn"]),
        prop::sample::select(vec!["c", "cc", "c1"]),
        prop::sample::select(vec!["e", "e0"]),
    );
    names.prop_map(|(network, container, interface)| Attachment {
        network: network.parse().unwrap(),
        container: container.parse().unwrap(),
        interface: interface.parse().unwrap(),
    })
}

fn host_port() -> impl Strategy<Value = HostPort> {
    let addresses = vec!["", "0.0.0.0", "::", "192.0.2.1", "192.0.2.2", "2001:db8::1"];
    let protocols = Protocol::ALL.to_vec();
    (prop::sample::select(protocols), 255u16..258, prop::sample::select(addresses)).prop_map(
        |(protocol, number, address)| HostPort {
            protocol,
            port: port(number),
            address: address.parse().unwrap(),
        },
    )
}

fn link() -> impl Strategy<Value = Option<InterfaceName>> {
    prop::sample::select(vec![None, Some("l"), Some("ll")])
        .prop_map(|link| link.map(|link| link.parse().unwrap()))
}

fn step() -> impl Strategy<Value = Step> {
    let hosts = prop::collection::vec(host_port(), 1..4);
    let insert = (attachment(), link(), hosts).prop_map(|(attachment, link, hosts)| {
        let leases = hosts.into_iter().map(|host| Lease { host, ..lease(1) }).collect();
        Step::Insert(Forwarding { attachment, link, leases, ..forwarding("a", &[]) })
    });
    prop_oneof![
        6 => insert,
        3 => attachment().prop_map(Step::Remove),
        1 => Just(Step::Commit),
        1 => Just(Step::Abandon),
    ]
}

type Model = BTreeMap<Attachment, Forwarding>;

fn conflicts(model: &Model, new: &Forwarding) -> bool {
    let others = model.values().filter(|held| held.attachment != new.attachment);
    others
        .flat_map(|held| &held.leases)
        .any(|held| new.leases.iter().any(|lease| lease.host.conflicts_with(&held.host)))
}

fn sorted<T: Ord, K>(entries: Vec<K>, key: impl Fn(K) -> T) -> Vec<T> {
    let mut keys: Vec<T> = entries.into_iter().map(key).collect();
    keys.sort();
    keys
}

fn agree(view: &View, model: &Model) {
    let all: Model = view
        .forwardings()
        .unwrap()
        .into_iter()
        .map(|held| (held.attachment.clone(), held))
        .collect();
    assert_eq!(&all, model);
    for held in model.values() {
        let owner = &held.attachment;
        assert_eq!(view.forwarding(owner).unwrap().as_ref(), Some(held));
        let of_interface = view.of_interface(&owner.container, &owner.interface).unwrap();
        let expected = model.keys().filter(|other| {
            (&other.container, &other.interface) == (&owner.container, &owner.interface)
        });
        assert_eq!(
            sorted(of_interface, |held| held.attachment),
            expected.cloned().collect::<Vec<_>>()
        );
        let other = view.any_of_network(&owner.network, owner, 0).unwrap();
        let others = model.keys().filter(|o| o.network == owner.network && *o != owner);
        assert_eq!(other.is_some(), others.count() > 0);
        assert!(other.is_none_or(|other| other.attachment != *owner));
    }
    for network in ["n", "nn", "nnn"].map(|name| name.parse().unwrap()) {
        let expected: Vec<_> = model.keys().filter(|o| o.network == network).cloned().collect();
        assert_eq!(view.network_is_empty(&network).unwrap(), expected.is_empty());
        assert_eq!(sorted(view.of_network(&network).unwrap(), |held| held.attachment), expected);
        for link in ["l", "ll", "lll"].map(|name| name.parse::<InterfaceName>().unwrap()) {
            let is_used = model.values().any(|held| {
                held.attachment.network == network && held.link.as_ref() == Some(&link)
            });
            assert_eq!(view.link_is_used(&network, &link).unwrap(), is_used);
        }
    }
    for protocol in Protocol::ALL {
        for number in 254..259 {
            let mut expected: Vec<_> = model
                .values()
                .flat_map(|held| held.leases.iter().map(|l| (l.host, held.attachment.clone())))
                .filter(|(host, _)| (host.protocol, host.port) == (protocol, port(number)))
                .collect();
            expected.sort();
            expected.dedup();
            let held = view.holders(protocol, port(number)).unwrap();
            assert_eq!(sorted(held, |entry| entry), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_changes_agree_with_a_map(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut lock = store.lock(LONG).unwrap();
        let mut draft = lock.begin().unwrap();
        let (mut committed, mut model) = (Model::new(), Model::new());
        for step in steps {
            match step {
                Step::Insert(new) => {
                    let inserted = draft.insert(&new);
                    if conflicts(&model, &new) {
                        let refused = matches!(inserted, Err(StoreError::Conflict { .. }));
 prop_assert!(refused);
                    } else {
                        inserted.unwrap();
                        model.insert(new.attachment.clone(), new);
                    }
                }
                Step::Remove(owner) => {
                    let removed = draft.remove(&owner, Duration::ZERO).unwrap();
                    prop_assert_eq!(removed, model.remove(&owner));
                }
                Step::Commit => {
                    draft.commit().unwrap();
                    committed = model.clone();
                    agree(&store.read().unwrap(), &model);
                    draft = lock.begin().unwrap();
                }
                Step::Abandon => {
                    drop(draft);
                    model = committed.clone();
                    draft = lock.begin().unwrap();
                }
            }
            agree(&draft, &model);
        }
    }
}
