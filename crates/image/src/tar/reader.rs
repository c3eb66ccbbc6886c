//! The entries of an archive, one after the other.

use std::io::{self, Read};

use super::BLOCK_BYTES;
use super::header::{self, Flag, Header, Kind, TarError};
use super::pax::Extensions;
use super::sparse::{Lines, Map, Next, Stretch};

/// Longest path or link target.
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest PAX or GNU extension of one entry.
pub const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Extension headers before one entry.
pub const MAX_EXTENSIONS_PER_ENTRY: usize = 8;
/// Entries in one archive.
pub const MAX_ENTRIES: u64 = 2_000_000;

/// What a header says; the content is read from the [`Reader`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path as written; not checked for where it leads.
    pub path: Vec<u8>,
    /// Target of a hard or symbolic link.
    pub link: Vec<u8>,
    /// Kind.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Content bytes; 0 for what is no file.
    pub size: u64,
    /// Time of change, seconds.
    pub mtime_s: i64,
    /// Time of change, nanoseconds.
    pub mtime_ns: u32,
    /// Device number.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads an archive from a stream.
pub struct Reader<R> {
    source: R,
    content_left: u64,
    padding: u64,
    entries: u64,
    ended: bool,
    /// Bytes read of the source.
    position: u64,
    /// Of the current entry, if it is sparse.
    sparse: Option<Map>,
}

impl<R: Read> Reader<R> {
    /// A reader at the start of an archive.
    pub fn new(source: R) -> Self {
        Self {
            source,
            content_left: 0,
            padding: 0,
            entries: 0,
            ended: false,
            position: 0,
            sparse: None,
        }
    }

