//! Archives in, images out. Runs as root (device nodes, trusted xattrs).

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;

use gantry_image::layer::{DirLayers, LayerStore};
use gantry_image::tar::{Entry, Kind, Reader};
use gantry_image::{Deleted, ImageStore, ImportOptions, LoadEvent, Reference};
use gantry_store::Store;
use proptest::prelude::*;

fn entry(kind: tar::EntryType, path: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

fn file(path: &str, content: &[u8]) -> Vec<u8> {
    entry(tar::EntryType::Regular, path, "", content)
}

fn link(path: &str, to: &str) -> Vec<u8> {
    entry(tar::EntryType::Symlink, path, to, b"")
}

/// Unpacks into a fresh store; `Ok` is the layer's directory.
fn unpack(root: &Path, bytes: &[u8]) -> Result<std::path::PathBuf, String> {
    let layers = DirLayers::open(root).unwrap();
    let done = layers
        .stage(&mut &bytes[..], None)
        .and_then(|staged| layers.publish(staged))
        .map_err(|e| e.to_string())?;
    layers.path(&done.diff_id).map_err(|e| e.to_string())
}

#[test]
fn long_names_pax_and_xattrs_round_trip() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let mut builder = tar::Builder::new(Vec::new());
    let attributes = [
        ("SCHILY.xattr.user.k", b"v\0w".as_slice()),
        ("mtime", b"12.5"),
        ("size", b"4"),
    ];
    builder.append_pax_extensions(attributes).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    header.set_mode(0o4755);
    header.set_cksum();
    builder.append_data(&mut header, "a", &b"data"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_uid(1 << 30);
    header.set_mode(0o600);
    builder
        .append_data(&mut header, &long, &b"xyz"[..])
        .unwrap();
    let bytes = builder.into_inner().unwrap();
    let mut reader = Reader::new(&bytes[..]);
    let first = reader.next_entry().unwrap().unwrap();
    assert_eq!(
        (
            first.path.as_slice(),
            first.mode,
            first.mtime_s,
            first.mtime_ns
        ),
        (&b"a"[..], 0o4755, 12, 500_000_000)
    );
    assert_eq!(first.xattrs, vec![(b"user.k".to_vec(), b"v\0w".to_vec())]);
    let mut content = String::new();
    reader.read_to_string(&mut content).unwrap();
    assert_eq!(content, "data");
    let second = reader.next_entry().unwrap().unwrap();
    assert_eq!(
        (second.path, second.size, second.uid, second.kind),
        (long.into_bytes(), 3, 1 << 30, Kind::File)
    );
    assert!(second.xattrs.is_empty());
    assert_eq!(reader.next_entry().unwrap(), None::<Entry>);
}

/// The same entry with another type byte.
fn of_kind(kind: u8, mut entry: Vec<u8>) -> Vec<u8> {
    entry[156] = kind;
    entry[148..156].fill(b' ');
    let sum: u32 = entry[..512].iter().map(|b| u32::from(*b)).sum();
    entry[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    entry
}

#[test]
fn a_slash_at_the_end_of_a_cut_name_makes_no_directory() {
    // Writers put the first 100 bytes of a long path into the header; byte 100 may be a slash.
    let path = format!("{}file", "dir/".repeat(30));
    let record = format!(" path={path}\n");
    let record = format!("{}{record}", record.len() + 3);
    let pax = |kind: u8| {
        let header = of_kind(kind, file(&path[..100], b"data"));
        let long = entry(tar::EntryType::XHeader, "pax", "", record.as_bytes());
        archive(&[long, header, file("next", b"n")])
    };
    for kind in [b'0', 0] {
        let bytes = pax(kind);
        let mut reader = Reader::new(&bytes[..]);
        let first = reader.next_entry().unwrap().unwrap();
        assert_eq!((first.kind, first.size), (Kind::File, 4));
        assert_eq!(first.path, path.as_bytes());
        assert_eq!(reader.next_entry().unwrap().unwrap().path, b"next");
    }
    let old = archive(&[of_kind(0, file("old/", b""))]);
    let first = Reader::new(&old[..]).next_entry().unwrap().unwrap();
    assert_eq!(first.kind, Kind::Dir);
}

#[test]
fn every_cut_archive_is_refused_or_shorter() {
    let bytes = archive(&[file("a", b"hello"), file("b", b"world")]);
    for cut in (1..2048).filter(|n| n % 512 != 0) {
        let mut reader = Reader::new(&bytes[..cut]);
        let end = loop {
            match reader.next_entry() {
                Ok(Some(_)) => {}
                other => break other.is_err(),
            }
        };
        assert!(end, "cut at {cut} was not noticed");
    }
}

#[test]
fn nothing_leaves_the_root() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "safe").unwrap();
    let victim_path = victim.to_str().unwrap();
    let hard = |path: &str, to: &str| entry(tar::EntryType::Link, path, to, b"");
    let cases = [
        vec![file("../evil", b"x")],
        vec![file("a/../../evil", b"x")],
        vec![file(victim_path, b"x")],
        vec![link("l", target), file("l/victim", b"x")],
        vec![
            link("l", "../../../../../../../.."),
            file(&format!("l{target}/evil"), b"x"),
        ],
        vec![
            link("l", target),
            entry(tar::EntryType::Directory, "l/evil", "", b""),
        ],
        vec![link("l", victim_path), file("l", b"x")],
        vec![link("l", victim_path), hard("h", "l"), file("h", b"x")],
        vec![hard("h", victim_path), file("h", b"x")],
        vec![hard("h", &format!("../../../../../../..{victim_path}"))],
        vec![
            link("l", "/proc/self/root"),
            file(&format!("l{target}/evil"), b"x"),
        ],
        vec![link("l", target), file("l/.wh.victim", b"")],
        vec![link("l", target), file("l/.wh..wh..opq", b"")],
        vec![
            entry(tar::EntryType::Directory, "l", "", b""),
            file("l/.wh...", b""),
        ],
    ];
    for (i, case) in cases.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let done = unpack(root.path(), &archive(case));
        let left = std::fs::read_dir(outside.path()).unwrap().count();
        assert_eq!(
            (left, std::fs::read_to_string(&victim).unwrap().as_str()),
            (1, "safe"),
            "case {i}: {done:?}"
        );
        assert_eq!(victim.metadata().unwrap().nlink(), 1, "case {i}");
        assert!(
            !root.path().parent().unwrap().join("evil").exists(),
            "case {i}"
        );
        assert_eq!(
            std::fs::read_dir(root.path().join("tmp")).unwrap().count(),
            0,
            "case {i} left something"
        );
    }
}

