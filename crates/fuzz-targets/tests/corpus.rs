//! Every target over its corpus and over mutations of it: what the fuzzer does, for a second or two, in every test run.

mod seeds;

use std::path::PathBuf;

use gantry_fuzz_targets::TARGETS;

/// Mutations of each corpus entry.
const MUTATIONS: usize = 1500;
/// Mutations of an entry of a target that writes files.
const SLOW_MUTATIONS: usize = 100;
const SLOW: &[&str] = &["image_load", "image_import"];
/// Changes that make one mutation.
const MOST_CHANGES: u64 = 4;

/// xorshift64*: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }
}

/// Pieces that parsers are known to stumble over.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"../../../../",
    b"//",
    b"%00",
    b"%zz",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":",
    b"\"",
    b"\n",
    b":",
    b",",
    b"\x1b",
    b"null",
];

fn mutate(data: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut out = data.to_vec();
    for _ in 0..=numbers.next() % MOST_CHANGES {
        let at = numbers.below(out.len() + 1);
        match numbers.below(6) {
            0 if !out.is_empty() => {
                let at = at.min(out.len() - 1);
                out[at] ^= 1 << numbers.below(8);
            }
            1 if !out.is_empty() => {
                let at = at.min(out.len() - 1);
                out[at] = numbers.next() as u8;
            }
            2 => {
                let piece = PIECES[numbers.below(PIECES.len())];
                out.splice(at..at, piece.iter().copied());
            }
            3 => {
                let end = (at + numbers.below(64)).min(out.len());
                out.drain(at..end);
            }
            4 => {
                let end = (at + numbers.below(256)).min(out.len());
                let again = out[at..end].to_vec();
                out.splice(at..at, again);
            }
            _ => out.truncate(at),
        }
    }
    out
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut entries = seeds::made(name);
    if let Ok(files) = std::fs::read_dir(dir) {
        let mut files: Vec<PathBuf> = files.map(|f| f.expect("an entry").path()).collect();
        files.sort();
        entries.extend(
            files
                .iter()
                .map(|f| std::fs::read(f).expect("a corpus file")),
        );
    }
    entries
}

#[test]
fn every_target_over_its_corpus() {
    // SAFETY: a plain system call.
    let root = unsafe { libc::geteuid() } == 0;
    for (name, target) in TARGETS {
        let entries = corpus(name);
        assert!(!entries.is_empty(), "{name} has no corpus");
        if SLOW.contains(name) && !root {
            eprintln!("skipped: {name} makes files of other owners, which needs root");
            continue;
        }
        let mutations = if SLOW.contains(name) {
            SLOW_MUTATIONS
        } else {
            MUTATIONS
        };
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        target(&[]);
        for entry in &entries {
            target(entry);
            for _ in 0..mutations {
                target(&mutate(entry, &mut numbers));
            }
        }
    }
}

#[test]
fn archives_of_the_corpus_are_good_ones() {
    for archive in seeds::made("image_load") {
        let root = tempfile::tempdir().expect("a directory");
        let store = gantry_store::Store::open(root.path().join("meta.redb")).expect("a database");
        let images = gantry_image::ImageStore::open(root.path(), store).expect("images");
        let loaded = images
            .load(&archive[..], None, &mut |_| {})
            .expect("it loads");
        assert_eq!(loaded.len(), 1);
    }
}
