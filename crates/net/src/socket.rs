//! A netlink socket: requests out, acknowledgements and dumps back.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto,
    socket_with, sockopt,
};

use crate::error::NetError;
use crate::message::{self, Attributes, Batch, NLM_F_DUMP, Received, Request};

/// What a datagram of the kernel holds at most: a dump fills pages, 32 KiB is the most it takes.
const RECEIVE_BYTES: usize = 64 * 1024;
/// How long an answer may take. They are there when the request returns, but for modules that are loaded first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Times that a dump is begun again because what it lists changed meanwhile.
const MAX_DUMPS: usize = 8;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The error message does not repeat the request.
const NLM_F_CAPPED: u16 = 0x100;
/// Attributes follow it.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

const SOL_NETLINK: i32 = 270;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;

/// A message of a dump: its type and what it says.
type Entry = (u16, Vec<u8>);

/// Whom a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// Packet filters and connection tracking.
    Netfilter,
}

/// A socket in the namespace where it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one in the caller's namespace.
    pub fn open(protocol: Protocol) -> Result<Socket, NetError> {
        let number = match protocol {
            // The kernel's number is 0, which the call below has for "the only one there is".
            Protocol::Route => None,
            Protocol::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            number,
        )?;
        for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK] {
            let on: libc::c_int = 1;
            // SAFETY: the kernel reads one int during the call.
            let set = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            if set != 0 {
                return Err(io::Error::last_os_error().into());
            }
        }
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Socket {
            fd,
            seq: 1,
            buffer: vec![0; RECEIVE_BYTES],
        })
    }

    /// Sends the requests and waits until all are worked off. On [`NetError::Refused`] every other request of the batch was
    /// carried out (packet filters: none). Only the first refusal is told.
    pub fn send(&mut self, batch: &mut Batch) -> Result<(), NetError> {
        match batch.len() {
            0 => Ok(()),
            n => self.send_acknowledged(batch, n - 1),
        }
    }

    /// The same, where the last request that is answered is not the last one. An error of the first one is all that comes then.
    pub(crate) fn send_acknowledged(
        &mut self,
        batch: &mut Batch,
        last: usize,
    ) -> Result<(), NetError> {
        let count = batch.len();
        let first = self.begin(batch, last)?;
        let mut refused: Option<(usize, NetError)> = None;
        loop {
            let len = self.receive()?;
            for message in message::received(&self.buffer[..len]) {
                let message = message?;
                let index = message.seq.wrapping_sub(first) as usize;
                if index >= count || message.kind != NLMSG_ERROR {
                    continue;
                }
                if let Some((errno, text)) = error_of(&message)?
                    && refused.as_ref().is_none_or(|(at, _)| index < *at)
                {
                    refused = Some((index, NetError::Refused { index, errno, text }));
                }
                let over = index == last || (index == 0 && refused.is_some() && last + 1 < count);
                if over {
                    return refused.map_or(Ok(()), |(_, error)| Err(error));
                }
            }
        }
    }

    /// Asks for all entries of a kind and hands each to `entry`, whole. A list that changes while it is read is read again: `entry` gets all of it at once.
    pub fn dump(
        &mut self,
        kind: u16,
        head: &[u8],
        entry: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetError> {
        self.dump_of(kind, head, |_| {}, entry)
    }

    /// The same for those that `ask` names in its attributes.
    pub(crate) fn dump_of(
        &mut self,
        kind: u16,
        head: &[u8],
        ask: impl Fn(&mut Request<'_>),
        mut entry: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetError> {
        for _ in 0..MAX_DUMPS {
            let mut batch = Batch::new();
            ask(&mut batch.request(kind, NLM_F_DUMP, head));
            let seq = self.begin(&mut batch, 0)?;
            if let Some(entries) = self.collect(seq)? {
                for (kind, bytes) in &entries {
                    entry(*kind, bytes);
                }
                return Ok(());
            }
        }
        Err(NetError::Answer("changes all the time"))
    }

    /// The entries of a dump; `None` if they changed meanwhile.
    fn collect(&mut self, seq: u32) -> Result<Option<Vec<Entry>>, NetError> {
        let mut entries = Vec::new();
        let mut whole = true;
        loop {
            let len = self.receive()?;
            for message in message::received(&self.buffer[..len]) {
                let message = message?;
                if message.seq != seq {
                    continue;
                }
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(whole.then_some(entries)),
                    NLMSG_ERROR => {
                        if let Some((errno, text)) = error_of(&message)? {
                            return Err(NetError::Refused {
                                index: 0,
                                errno,
                                text,
                            });
                        }
                    }
                    kind => entries.push((kind, message.payload.to_vec())),
                }
            }
        }
    }

    fn begin(&mut self, batch: &mut Batch, last: usize) -> Result<u32, NetError> {
        let first = self.seq;
        self.seq = self.seq.wrapping_add(batch.len() as u32).max(1);
        let bytes = batch.number(first, last)?;
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent = loop {
            match sendto(&self.fd, bytes, SendFlags::empty(), &kernel) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        if sent != bytes.len() {
            return Err(NetError::TooLarge);
        }
        Ok(first)
    }

    /// Receives a datagram of the kernel. ENOBUFS, an answer that was lost because there was no room, is an error: what was
    /// done is not known.
    fn receive(&mut self) -> Result<usize, NetError> {
        loop {
            match recvfrom(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, len, Some(from))) => {
                    // Any process may send to us; only the kernel has port 0.
                    let from = SocketAddrNetlink::try_from(from);
                    if from.is_ok_and(|from| from.pid() != 0) {
                        continue;
                    }
                    if len > self.buffer.len() {
                        return Err(NetError::Answer("is longer than it may be"));
                    }
                    return Ok(len);
                }
                Ok((_, _, None)) => return Err(NetError::Answer("has no sender")),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Errno and text of an error message; `None` if it says that all went well.
fn error_of(message: &Received<'_>) -> Result<Option<(Errno, String)>, NetError> {
    let code = message.payload.first_chunk::<4>();
    let code = i32::from_ne_bytes(*code.ok_or(NetError::Answer("has an error without a number"))?);
    if code == 0 {
        return Ok(None);
    }
    let mut text = String::new();
    if message.flags & NLM_F_ACK_TLVS != 0 {
        // The head of the request stands between, and all of it if it is not capped.
        let request = message.payload.get(4..).unwrap_or_default();
        let len = request
            .first_chunk::<4>()
            .map_or(0, |b| u32::from_ne_bytes(*b) as usize);
        let skip = match message.flags & NLM_F_CAPPED {
            0 => len.max(message::HEADER_BYTES),
            _ => message::HEADER_BYTES,
        };
        let attributes = Attributes::new(request.get(skip..).unwrap_or_default());
        text = attributes
            .text(NLMSGERR_ATTR_MSG)
            .unwrap_or_default()
            .to_owned();
    }
    Ok(Some((Errno::from_raw_os_error(-code), text)))
}
