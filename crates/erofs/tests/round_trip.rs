//! Trees are written and read again.

use std::collections::BTreeMap;
use std::io::Cursor;

use gantry_erofs::{Content, Entry, Extent, Geometry, Image, ImageEntry, Kind, Place, Tree};
use proptest::prelude::*;

const TAR_BYTES: u64 = 1 << 30;

fn entry<'a>(path: &'a [&'a [u8]], kind: Kind<'a>) -> Entry<'a> {
    Entry {
        path,
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime_s: 1_700_000_000,
        mtime_ns: 123_456_789,
        xattrs: &[],
    }
}

fn image(tree: &Tree) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let geometry = Geometry::Index {
        tar_bytes: TAR_BYTES,
        data_bytes: 0,
    };
    let summary = tree.write(geometry, &mut out).expect("write");
    let mut bytes = out.into_inner();
    assert!(bytes.len() as u64 <= summary.image_bytes);
    bytes.resize(summary.image_bytes as usize, 0);
    bytes
}

fn read(tree: &Tree) -> BTreeMap<Vec<u8>, ImageEntry> {
    let bytes = image(tree);
    let entries = Image::open(&bytes).expect("open").entries().expect("read");
    entries.into_iter().map(|e| (e.path.clone(), e)).collect()
}

#[test]
fn an_empty_tree() {
    let found = read(&Tree::new());
    assert_eq!(found.len(), 1);
    let root = &found[&b""[..]];
    assert_eq!((root.mode, root.links), (0o40755, 2));
}

