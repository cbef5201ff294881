//! Random changes agree with maps in memory, whatever the question, also after
//! the store was closed and opened again, and after the machine was booted.

mod agree;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::lease::{
    Claim, ClaimKey, ClaimName, InterfaceName, ModuleId, Namespace, Owner, Pod, PortName, Release,
};

/// Enough to be far behind, for a clock.
const LONG_AGO: u64 = 5000;

#[derive(Clone, Debug)]
enum Step {
    Insert(Forwarding),
    Remove(Attachment, Moment),
    Claim(Claim),
    Unclaim(ClaimKey),
    InsertModule(ModuleLease),
    RemoveModule(ModuleId, Protocol, Port, Moment),
    Expire(u64),
    Forget(Duration),
    Commit,
    Abandon,
    Reboot,
}

/// Names that begin alike: a prefix of one must not find the other.
fn name<T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug>(
    names: &[&'static str],
) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(names.to_vec()).prop_map(|name| name.parse().unwrap())
}

fn attachment() -> impl Strategy<Value = Attachment> {
    let names = (name(&["n", "nn"]), name(&["c", "cc", "c1"]), name(&["e", "e0"]));
    names.prop_map(|(network, container, interface)| Attachment { network, container, interface })
}

fn namespace() -> impl Strategy<Value = Option<Namespace>> {
    prop::option::of(name(&["s", "s-s"]))
}

fn claim_key() -> impl Strategy<Value = ClaimKey> {
    let names = (namespace(), name::<ClaimName>(&["a", "a.a"]), name::<PortName>(&["p", "p1"]));
    (names, prop::sample::select(Protocol::ALL.to_vec())).prop_map(
        |((namespace, claim, name), protocol)| ClaimKey { namespace, claim, name, protocol },
    )
}

fn address() -> impl Strategy<Value = HostAddress> {
    name(&["", "", "", "0.0.0.0", "::", "192.0.2.1", "192.0.2.2", "2001:db8::1"])
}

fn claim() -> impl Strategy<Value = Claim> {
    let ports = (253u16..259, 1u16..4, address());
    let times = (prop::sample::select(vec![0, 10, LONG_AGO]), prop::option::of(unix()));
    (claim_key(), ports, times, prop::option::of(attachment())).prop_map(
        |(key, (number, count, address), (ttl, expires), holder)| Claim {
            key,
            port: port(number),
            count,
            address,
            group: "default".parse().unwrap(),
            ttl,
            holder,
            expires,
        },
    )
}

fn lease() -> impl Strategy<Value = Lease> {
    let rest = (prop::sample::select(vec![0, 50]), any::<bool>())
        .prop_map(|(cooldown, is_remembered)| Rest { cooldown, is_remembered });
    let rest = prop::option::of(rest);
    (claim_key(), 253u16..261, address(), any::<bool>(), rest).prop_map(
        |(key, number, address, is_claimed, rest)| Lease {
            host: HostPort { protocol: key.protocol, port: port(number), address },
            name: Some(key.name),
            claim: is_claimed.then_some(key.claim),
            rest,
            ..super::lease(1)
        },
    )
}

fn forwarding() -> impl Strategy<Value = Forwarding> {
    let link = prop::option::of(name::<InterfaceName>(&["l", "ll"]));
    let leases = prop::collection::vec(lease(), 1..4);
    (attachment(), namespace(), link, leases).prop_map(|(attachment, namespace, link, leases)| {
        let name = "web".parse().unwrap();
        let pod = namespace.map(|namespace| Pod { namespace, name, uid: None });
        Forwarding { attachment, pod, link, leases, ..super::forwarding("a", &[]) }
    })
}

fn module() -> impl Strategy<Value = ModuleId> {
    name(&["m", "m.m"])
}

fn module_lease() -> impl Strategy<Value = ModuleLease> {
    let ports = (prop::sample::select(Protocol::ALL.to_vec()), 253u16..259, 1u16..4);
    let rest = (prop::sample::select(vec![0, 50]), any::<bool>());
    (module(), ports, prop::option::of(name(&["10.0.0.5:80", "[fd00::5]:80"])), rest).prop_map(
        |(module, (protocol, first, count), to, (cooldown, is_remembered))| {
            let rest = Rest { cooldown, is_remembered };
            ModuleLease { module, protocol, to, rest, ..block("m", first, count) }
        },
    )
}

