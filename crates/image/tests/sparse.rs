//! Sparse files of GNU tar and PAX, in both forms of layers. Runs as root.

mod forms;

use gantry_image::layer::{LayerStore, Lower};

use forms::{Given, TIME, Tar, both, mountable, root};

/// An entry of GNU tar's old sparse format: stretches of `content` at their places in a file of this size.
fn old_sparse(tar: &mut Tar, path: &str, size: u64, stretches: &[(u64, u64)], content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(b'S'));
    header.set_path(path).unwrap();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(TIME);
    let put = |block: &mut [u8], at: usize, number: u64| {
        block[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    };
    let bytes = header.as_mut_bytes();
    let (first, more) = stretches.split_at(stretches.len().min(4));
    for (i, (at, len)) in first.iter().enumerate() {
        put(bytes, 386 + 24 * i, *at);
        put(bytes, 398 + 24 * i, *len);
    }
    bytes[482] = u8::from(!more.is_empty());
    put(bytes, 483, size);
    header.set_cksum();
    tar.0.extend_from_slice(header.as_bytes());
    let mut blocks = more.chunks(21).peekable();
    while let Some(chunk) = blocks.next() {
        let mut block = [0; 512];
        for (i, (at, len)) in chunk.iter().enumerate() {
            put(&mut block, 24 * i, *at);
            put(&mut block, 24 * i + 12, *len);
        }
        block[504] = u8::from(blocks.peek().is_some());
        tar.0.extend_from_slice(&block);
    }
    tar.content(content);
}

/// The three forms of PAX.
fn pax_sparse(tar: &mut Tar, version: &str, size: u64, stretches: &[(u64, u64)], content: &[u8]) {
    let mut pax = Vec::new();
    let number = |n: u64| n.to_string().into_bytes();
    let mut stored = content.to_vec();
    let pairs = stretches.iter().flat_map(|(at, len)| [*at, *len]);
    let joined = |by: &str| {
        pairs
            .clone()
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(by)
    };
    match version {
        "0.0" => {
            pax.push(("GNU.sparse.size", number(size)));
            pax.push(("GNU.sparse.numblocks", number(stretches.len() as u64)));
            for (at, len) in stretches {
                pax.push(("GNU.sparse.offset", number(*at)));
                pax.push(("GNU.sparse.numbytes", number(*len)));
            }
        }
        "0.1" => {
            pax.push(("GNU.sparse.size", number(size)));
            pax.push(("GNU.sparse.name", b"pax-0.1".to_vec()));
            pax.push(("GNU.sparse.map", joined(",").into_bytes()));
        }
        _ => {
            pax.push(("GNU.sparse.major", b"1".to_vec()));
            pax.push(("GNU.sparse.minor", b"0".to_vec()));
            pax.push(("GNU.sparse.name", b"pax-1.0".to_vec()));
            pax.push(("GNU.sparse.realsize", number(size)));
            let lines = format!("{}\n{}\n", stretches.len(), joined("\n"));
            let mut map = lines.into_bytes();
            map.resize(map.len().next_multiple_of(512), 0);
            map.extend_from_slice(&stored);
            stored = map;
        }
    }
    let path = match version {
        "0.0" => "pax-0.0".to_owned(),
        _ => format!("GNUSparseFile.0/{version}"),
    };
    tar.add(&Given {
        path: path.as_bytes(),
        content: &stored,
        pax,
        ..Given::default()
    });
}

#[test]
fn sparse_files() {
    use gantry_image::layer::{Form, Layers};
    if !mountable() {
        return;
    }
    let content: Vec<u8> = (0..40_960u32).map(|i| (i / 100 % 251) as u8 + 1).collect();
    let aligned = [(4096, 8192), (40_960, 4096), (1 << 20, 100)];
    let many: Vec<(u64, u64)> = (0..30).map(|i| (8192 * i, 512)).collect();
    let mut tar = Tar::default();
    old_sparse(
        &mut tar,
        "old",
        (1 << 20) + 100,
        &aligned,
        &content[..12_388],
    );
    old_sparse(&mut tar, "many", 300_000, &many, &content[..30 * 512]);
    old_sparse(&mut tar, "hole", 1 << 20, &[(1 << 20, 0)], b"");
    for version in ["0.0", "0.1", "1.0"] {
        pax_sparse(
            &mut tar,
            version,
            (1 << 20) + 100,
            &aligned,
            &content[..12_388],
        );
    }
    tar.dir("d/")
        .kind(b'1', "d/linked", "old")
        .file("after", b"still in step");
    both(&tar.end()).unwrap();
    // What is not on blocks is unpacked.
    let mut tar = Tar::default();
    old_sparse(
        &mut tar,
        "odd",
        3000,
        &[(100, 1000), (2000, 7)],
        &content[..1007],
    );
    let root = root();
    let layers = Layers::open(root.path(), Form::Erofs).unwrap();
    let staged = layers.stage(&mut &tar.end()[..], None).unwrap();
    let layer = layers.publish(staged).unwrap();
    let Lower::Dir(dir) = layers.lower(&layer.diff_id).unwrap() else {
        panic!("an index of what is not on blocks");
    };
    let mut wanted = vec![0; 3000];
    wanted[100..1100].copy_from_slice(&content[..1000]);
    wanted[2000..2007].copy_from_slice(&content[1000..1007]);
    assert_eq!(std::fs::read(dir.join("odd")).unwrap(), wanted);
    assert!(
        std::fs::read_dir(root.path().join("tmp"))
            .unwrap()
            .next()
            .is_none()
    );
    // Maps that do not say what is stored.
    for bad in [
        &[(0, 5)][..],
        &[(0, 9), (5, 1)],
        &[(2990, 20)],
        &[(1 << 32, 10)],
    ] {
        let mut tar = Tar::default();
        old_sparse(&mut tar, "bad", 3000, bad, &content[..10]);
        assert!(both(&tar.end()).is_err());
    }
}
