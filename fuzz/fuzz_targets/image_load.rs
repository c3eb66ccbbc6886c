#![no_main]
//! Whole image archives: docker's and OCI's, their JSON documents and layers. Nothing may be left of what is refused.
//! Runs as root, in a directory of its own.
use libfuzzer_sys::fuzz_target;
use std::cell::OnceCell;
use std::sync::Arc;

use gantry_image::ImageStore;

thread_local! {
    static STORE: OnceCell<(tempfile::TempDir, Arc<ImageStore>)> = const { OnceCell::new() };
}

fn open() -> (tempfile::TempDir, Arc<ImageStore>) {
    let root = tempfile::tempdir().expect("a directory");
    let store = gantry_store::Store::open(root.path().join("meta.redb")).expect("a database");
    let images = ImageStore::open(root.path(), store).expect("images");
    (root, images)
}

fuzz_target!(|data: &[u8]| {
    STORE.with(|store| {
        let (root, images) = store.get_or_init(open);
        let loaded = images.load(data, None, &mut |_| {}).unwrap_or_default();
        let names: Vec<String> = loaded.iter().map(|l| l.id.clone()).collect();
        if let Ok(plan) = images.plan_save(&names, None) {
            plan.write(&mut std::io::sink())
                .expect("what is loaded can be saved");
        }
        for image in images.snapshot().list() {
            images
                .remove(&image.id, true, &|_| None)
                .expect("what is loaded can be removed");
        }
        for dir in ["tmp", "layers/sha256", "content/blobs/sha256"] {
            let left = std::fs::read_dir(root.path().join(dir)).expect(dir).count();
            assert_eq!(left, 0, "{dir}");
        }
    });
});