#[test]
fn every_kind_of_entry() {
    let mut tree = Tree::new();
    let extent = |file_at, len_bytes, at| Extent {
        file_at,
        len_bytes,
        place: Place::Tar(at),
    };
    let one = [extent(0, 100_000, 512)];
    let sparse = [extent(4096, 4096, 512), extent(1 << 30, 7, 8192)];
    let file = |size_bytes, extents| {
        Kind::File(Content {
            size_bytes,
            extents,
        })
    };
    let kinds: &[(&[u8], Kind<'_>)] = &[
        (b"file", file(100_000, &one)),
        (b"empty", file(0, &[])),
        (b"sparse", file((1 << 30) + 7, &sparse)),
        (b"hole", file(1 << 45, &[])),
        (b"link", Kind::Symlink(b"../somewhere")),
        (b"char", Kind::CharDevice((4000, 300_000))),
        (b"block", Kind::BlockDevice((8, 1))),
        (b"fifo", Kind::Fifo),
        (b"dir", Kind::Dir),
        (b"hard", Kind::HardLink(&[b"a", b"file"])),
        (b"\xff!", Kind::Fifo),
    ];
    for (name, kind) in kinds {
        tree.add(&entry(&[b"a", name], *kind)).expect("add");
    }
    let long = vec![b'x'; 4095];
    tree.add(&entry(&[b"long"], Kind::Symlink(&long)))
        .expect("add");
    let found = read(&tree);
    assert_eq!(found[&b"a/file"[..]].extents, one);
    assert_eq!(found[&b"a/hard"[..]].nid, found[&b"a/file"[..]].nid);
    assert_eq!(found[&b"a/hard"[..]].links, 2);
    assert_eq!(found[&b"a/sparse"[..]].extents, sparse);
    assert_eq!(found[&b"a/hole"[..]].size, 1 << 45);
    assert_eq!(found[&b"a/link"[..]].target, b"../somewhere");
    assert_eq!(found[&b"a/char"[..]].device, (4000, 300_000));
    assert_eq!(found[&b"a/block"[..]].device, (8, 1));
    assert_eq!(found[&b"a"[..]].links, 3);
    assert_eq!(found[&b"a/fifo"[..]].mtime, (1_700_000_000, 123_456_789));
    assert_eq!(found[&b"long"[..]].target, long);
    assert!(found.contains_key(&b"a/\xff!"[..]));
    assert_eq!(
        tree.size_bytes(),
        100_000 + (1 << 30) + 7 + (1 << 45) + 12 + 4095
    );
}

#[test]
fn attributes_are_kept_or_left_out() {
    let mut tree = Tree::new();
    let pairs = |list: &[(&str, &[u8])]| -> Vec<(Vec<u8>, Vec<u8>)> {
        list.iter()
            .map(|(n, v)| (n.as_bytes().to_vec(), v.to_vec()))
            .collect()
    };
    let mut capability = [0u8; 20];
    capability[3] = 2;
    let given = pairs(&[
        ("security.capability", &capability),
        ("user.mine", b"1"),
        ("trusted.overlay.opaque", b"y"),
        ("trusted.other", b"t"),
        ("system.unknown", b"s"),
        ("user.long", &[7; 5000]),
    ]);
    let kept = pairs(&[
        ("security.capability", &capability),
        ("trusted.other", b"t"),
        ("user.long", &[7; 5000]),
        ("user.mine", b"1"),
    ]);
    let add = |tree: &mut Tree, name: &[u8], kind| {
        let path = [name];
        let mut entry = entry(&path, kind);
        entry.xattrs = &given;
        tree.add(&entry)
    };
    let file = Kind::File(Content {
        size_bytes: 0,
        extents: &[],
    });
    add(&mut tree, b"a", file).expect("add");
    add(&mut tree, b"b", file).expect("add");
    add(&mut tree, b"l", Kind::Symlink(b"a")).expect("add");
    let found = read(&tree);
    assert_eq!(found[&b"a"[..]].xattrs, kept);
    assert_eq!(found[&b"b"[..]].xattrs, kept);
    let names: Vec<_> = found[&b"l"[..]].xattrs.iter().map(|x| &x.0[..]).collect();
    assert_eq!(names, [&b"security.capability"[..], b"trusted.other"]);
    let bad = pairs(&[("security.capability", b"x")]);
    let mut refused = entry(&[b"c"], file);
    refused.xattrs = &bad;
    assert!(tree.add(&refused).is_err());
}

#[test]
fn whiteouts_and_opaque_directories() {
    let mut tree = Tree::new();
    let file = Kind::File(Content {
        size_bytes: 0,
        extents: &[],
    });
    for path in [
        &[&b".wh.gone"[..]][..],
        &[b"d", b".wh..wh..opq"],
        &[b".wh..wh.plnk"],
        &[b".wh.again"],
    ] {
        tree.add(&entry(path, file)).expect("add");
    }
    tree.add(&entry(&[b"again"], Kind::Dir)).expect("add");
    let found = read(&tree);
    let opaque = [(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())];
    assert_eq!(found[&b"gone"[..]].mode & 0o170000, 0o020000);
    assert_eq!(found[&b"gone"[..]].device, (0, 0));
    assert_eq!(found[&b"d"[..]].xattrs, opaque);
    assert_eq!(found[&b"again"[..]].xattrs, opaque);
    assert_eq!(found.len(), 4);
    assert!(tree.add(&entry(&[b".wh..."], file)).is_err());
}

#[test]
fn large_directories_and_deep_ones() {
    let mut tree = Tree::new();
    let names: Vec<Vec<u8>> = (0..20_000)
        .map(|i| format!("file with a name of {i}").into_bytes())
        .collect();
    for name in &names {
        tree.add(&entry(&[b"big", name], Kind::Fifo)).expect("add");
    }
    let deep = vec![&b"d"[..]; 500];
    tree.add(&entry(&deep, Kind::Dir)).expect("add");
    let found = read(&tree);
    assert_eq!(found.len(), 1 + 1 + 20_000 + 500);
}

#[test]
fn links_lead_below_the_root() {
    let mut tree = Tree::new();
    let add = |tree: &mut Tree, path: &[&[u8]], kind| tree.add(&entry(path, kind));
    add(&mut tree, &[b"usr", b"lib"], Kind::Dir).expect("add");
    add(&mut tree, &[b"lib"], Kind::Symlink(b"../../usr/lib")).expect("add");
    add(&mut tree, &[b"abs"], Kind::Symlink(b"/usr")).expect("add");
    add(&mut tree, &[b"lib", b"x"], Kind::Fifo).expect("through a link");
    add(&mut tree, &[b"abs", b"lib", b"y"], Kind::Fifo).expect("through a link");
    add(&mut tree, &[b"loop"], Kind::Symlink(b"loop")).expect("add");
    add(&mut tree, &[b"dangling"], Kind::Symlink(b"nowhere")).expect("add");
    let found = read(&tree);
    assert!(found.contains_key(&b"usr/lib/x"[..]) && found.contains_key(&b"usr/lib/y"[..]));
    assert!(add(&mut tree, &[b"loop", b"x"], Kind::Fifo).is_err());
    assert!(add(&mut tree, &[b"dangling", b"x"], Kind::Fifo).is_err());
    assert!(add(&mut tree, &[b"usr", b"lib", b"x", b"z"], Kind::Fifo).is_err());
    assert!(add(&mut tree, &[b"h"], Kind::HardLink(&[b"usr"])).is_err());
    assert!(add(&mut tree, &[b"h"], Kind::HardLink(&[b"none"])).is_err());
    assert!(add(&mut tree, &[&[b'n'; 256]], Kind::Fifo).is_err());
}

/// What a random entry makes.
#[derive(Clone, Debug)]
enum Step {
    Dir(Vec<u8>),
    File(Vec<u8>, u64),
    Link(Vec<u8>, Vec<u8>),
    Whiteout(Vec<u8>),
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![0u8..4, 250u8..255], 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        path().prop_map(Step::Dir),
        (path(), 0u64..5000).prop_map(|(p, s)| Step::File(p, s)),
        (path(), path()).prop_map(|(p, t)| Step::Link(p, t)),
        path().prop_map(Step::Whiteout),
    ]
}

