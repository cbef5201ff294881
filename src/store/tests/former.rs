//! What earlier versions wrote is read, and written as of this version from the first
//! commit on: schema 1, which knew neither claims nor bitmaps, and schema 2, in which
//! each entry of an index was a value.

use super::*;
use crate::{
    lease::{Claim, ClaimKey},
    store::{
        copy::copy_closed, database::Database, lock::lock_within, record, seal::Seal, tree::Tree,
    },
};

/// A key and its value.
type Entry = (Vec<u8>, Vec<u8>);

/// Makes a store of generation 1, of this boot, that holds this in its trees.
fn former(dir: &Path, schema: &str, trees: &[(&str, Vec<Entry>)]) -> Store {
    let store = store(dir);
    let old = dir.join("old");
    fs::create_dir_all(&old).unwrap();
    let db = sled::Config::new().path(&old).segment_size(64 * 1024).open().unwrap();
    for (tree, entries) in trees {
        let tree = db.open_tree(tree).unwrap();
        for (key, value) in entries {
            tree.insert(key.as_slice(), value.as_slice()).unwrap();
        }
    }
    db.open_tree("meta").unwrap().insert("schema", schema).unwrap();
    db.flush().unwrap();
    drop(db);
    let file = fs::File::open(old.join("db")).unwrap();
    lock_within(file, LONG).unwrap().expect("sled lets go of its file");

    let generation = store.dir.join("generation.1");
    fs::create_dir_all(&generation).unwrap();
    let files = copy_closed(&old, &generation).unwrap();
    Seal::new(files, BOOT, 1, 500, 7).write(&generation).unwrap();
    // As it was before there were journals.
    let seal = generation.join("seal");
    let text = fs::read_to_string(&seal).unwrap();
    let old = text.replacen("\"schema\":2", "\"schema\":1", 1).replacen("\"id\":1,", "", 1);
    assert_eq!(old.len(), text.len() - 7);
    fs::write(&seal, old).unwrap();
    for link in ["current", "durable"] {
        std::os::unix::fs::symlink("generation.1", store.dir.join(link)).unwrap();
    }
    store
}

/// The trees about an attachment and its one lease, as in both schemas.
fn attached(held: &Forwarding) -> Vec<(&'static str, Vec<Entry>)> {
    let Attachment { network, container, interface } = &held.attachment;
    let (network, container, interface) =
        (network.as_str(), container.as_str(), interface.as_str());
    let one = |key: Vec<u8>| vec![(key, b"1".to_vec())];
    let address = held.container.v4.unwrap().to_string();
    let link = held.link.as_ref().unwrap().as_str();
    let host = &held.leases[0].host;
    vec![
        (
            "attachment",
            vec![(record::key([container, interface, network]), record::forwarding(held))],
        ),
        ("port", vec![(record::port_key(host), record::owner(&held.attachment))]),
        ("network", one(record::key([network, container, interface]))),
        ("address", one(record::key([network, &address, container, interface]))),
        ("link", one(record::key([network, link, container, interface]))),
    ]
}

fn schema_1(dir: &Path) -> Store {
    let mut trees = attached(&forwarding("a", &[8080]));
    let key = record::port_prefix(Protocol::Tcp, port(9090));
    let released = record::stamp(record::SCHEMA, &["5000"]);
    trees.push(("released", vec![(key.clone(), released)]));
    let key = [&5000_u64.to_be_bytes(), key.as_slice()].concat();
    trees.push(("released-at", vec![(key, b"1".to_vec())]));
    former(dir, "1", &trees)
}