#[test]
fn whiteouts_devices_and_replacements() {
    let root = tempfile::tempdir().unwrap();
    let dir = |path: &str| entry(tar::EntryType::Directory, path, "", b"");
    let bytes = archive(&[
        dir("d"),
        file("d/.wh.gone", b""),
        file("d/.wh..wh..opq", b""),
        entry(tar::EntryType::Char, "null", "", b""),
        file("x", b"old"),
        entry(tar::EntryType::Link, "y", "x", b""),
        file("x", b"new"),
        dir("z"),
        file("z/f", b"1"),
        file("z", b"now a file"),
    ]);
    let dir = unpack(root.path(), &bytes).unwrap();
    let gone = dir.join("d/gone").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0; 8];
    let n = rustix::fs::getxattr(dir.join("d"), "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..n], b"y");
    assert_eq!(
        dir.join("null").metadata().unwrap().rdev(),
        rustix::fs::makedev(1, 3)
    );
    assert_eq!(std::fs::read(dir.join("x")).unwrap(), b"new");
    assert_eq!(std::fs::read(dir.join("y")).unwrap(), b"old");
    assert_eq!(std::fs::read(dir.join("z")).unwrap(), b"now a file");
    let d = dir.join("d").metadata().unwrap();
    assert_eq!((d.mtime(), d.mode() & 0o7777), (1_000_000_000, 0o755));
}

fn open(root: &Path) -> Arc<ImageStore> {
    ImageStore::open(root, Store::open(root.join("meta.redb")).unwrap()).unwrap()
}

