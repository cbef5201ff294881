//! What services of the host hold outlives the boot and the power, and is nobody
//! else's.

use std::slice;

use super::*;
use crate::lease::{self, Claim, ClaimKey, Owner};

const SECOND: Moment = Moment { since_boot: Duration::from_secs(1), unix: 1_800_000_000 };

#[test]
fn it_is_there_after_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let [mail, web] = [block("mail1", 20001, 4), block("web.1", 20005, 1)];
    commit(&store, |draft| draft.insert(&forwarding("a", &[8080])));
    commit(&store, |draft| draft.insert_module(&mail));
    commit(&store, |draft| draft.insert(&forwarding("b", &[8081])));
    commit(&store, |draft| draft.insert_module(&web));
    commit(&store, |draft| {
        draft.remove_module(&mail.module, mail.protocol, mail.port, SECOND).map(drop)
    });
    commit(&store, |draft| draft.insert(&forwarding("c", &[8082])));
    let store = rebooted(&store);
    let reader = store.read().unwrap();
    assert_eq!(reader.module_leases().unwrap(), slice::from_ref(&web));
    assert_eq!(reader.forwardings().unwrap(), []);
    let holder = Owner::Module(web.module.clone());
    assert_eq!(
        reader.holders(Protocol::Tcp, port(20005)).unwrap(),
        [(lease(20005).host, holder.clone())]
    );
    assert_eq!(reader.held(Protocol::Tcp).unwrap(), [port(20005)].into_iter().collect());
    assert_eq!(holder.to_string(), "module web.1");
}

#[test]
fn what_a_module_holds_is_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut lock = store.lock(LONG).unwrap();
    let mut draft = lock.begin().unwrap();
    draft.insert_module(&block("mail1", 20001, 4)).unwrap();
    let mut pod = forwarding("a", &[20004]);
    pod.leases[0].host.address = "192.0.2.1".parse().unwrap();
    let refused = draft.insert(&pod).unwrap_err();
    assert_eq!(refused.to_string(), "host port 20004/tcp is held by module mail1");
    let refused = draft.insert_module(&block("mail2", 19999, 3)).unwrap_err();
    assert_eq!(refused.to_string(), "host port 20001/tcp is held by module mail1");
    // Nor its own, under another block.
    assert!(draft.insert_module(&block("mail1", 20000, 2)).is_err());
    let claim = Claim {
        key: ClaimKey {
            namespace: None,
            claim: "web".parse().unwrap(),
            name: "http".parse().unwrap(),
            protocol: Protocol::Tcp,
        },
        port: port(20004),
        count: 2,
        address: HostAddress::Any,
        group: "default".parse().unwrap(),
        ttl: 60,
        holder: None,
        expires: None,
    };
    assert!(matches!(draft.reserve(&claim), Err(StoreError::Conflict { .. })));

    // The same block again may be larger or smaller, and what lies beside it is free.
    draft.insert_module(&block("mail1", 20001, 3)).unwrap();
    draft.reserve(&claim).unwrap();
    draft.insert(&forwarding("b", &[20006])).unwrap();
    let refused = draft.insert_module(&block("mail1", 20001, 4)).unwrap_err();
    assert_eq!(refused.to_string(), "host port 20004/tcp is reserved by claim web (http/tcp)");
    let refused = draft.insert_module(&block("mail2", 20006, 1)).unwrap_err();
    assert_eq!(refused.to_string(), "host port 20006/tcp is held by b/eth0");
    let udp = ModuleLease { protocol: Protocol::Udp, ..block("mail2", 20001, 9) };
    draft.insert_module(&udp).unwrap();
}

#[test]
fn what_it_gives_back_rests() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut lock = store.lock(LONG).unwrap();
    let mut draft = lock.begin().unwrap();
    let mail = block("mail1", 20001, 2);
    draft.insert_module(&mail).unwrap();
    let remove = |draft: &mut Draft| {
        draft.remove_module(&mail.module, mail.protocol, mail.port, SECOND).unwrap()
    };
    assert_eq!(remove(&mut draft), Some(mail.clone()));
    assert_eq!(remove(&mut draft), None);
    let releases = draft.releases(Protocol::Tcp).unwrap();
    let rested = Duration::from_secs(61);
    let of =
        |number| (port(number), lease::Release { at: SECOND.since_boot, rested, by_module: true });
    assert_eq!(releases, [of(20001), of(20002)]);
    draft.insert_module(&mail).unwrap();
    assert_eq!(draft.releases(Protocol::Tcp).unwrap(), []);
}
