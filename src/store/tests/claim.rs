//! Reservations outlive those who use them, the boot and the power, and end when
//! they were unused for long enough, by a clock that can be believed.

use std::slice;

use super::*;
use crate::lease::{Claim, ClaimKey, Pod};

/// A usual time, in seconds since the Unix epoch.
const NOW: u64 = 1_800_000_000;
const TTL: u64 = 100_000;

fn key(namespace: &str, claim: &str, name: &str) -> ClaimKey {
    ClaimKey {
        namespace: (!namespace.is_empty()).then(|| namespace.parse().unwrap()),
        claim: claim.parse().unwrap(),
        name: name.parse().unwrap(),
        protocol: Protocol::Tcp,
    }
}

/// An unused one of one port.
fn claim(key: ClaimKey, number: u16) -> Claim {
    Claim {
        key,
        port: port(number),
        count: 1,
        address: HostAddress::Any,
        group: "default".parse().unwrap(),
        ttl: TTL,
        holder: None,
        expires: Some(NOW),
    }
}

fn web() -> ClaimKey {
    key("shop", "web", "http")
}

fn held_by(container: &str, claim: Claim) -> Claim {
    Claim { holder: Some(owner(container)), expires: None, ..claim }
}

/// A lease of the port, kept under the claim `web`.
fn lease_of_web(container: &str, number: u16) -> Forwarding {
    let mut held = forwarding(container, &[number]);
    let ClaimKey { namespace, claim, name, .. } = web();
    held.pod =
        Some(Pod { namespace: namespace.unwrap(), name: "web-0".parse().unwrap(), uid: None });
    held.leases[0].name = Some(name);
    held.leases[0].claim = Some(claim);
    held
}

fn at(unix: u64) -> Moment {
    Moment { since_boot: Duration::ZERO, unix }
}

fn read_web(store: &Store) -> Option<Claim> {
    store.read().unwrap().claim(&web()).unwrap()
}

#[test]
fn names_that_begin_alike_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (label, longest) = ("a".repeat(63), format!("{}.{}", "a".repeat(63), "b".repeat(189)));
    let longest = longest.replace(&"b".repeat(64), &format!("{}.", "b".repeat(63)));
    assert_eq!(longest.len(), 253);
    let names = [
        ("", "a", "a"),
        ("", "a.a", "a"),
        ("a", "a", "a"),
        ("a", "a", "a-a"),
        ("a", "a.a", "a"),
        ("a-a", "a", "a"),
        (&label, &longest, &label),
    ];
    let mut claims: Vec<_> = (10_000..)
        .zip(names)
        .map(|(port, (namespace, name, port_name))| claim(key(namespace, name, port_name), port))
        .collect();
    let mut other = claim(key("a", "a", "a"), 10_002);
    other.key.protocol = Protocol::Udp;
    claims.insert(3, other);
    commit(&store, |draft| {
        for claim in claims.iter().rev() {
            assert_eq!(draft.reserve(claim)?, None);
        }
        Ok(())
    });
    let reader = store.read().unwrap();
    assert_eq!(reader.claims().unwrap(), claims);
    for claim in &claims {
        assert_eq!(reader.claim(&claim.key).unwrap().as_ref(), Some(claim));
        let on = reader.claims_on(claim.key.protocol, claim.port).unwrap();
        assert_eq!(on, slice::from_ref(claim));
    }
    assert_eq!(reader.claims_of(None).unwrap(), claims[..2]);
    assert_eq!(reader.claims_of(Some(&"a".parse().unwrap())).unwrap(), claims[2..6]);
    assert_eq!(reader.claims_of(Some(&"aa".parse().unwrap())).unwrap(), []);
    assert_eq!(reader.claims_of(Some(&label.parse().unwrap())).unwrap(), claims[7..]);
    assert_eq!(reader.claimed(Protocol::Tcp).unwrap().len(), 7);
    assert_eq!(reader.claimed(Protocol::Udp).unwrap().len(), 1);
    assert!(reader.held(Protocol::Tcp).unwrap().is_empty());
}

