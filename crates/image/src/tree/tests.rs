//! Needs root, for owners and devices.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::ImageError;
use crate::tar::{Entry, Kind, Reader, Writer};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root");
    }
    root
}

fn open(path: &Path) -> OwnedFd {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        kind,
        mode: 0o640,
        uid: 1,
        gid: 2,
        size: 0,
        mtime_s: 1_000_000_000,
        mtime_ns: 0,
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

fn link(path: &str, kind: Kind, to: &str) -> Entry {
    Entry {
        link: to.as_bytes().to_vec(),
        ..entry(path, kind)
    }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    for entry in entries {
        writer.entry(entry).unwrap();
        writer
            .write_content(&vec![b'x'; usize::try_from(entry.size).unwrap()])
            .unwrap();
        writer.end_file().unwrap();
    }
    writer.finish().unwrap();
    bytes
}

fn put(root: &Path, no_overwrite: bool, entries: &[Entry]) -> Result<(), ImageError> {
    let options = Unpack {
        no_overwrite_dir_non_dir: no_overwrite,
        owner: &|uid, gid| (uid != 99).then_some((uid + 1000, gid + 1000)),
        root: (1000, 1000),
        shown: "/d",
    };
    unpack(open(root).as_fd(), &archive(entries)[..], &options)
}

fn pack(dir: &Path, whiteouts: Whiteouts) -> Vec<Entry> {
    let mut bytes = Vec::new();
    let owner = |uid: u32, gid: u32| (uid.saturating_sub(1000), gid.saturating_sub(1000));
    let mut packer = Packer::new(&mut bytes, &owner, whiteouts);
    packer.add(open(dir).as_fd(), c".", b"").unwrap();
    packer.finish().unwrap();
    let mut reader = Reader::new(&bytes[..]);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        entries.push(entry);
    }
    entries
}

#[test]
fn what_is_unpacked_is_packed_again_in_order() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = Entry {
        size: 70_000,
        mode: 0o4751,
        xattrs: vec![(b"user.note".to_vec(), b"\0\xff".to_vec())],
        ..entry("b/file", Kind::File)
    };
    let entries = [
        Entry {
            mode: 0o1700,
            ..entry("b/", Kind::Dir)
        },
        file,
        link("b/hard", Kind::HardLink, "b/file"),
        Entry {
            mode: 0o777,
            ..link("b/soft", Kind::Symlink, "/nowhere/../x")
        },
        Entry {
            device: (1, 3),
            ..entry("c", Kind::CharDevice)
        },
        entry("d", Kind::Fifo),
    ];
    put(dir.path(), false, &entries).unwrap();
    let mut packed = pack(dir.path(), Whiteouts::None);
    for (packed, entry) in packed.iter_mut().zip(&entries) {
        if packed.kind == Kind::HardLink {
            // Metadata of a link is the file's.
            *packed = entry.clone();
        }
    }
    assert_eq!(packed, entries);
    let meta = fs::metadata(dir.path().join("b/file")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.nlink()), (1001, 1002, 2));
}

#[test]
fn what_is_there_is_replaced_or_merged() {
    let dir = tempfile::tempdir().unwrap();
    if !is_root() {
        return;
    }
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("merged/kept")).unwrap();
    fs::create_dir_all(at("replaced/gone")).unwrap();
    fs::write(at("file"), "old").unwrap();
    symlink("file", at("link")).unwrap();
    let dir_over_file = [entry("file/", Kind::Dir)];
    let file_over_dir = [entry("replaced", Kind::File)];
    let refused = put(dir.path(), true, &dir_over_file)
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        r#"cannot overwrite non-directory "file" with directory "/d""#
    );
    let refused = put(dir.path(), true, &file_over_dir)
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        r#"cannot overwrite directory "replaced" with non-directory "/d""#
    );
    put(
        dir.path(),
        true,
        &[entry("merged", Kind::Dir), entry("link", Kind::File)],
    )
    .unwrap();
    assert!(at("merged/kept").is_dir());
    assert_eq!(fs::metadata(at("merged")).unwrap().mtime(), 1_000_000_000);
    assert!(!at("link").is_symlink(), "a link is replaced, not followed");
    assert_eq!(fs::read(at("file")).unwrap(), b"old");
    put(dir.path(), false, &dir_over_file).unwrap();
    put(dir.path(), false, &file_over_dir).unwrap();
    assert!(at("file").is_dir() && at("replaced").is_file());
    // The directory itself is left as it is, whiteouts are files, parents appear.
    let before = fs::metadata(dir.path()).unwrap().permissions().mode();
    let odd = [
        Entry {
            mode: 0o000,
            ..entry("./", Kind::Dir)
        },
        entry(".wh.file", Kind::File),
        entry("new/deep/file", Kind::File),
    ];
    put(dir.path(), false, &odd).unwrap();
    assert_eq!(
        fs::metadata(dir.path()).unwrap().permissions().mode(),
        before
    );
    assert!(at("file").is_dir() && at(".wh.file").is_file());
    let parent = fs::metadata(at("new/deep")).unwrap();
    assert_eq!((parent.uid(), parent.mode() & 0o7777), (1000, 0o755));
}

