//! Layers as tar and index, mounted, beside what extraction makes of the same tar. Runs as root; where the kernel cannot
//! mount them there is nothing to compare.

mod forms;

use gantry_image::layer::{LayerStore, Lower};

use forms::{Given, Tar, both, mountable, root};

#[test]
fn ordinary_layers() {
    if !mountable() {
        return;
    }
    let mut tar = Tar::default();
    tar.dir("./")
        .dir("etc/")
        .file("etc/passwd", b"root:x:0:0\n");
    tar.file("empty", b"")
        .file("one-block", &[1; 512])
        .file("more", &[2; 70_001]);
    tar.kind(b'2', "etc/link", "../more")
        .kind(b'1', "etc/hard", "more");
    tar.kind(b'3', "char", "")
        .kind(b'4', "block", "")
        .kind(b'6', "fifo", "");
    tar.file("implied/parents/are/made", b"x");
    let long = "n".repeat(255);
    tar.file(&format!("{long}/{long}/{long}"), b"deep");
    tar.add(&Given {
        kind: b'2',
        path: b"long-link",
        link: &[b'l'; 4000],
        ..Given::default()
    });
    tar.add(&Given {
        path: b"setuid",
        mode: 0o6755,
        pax: vec![
            ("mtime", b"1234567890.123456789".to_vec()),
            ("SCHILY.xattr.user.k", b"v\0w".to_vec()),
        ],
        ..Given::default()
    });
    tar.add(&Given {
        path: b"before-1970",
        pax: vec![("mtime", b"-5.25".to_vec())],
        ..Given::default()
    });
    tar.add(&Given {
        path: b"not \xff\xfe UTF-8",
        content: b"y",
        ..Given::default()
    });
    both(&tar.end()).unwrap();
}

#[test]
fn later_entries_win() {
    if !mountable() {
        return;
    }
    let mut tar = Tar::default();
    tar.file("a", b"first").file("a", b"second, and longer");
    tar.dir("d/")
        .file("d/x", b"1")
        .file("d", b"no directory any more");
    tar.file("f", b"file").dir("f/").file("f/y", b"in it");
    tar.file("h", b"linked")
        .kind(b'1', "h2", "h")
        .file("h", b"another");
    tar.dir("e/").file("e/z", b"kept").dir("e/");
    tar.kind(b'2', "s", "e").file("s", b"not through the link");
    tar.kind(b'2', "t", "e").file("t/through", b"the link");
    tar.kind(b'2', "u", "/e/../../../e")
        .file("u/also", b"stays inside");
    tar.add(&Given {
        kind: b'5',
        path: b"e",
        mode: 0o700,
        pax: vec![("mtime", b"1000000777.5".to_vec())],
        ..Given::default()
    });
    both(&tar.end()).unwrap();
}

#[test]
fn whiteouts() {
    if !mountable() {
        return;
    }
    let mut tar = Tar::default();
    tar.file("gone/.wh.file", b"").file(".wh.top", b"");
    tar.file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"n");
    tar.file(".wh..wh.aufs", b"")
        .file("kept", b"k")
        .file(".wh.kept", b"");
    tar.file(".wh.again", b"")
        .dir("again/")
        .file("again/in", b"i");
    tar.file(".wh.file-again", b"").file("file-again", b"f");
    both(&tar.end()).unwrap();
}