#[test]
fn a_claimed_port_is_for_its_own_leases_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut lock = store.lock(LONG).unwrap();
    let mut draft = lock.begin().unwrap();
    let block = Claim { count: 3, ..claim(web(), 8080) };
    draft.reserve(&block).unwrap();

    let refused = draft.reserve(&claim(key("shop", "web", "https"), 8082)).unwrap_err();
    let expected = "host port 8082/tcp is reserved by claim shop/web (http/tcp)";
    assert_eq!(refused.to_string(), expected);
    let refused = draft.insert(&forwarding("a", &[8079, 8082])).unwrap_err();
    assert_eq!(refused.to_string(), expected);
    let mut of_another = lease_of_web("a", 8081);
    of_another.pod.as_mut().unwrap().namespace = "shop-2".parse().unwrap();
    assert!(matches!(draft.insert(&of_another).unwrap_err(), StoreError::Claimed { .. }));
    assert_eq!(draft.forwardings().unwrap(), []);
    draft.insert(&lease_of_web("a", 8081)).unwrap();
    draft.insert(&forwarding("b", &[8083])).unwrap();

    // What is held already cannot be reserved by others.
    let longer = Claim { count: 4, ..block.clone() };
    let refused = draft.reserve(&longer).unwrap_err();
    assert_eq!(refused.to_string(), "host port 8083/tcp is held by b/eth0");
    assert_eq!(draft.claims().unwrap(), slice::from_ref(&block));
    let shorter = Claim { count: 1, ..block.clone() };
    assert_eq!(draft.reserve(&shorter).unwrap(), Some(block));
    assert_eq!(draft.claimed(Protocol::Tcp).unwrap().len(), 1);
    draft.insert(&forwarding("c", &[8082])).unwrap();

    // One number on two addresses may be two claims.
    let mut claims = [claim(key("", "x", "y"), 9090), claim(key("", "y", "x"), 9090)];
    claims[0].address = "192.0.2.1".parse().unwrap();
    claims[1].address = "::".parse().unwrap();
    for claim in &claims {
        draft.reserve(claim).unwrap();
    }
    let on = |draft: &Draft| draft.claims_on(Protocol::Tcp, port(9090)).unwrap();
    assert_eq!(on(&draft).len(), 2);
    assert_eq!(draft.unreserve(&claims[0].key).unwrap().as_ref(), Some(&claims[0]));
    assert_eq!(draft.unreserve(&claims[0].key).unwrap(), None);
    assert_eq!(on(&draft), claims[1..]);
    assert!(draft.claimed(Protocol::Tcp).unwrap().contains(port(9090)));
    draft.unreserve(&claims[1].key).unwrap();
    assert!(!draft.claimed(Protocol::Tcp).unwrap().contains(port(9090)));
}

#[test]
fn a_claim_expires_when_it_was_unused_for_long_enough() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let in_use = held_by("a", claim(web(), 8080));
    let unused = Claim { expires: Some(NOW + TTL), ..claim(web(), 8080) };
    commit(&store, |draft| {
        draft.reserve(&Claim { expires: Some(1), ..in_use.clone() })?;
        draft.insert(&lease_of_web("a", 8080))?;
        assert_eq!(draft.expire_claims(NOW - 1)?, []);
        assert_eq!(draft.claims_held_by(&owner("a"))?, slice::from_ref(&in_use));
        // Who waited for the lock tells an old time.
        draft.expire_claims(NOW)?;
        draft.remove(&owner("a"), at(NOW - 5))?;
        assert_eq!(draft.claims_held_by(&owner("a"))?, []);
        assert_eq!(draft.claims()?, slice::from_ref(&unused));
        Ok(())
    });
    commit(&store, |draft| {
        assert_eq!(draft.expire_claims(NOW + TTL - 1)?, []);
        assert_eq!(draft.reserve(&in_use)?, Some(unused.clone()));
        assert_eq!(draft.expire_claims(NOW + TTL)?, []);
        // An attempt that failed is undone.
        assert_eq!(draft.reserve(&unused)?, Some(in_use.clone()));
        assert_eq!(draft.expire_claims(NOW + TTL)?, slice::from_ref(&unused));
        assert_eq!(draft.expire_claims(NOW + TTL)?, []);
        Ok(())
    });
    let reader = store.read().unwrap();
    assert_eq!(reader.claims().unwrap(), []);
    assert_eq!(reader.claims_on(Protocol::Tcp, port(8080)).unwrap(), []);
    assert!(reader.claimed(Protocol::Tcp).unwrap().is_empty());
}

