//! What is put down is found again, by every question.

use std::{
    collections::BTreeSet,
    fs::Permissions,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::PathBuf,
    slice,
};

use super::*;
use crate::lease;

#[test]
fn a_store_that_never_was_is_empty_and_stays_uncreated() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    assert!(!store.exists().unwrap());
    let reader = store.read().unwrap();
    assert_eq!(reader.forwardings().unwrap(), []);
    assert_eq!(reader.forwarding(&owner("a")).unwrap(), None);
    assert!(reader.network_is_empty(&owner("a").network).unwrap());
    assert!(!store.dir.exists());
}

#[test]
fn every_question_finds_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let pod = |namespace: &str| lease::Pod {
        namespace: namespace.parse().unwrap(),
        name: "web-0.shop".parse().unwrap(),
        uid: None,
    };
    let (mut a, mut b) = (forwarding("a", &[8080, 8081]), forwarding("b", &[9090]));
    a.pod = Some(pod("shop"));
    b.pod = Some(pod("shop-2"));
    commit(&store, |draft| {
        draft.insert(&a)?;
        draft.insert(&b)
    });
    assert!(store.exists().unwrap());

    let reader = store.read().unwrap();
    let (net, eth0) = (&a.attachment.network, &a.attachment.interface);
    let cni0 = "cni0".parse().unwrap();
    assert_eq!(reader.forwarding(&a.attachment).unwrap().as_ref(), Some(&a));
    assert_eq!(reader.of_interface(&a.attachment.container, eth0).unwrap(), slice::from_ref(&a));
    assert_eq!(reader.of_network(net).unwrap(), [a.clone(), b.clone()]);
    assert_eq!(reader.forwardings().unwrap(), [a.clone(), b.clone()]);
    assert_eq!(
        reader.holders(Protocol::Tcp, port(8081)).unwrap(),
        [(a.leases[1].host, a.attachment.clone().into())]
    );
    assert_eq!(reader.holders(Protocol::Udp, port(8081)).unwrap(), []);
    assert_eq!(
        reader.held(Protocol::Tcp).unwrap(),
        [8080, 8081, 9090].map(port).into_iter().collect()
    );
    assert!(reader.held(Protocol::Udp).unwrap().is_empty());
    assert_eq!(reader.of_namespace(&pod("shop").namespace).unwrap(), slice::from_ref(&a));
    assert_eq!(reader.of_namespace(&pod("sho").namespace).unwrap(), []);
    assert!(!reader.network_is_empty(net).unwrap());
    assert!(reader.network_is_empty(&"ne".parse().unwrap()).unwrap());
    assert!(reader.link_is_used(net, &cni0).unwrap());
    assert!(!reader.link_is_used(net, &"cni".parse().unwrap()).unwrap());
    assert_eq!(reader.any_of_network(net, &a.attachment, 0).unwrap(), Some(b.clone()));
    let any = |chance| reader.any_of_network(net, &owner("c"), chance).unwrap().unwrap();
    let found: BTreeSet<_> = (0..1_000).map(any).map(|held| held.attachment.container).collect();
    let expected = [&a, &b].map(|held| held.attachment.container.clone());
    assert_eq!(found, BTreeSet::from(expected));

    // What was read stays as it was, and the copy goes with its reader.
    commit(&store, |draft| draft.remove(&b.attachment, MOMENT).map(drop));
    assert_eq!(reader.forwardings().unwrap(), [a.clone(), b]);
    drop(reader);
    let reader = store.read().unwrap();
    assert_eq!(reader.any_of_network(net, &a.attachment, 0).unwrap(), None);
    drop(reader);
    assert_eq!(listing(&store), ["current", "durable", "generation.1", "generation.2"]);
}

#[test]
fn only_current_previous_and_durable_are_kept_and_only_root_may_look() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut generations = BTreeSet::new();
    while generations.len() < 5 {
        commit(&store, |draft| draft.insert(&forwarding("a", &[8080, 8081])));
        generations.insert(fs::read_link(store.dir.join("current")).unwrap());
    }
    let kept = ["current", "durable", "generation.1", "generation.4", "generation.5"];
    assert_eq!(listing(&store), kept);
    let mode = |name: &str| store.dir.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode(""), mode("lock"), mode("generation.5")], [0o700, 0o600, 0o700]);
    assert_eq!(mode("generation.5/journal"), 0o600);
}