#[test]
fn nothing_leads_out() {
    if !is_root() {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let root = top.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(top.path().join("secret"), "secret").unwrap();
    let says = |entries: &[Entry]| put(&root, false, entries).unwrap_err().to_string();
    let out = [entry("a/../../out", Kind::File)];
    assert_eq!(says(&out), r#"invalid entry name "a/../../out""#);
    let hard = [link("h", Kind::HardLink, "../secret")];
    assert_eq!(says(&hard), r#"invalid hardlink target "../secret""#);
    let away = top.path().join("secret").display().to_string();
    let gone = put(&root, false, &[link("h", Kind::HardLink, &away)]).unwrap_err();
    assert!(
        matches!(&gone, ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound),
        "{gone}"
    );
    // Links lead as if the directory were the root.
    let through = [
        link("up", Kind::Symlink, "../../.."),
        entry("up/in", Kind::File),
        link("abs", Kind::Symlink, top.path().to_str().unwrap()),
        entry("rooted/", Kind::Dir),
        entry("/absolute", Kind::File),
        entry("/../absolute2", Kind::File),
    ];
    put(&root, false, &through).unwrap();
    for name in ["in", "absolute", "absolute2"] {
        assert!(root.join(name).is_file(), "{name}");
    }
    put(&root, false, &[entry("abs/out", Kind::File)]).unwrap();
    let inside = root.join(top.path().strip_prefix("/").unwrap());
    assert!(
        inside.join("out").is_file(),
        "a link to nowhere is made good"
    );
    let circle = [
        link("circle", Kind::Symlink, "circle"),
        entry("circle/x", Kind::File),
    ];
    assert!(put(&root, false, &circle).is_err());
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 2);
    let unmapped = [Entry {
        uid: 99,
        ..entry("u", Kind::File)
    }];
    assert!(
        says(&unmapped).contains("cannot be mapped"),
        "{}",
        says(&unmapped)
    );
}

#[test]
fn upper_directories_become_layers() {
    if !is_root() {
        return;
    }
    use rustix::fs::{CWD, FileType, Mode, XattrFlags};
    // Attributes of the overlay need a file system with trusted ones.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::create_dir_all(dir.path().join("etc/new")).unwrap();
    let gone = dir.path().join("etc/gone");
    rustix::fs::mknodat(CWD, &gone, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let new = open(&dir.path().join("etc/new"));
    rustix::fs::fsetxattr(&new, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    let seen: Vec<(String, Kind)> = pack(dir.path(), Whiteouts::Layer)
        .into_iter()
        .map(|e| (String::from_utf8(e.path).unwrap(), e.kind))
        .collect();
    let expected = [
        ("etc/", Kind::Dir),
        ("etc/.wh.gone", Kind::File),
        ("etc/new/", Kind::Dir),
        ("etc/new/.wh..wh..opq", Kind::File),
    ];
    assert_eq!(seen, expected.map(|(name, kind)| (name.to_owned(), kind)));
    assert_eq!(pack(dir.path(), Whiteouts::None)[1].kind, Kind::CharDevice);
}