/// Only `durable` counts when the power was cut.
#[test]
fn a_power_cut_takes_no_claim_and_no_use_of_one() {
    type Change = fn(&mut Draft, &Claim, &Claim);
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (in_use, other) = (held_by("a", claim(web(), 8080)), claim(key("", "b", "b"), 8090));
    commit(&store, |draft| draft.insert(&forwarding("z", &[9000])));
    let steps: [(&str, bool, Change); 10] = [
        ("taken", true, |draft, in_use, _| drop(draft.reserve(in_use).unwrap())),
        ("the same", false, |draft, in_use, _| drop(draft.reserve(in_use).unwrap())),
        ("given back", false, |draft, _, _| drop(draft.remove(&owner("a"), at(NOW)).unwrap())),
        ("another", true, |draft, _, other| drop(draft.reserve(other).unwrap())),
        ("taken again", true, |draft, in_use, _| drop(draft.reserve(in_use).unwrap())),
        ("leased", false, |draft, _, _| draft.insert(&lease_of_web("a", 8080)).unwrap()),
        ("expired", true, |draft, _, other| {
            assert_eq!(draft.expire_claims(NOW).unwrap(), slice::from_ref(other));
        }),
        ("removed", true, |draft, in_use, _| drop(draft.unreserve(&in_use.key).unwrap())),
        ("put back", true, |draft, in_use, _| drop(draft.reserve(in_use).unwrap())),
        ("nothing expired", false, |draft, _, _| {
            assert_eq!(draft.expire_claims(NOW + 2 * TTL).unwrap(), []);
        }),
    ];
    let mut left = synced(&store);
    for (step, is_durable, change) in steps {
        commit(&store, |draft| {
            change(draft, &in_use, &other);
            assert_eq!(draft.is_durable(), is_durable, "{step}");
            Ok(())
        });
        if is_durable {
            left = synced(&store);
        }
    }
    cut_power(&left);

    let next = rebooted(&store);
    let unused = Claim { holder: None, expires: None, ..in_use };
    assert_eq!(next.read().unwrap().claims().unwrap(), slice::from_ref(&unused));
    assert!(next.read().unwrap().claimed(Protocol::Tcp).unwrap().contains(port(8080)));
    // It is unused since somebody knows the time, not since it was last given back.
    commit(&next, |draft| {
        assert_eq!(draft.claims()?, slice::from_ref(&unused));
        assert_eq!(draft.expire_claims(NOW + 2 * TTL)?, []);
        Ok(())
    });
    assert_eq!(read_web(&next), Some(Claim { expires: Some(NOW + 3 * TTL), ..unused }));
}

/// A machine without a battery: the pod ran for longer than the claim is kept
/// unused, and the clock is set some time after the boot.
#[test]
fn a_clock_that_is_behind_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let in_use = held_by("a", claim(web(), 8080));
    let unused = Claim { holder: None, ..in_use.clone() };
    commit(&store, |draft| {
        draft.expire_claims(NOW)?;
        draft.reserve(&in_use).map(drop)
    });
    let next = rebooted(&store);
    commit(&next, |draft| draft.expire_claims(60).map(drop));
    assert_eq!(read_web(&next), Some(unused.clone()));
    commit(&next, |draft| draft.reserve(&in_use).map(drop));
    commit(&next, |draft| draft.remove(&owner("a"), at(120)).map(drop));
    assert_eq!(read_web(&next), Some(unused.clone()));

    let later = NOW + 9 * TTL;
    commit(&next, |draft| {
        assert_eq!(draft.expire_claims(later)?, []);
        Ok(())
    });
    assert_eq!(read_web(&next), Some(Claim { expires: Some(later + TTL), ..unused.clone() }));
    commit(&next, |draft| {
        assert_eq!(draft.expire_claims(180)?, []);
        assert_eq!(draft.expire_claims(later + TTL)?.len(), 1);
        Ok(())
    });
    assert_eq!(read_web(&next), None);
}
