//! The store as its users see it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use gantry_store::{Batch, Store, StoreError, Table, WAL_BYTES};

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

/// The files as a power loss leaves them, opened again.
fn crashed(path: &Path) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    for end in ["", ".wal"] {
        let name = |path: &Path| format!("{}{end}", path.display());
        std::fs::copy(name(path), name(&copy)).unwrap();
    }
    let store = Store::open(&copy).unwrap();
    (dir, store)
}

#[test]
fn what_was_answered_is_there_after_a_crash_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let store = Store::open(&path).unwrap();
    let mut model = BTreeMap::new();
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    // More than the log has room for, twice.
    for step in 0..700 {
        let mut batch = Batch::new();
        for _ in 0..=random(3) {
            let key = format!("k{}", random(40));
            if random(3) == 0 {
                batch.delete(Table::Meta, key.clone());
                model.remove(&key);
            } else {
                let value = vec![step as u8; random(6000) as usize];
                batch.put(Table::Meta, key.clone(), value.clone());
                model.insert(key, value);
            }
        }
        store.commit_blocking(batch).unwrap();
        if step % 50 == 7 {
            let (_dir, again) = crashed(&path);
            for store in [&store, &again] {
                let all: BTreeMap<_, _> =
                    store.read_all(Table::Meta).unwrap().into_iter().collect();
                assert!(all == model, "step {step}");
            }
            // And once more, after its own commits.
            again.commit_blocking(put("own", b"1")).unwrap();
            let (_other, third) = crashed(&_dir.path().join("copy"));
            assert_eq!(third.read_all(Table::Meta).unwrap().len(), model.len() + 1);
            for (key, value) in &model {
                assert_eq!(store.get(Table::Meta, key).unwrap().as_ref(), Some(value));
            }
        }
    }
}

#[test]
fn a_record_longer_than_the_log_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let store = Store::open(&path).unwrap();
    store.commit_blocking(put("before", b"1")).unwrap();
    let long = vec![1; WAL_BYTES as usize];
    store.commit_blocking(put("long", &long)).unwrap();
    store.commit_blocking(put("after", b"2")).unwrap();
    let (_dir, again) = crashed(&path);
    let all = again.read_all(Table::Meta).unwrap();
    let lengths: Vec<_> = all.iter().map(|(k, v)| (k.as_str(), v.len())).collect();
    assert_eq!(lengths, [("after", 1), ("before", 1), ("long", long.len())]);
}

#[test]
fn a_database_without_a_log_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let store = Store::open(&path).unwrap();
    store.commit_blocking(put("a", b"1")).unwrap();
    drop(store);
    std::fs::remove_file(dir.path().join("m.wal")).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.read_all(Table::Meta).unwrap().len(), 1);
}

#[test]
fn a_log_of_another_database_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let store = Store::open(&path).unwrap();
    store.commit_blocking(put("a", b"1")).unwrap();
    // As after a kill: the database does not have it.
    let log = std::fs::read(dir.path().join("m.wal")).unwrap();
    drop(store);
    std::fs::write(dir.path().join("m.wal"), log).unwrap();
    std::fs::remove_file(&path).unwrap();
    let store = Store::open(&path).unwrap();
    assert!(store.read_all(Table::Meta).unwrap().is_empty());
}
