//! What an earlier version wrote, which knew neither claims nor bitmaps, is read,
//! and written as of this version from the first commit on.

use super::*;
use crate::store::{
    copy::copy_closed, database::Database, lock::lock_within, record, seal::Seal, tree::Tree,
};

/// A store as of the boot: "a" holds a port, another was given back.
fn former(dir: &Path) -> Store {
    let store = store(dir);
    commit(&store, |draft| draft.insert(&forwarding("a", &[8080])));
    let generation = store.dir.join("generation.1");
    let (written, old) = (dir.join("written"), dir.join("old"));
    fs::create_dir(&written).unwrap();
    fs::create_dir(&old).unwrap();
    copy_closed(&generation, &written).unwrap();
    let of_old = [
        Tree::Attachment,
        Tree::Port,
        Tree::Network,
        Tree::Address,
        Tree::Pod,
        Tree::Link,
        Tree::Meta,
    ];
    let new = Database::open(&written, 0, 0).unwrap();
    let db = sled::Config::new().path(&old).segment_size(64 * 1024).open().unwrap();
    for tree in of_old {
        let to = db.open_tree(tree.name()).unwrap();
        for entry in new.tree(tree) {
            let (key, value) = entry.unwrap();
            to.insert(key, value).unwrap();
        }
    }
    db.open_tree(Tree::Meta.name()).unwrap().insert("schema", "1").unwrap();
    let key = record::port_prefix(Protocol::Tcp, port(9090));
    let released = record::stamp(record::SCHEMA, &["5000"]);
    db.open_tree("released").unwrap().insert(&key, released).unwrap();
    let key = [&5000_u64.to_be_bytes(), key.as_slice()].concat();
    db.open_tree("released-at").unwrap().insert(key, "1").unwrap();
    db.flush().unwrap();
    drop(db);
    let file = fs::File::open(old.join("db")).unwrap();
    lock_within(file, LONG).unwrap().expect("sled lets go of its file");

    fs::remove_dir_all(&generation).unwrap();
    fs::create_dir(&generation).unwrap();
    let files = copy_closed(&old, &generation).unwrap();
    Seal::new(files, BOOT, 500, 7).write(&generation).unwrap();
    store
}

#[test]
fn leases_of_an_earlier_version_are_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = former(dir.path());
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
    copy_closed(&store.dir.join("current/"), &copy).unwrap();
    let db = sled::Config::new().path(&copy).segment_size(64 * 1024).open().unwrap();
    let names: Vec<_> = db.tree_names();
    assert!(names.iter().all(|name| !name.starts_with(b"released")), "{names:?}");
    drop(db);

    commit(&store, |draft| draft.remove(&owner("a"), MOMENT).map(drop));
    assert!(store.read().unwrap().held(Protocol::Tcp).unwrap().is_empty());
    assert_eq!(
        rebooted(&former(&dir.path().join("next"))).read().unwrap().forwardings().unwrap(),
        []
    );
}