/// Names of one letter, or of many where the letter is large.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let name = |b: &u8| match b {
        250.. => vec![*b; usize::from(*b)],
        b => vec![b'a' + b],
    };
    path.iter().map(name).collect()
}

proptest! {
    /// A model of paths: what is there after each step, without links that lead elsewhere.
    #[test]
    fn the_last_entry_of_a_path_wins(steps in proptest::collection::vec(step(), 0..60)) {
        let mut tree = Tree::new();
        let mut model: BTreeMap<Vec<Vec<u8>>, (u16, u64)> = BTreeMap::new();
        for step in &steps {
            let (path, format, size) = match step {
                Step::Dir(p) => (names(p), 0o040000u16, 0),
                Step::File(p, s) => (names(p), 0o100000, *s),
                Step::Link(p, _) => (names(p), 0o120000, 0),
                Step::Whiteout(p) => (names(p), 0o020000, 0),
            };
            let parents = (1..path.len()).map(|n| path[..n].to_vec());
            if parents.clone().any(|p| model.get(&p).is_some_and(|m| m.0 != 0o040000)) {
                continue;
            }
            let is_whiteout = format == 0o020000;
            let mut given = path.clone();
            if is_whiteout {
                let last = given.last_mut().expect("a name");
                *last = [b".wh.", &last[..]].concat();
            }
            let parts: Vec<&[u8]> = given.iter().map(|p| &p[..]).collect();
            let target;
            let extents = [Extent { file_at: 0, len_bytes: size, place: Place::Tar(512) }];
            let kind = match step {
                Step::Dir(_) => Kind::Dir,
                Step::Link(_, t) => {
                    target = names(t).join(&b'/');
                    Kind::Symlink(&target)
                }
                _ => Kind::File(Content { size_bytes: size, extents: &extents }),
            };
            tree.add(&entry(&parts, kind)).expect("add");
            for parent in parents {
                model.entry(parent).or_insert((0o040000, 0));
            }
            if is_whiteout && model.contains_key(&path) {
                continue;
            }
            let merged = format == 0o040000 && model.get(&path).is_some_and(|m| m.0 == format);
            if !merged {
                model.retain(|p, _| !p.starts_with(&path));
                model.insert(path, (format, size));
            }
        }
        let found = read(&tree);
        prop_assert_eq!(found.len(), model.len() + 1);
        for (path, (format, size)) in &model {
            let entry = &found[&path.join(&b'/')];
            prop_assert_eq!(entry.mode & 0o170000, *format);
            if *format == 0o100000 {
                prop_assert_eq!(entry.size, *size);
            }
        }
    }

    /// Damage is an error or another tree, never a panic.
    #[test]
    fn damaged_images(at in 0usize..6000, value in any::<u8>(), cut in 0usize..7000) {
        let mut tree = Tree::new();
        for i in 0..40u32 {
            let name = format!("name {i}");
            tree.add(&entry(&[b"d", name.as_bytes()], Kind::Symlink(b"x"))).expect("add");
        }
        let mut bytes = image(&tree);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(cut.max(5000));
        if let Ok(image) = Image::open(&bytes) {
            drop(image.entries());
        }
    }
}
