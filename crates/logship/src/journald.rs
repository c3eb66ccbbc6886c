//! systemd's journal by its own protocol: a datagram of fields an entry, or a sealed memory file for one that is too large.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;

use gantry_logs::{DEFAULT_TAG, LogInfo, Record};
use gantry_stream::Stream;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::error::{Refused, SinkError};
use crate::net::{WRITE_TIMEOUT, within};
use crate::options::{ATTRIBUTES, Options};
use crate::sink::{Todo, text_time};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

pub(crate) fn check(options: Options<'_>) -> Result<(), Refused> {
    match options.unknown(&[&["tag"], ATTRIBUTES]) {
        Some(name) => Err(Refused(format!(
            "unknown log opt '{name}' for journald log driver"
        ))),
        None => Ok(()),
    }
}

pub(crate) struct Journald {
    socket: Option<UnixDatagram>,
    /// The fields of every entry.
    fixed: Vec<u8>,
    /// Entries since the sender was opened.
    ordinal: u64,
}

impl Journald {
    pub(crate) fn new(info: &LogInfo) -> Result<Journald, Refused> {
        // Before the tag is looked at, as Docker.
        connect()?;
        Journald::lazy(info)
    }

    /// Without asking whether there is a journal.
    pub(crate) fn lazy(info: &LogInfo) -> Result<Journald, Refused> {
        let tag = info.tag(DEFAULT_TAG)?;
        let mut epoch = [0u8; 32];
        getrandom::fill(&mut epoch).map_err(|e| Refused(e.to_string()))?;
        let epoch: String = epoch.iter().map(|b| format!("{b:02x}")).collect();
        let mut fields = BTreeMap::new();
        for (name, value) in [
            ("CONTAINER_ID", info.short_id()),
            ("CONTAINER_ID_FULL", &info.id),
            ("CONTAINER_NAME", &info.name),
            ("CONTAINER_TAG", &tag),
            ("IMAGE_NAME", &info.image_name),
            ("SYSLOG_IDENTIFIER", &tag),
            ("CONTAINER_LOG_EPOCH", &epoch),
        ] {
            fields.insert(name.to_owned(), value.to_owned());
        }
        fields.extend(info.attributes(field_name)?);
        // A name without a letter or digit is none.
        fields.remove("");
        let mut fixed = Vec::new();
        for (name, value) in &fields {
            field(&mut fixed, name, value.as_bytes());
        }
        Ok(Journald {
            socket: None,
            fixed,
            ordinal: 0,
        })
    }

    pub(crate) async fn deliver(&mut self, todo: &mut Todo<'_>) -> Result<(), SinkError> {
        while let [record, ..] = todo.left() {
            let entry = self.encode(record);
            let socket = match &self.socket {
                Some(socket) => socket,
                None => {
                    let socket = open().map_err(|e| SinkError::io(SOCKET, &e))?;
                    self.socket.insert(socket)
                }
            };
            if let Err(e) = send(socket, &entry).await {
                self.socket = None;
                return Err(SinkError::io("journald", &e));
            }
            self.ordinal += 1;
            todo.took(1);
        }
        Ok(())
    }

    fn encode(&self, record: &Record) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.fixed.len() + record.bytes.len() + 160);
        let priority: &[u8] = match record.stream {
            Stream::Stdout => b"6",
            Stream::Stderr => b"3",
        };
        field(&mut out, "PRIORITY", priority);
        field(&mut out, "MESSAGE", &record.bytes);
        out.extend_from_slice(&self.fixed);
        field(
            &mut out,
            "SYSLOG_TIMESTAMP",
            text_time(record.time_ns).as_bytes(),
        );
        let ordinal = (self.ordinal + 1).to_string();
        field(&mut out, "CONTAINER_LOG_ORDINAL", ordinal.as_bytes());
        if let Some(part) = record.partial {
            if !part.last {
                field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
            field(
                &mut out,
                "CONTAINER_PARTIAL_ID",
                record.partial_id().as_bytes(),
            );
            let ordinal = part.ordinal.to_string();
            field(&mut out, "CONTAINER_PARTIAL_ORDINAL", ordinal.as_bytes());
            field(
                &mut out,
                "CONTAINER_PARTIAL_LAST",
                part.last.to_string().as_bytes(),
            );
        }
        out
    }
}

fn open() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SOCKET)?;
    Ok(socket)
}

fn connect() -> Result<(), Refused> {
    open()
        .map(drop)
        .map_err(|_| "journald is not enabled on this host".into())
}

/// A label's name as the journal takes it.
fn field_name(name: &str) -> String {
    let upper = name.to_uppercase();
    let name: String = upper
        .chars()
        .map(|c| match c {
            'A'..='Z' | '0'..='9' => c,
            _ => '_',
        })
        .collect();
    name.trim_start_matches('_').to_owned()
}

/// Appends a field: on one line, or by its length if it has a line's end in it.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

async fn send(socket: &UnixDatagram, entry: &[u8]) -> io::Result<()> {
    match within(WRITE_TIMEOUT, socket.send(entry)).await {
        Ok(_) => Ok(()),
        Err(e) if too_large(&e) => {
            let file = sealed(entry)?;
            let pass = || {
                let fds = [file.as_fd()];
                let mut space =
                    [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&fds));
                rustix::net::sendmsg(
                    socket,
                    &[IoSlice::new(&[])],
                    &mut control,
                    SendFlags::NOSIGNAL,
                )?;
                Ok(())
            };
            within(WRITE_TIMEOUT, socket.async_io(Interest::WRITABLE, pass)).await
        }
        Err(e) => Err(e),
    }
}

fn too_large(e: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(e);
    matches!(
        errno,
        Some(rustix::io::Errno::MSGSIZE | rustix::io::Errno::NOBUFS)
    )
}

/// A memory file that nobody can change any more: the journal takes no other.
fn sealed(entry: &[u8]) -> io::Result<std::fs::File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("journal-entry", flags)?);
    file.write_all(entry)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use gantry_logs::Partial;

    use super::*;
    use crate::testing::{options, record};

    #[test]
    fn names_of_fields() {
        assert_eq!(field_name("com.example-x"), "COM_EXAMPLE_X");
        assert_eq!(field_name("_u"), "U");
        assert_eq!(field_name("é"), "");
    }

    #[test]
    fn entries() {
        let info = LogInfo {
            options: options(&[("tag", "T"), ("labels", "lab,_u")]),
            id: "0123456789abcdef".to_owned(),
            name: "n".to_owned(),
            labels: options(&[("lab", "L\n1"), ("_u", "U")]),
            ..LogInfo::default()
        };
        let mut record = record(1_795_613_224_564_041_992, Stream::Stderr, "m");
        record.partial = Some(Partial {
            ordinal: 2,
            last: false,
        });
        let text = Journald::lazy(&info).unwrap().encode(&record);
        let has = |part: &[u8]| text.windows(part.len()).any(|w| w == part);
        assert!(text.starts_with(b"PRIORITY=3\nMESSAGE=m\nCONTAINER_ID=0123456789ab\n"));
        assert!(has(b"\nLAB\n\x03\0\0\0\0\0\0\0L\n1\nSYSLOG_"));
        assert!(has(b"SYSLOG_IDENTIFIER=T\n"));
        assert!(has(
            b"\nSYSLOG_TIMESTAMP=2026-11-25T13:27:04.564041992Z\nCONTAINER_LOG_ORDINAL=1\n"
        ));
        assert!(has(b"\nCONTAINER_PARTIAL_MESSAGE=true\n"));
        assert!(text.ends_with(b"\nCONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=false\n"));
    }
}
