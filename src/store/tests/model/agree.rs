//! Every question that can be asked, of the store and of the model.

use super::*;

fn sorted<T: Ord, K>(entries: Vec<K>, key: impl Fn(K) -> T) -> Vec<T> {
    let mut keys: Vec<T> = entries.into_iter().map(key).collect();
    keys.sort();
    keys
}

pub(super) fn agree(view: &View, model: &Model) {
    agree_on_leases(view, model);
    agree_on_networks(view, model);
    agree_on_claims(view, model);
    agree_on_modules(view, model);
    for protocol in Protocol::ALL {
        agree_on_ports(view, model, protocol);
    }
}

fn agree_on_leases(view: &View, model: &Model) {
    let all: BTreeMap<_, _> = view
        .forwardings()
        .unwrap()
        .into_iter()
        .map(|held| (held.attachment.clone(), held))
        .collect();
    assert_eq!(all, model.leases);
    for held in model.leases.values() {
        let owner = &held.attachment;
        assert_eq!(view.forwarding(owner).unwrap().as_ref(), Some(held));
        let of_interface = view.of_interface(&owner.container, &owner.interface).unwrap();
        let expected = model.leases.keys().filter(|other| {
            (&other.container, &other.interface) == (&owner.container, &owner.interface)
        });
        assert_eq!(
            sorted(of_interface, |held| held.attachment),
            expected.cloned().collect::<Vec<_>>()
        );
        let other = view.any_of_network(&owner.network, owner, 0).unwrap();
        let others = model.leases.keys().filter(|o| o.network == owner.network && *o != owner);
        assert_eq!(other.is_some(), others.count() > 0);
        assert!(other.is_none_or(|other| other.attachment != *owner));
    }
}

fn agree_on_networks(view: &View, model: &Model) {
    for network in ["n", "nn", "nnn"].map(|name| name.parse().unwrap()) {
        let expected: Vec<_> =
            model.leases.keys().filter(|o| o.network == network).cloned().collect();
        assert_eq!(view.network_is_empty(&network).unwrap(), expected.is_empty());
        assert_eq!(sorted(view.of_network(&network).unwrap(), |held| held.attachment), expected);
        for link in ["l", "ll", "lll"].map(|name| name.parse::<InterfaceName>().unwrap()) {
            let is_used = model.leases.values().any(|held| {
                held.attachment.network == network && held.link.as_ref() == Some(&link)
            });
            assert_eq!(view.link_is_used(&network, &link).unwrap(), is_used);
        }
    }
}

fn agree_on_claims(view: &View, model: &Model) {
    let by_key = |claims: Vec<Claim>| -> BTreeMap<_, _> {
        claims.into_iter().map(|claim| (claim.key.clone(), claim)).collect()
    };
    let expected = |is_meant: &dyn Fn(&Claim) -> bool| {
        let mut claims = model.claims.clone();
        claims.retain(|_, claim| is_meant(claim));
        claims
    };
    assert_eq!(by_key(view.claims().unwrap()), model.claims);
    for (key, claim) in &model.claims {
        assert_eq!(view.claim(key).unwrap().as_ref(), Some(claim));
        if let Some(holder) = &claim.holder {
            let held = expected(&|other| other.holder.as_ref() == Some(holder));
            assert_eq!(by_key(view.claims_held_by(holder).unwrap()), held);
        }
    }
    for namespace in ["", "s", "s-s", "s-"].map(|name| name.parse::<Namespace>().ok()) {
        let claims = view.claims_of(namespace.as_ref()).unwrap();
        assert_eq!(by_key(claims), expected(&|claim| claim.key.namespace == namespace));
        let Some(namespace) = namespace else { continue };
        let held = model.leases.values().filter(|held| held.namespace() == Some(&namespace));
        let held: Vec<_> = held.map(|held| held.attachment.clone()).collect();
        let found = view.of_namespace(&namespace).unwrap();
        assert_eq!(sorted(found, |held| held.attachment), held);
    }
}

fn agree_on_modules(view: &View, model: &Model) {
    let all: Vec<_> = model.modules.values().cloned().collect();
    assert_eq!(sorted(view.module_leases().unwrap(), |lease| module_key(&lease)).len(), all.len());
    for module in ["m", "m.m", "mm"].map(|name| name.parse::<ModuleId>().unwrap()) {
        let of_module = all.iter().filter(|lease| lease.module == module).cloned();
        let by_key = |leases: Vec<ModuleLease>| -> BTreeMap<_, _> {
            leases.into_iter().map(|lease| (module_key(&lease), lease)).collect()
        };
        assert_eq!(by_key(view.of_module(&module).unwrap()), by_key(of_module.collect()));
    }
}

fn agree_on_ports(view: &View, model: &Model, protocol: Protocol) {
    for port in (252..263).map(port) {
        let mut expected: Vec<_> = model
            .holders()
            .filter(|(host, _)| (host.protocol, host.port) == (protocol, port))
            .collect();
        expected.sort();
        expected.dedup();
        let held = view.holders(protocol, port).unwrap();
        assert_eq!(sorted(held, |entry| entry), expected);

        let reserved = model.reserved().filter(|(_, p)| (p.protocol, p.port) == (protocol, port));
        let mut expected: Vec<_> = reserved.map(|(claim, _)| claim.clone()).collect();
        expected.sort();
        let claims = view.claims_on(protocol, port).unwrap();
        assert_eq!(sorted(claims, |claim| claim.key), expected);
    }
    let held = model.holders().map(|(port, _)| port);
    let of_protocol = |port: HostPort| (port.protocol == protocol).then_some(port.port);
    assert_eq!(view.held(protocol).unwrap(), held.filter_map(of_protocol).collect());
    let claimed = model.reserved().map(|(_, port)| port);
    assert_eq!(view.claimed(protocol).unwrap(), claimed.filter_map(of_protocol).collect());
    let releases = model.releases.iter().filter(|((of, _), _)| *of == protocol);
    let releases: Vec<_> = releases.map(|((_, port), (release, _))| (*port, *release)).collect();
    assert_eq!(view.releases(protocol).unwrap(), releases);
}
