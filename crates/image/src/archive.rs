//! The outer archive of a load: every file spooled under a name of ours, links as data.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use crate::ImageError;
use crate::blobs::{Blobs, Scratch};
use crate::digest::{self, HashingReader};
use crate::error::IoContext;
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
        while let Some(entry) = reader.next_entry().map_err(ImageError::archive)? {
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
                    io::copy(&mut reader, &mut file).context(|| "spool archive".into())?;
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
        io::copy(&mut reader.into_inner(), &mut io::sink()).context(|| "read archive".into())?;
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

    /// Takes a blob out of the archive to keep it; `None` if it was taken before.
    pub(crate) fn take_blob(&mut self, digest: &str) -> Result<Option<Scratch>, ImageError> {
        match self.items.remove(&blob_path(digest)?) {
            Some(Item::File(scratch)) => Ok(Some(scratch)),
            _ => Ok(None),
        }
    }

    /// Checks the digest of a blob of any size, if it was not taken before.
    pub(crate) fn verify_blob_if_there(&self, digest: &str) -> Result<(), ImageError> {
        if !self.has(&blob_path(digest)?) {
            return Ok(());
        }
        let mut reader = HashingReader::new(self.open(&blob_path(digest)?)?);
        io::copy(&mut reader, &mut io::sink()).context(|| format!("read blob {digest}"))?;
        let (found, _) = reader.finish();
        if found == digest {
            Ok(())
        } else {
            Err(ImageError::archive(format_args!(
                "blob {digest} does not have its digest"
            )))
        }
    }
}

pub(crate) fn blob_path(digest: &str) -> Result<String, ImageError> {
    Ok(format!("blobs/sha256/{}", digest::hex_of(digest)?))
}

/// gzip, zstd or plain, by the first bytes. An output over the layer limit ends as an error, never as a short read.
pub(crate) fn decompress<'a>(source: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ImageError> {
    let mut source = BufReader::with_capacity(256 * 1024, source);
    let start = source.fill_buf().context(|| "read archive".into())?;
    let kind = start.get(..4).map(<[u8]>::to_vec).unwrap_or_default();
    let plain: Box<dyn Read + 'a> = match kind.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(source).context(|| "zstd".into())?)
        }
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X'] => {
            return Err(ImageError::archive(
                "compressed with bzip2 or xz, which is not supported",
            ));
        }
        _ => Box::new(source),
    };
    Ok(Box::new(Limited {
        inner: plain,
        left: MAX_LAYER_BYTES,
    }))
}

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