#[test]
fn leases_of_an_earlier_version_are_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = schema_1(dir.path());
    let check = |view: &View| {
        assert_eq!(view.forwardings().unwrap(), [forwarding("a", &[8080])]);
        assert_eq!(view.held(Protocol::Tcp).unwrap(), [port(8080)].into_iter().collect());
        assert_eq!(view.releases(Protocol::Tcp).unwrap(), []);
        assert_eq!(view.claims().unwrap(), []);
        assert_eq!(view.lineage(), 7);
    };
    check(&store.read().unwrap());
    let live = |store: &Store| {
        let mut lock = store.lock(LONG).unwrap();
        let draft = lock.begin().unwrap();
        check(&draft);
        draft.database().live()
    };
    let before = live(&store);
    let new = super::store(&dir.path().join("new"));
    commit(&new, |draft| draft.insert(&forwarding("a", &[8080])));
    assert_eq!(before, new.lock(LONG).unwrap().begin().unwrap().database().live());
    commit(&store, |draft| draft.insert(&forwarding("b", &[8081])));
    commit(&store, |draft| draft.remove(&owner("b"), MOMENT).map(drop));
    assert_eq!(live(&store), before);
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    copy_closed(&store.dir.join("generation.2"), &copy).unwrap();
    let db = sled::Config::new().path(&copy).segment_size(64 * 1024).open().unwrap();
    let names: Vec<_> = db.tree_names();
    assert!(names.iter().all(|name| !name.starts_with(b"released") && name != b"network"));
    drop(db);

    commit(&store, |draft| draft.remove(&owner("a"), MOMENT).map(drop));
    assert!(store.read().unwrap().held(Protocol::Tcp).unwrap().is_empty());
    assert_eq!(
        rebooted(&schema_1(&dir.path().join("next"))).read().unwrap().forwardings().unwrap(),
        []
    );
}

/// All that schema 2 knew is found again, by every question.
#[test]
fn every_index_of_an_earlier_version_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let held = forwarding("a", &[8080]);
    let claim = Claim {
        key: ClaimKey {
            namespace: Some("shop".parse().unwrap()),
            claim: "web".parse().unwrap(),
            name: "http".parse().unwrap(),
            protocol: Protocol::Tcp,
        },
        port: port(8090),
        count: 2,
        address: HostAddress::Any,
        group: "default".parse().unwrap(),
        ttl: 60,
        holder: None,
        expires: Some(1_000),
    };
    let lease = block("relay", 8100, 20);
    let bit = |host: &HostPort| {
        let [_, low] = host.port.number().to_be_bytes();
        let mut bits = [0; 32];
        bits[usize::from(low / 8)] = 1 << (low % 8);
        (record::bits_key(host.protocol, host.port).to_vec(), record::bits(bits))
    };
    let mut trees = attached(&held);
    trees.push(("held", vec![bit(&held.leases[0].host)]));
    trees.push(("claim", vec![(record::claim_key(&claim.key), record::claim(&claim))]));
    let of_claim = |host: HostPort| (record::port_key(&host), record::claim_of_port(&claim.key));
    trees.push(("claim-port", claim.ports().map(of_claim).collect()));
    trees.push(("claimed", claim.ports().take(1).map(|host| bit(&host)).collect()));
    let expiry = [&record::expiry_prefix(1_000)[..], &record::claim_key(&claim.key)].concat();
    trees.push(("claim-expiry", vec![(expiry, b"1".to_vec())]));
    let key = record::module_key(&lease.module, lease.protocol, lease.port);
    trees.push(("module", vec![(key, record::module_lease(&lease))]));
    let of_module =
        |host: HostPort| (record::port_key(&host), record::module_of_port(&lease.module));
    trees.push(("module-port", lease.ports().map(of_module).collect()));
    let store = former(dir.path(), "2", &trees);

    let new = super::store(&dir.path().join("new"));
    commit(&new, |draft| {
        draft.insert(&held)?;
        draft.reserve(&claim)?;
        draft.insert_module(&lease)
    });
    let content = |store: &Store| {
        let mut lock = store.lock(LONG).unwrap();
        let draft = lock.begin().unwrap();
        let database: &Database = draft.database();
        let trees = Tree::ALL.into_iter();
        let content = trees.flat_map(|tree| {
            let entries = database.tree(tree).iter().map(|entry| entry.unwrap());
            entries.map(move |(key, value)| (tree.name(), key.to_vec(), value.to_vec()))
        });
        content.filter(|(_, key, _)| key != b"place").collect::<Vec<_>>()
    };
    assert_eq!(content(&store), content(&new));
    commit(&store, |draft| draft.insert(&forwarding("b", &[8081])));
    commit(&new, |draft| draft.insert(&forwarding("b", &[8081])));
    assert_eq!(content(&store), content(&new));
}