    /// The next entry; what was not read of the last one is skipped. `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        let mut seen = 0;
        loop {
            let Some(block) = self.block()? else {
                self.ended = true;
                return if seen == 0 {
                    Ok(None)
                } else {
                    Err(TarError::Truncated)
                };
            };
            let header = header::parse(&block)?;
            let kind = match header.flag {
                Flag::Entry(kind) => Some(kind),
                Flag::OldSparse => Some(Kind::File),
                Flag::OldEntry => {
                    let name = extensions.path.as_ref().unwrap_or(&header.name);
                    let dir = name.ends_with(b"/");
                    Some(if dir { Kind::Dir } else { Kind::File })
                }
                _ => None,
            };
            if let Some(kind) = kind {
                return self.entry(&block, header, kind, extensions).map(Some);
            }
            seen += 1;
            if seen > MAX_EXTENSIONS_PER_ENTRY {
                return Err(TarError::Limit("extension headers before one entry"));
            }
            let bytes = self.extension(header.size)?;
            match header.flag {
                Flag::PaxNext => extensions.add_pax(&bytes)?,
                Flag::GnuLongName => extensions.path = Some(long_name(&bytes)?),
                Flag::GnuLongLink => extensions.link = Some(long_name(&bytes)?),
                // Global records (git's commit id) never change an entry, as in Docker.
                Flag::PaxGlobal | Flag::Entry(_) | Flag::OldEntry | Flag::OldSparse => {}
            }
        }
    }

    /// How far the archive was read, in bytes: after an entry, where its content begins.
    pub fn position_bytes(&self) -> u64 {
        self.position
    }

    /// The source, for what follows the archive's end.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// Of a sparse file, where what is stored of it lies in it, in order; what is stored is one piece in the archive.
    pub fn stretches(&self) -> Option<&[Stretch]> {
        self.sparse.as_ref().map(|map| &map.stretches[..])
    }

    fn entry(
        &mut self,
        block: &header::Block,
        header: Header,
        kind: Kind,
        mut extensions: Extensions,
    ) -> Result<Entry, TarError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(TarError::Limit("entries"));
        }
        let id = |value: u64| u32::try_from(value).map_err(|_| TarError::Header("owner"));
        let size = match kind {
            Kind::File => extensions.size.unwrap_or(header.size),
            _ => 0,
        };
        self.sparse = match kind {
            Kind::File => self.sparse_map(block, &header, &extensions, size)?,
            _ => None,
        };
        let size = match &self.sparse {
            Some(map) => map.size,
            None => {
                self.set_content(size)?;
                size
            }
        };
        if let (Some(_), Some(name)) = (&self.sparse, extensions.sparse.name.take()) {
            extensions.path = Some(name);
        }
        let (mtime_s, mtime_ns) = extensions.mtime.unwrap_or((header.mtime_s, 0));
        Ok(Entry {
            path: extensions.path.unwrap_or(header.name),
            link: extensions.link.unwrap_or(header.link),
            kind,
            mode: header.mode,
            uid: id(extensions.uid.unwrap_or(header.uid))?,
            gid: id(extensions.gid.unwrap_or(header.gid))?,
            size,
            mtime_s,
            mtime_ns,
            device: (header.major, header.minor),
            xattrs: extensions.xattrs,
        })
    }

    /// Reads the map of a sparse file, and is then at what is stored of it. `None` for another file.
    fn sparse_map(
        &mut self,
        block: &header::Block,
        header: &Header,
        extensions: &Extensions,
        stored: u64,
    ) -> Result<Option<Map>, TarError> {
        if matches!(header.flag, Flag::OldSparse) {
            let mut stretches = Vec::new();
            let (size, mut more) = header::sparse_header(block, &mut stretches)?;
            while more {
                let block = self.block()?.ok_or(TarError::Truncated)?;
                more = header::more_sparse(&block, &mut stretches)?;
            }
            self.set_content(stored)?;
            return Map::new(stretches, size, stored).map(Some);
        }
        if !extensions.sparse.is_sparse()? {
            return Ok(None);
        }
        self.set_content(stored)?;
        if !extensions.sparse.map_follows() {
            return extensions.sparse.map(stored).map(Some);
        }
        let mut lines = Lines::default();
        loop {
            let mut block = [0; BLOCK_BYTES];
            let left = self.content_left.min(BLOCK_BYTES as u64) as usize;
            self.read_stored_exact(&mut block[..left])?;
            if lines.add(&block)? {
                break;
            }
            if left < BLOCK_BYTES {
                return Err(TarError::Header("sparse map"));
            }
        }
        let map = extensions
            .sparse
            .map_of(lines.stretches(), self.content_left);
        map.map(Some)
    }

    /// Content as it is stored.
    fn read_stored(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.content_left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.source.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content_left -= n as u64;
        self.position += n as u64;
        Ok(n)
    }

    fn read_stored_exact(&mut self, mut buf: &mut [u8]) -> Result<(), TarError> {
        while !buf.is_empty() {
            match self.read_stored(buf) {
                Ok(n) => buf = &mut buf[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(from_io(e)),
            }
        }
        Ok(())
    }

    fn set_content(&mut self, size: u64) -> Result<(), TarError> {
        if size > i64::MAX as u64 {
            return Err(TarError::Limit("entry size"));
        }
        self.content_left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(TarError::Limit("extension header size"));
        }
        self.sparse = None;
        self.set_content(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(from_io)?;
        self.skip_rest()?;
        Ok(bytes)
    }

    /// A header block; `None` at the mark of the end or at the end of the source.
    fn block(&mut self) -> Result<Option<header::Block>, TarError> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(n) => {
                    filled += n;
                    self.position += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok((block != [0; BLOCK_BYTES]).then_some(block))
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut scratch = [0; 16 * 1024];
        while self.content_left > 0 {
            self.read_stored(&mut scratch).map_err(from_io)?;
        }
        while self.padding > 0 {
            let want = self.padding as usize;
            let n = self.source.read(&mut scratch[..want])?;
            if n == 0 {
                return Err(TarError::Truncated);
            }
            self.padding -= n as u64;
            self.position += n as u64;
        }
        Ok(())
    }
}

/// Content of the current entry, with the holes of a sparse file as zeros; an archive that ends inside it is an `UnexpectedEof`.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let at_most = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).min(buf.len());
        let n = match self.sparse.as_ref().map(Map::next) {
            None => return self.read_stored(buf),
            Some(Next::End) => return Ok(0),
            Some(Next::Hole(bytes)) => {
                let n = at_most(bytes);
                buf[..n].fill(0);
                n
            }
            Some(Next::Stored(bytes)) => {
                let n = at_most(bytes);
                self.read_stored(&mut buf[..n])?
            }
        };
        if let Some(map) = &mut self.sparse {
            map.advance(n as u64);
        }
        Ok(n)
    }
}

fn from_io(e: io::Error) -> TarError {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        TarError::Truncated
    } else {
        TarError::Io(e)
    }
}

fn long_name(bytes: &[u8]) -> Result<Vec<u8>, TarError> {
    let name = header::text(bytes);
    if name.len() > MAX_PATH_BYTES {
        Err(TarError::Limit("path length"))
    } else {
        Ok(name)
    }
}
