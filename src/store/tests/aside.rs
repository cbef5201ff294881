//! A store that is set aside is there until it is gone, whoever is killed in between.

use std::{collections::BTreeSet, fs};

use super::{LONG, commit, forwarding, store as store_in};
use crate::store::aside;

#[test]
fn a_store_holds_what_it_held_until_its_last_part_moves() {
    let parent = tempfile::tempdir().unwrap();
    let store = store_in(parent.path());
    let dir = parent.path().join("data");
    for (container, port) in [("a", 8080), ("b", 8081), ("c", 8082)] {
        commit(&store, |draft| draft.insert(&forwarding(container, &[port])));
    }
    let held = store.read().unwrap().forwardings().unwrap();
    let parts = aside::parts(&dir).unwrap();
    assert!(parts.len() >= 4, "two links and two generations: {parts:?}");
    let elsewhere = tempfile::tempdir_in(&parent).unwrap();
    for (step, part) in parts.iter().enumerate() {
        let found = store.read().unwrap().forwardings().unwrap();
        assert_eq!(found, held, "{step} of {parts:?}");
        fs::rename(part, elsewhere.path().join(part.file_name().unwrap())).unwrap();
    }
    assert_eq!(store.read().unwrap().forwardings().unwrap(), []);
}

#[test]
fn what_is_set_aside_is_kept_and_a_new_store_begins() {
    let parent = tempfile::tempdir().unwrap();
    let store = store_in(parent.path());
    let dir = parent.path().join("data");
    assert_eq!(store.lock(LONG).unwrap().set_aside("now").unwrap(), None);
    let mut lineages = BTreeSet::new();
    for again in ["", ".2", ".3"] {
        commit(&store, |draft| draft.insert(&forwarding("a", &[8080])));
        lineages.insert(store.read().unwrap().lineage());
        let aside = store.lock(LONG).unwrap().set_aside("now").unwrap();
        assert_eq!(aside, Some(dir.join(format!("removed-now{again}"))));
        assert!(!store.exists().unwrap());
    }
    assert_eq!(lineages.len(), 3, "elements of one are not taken for those of another");
    let inventory = store.inventory().unwrap();
    assert_eq!((inventory.removed.len(), inventory.generations.len()), (3, 0));
}

#[test]
fn the_inventory_tells_what_is_whole() {
    let parent = tempfile::tempdir().unwrap();
    let store = store_in(parent.path());
    let dir = parent.path().join("data");
    assert_eq!(store.inventory().unwrap(), crate::store::Inventory::default());
    for (container, port) in [("a", 8080), ("b", 8081), ("c", 8082)] {
        commit(&store, |draft| draft.insert(&forwarding(container, &[port])));
    }
    fs::create_dir(dir.join("writing.1.7")).unwrap();
    fs::create_dir(dir.join("damaged.9")).unwrap();
    fs::create_dir(dir.join("generation.3")).unwrap();
    fs::remove_dir_all(dir.join("generation.1")).unwrap();
    let generations = || {
        let found = store.inventory().unwrap().generations;
        found.into_iter().map(|g| (g.number, g.is_whole, g.links)).collect::<Vec<_>>()
    };
    assert_eq!(generations(), [(3, false, vec![]), (2, true, vec!["current"])]);
    for (file, content) in [("journal", "x"), ("db", "")] {
        let file = dir.join("generation.2").join(file);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, content).unwrap();
        assert_eq!(generations(), [(3, false, vec![]), (2, false, vec!["current"])]);
        fs::write(&file, whole).unwrap();
    }
    assert!(generations()[1].1);
    let found = store.inventory().unwrap();
    assert_eq!(found.broken_links, [dir.join("durable")]);
    assert_eq!(found.leftovers, [dir.join("writing.1.7")]);
    assert_eq!(found.damaged, [dir.join("damaged.9")]);
}
