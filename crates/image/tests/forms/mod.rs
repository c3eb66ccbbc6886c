//! Both forms of a layer, made of one tar and compared.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gantry_image::ErrorClass;
use gantry_image::layer::{DirLayers, ErofsLayers, LayerStore, Lower, probe_erofs};

/// Undeclared directories, whiteouts and roots have the time of the extraction there.
pub const TIME: u64 = 1_000_000_000;

/// A tar that is made entry by entry.
#[derive(Default)]
pub struct Tar(pub Vec<u8>);

/// What an entry of it is.
#[derive(Clone)]
pub struct Given<'a> {
    pub kind: u8,
    pub path: &'a [u8],
    pub link: &'a [u8],
    pub content: &'a [u8],
    pub mode: u32,
    pub pax: Vec<(&'a str, Vec<u8>)>,
}

impl Default for Given<'_> {
    fn default() -> Self {
        Self {
            kind: b'0',
            path: b"",
            link: b"",
            content: b"",
            mode: 0o644,
            pax: Vec::new(),
        }
    }
}

impl Tar {
    fn header(&mut self, kind: u8, path: &[u8], link: &[u8], len: usize, mode: u32) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        let (path, link) = (&path[..path.len().min(100)], &link[..link.len().min(100)]);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_size(len as u64);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(70_000);
        header.set_mtime(TIME);
        header.set_device_major(5).unwrap();
        header.set_device_minor(1000).unwrap();
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }

    pub fn content(&mut self, content: &[u8]) {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub fn add(&mut self, given: &Given<'_>) -> &mut Self {
        let mut pax = given.pax.clone();
        if given.path.len() > 100 {
            pax.push(("path", given.path.to_vec()));
        }
        if given.link.len() > 100 {
            pax.push(("linkpath", given.link.to_vec()));
        }
        let mut records = Vec::new();
        for (key, value) in &pax {
            let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let mut len = body.len() + 1;
            while format!("{len}").len() + body.len() != len {
                len += 1;
            }
            write!(records, "{len}").unwrap();
            records.extend_from_slice(&body);
        }
        if !records.is_empty() {
            self.header(b'x', b"pax", b"", records.len(), 0o644);
            self.content(&records);
        }
        let Given {
            kind,
            path,
            link,
            content,
            mode,
            ..
        } = *given;
        self.header(kind, path, link, content.len(), mode);
        self.content(content);
        self
    }

    pub fn file(&mut self, path: &str, content: &[u8]) -> &mut Self {
        self.add(&Given {
            path: path.as_bytes(),
            content,
            ..Given::default()
        })
    }

    pub fn dir(&mut self, path: &str) -> &mut Self {
        self.kind(b'5', path, "")
    }

    pub fn kind(&mut self, kind: u8, path: &str, link: &str) -> &mut Self {
        self.add(&Given {
            kind,
            path: path.as_bytes(),
            link: link.as_bytes(),
            mode: 0o755,
            ..Given::default()
        })
    }

    pub fn end(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

/// What `stat` and its likes say of a file.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    mode: u32,
    owner: (u32, u32),
    rdev: u64,
    /// Of files: names of directories are counted differently by file systems of old.
    links: u64,
    mtime: (i64, i64),
    /// Bytes of a file, target of a link.
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path with the same inode.
    same_as: PathBuf,
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let n = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found = BTreeMap::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let key = CString::new(name).unwrap();
        let n = rustix::fs::lgetxattr(path, &key, &mut value[..]).unwrap();
        found.insert(name.to_vec(), value[..n].to_vec());
    }
    found
}

fn walk(root: &Path) -> BTreeMap<PathBuf, Found> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(relative) = left.pop() {
        let path = root.join(&relative);
        // The root itself may be a link of /proc.
        let meta = match relative.as_os_str().is_empty() {
            true => path.metadata().unwrap(),
            false => path.symlink_metadata().unwrap(),
        };
        let kind = meta.file_type();
        let content = match kind {
            k if k.is_file() => std::fs::read(&path).unwrap(),
            k if k.is_symlink() => std::fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_vec(),
            _ => Vec::new(),
        };
        assert!(!kind.is_file() || content.len() as u64 == meta.size());
        if kind.is_dir() {
            let mut names: Vec<OsString> = std::fs::read_dir(&path)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            names.sort();
            // What is listed is found, also by the kernel's search.
            left.extend(names.iter().rev().map(|n| relative.join(n)));
        }
        let first = inodes.entry(meta.ino()).or_insert_with(|| relative.clone());
        let this = Found {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            rdev: meta.rdev(),
            links: if kind.is_dir() { 0 } else { meta.nlink() },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content,
            xattrs: xattrs(&match kind.is_dir() {
                true => path.join("."),
                false => path.clone(),
            }),
            same_as: first.clone(),
        };
        found.insert(relative, this);
    }
    found
}

/// A place on a file system that holds what layers are made of.
pub fn root() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Whether there is something to compare.
pub fn mountable() -> bool {
    let dir = root();
    match probe_erofs(dir.path()) {
        Ok(()) => true,
        Err(e) => {
            eprintln!("skipped: {e}");
            false
        }
    }
}

/// Both forms of a layer, or the error of both, which must be the same.
pub fn both(bytes: &[u8]) -> Result<(), String> {
    let (dir_root, erofs_root) = (root(), root());
    let dirs = DirLayers::open(dir_root.path()).unwrap();
    let erofs = ErofsLayers::open(erofs_root.path()).unwrap();
    let take = |store: &dyn LayerStore| {
        let staged = store.stage(&mut &bytes[..], None);
        let done = staged.and_then(|s| store.publish(s));
        done.map_err(|e| (e.class(), e.to_string()))
    };
    let (extracted, indexed) = (take(&dirs), take(&erofs));
    let class = |r: &Result<_, (ErrorClass, String)>| r.as_ref().map_err(|e| e.0).err();
    assert_eq!(
        class(&extracted),
        class(&indexed),
        "{extracted:?} {indexed:?}"
    );
    assert_eq!(extracted.as_ref().ok(), indexed.as_ref().ok());
    let layer = extracted.map_err(|e| e.1)?;
    let Lower::Mount(mount) = erofs.lower(&layer.diff_id).unwrap() else {
        panic!("no mount");
    };
    let mounted = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    let (mut wanted, mut found) = (walk(&dirs.path(&layer.diff_id).unwrap()), walk(&mounted));
    let names = |all: &BTreeMap<PathBuf, Found>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&wanted), names(&found));
    for (path, wanted) in &mut wanted {
        let found = found.get_mut(path).unwrap();
        if wanted.mtime.0 > TIME as i64 + 1_000_000 {
            // No entry says it.
            wanted.mtime = found.mtime;
        }
        assert_eq!(wanted, found, "{}", path.display());
    }
    // The tar is what came.
    let dir = erofs.path(&layer.diff_id).unwrap();
    assert_eq!(std::fs::read(dir.join("layer.tar")).unwrap(), bytes);
    fsck(&dir);
    Ok(())
}

/// GANTRY_FSCK_EROFS names a fsck.erofs of erofs-utils 1.9 or later, which has its say then.
fn fsck(layer: &Path) {
    let Some(program) = std::env::var_os("GANTRY_FSCK_EROFS") else {
        return;
    };
    let device = format!("--device={}", layer.join("layer.tar").display());
    let mut command = std::process::Command::new(program);
    command.args([device, "--extract".to_owned()]);
    let output = command.arg(layer.join("layer.erofs")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}