fn unix() -> impl Strategy<Value = u64> {
    (1u64..4, 0u64..30).prop_map(|(days, seconds)| days * LONG_AGO + seconds)
}

fn since_boot() -> impl Strategy<Value = Duration> {
    (0u64..200).prop_map(Duration::from_millis)
}

fn step() -> impl Strategy<Value = Step> {
    let moment =
        || (since_boot(), unix()).prop_map(|(since_boot, unix)| Moment { since_boot, unix });
    let module = (module(), prop::sample::select(Protocol::ALL.to_vec()), 253u16..259, moment());
    prop_oneof![
        10 => forwarding().prop_map(Step::Insert),
        6 => (attachment(), moment()).prop_map(|(owner, moment)| Step::Remove(owner, moment)),
        8 => claim().prop_map(Step::Claim),
        2 => claim_key().prop_map(Step::Unclaim),
        8 => module_lease().prop_map(Step::InsertModule),
        3 => module.prop_map(|(module, protocol, first, moment)| {
            Step::RemoveModule(module, protocol, port(first), moment)
        }),
        2 => unix().prop_map(Step::Expire),
        1 => since_boot().prop_map(Step::Forget),
        3 => Just(Step::Commit),
        1 => Just(Step::Abandon),
        1 => Just(Step::Reboot),
    ]
}

/// What the store should hold.
#[derive(Clone, Debug, Default)]
struct Model {
    leases: BTreeMap<Attachment, Forwarding>,
    claims: BTreeMap<ClaimKey, Claim>,
    modules: BTreeMap<(ModuleId, Protocol, Port), ModuleLease>,
    /// With whether they are remembered.
    releases: BTreeMap<(Protocol, Port), (Release, bool)>,
    /// The latest that was told.
    time: Option<u64>,
    /// Whether the next commit counts after a power cut.
    is_durable: bool,
}

/// Why a change is refused.
#[derive(Debug, Default, PartialEq, Eq)]
struct Refusal {
    conflict: bool,
    claimed: bool,
}

impl Refusal {
    /// Whether there is none; one must be what the store gives as its reason.
    fn check<T: std::fmt::Debug>(&self, done: &Result<T, StoreError>) -> bool {
        let is_as_expected = match done {
            Ok(_) => !self.conflict && !self.claimed,
            Err(StoreError::Conflict { .. }) => self.conflict,
            Err(StoreError::Claimed { .. }) => self.claimed,
            Err(_) => false,
        };
        assert!(is_as_expected, "{done:?} and {self:?}");
        done.is_ok()
    }
}

impl Model {
    fn held(&self) -> impl Iterator<Item = (&Forwarding, &Lease)> {
        self.leases.values().flat_map(|held| held.leases.iter().map(move |lease| (held, lease)))
    }

    fn held_by_modules(&self) -> impl Iterator<Item = (&ModuleLease, HostPort)> {
        self.modules.values().flat_map(|lease| lease.ports().map(move |port| (lease, port)))
    }

    /// Who holds what, attachments and modules alike.
    fn holders(&self) -> impl Iterator<Item = (HostPort, Owner)> {
        let of_attachment =
            |(held, lease): (&Forwarding, &Lease)| (lease.host, held.attachment.clone().into());
        let of_module =
            |(lease, port): (&ModuleLease, _)| (port, Owner::Module(lease.module.clone()));
        self.held().map(of_attachment).chain(self.held_by_modules().map(of_module))
    }

    fn reserved(&self) -> impl Iterator<Item = (&ClaimKey, HostPort)> {
        self.claims.values().flat_map(|claim| claim.ports().map(move |port| (&claim.key, port)))
    }

    fn refuses(&self, new: &Forwarding) -> Refusal {
        let mut refusal = Refusal::default();
        for lease in &new.leases {
            let own = lease.claim_key(new.namespace());
            let owner = Owner::from(new.attachment.clone());
            refusal.conflict |= self
                .holders()
                .any(|(port, holder)| holder != owner && port.conflicts_with(&lease.host));
            refusal.claimed |= self.reserved().any(|(claim, port)| {
                Some(claim) != own.as_ref() && port.conflicts_with(&lease.host)
            });
        }
        refusal
    }

