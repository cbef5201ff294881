//! Ports that were given back rest, and are forgotten when they have, or when they
//! are leased again.

use super::*;
use crate::lease::{Release, Rest};

fn rest(cooldown: u64, is_remembered: bool) -> Rest {
    Rest { cooldown, is_remembered }
}

fn released(at: u64, rested: u64) -> Release {
    Release {
        at: Duration::from_millis(at),
        rested: Duration::from_millis(rested),
        by_module: false,
    }
}

/// When something happens, in milliseconds since boot.
fn at(since_boot: u64) -> Moment {
    Moment { since_boot: Duration::from_millis(since_boot), unix: 0 }
}

#[test]
fn ports_rest_as_their_leases_say() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut held = forwarding("a", &[8080, 8081, 8082, 8083, 8084]);
    let rests = [rest(100, false), rest(0, true), rest(0, false), rest(100, true)];
    for (lease, rest) in held.leases.iter_mut().zip(rests) {
        lease.rest = Some(rest);
    }
    commit(&store, |draft| {
        draft.insert(&held)?;
        assert_eq!(draft.remove(&held.attachment, at(1000))?, Some(held.clone()));
        assert_eq!(draft.remove(&held.attachment, at(1001))?, None);
        Ok(())
    });
    let remembered = [(port(8081), released(1000, 1000)), (port(8083), released(1000, 1100))];
    commit(&store, |draft| {
        draft.forget_rested(at(1099).since_boot)?;
        let mut all = remembered.to_vec();
        all.insert(0, (port(8080), released(1000, 1100)));
        assert_eq!(draft.releases(Protocol::Tcp)?, all);
        assert_eq!(draft.releases(Protocol::Udp)?, []);
        draft.forget_rested(at(1100).since_boot)
    });
    assert_eq!(store.read().unwrap().releases(Protocol::Tcp).unwrap(), remembered);
    commit(&store, |draft| draft.insert(&forwarding("b", &[8081, 8082])));
    assert_eq!(store.read().unwrap().releases(Protocol::Tcp).unwrap(), remembered[1..]);
}

#[test]
fn a_port_that_was_leased_again_rests_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut held = forwarding("a", &[8080]);
    held.leases[0].rest = Some(rest(100, false));
    commit(&store, |draft| {
        for since_boot in [1000, 1050] {
            draft.insert(&held)?;
            assert_eq!(draft.releases(Protocol::Tcp)?, []);
            draft.remove(&held.attachment, at(since_boot))?;
        }
        draft.forget_rested(at(1149).since_boot)?;
        assert_eq!(draft.releases(Protocol::Tcp)?, [(port(8080), released(1050, 1150))]);
        Ok(())
    });
}

/// Clients of the one address may still send when the other has rested.
#[test]
fn a_port_rests_for_as_long_as_any_address_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let on = |container: &str, address: &str, cooldown| {
        let mut held = forwarding(container, &[8080]);
        held.leases[0].host.address = address.parse().unwrap();
        held.leases[0].rest = Some(rest(cooldown, false));
        held
    };
    commit(&store, |draft| {
        draft.insert(&on("a", "192.0.2.1", 500))?;
        draft.insert(&on("b", "192.0.2.2", 10))?;
        draft.remove(&owner("a"), at(1000))?;
        draft.remove(&owner("b"), at(1100))?;
        draft.forget_rested(at(1499).since_boot)?;
        assert_eq!(draft.releases(Protocol::Tcp)?, [(port(8080), released(1100, 1500))]);
        draft.forget_rested(at(1500).since_boot)?;
        assert_eq!(draft.releases(Protocol::Tcp)?, []);
        Ok(())
    });
}