#[test]
fn busybox_is_loaded_survives_a_restart_and_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let images = open(root.path());
    let busybox = std::fs::read("/usr/bin/busybox").unwrap();
    let layer = archive(&[
        entry(tar::EntryType::Directory, "bin", "", b""),
        file("bin/busybox", &busybox),
    ]);
    let changes = vec![
        "CMD [\"/bin/busybox\", \"sh\"]".to_owned(),
        "ENV A=1 B='x y'".to_owned(),
    ];
    let options = ImportOptions {
        reference: Reference::of_repo_and_tag("first", "").unwrap(),
        changes,
        ..ImportOptions::default()
    };
    images.import(&layer[..], &options).unwrap();
    let first = images.snapshot().resolve("first").unwrap();
    assert_eq!(
        first.config.env.as_deref(),
        Some(&["A=1".to_owned(), "B=x y".to_owned()][..])
    );
    assert_eq!(first.size_bytes, busybox.len() as u64);

    // The same image, as an older docker saves it: the layer once as a file, once as a symlink to it.
    let mut config: serde_json::Value = serde_json::from_slice(&first.raw_config).unwrap();
    let diff_id = first.diff_ids[0].clone();
    config["rootfs"]["diff_ids"] = serde_json::json!([diff_id, diff_id]);
    let manifest = r#"[{"Config":"c.json","RepoTags":["busybox:latest"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    let saved = archive(&[
        link("b/layer.tar", "../a/layer.tar"),
        file("a/layer.tar", &layer),
        file("c.json", config.to_string().as_bytes()),
        file("manifest.json", manifest.as_bytes()),
    ]);
    let mut texts = String::new();
    let mut hear = |event| {
        if let LoadEvent::Stream(text) = event {
            texts.push_str(&text);
        }
    };
    let loaded = images.load(&saved[..], None, &mut hear).unwrap();
    assert_eq!(texts, "Loaded image: busybox:latest\n");
    let mut wrong = config.clone();
    wrong["rootfs"]["diff_ids"] =
        serde_json::json!([format!("sha256:{}", "0".repeat(64)), diff_id]);
    let lie = archive(&[
        file("a/layer.tar", &layer),
        file("c.json", wrong.to_string().as_bytes()),
        file(
            "manifest.json",
            manifest.replace("b/layer", "a/layer").as_bytes(),
        ),
    ]);
    assert!(
        images
            .load(&lie[..], None, &mut |_| {})
            .unwrap_err()
            .to_string()
            .contains("diff id")
    );

    drop(images);
    std::fs::create_dir_all(root.path().join("tmp/layer-9/x")).unwrap();
    symlink("/", root.path().join("tmp/layer-9/l")).unwrap();
    let images = open(root.path());
    assert_eq!(
        std::fs::read_dir(root.path().join("tmp")).unwrap().count(),
        0
    );
    let image = images.snapshot().resolve("busybox").unwrap();
    assert_eq!(
        (image.id.as_str(), image.repo_tags.as_slice()),
        (loaded[0].id.as_str(), &["busybox:latest".to_owned()][..])
    );
    assert!(
        images.layer_paths(&image).unwrap()[0]
            .join("bin/busybox")
            .is_file()
    );
    assert_eq!(
        images.snapshot().resolve("nosuch").unwrap_err().to_string(),
        "No such image: nosuch:latest"
    );

    let other = Reference::of_repo_and_tag("other", "v1").unwrap().unwrap();
    images.tag("busybox", &other).unwrap();
    let removed = images.remove("busybox", false, &|_| None).unwrap().done;
    assert_eq!(removed, vec![Deleted::Untagged("busybox:latest".into())]);
    let running = |_: &String| Some(("c".repeat(64), true));
    let refused = images
        .remove(&image.id, true, &running)
        .unwrap_err()
        .to_string();
    let short = &image.id[7..19];
    assert_eq!(
        refused,
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container cccccccccccc"
        )
    );
    images.remove("other:v1", false, &|_| None).unwrap();
    assert_eq!(images.snapshot().len(), 1);
    assert!(
        images.layer_paths(&first).unwrap()[0].is_dir(),
        "a shared layer went with the other image"
    );
    let removed = images.remove("first", false, &|_| None).unwrap().done;
    let expected = [
        Deleted::Untagged("first:latest".into()),
        Deleted::Deleted(first.id.clone()),
        Deleted::Deleted(diff_id),
    ];
    assert_eq!(removed, expected);
    assert!(!images.layer_paths(&first).unwrap()[0].exists());
}