    fn refuses_claim(&self, new: &Claim) -> Refusal {
        let mut refusal = Refusal::default();
        for wanted in new.ports() {
            refusal.claimed |= self
                .reserved()
                .any(|(claim, port)| *claim != new.key && port.conflicts_with(&wanted));
            refusal.conflict |= self.held().any(|(held, lease)| {
                lease.claim_key(held.namespace()).as_ref() != Some(&new.key)
                    && lease.host.conflicts_with(&wanted)
            });
            refusal.conflict |=
                self.held_by_modules().any(|(_, port)| port.conflicts_with(&wanted));
        }
        refusal
    }

    fn refuses_module(&self, new: &ModuleLease) -> Refusal {
        let mut refusal = Refusal::default();
        let key = module_key(new);
        for wanted in new.ports() {
            refusal.conflict |= self.held().any(|(_, lease)| lease.host.conflicts_with(&wanted))
                || self
                    .held_by_modules()
                    .any(|(lease, port)| module_key(lease) != key && port == wanted);
            refusal.claimed |= self.reserved().any(|(_, port)| port.conflicts_with(&wanted));
        }
        refusal
    }

    fn insert_module(&mut self, new: ModuleLease) {
        let key = module_key(&new);
        if self.modules.get(&key) == Some(&new) {
            return;
        }
        for port in new.ports() {
            self.releases.remove(&(port.protocol, port.port));
        }
        self.modules.insert(key, new);
        self.is_durable = true;
    }

    fn remove_module(
        &mut self,
        key: &(ModuleId, Protocol, Port),
        moment: Moment,
    ) -> Option<ModuleLease> {
        let gone = self.modules.remove(key)?;
        self.is_durable = true;
        for port in gone.ports() {
            self.release(&port, gone.rest, moment.since_boot, true);
        }
        Some(gone)
    }

    fn insert(&mut self, new: Forwarding) {
        for lease in &new.leases {
            self.releases.remove(&(lease.host.protocol, lease.host.port));
        }
        self.leases.insert(new.attachment.clone(), new);
    }

    fn remove(&mut self, owner: &Attachment, moment: Moment) -> Option<Forwarding> {
        if self.claims.values().any(|claim| claim.holder.as_ref() == Some(owner)) {
            let now = self.tell_time(moment.unix);
            for claim in self.claims.values_mut().filter(|c| c.holder.as_ref() == Some(owner)) {
                claim.holder = None;
                claim.expires = now.map(|now| now + claim.ttl);
            }
        }
        let gone = self.leases.remove(owner)?;
        for lease in &gone.leases {
            if let Some(rest) = lease.rest {
                self.release(&lease.host, rest, moment.since_boot, false);
            }
        }
        Some(gone)
    }

    fn release(&mut self, host: &HostPort, rest: Rest, at: Duration, by_module: bool) {
        if rest == (Rest { cooldown: 0, is_remembered: false }) {
            return;
        }
        let port = (host.protocol, host.port);
        let mut release =
            Release { at, rested: at + Duration::from_millis(rest.cooldown), by_module };
        if let Some((before, _)) = self.releases.get(&port) {
            release.rested = release.rested.max(before.rested);
            release.by_module &= before.by_module || before.rested <= at;
        }
        self.releases.insert(port, (release, rest.is_remembered));
    }

    fn claim(&mut self, mut new: Claim) -> Option<Claim> {
        new.expires = new.expires.filter(|_| new.holder.is_none());
        let before = self.claims.insert(new.key.clone(), new.clone());
        self.is_durable |= before.as_ref() != Some(&new);
        before
    }

    fn unclaim(&mut self, key: &ClaimKey) -> Option<Claim> {
        let gone = self.claims.remove(key);
        self.is_durable |= gone.is_some();
        gone
    }

    fn expire(&mut self, unix: u64) -> Vec<Claim> {
        let Some(now) = self.tell_time(unix) else { return Vec::new() };
        for claim in self.claims.values_mut() {
            if claim.holder.is_none() && claim.expires.is_none() {
                claim.expires = Some(now + claim.ttl);
            }
        }
        let is_over = |claim: &Claim| claim.expires.is_some_and(|expires| expires <= now);
        let expired: Vec<_> = self.claims.extract_if(.., |_, claim| is_over(claim)).collect();
        self.is_durable |= !expired.is_empty();
        expired.into_iter().map(|(_, claim)| claim).collect()
    }

