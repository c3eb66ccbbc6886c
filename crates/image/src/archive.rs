//! The outer archive of a load: every file spooled under a name of ours, links as data.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};

use crate::ImageError;
use crate::blobs::{Blobs, Scratch};
use crate::digest;
use crate::error::IoContext;
use crate::space::SpaceGuard;
use crate::tar::{self, Kind};

/// Files in one archive.
pub(crate) const MAX_FILES: usize = 100_000;
/// Longest config, manifest or index.
pub(crate) const MAX_JSON_BYTES: u64 = 8 << 20;
/// Links followed to a file.
const MAX_LINK_HOPS: usize = 16;
/// Longest uncompressed layer.
const MAX_LAYER_BYTES: u64 = 1 << 40;

enum Item {
    File(Scratch),
    /// Path it leads to, cleaned.
    Link(String),
}

pub(crate) struct Archive {
    items: HashMap<String, Item>,
}

/// Path in the archive without `.`, `..` and leading slashes; `..` above the top stays at the top.
fn clean(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = if path.starts_with('/') {
        Vec::new()
    } else {
        base.split('/').collect()
    };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("/")
}

impl Archive {
    pub(crate) fn spool(source: impl Read, blobs: &Blobs) -> Result<Self, ImageError> {
        let mut reader = tar::Reader::new(decompress(source)?);
        let mut items = HashMap::new();
        let mut space = SpaceGuard::new();
        while let Some(entry) = reader.next_entry()? {
            if items.len() >= MAX_FILES {
                return Err(ImageError::archive(format_args!(
                    "more than {MAX_FILES} files"
                )));
            }
            let path = clean("", &String::from_utf8_lossy(&entry.path));
            let link = String::from_utf8_lossy(&entry.link);
            let item = match entry.kind {
                Kind::File => {
                    let (scratch, mut file) = blobs.scratch()?;
                    space
                        .copy(&mut reader, &mut file)
                        .map_err(|e| spool_failed(e, "spool archive"))?;
                    Item::File(scratch)
                }
                Kind::Symlink => Item::Link(clean(
                    path.rsplit_once('/').map_or("", |(dir, _)| dir),
                    &link,
                )),
                Kind::HardLink => Item::Link(clean("", &link)),
                Kind::Dir | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => continue,
            };
            items.insert(path, item);
        }
        // The client is still writing the padding; it must not see a closed pipe.
        io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(ImageError::reading)?;
        Ok(Self { items })
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.find(path).is_ok()
    }

    fn find(&self, path: &str) -> Result<&Scratch, ImageError> {
        let mut at = clean("", path);
        for _ in 0..MAX_LINK_HOPS {
            match self.items.get(&at) {
                Some(Item::File(scratch)) => return Ok(scratch),
                Some(Item::Link(to)) => at.clone_from(to),
                None => break,
            }
        }
        Err(ImageError::archive(format_args!("{path:?} is missing")))
    }

    pub(crate) fn open(&self, path: &str) -> Result<File, ImageError> {
        let scratch = self.find(path)?;
        File::open(&scratch.path).context(|| format!("open {}", scratch.path.display()))
    }

    pub(crate) fn read_json(&self, path: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let read = self
            .open(path)?
            .take(MAX_JSON_BYTES + 1)
            .read_to_end(&mut bytes);
        read.context(|| format!("read {path:?}"))?;
        if bytes.len() as u64 > MAX_JSON_BYTES {
            return Err(ImageError::archive(format_args!(
                "{path:?} is longer than {MAX_JSON_BYTES} bytes"
            )));
        }
        Ok(bytes)
    }

    /// A JSON blob of an OCI layout, verified.
    pub(crate) fn read_blob(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let bytes = self.read_json(&blob_path(digest)?)?;
        if digest::of_bytes(&bytes) != digest {
            return Err(ImageError::archive(format_args!(
                "blob {digest} does not have its digest"
            )));
        }
        Ok(bytes)
    }

    /// The scratch file of a path.
    pub(crate) fn scratch(&self, path: &str) -> Result<&Scratch, ImageError> {
        self.find(path)
    }
}

/// The disk's failures are the machine's, all others the archive's.
pub(crate) fn spool_failed(error: io::Error, what: &str) -> ImageError {
    if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::StorageFull {
        return ImageError::Io {
            what: what.into(),
            source: error,
        };
    }
    ImageError::reading(error)
}

pub(crate) fn blob_path(digest: &str) -> Result<String, ImageError> {
    Ok(format!("blobs/sha256/{}", digest::hex_of(digest)?))
}

/// The digest in the name of a blob of an OCI layout.
pub(crate) fn blob_digest(path: &str) -> Result<String, ImageError> {
    let hex = clean("", path);
    let digest = format!(
        "sha256:{}",
        hex.strip_prefix("blobs/sha256/").unwrap_or_default()
    );
    digest::hex_of(&digest).map(drop)?;
    Ok(digest)
}

/// How a stream is packed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

fn packing(start: &[u8]) -> Packing {
    match start {
        [0x1f, 0x8b, 0x08, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        // Frames that a zstd stream may begin with and that hold no data.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
        [b'B', b'Z', b'h', ..] => Packing::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Packing::Xz,
        _ => Packing::Plain,
    }
}

/// Bytes that tell a packing.
const MAGIC_BYTES: usize = 5;

/// Whether a file is plain, without any packing.
pub(crate) fn is_plain(file: &mut File) -> io::Result<bool> {
    use std::io::{Seek, SeekFrom};
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    file.by_ref()
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(packing(&start) == Packing::Plain)
}

/// Whether a stream is plain, and the stream from its start.
pub(crate) fn plain_or_not(mut source: impl Read) -> Result<(bool, impl Read), ImageError> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    source
        .by_ref()
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut start)
        .map_err(ImageError::reading)?;
    let plain = packing(&start) == Packing::Plain;
    Ok((plain, io::Cursor::new(start).chain(source)))
}

/// gzip, bzip2, xz, zstd or plain, by the first bytes. An output over the layer limit ends as an error, never as a short read.
pub(crate) fn decompress<'a>(source: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ImageError> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    let mut source = BufReader::with_capacity(256 * 1024, source);
    // One read may bring less than the first bytes.
    source
        .by_ref()
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut start)
        .map_err(ImageError::reading)?;
    let kind = packing(&start);
    let whole = BufReader::with_capacity(64 * 1024, io::Cursor::new(start).chain(source));
    let plain: Box<dyn Read + 'a> = match kind {
        Packing::Plain => Box::new(whole),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Packing::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(whole).context(|| "zstd".into())?;
            decoder
                .window_log_max(MAX_ZSTD_WINDOW_LOG)
                .context(|| "zstd".into())?;
            Box::new(decoder)
        }
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            whole,
            true,
            MAX_XZ_MEMORY_KIB,
        )),
    };
    Ok(Box::new(Limited {
        inner: plain,
        left: MAX_LAYER_BYTES,
    }))
}

/// Largest window of a zstd stream (2^27 bytes = 128 MiB, what `zstd --ultra` makes); it is memory.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// Most memory for the window of an xz stream; `xz -9` asks for 65 MiB.
const MAX_XZ_MEMORY_KIB: u32 = 160 << 10;

struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or_else(|| io::Error::other("archive is too large"))?;
        Ok(n)
    }
}