#[test]
fn two_owners_of_one_port_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    commit(&store, |draft| draft.insert(&forwarding("a", &[8080])));
    let mut lock = store.lock(LONG).unwrap();
    let mut draft = lock.begin().unwrap();
    let mut other = forwarding("b", &[9090, 8080]);
    other.leases[1].host.address = "192.0.2.1".parse().unwrap();
    let refused = draft.insert(&other).unwrap_err();
    assert_eq!(refused.to_string(), "host port 8080/tcp is held by a/eth0");
    assert!(matches!(refused, StoreError::Conflict { .. }));
    assert_eq!(draft.forwardings().unwrap(), [forwarding("a", &[8080])]);

    // Its own port is no conflict, and what it no longer holds is free.
    draft.insert(&forwarding("a", &[8080, 8081])).unwrap();
    draft.insert(&forwarding("a", &[8081])).unwrap();
    draft.insert(&other).unwrap();
}

#[test]
fn a_dropped_draft_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut lock = store.lock(LONG).unwrap();
    let mut draft = lock.begin().unwrap();
    draft.insert(&forwarding("a", &[8080])).unwrap();
    drop(draft);
    assert!(!store.exists().unwrap());
    assert_eq!(listing(&store), [""; 0]);
    assert_eq!(lock.begin().unwrap().forwardings().unwrap(), []);
}

/// sled's file never shrinks, and is copied for every commit.
#[test]
fn a_file_that_has_become_too_large_is_rebuilt() {
    const MANY: u16 = 800;
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let name = |i: u16| format!("{i:064}");
    commit(&store, |draft| {
        (0..MANY).try_for_each(|i| draft.insert(&forwarding(&name(i), &[10_000 + i])))
    });
    let size = || store.dir.join("current/db").metadata().unwrap().len();
    let full = size();
    commit(&store, |draft| {
        (10..MANY).try_for_each(|i| draft.remove(&owner(&name(i)), MOMENT).map(drop))
    });
    let before = store.read().unwrap();
    // It may end with fewer free segments than it did.
    assert!(size() > 1024 * 1024, "{}", size());
    commit(&store, |_| Ok(()));
    assert!(full > 1024 * 1024 && size() < 1024 * 1024, "{full} became {}", size());
    let after = store.read().unwrap();
    assert_eq!(after.forwardings().unwrap(), before.forwardings().unwrap());
    let last = (lease(10_009).host, owner(&name(9)).into());
    assert_eq!(after.holders(Protocol::Tcp, port(10_009)).unwrap(), [last]);
}

/// An operator has let a group into the directory, and later no longer.
#[test]
fn who_may_read_the_directory_may_read_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let set = |mode| fs::set_permissions(&store.dir, Permissions::from_mode(mode)).unwrap();
    let modes = || {
        let current = store.dir.join(CURRENT);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let files = ["db", "seal", "journal"].map(|name| mode(current.join(name)));
        (mode(current), files)
    };
    for (directory, expected) in [
        (0o700, (0o700, [0o600; 3])),
        (0o2750, (0o750, [0o640; 3])),
        // Without the bit, what is made has root's own group.
        (0o750, (0o700, [0o600; 3])),
        (0o2755, (0o750, [0o640; 3])),
        (0o700, (0o700, [0o600; 3])),
    ] {
        fs::create_dir_all(&store.dir).unwrap();
        set(directory);
        commit(&store, |draft| draft.insert(&forwarding("a", &[8080])));
        assert_eq!(modes(), expected, "{directory:o}");
        commit(&store, |draft| draft.insert(&forwarding("a", &[8081])));
        assert_eq!(modes(), expected, "{directory:o}");
        let mode = fs::metadata(&store.dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, directory & !0o027, "nobody else may enter");
    }
    // Another group has taken the place of the first.
    set(0o2750);
    commit(&store, |draft| draft.insert(&forwarding("a", &[8082])));
    for group in [12_345, 12_346] {
        chown(&store.dir, None, Some(group)).unwrap();
        set(0o2750);
        commit(&store, |draft| draft.insert(&forwarding("a", &[8083])));
        let current = fs::read_link(store.dir.join(CURRENT)).unwrap();
        assert_eq!(fs::metadata(store.dir.join("current/db")).unwrap().gid(), group);
        commit(&store, |draft| draft.insert(&forwarding("a", &[8084])));
        assert_eq!(fs::read_link(store.dir.join(CURRENT)).unwrap(), current, "once is enough");
    }
}
