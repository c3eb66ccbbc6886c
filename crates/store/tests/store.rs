//! The store as its users see it.

use std::sync::Arc;

use gantry_store::{Batch, Store, StoreError, Table};

fn put(key: &str, value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Meta, key, value);
    batch
}

#[test]
fn survives_a_reopen_and_refuses_a_second_opener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("meta.redb");
    let store = Store::open(&path).unwrap();
    store.commit_blocking(put("a", b"1")).unwrap();
    store.commit_later(put("b", b"2"));
    assert!(matches!(Store::open(&path), Err(StoreError::Locked(p)) if p == path));
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(
        store.get(Table::Meta, "a").unwrap().as_deref(),
        Some(b"1".as_slice())
    );
    assert_eq!(
        store.read_all(Table::Meta).unwrap(),
        vec![
            ("a".to_owned(), b"1".to_vec()),
            ("b".to_owned(), b"2".to_vec())
        ]
    );
    assert!(store.read_all(Table::Containers).unwrap().is_empty());
}

#[test]
fn concurrent_commits_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path().join("m")).unwrap());
    let threads: Vec<_> = (0..16)
        .map(|t| {
            let store = store.clone();
            std::thread::spawn(move || {
                for i in 0..20 {
                    store
                        .commit_blocking(put(&format!("{t}-{i}"), b"x"))
                        .unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(store.read_all(Table::Meta).unwrap().len(), 320);
    let counters = store.counters();
    assert_eq!((counters.batches, counters.later_failed), (320, 0));
    assert!(counters.commits < 320, "no group commit: {counters:?}");
}

#[test]
fn a_conflict_hurts_only_its_own_batch() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path().join("m")).unwrap());
    store.commit_blocking(put("name", b"first")).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|t| {
            let store = store.clone();
            std::thread::spawn(move || {
                let mut batch = Batch::new();
                batch.put(Table::Meta, format!("side-{t}"), "x");
                if t % 2 == 0 {
                    batch.require_absent(Table::Meta, "name");
                }
                (t, store.commit_blocking(batch))
            })
        })
        .collect();
    for thread in threads {
        let (t, result) = thread.join().unwrap();
        let applied = store
            .get(Table::Meta, &format!("side-{t}"))
            .unwrap()
            .is_some();
        match result {
            Ok(()) => assert!(t % 2 == 1 && applied),
            Err(StoreError::Exists { key, value, .. }) => {
                assert!(t % 2 == 0 && !applied && key == "name" && value == b"first");
            }
            Err(e) => panic!("{e}"),
        }
    }
    let mut again = Batch::new();
    again.delete(Table::Meta, "name");
    store.commit_blocking(again).unwrap();
    let mut batch = put("name", b"second");
    batch.require_absent(Table::Meta, "name");
    store.commit_blocking(batch).unwrap();
}