    fn forget(&mut self, now: Duration) {
        self.releases.retain(|_, (release, is_remembered)| *is_remembered || release.rested > now);
    }

    fn tell_time(&mut self, unix: u64) -> Option<u64> {
        let latest = self.time.unwrap_or(unix).max(unix);
        self.time = Some(latest);
        (latest - unix < LONG_AGO - 1000).then_some(latest)
    }

    /// The machine was booted: the first commit is durable.
    fn end_boot(&mut self) {
        self.leases.clear();
        self.releases.clear();
        for claim in self.claims.values_mut().filter(|claim| claim.holder.is_some()) {
            claim.holder = None;
            claim.expires = None;
        }
        self.is_durable = true;
    }
}

fn module_key(lease: &ModuleLease) -> (ModuleId, Protocol, Port) {
    (lease.module.clone(), lease.protocol, lease.port)
}

fn apply(step: Step, draft: &mut Draft, model: &mut Model) {
    match step {
        Step::Insert(new) => {
            if model.refuses(&new).check(&draft.insert(&new)) {
                model.insert(new);
            }
        }
        Step::Remove(owner, moment) => {
            assert_eq!(draft.remove(&owner, moment).unwrap(), model.remove(&owner, moment));
        }
        Step::Claim(claim) => {
            let claimed = draft.reserve(&claim);
            if model.refuses_claim(&claim).check(&claimed) {
                assert_eq!(claimed.unwrap(), model.claim(claim));
            }
        }
        Step::Unclaim(key) => assert_eq!(draft.unreserve(&key).unwrap(), model.unclaim(&key)),
        Step::InsertModule(new) => {
            let is_same = model.modules.get(&module_key(&new)) == Some(&new);
            let inserted = draft.insert_module(&new);
            if is_same || model.refuses_module(&new).check(&inserted) {
                inserted.unwrap();
                model.insert_module(new);
            }
        }
        Step::RemoveModule(module, protocol, first, moment) => {
            let removed = draft.remove_module(&module, protocol, first, moment).unwrap();
            assert_eq!(removed, model.remove_module(&(module, protocol, first), moment));
        }
        Step::Expire(unix) => {
            let mut expired = draft.expire_claims(unix).unwrap();
            expired.sort_by(|a, b| a.key.cmp(&b.key));
            assert_eq!(expired, model.expire(unix));
        }
        Step::Forget(now) => {
            draft.forget_rested(now).unwrap();
            model.forget(now);
        }
        Step::Commit | Step::Abandon | Step::Reboot => unreachable!("these are no changes"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_changes_agree_with_maps(steps in prop::collection::vec(step(), 1..80)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path());
        let mut lock = store.lock(LONG).unwrap();
        let mut draft = lock.begin().unwrap();
        let mut model = Model { is_durable: true, ..Model::default() };
        let (mut committed, mut durable) = (model.clone(), model.clone());
        let (mut boots, mut left) = (0, None);
        for step in steps {
            match step {
                Step::Commit => {
                    prop_assert_eq!(draft.is_durable(), model.is_durable);
                    draft.commit().unwrap();
                    if model.is_durable {
                        durable = model.clone();
                        left = Some(synced(&store));
                    }
                    model.is_durable = false;
                    committed = model.clone();
                    agree::agree(&store.read().unwrap(), &model);
                    // Whatever the next one goes on from, it finds the same.
                    if fastrand::u8(..4) == 0 {
                        forget_working_copy(&store);
                    }
                    draft = lock.begin().unwrap();
                }
                Step::Abandon => {
                    drop(draft);
                    model = committed.clone();
                    draft = lock.begin().unwrap();
                }
                Step::Reboot => {
                    drop(draft);
                    drop(lock);
                    if let Some(left) = &left {
                        cut_power(left);
                    }
                    boots += 1;
                    store.boot = format!("{NEXT_BOOT}-{boots}");
                    durable.end_boot();
                    (committed, model) = (durable.clone(), durable.clone());
                    lock = store.lock(LONG).unwrap();
                    draft = lock.begin().unwrap();
                }
                change => apply(change, &mut draft, &mut model),
            }
            agree::agree(&draft, &model);
        }
    }
}
