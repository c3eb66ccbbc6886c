#![no_main]
//! Change instructions and platforms of an import; the layer is empty. Runs as root.
use gantry_image::{ImageStore, ImportOptions, Platform};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (platform, changes) = text.split_once('\0').unwrap_or(("", &text));
    let root = tempfile::tempdir().expect("a directory");
    let store = gantry_store::Store::open(root.path().join("meta.redb")).expect("a database");
    let images = ImageStore::open(root.path(), store).expect("images");
    let options = ImportOptions {
        changes: changes.split('\u{1}').map(str::to_owned).collect(),
        platform: Platform::parse(platform).ok(),
        ..ImportOptions::default()
    };
    let _ = images.import(&[0u8; 1024][..], &options);
});