proptest! {
    #[test]
    fn the_reader_never_panics(seed in proptest::collection::vec(any::<u8>(), 0..2048), at in 0usize..1536, byte: u8) {
        let mut damaged = archive(&[file("a", b"hello"), file("b", &seed)]);
        let at = at.min(damaged.len() - 1);
        damaged[at] = byte;
        for bytes in [&seed, &damaged] {
            let mut reader = Reader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }
}

/// Names below a directory of the data root, sorted.
fn names(root: &Path, dir: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root.join(dir))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn nothing_is_left(root: &Path) -> bool {
    ["tmp", "layers/sha256", "content/blobs/sha256"]
        .iter()
        .all(|dir| names(root, dir).is_empty())
}

/// An image of two layers with both kinds of description in its archive.
fn saved_image() -> Vec<u8> {
    let root = tempfile::tempdir().unwrap();
    let images = open(root.path());
    let layer = archive(&[
        entry(tar::EntryType::Directory, "d", "", b""),
        file("d/f", b"content"),
        link("l", "d/f"),
    ]);
    let options = ImportOptions {
        reference: Reference::of_repo_and_tag("mutant", "1").unwrap(),
        ..ImportOptions::default()
    };
    images.import(&layer[..], &options).unwrap();
    let mut saved = Vec::new();
    let plan = images.plan_save(&["mutant:1".to_owned()], None).unwrap();
    plan.write(&mut saved).unwrap();
    saved
}

#[test]
fn mutated_archives_leave_nothing_behind() {
    let saved = saved_image();
    let root = tempfile::tempdir().unwrap();
    let images = open(root.path());
    let ids = |images: &ImageStore| -> Vec<String> {
        images
            .snapshot()
            .list()
            .iter()
            .map(|i| i.id.clone())
            .collect()
    };
    images.load(&saved[..], None, &mut |_| {}).unwrap();
    assert_eq!(ids(&images).len(), 1);
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(random >> 33).unwrap() % below
    };
    let (mut refused, mut taken) = (0, 0);
    for round in 0..300 {
        let mut bytes = saved.clone();
        // Also without the docker manifest, so that the layout alone is read.
        if round % 2 == 1 {
            let at = bytes
                .windows(13)
                .position(|w| w == b"manifest.json")
                .unwrap();
            bytes[at] = b'M';
            let sum_at = at + 148;
            bytes[sum_at..sum_at + 8].fill(b' ');
            let sum: u32 = bytes[at..at + 512].iter().map(|b| u32::from(*b)).sum();
            bytes[sum_at..sum_at + 8].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        for _ in 0..next(4) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = u8::try_from(next(256)).unwrap(),
                1 => bytes.truncate(at.max(512)),
                // Bytes of another place over a header.
                _ => {
                    let last = bytes.len() - 64;
                    let (from, to) = (at.min(last), (next(last) / 512 * 512).min(last));
                    bytes.copy_within(from..from + 64, to);
                }
            }
        }
        match images.load(&bytes[..], None, &mut |_| {}) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
        assert!(names(root.path(), "tmp").is_empty());
        for id in ids(&images) {
            images.remove(&id, true, &|_| None).unwrap();
        }
        assert!(nothing_is_left(root.path()), "round {round}");
    }
    assert!(
        refused > 50 && taken > 50,
        "{refused} refused, {taken} taken"
    );
}

#[test]
fn an_image_of_a_container_is_hidden_until_it_is_reaped() {
    let saved = saved_image();
    let root = tempfile::tempdir().unwrap();
    let images = open(root.path());
    images.load(&saved[..], None, &mut |_| {}).unwrap();
    let image = images.snapshot().resolve("mutant:1").unwrap();
    let ended = |_: &String| Some(("c".repeat(64), false));
    let done = images.remove("mutant:1", true, &ended).unwrap().done;
    let expected = [
        Deleted::Untagged("mutant:1".into()),
        Deleted::Deleted(image.id.clone()),
    ];
    assert_eq!(done, expected);
    drop(images);
    let images = open(root.path());
    let snapshot = images.snapshot();
    assert!(snapshot.is_empty() && snapshot.has_hidden());
    assert!(snapshot.of_container(&image.id).is_some());
    images.reap(&ended).unwrap();
    assert!(images.layer_paths(&image).unwrap()[0].is_dir());
    images.reap(&|_| None).unwrap();
    assert!(nothing_is_left(root.path()) && !images.snapshot().has_hidden());
}

#[test]
fn a_held_image_is_not_removed() {
    let saved = saved_image();
    let root = tempfile::tempdir().unwrap();
    let images = open(root.path());
    images.load(&saved[..], None, &mut |_| {}).unwrap();
    let id = images.snapshot().resolve("mutant:1").unwrap().id.clone();
    let hold = images.hold(&id).unwrap();
    let refused = images.remove(&id, false, &|_| None).unwrap_err();
    assert!(
        refused.to_string().contains("(must be forced)"),
        "{refused}"
    );
    drop(hold);
    images.remove(&id, false, &|_| None).unwrap();
    assert!(images.hold(&id).is_err());
    assert!(nothing_is_left(root.path()));
}