#[test]
fn attributes() {
    if !mountable() {
        return;
    }
    let mut capability = vec![1, 0, 0, 2];
    capability.resize(20, 0);
    let mut acl = vec![2u8, 0, 0, 0];
    for (tag, permissions, id) in [
        (1u16, 7u16, u32::MAX),
        (2, 6, 1000),
        (4, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 1, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let all = vec![
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.one", b"1".to_vec()),
        ("SCHILY.xattr.user.long", vec![b'x'; 1500]),
        ("SCHILY.xattr.trusted.mine", b"t".to_vec()),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y".to_vec()),
        ("SCHILY.xattr.nonsense", b"n".to_vec()),
    ];
    let mut tar = Tar::default();
    for (kind, name) in [
        (b'0', "a"),
        (b'0', "b"),
        (b'5', "d"),
        (b'2', "l"),
        (b'6', "p"),
    ] {
        let link = if kind == b'2' { &b"a"[..] } else { b"" };
        tar.add(&Given {
            kind,
            path: name.as_bytes(),
            link,
            pax: all.clone(),
            ..Given::default()
        });
    }
    let with_acl = vec![("SCHILY.xattr.system.posix_acl_access", acl.clone())];
    tar.add(&Given {
        path: b"acl",
        mode: 0o640,
        pax: with_acl,
        ..Given::default()
    });
    tar.add(&Given {
        kind: b'5',
        path: b"acl-dir",
        mode: 0o751,
        pax: vec![("SCHILY.xattr.system.posix_acl_default", acl)],
        ..Given::default()
    });
    both(&tar.end()).unwrap();
}

#[test]
fn what_is_refused() {
    if !mountable() {
        return;
    }
    let refused = |make: &dyn Fn(&mut Tar)| {
        let mut tar = Tar::default();
        tar.file("before", b"b").dir("dir/");
        make(&mut tar);
        both(&tar.end()).unwrap_err()
    };
    let bad_capability = || vec![("SCHILY.xattr.security.capability", b"x".to_vec())];
    let cases: &[&dyn Fn(&mut Tar)] = &[
        &|t| {
            t.file("../x", b"");
        },
        &|t| {
            t.file("dir/../../x", b"");
        },
        &|t| {
            t.kind(b'1', "h", "../before");
        },
        &|t| {
            t.kind(b'1', "h", "nothing");
        },
        &|t| {
            t.kind(b'1', "h", "dir");
        },
        &|t| {
            t.kind(b'1', "h", "/");
        },
        &|t| {
            t.kind(b'1', "before", "before");
        },
        &|t| {
            t.kind(b'2', "empty", "");
        },
        &|t| {
            t.file("before/x", b"");
        },
        &|t| {
            t.kind(b'2', "loop", "loop").file("loop/x", b"");
        },
        &|t| {
            t.kind(b'2', "away", "nowhere").file("away/x", b"");
        },
        &|t| {
            t.file(&"n".repeat(256), b"");
        },
        &|t| {
            t.file("dir/.wh.", b"");
        },
        &|t| {
            t.file("dir/.wh...", b"");
        },
        &|t| {
            t.add(&Given {
                path: b"capability",
                pax: bad_capability(),
                ..Given::default()
            });
        },
    ];
    for (number, make) in cases.iter().enumerate() {
        let error = refused(make);
        assert!(error.starts_with("invalid archive"), "{number}: {error}");
    }
}

#[test]
fn a_directory_of_many() {
    if !mountable() {
        return;
    }
    let many = if std::env::var_os("GANTRY_FULL").is_some() {
        100_000
    } else {
        5_000
    };
    let mut tar = Tar::default();
    for i in 0..many {
        tar.file(
            &format!("dir/{:x}-file number {i}", i * 7919 % 65_537),
            b"c",
        );
    }
    both(&tar.end()).unwrap();
}

#[test]
fn stored_layers_outlive_their_form() {
    use gantry_image::layer::{Form, Layers};
    if !mountable() {
        return;
    }
    let root = root();
    let mut tar = Tar::default();
    tar.file("file", b"content");
    let bytes = tar.end();
    let layers = Layers::open(root.path(), Form::Erofs).unwrap();
    let staged = layers.stage(&mut &bytes[..], None).unwrap();
    let layer = layers.publish(staged).unwrap();
    assert!(matches!(
        layers.lower(&layer.diff_id).unwrap(),
        Lower::Mount(_)
    ));
    // One of its files goes; a load repairs it.
    std::fs::remove_file(layers.path(&layer.diff_id).unwrap().join("layer.erofs")).unwrap();
    assert!(!layers.contains(&layer.diff_id));
    let staged = layers.stage(&mut &bytes[..], None).unwrap();
    layers.publish(staged).unwrap();
    assert!(layers.contains(&layer.diff_id));
    // A kernel that cannot mount it.
    let layers = Layers::open(root.path(), Form::Directories).unwrap();
    let Lower::Dir(dir) = layers.lower(&layer.diff_id).unwrap() else {
        panic!("still a mount");
    };
    assert_eq!(std::fs::read(dir.join("file")).unwrap(), b"content");
    assert_eq!(layers.list().unwrap(), std::slice::from_ref(&layer.diff_id));
    // And back: what is there stays as it is.
    let layers = Layers::open(root.path(), Form::Erofs).unwrap();
    assert!(matches!(
        layers.lower(&layer.diff_id).unwrap(),
        Lower::Dir(_)
    ));
    drop(layers.set_aside(&layer.diff_id).unwrap());
    assert!(layers.list().unwrap().is_empty());
}
