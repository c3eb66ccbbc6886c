//! Ways of messages that are written and not answered: a stream of bytes, or datagrams.

use std::io;
use std::path::PathBuf;

use gantry_logs::Record;

use crate::error::SinkError;
use crate::net::{Datagram, StreamConn};
use crate::sink::{Todo, WRITE_BYTES};

/// Where datagrams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    Udp(String, u16),
    Unix(PathBuf),
}

impl Socket {
    async fn open(&self) -> Result<Datagram, SinkError> {
        match self {
            Socket::Udp(host, port) => Datagram::udp(host, *port).await,
            Socket::Unix(path) => Datagram::unix(path),
        }
    }
}

/// A connection or a socket that is made when it is needed, and again after a failure.
pub(crate) enum Link {
    Stream(StreamConn),
    Datagrams(Socket, Option<Datagram>),
}

impl Link {
    pub(crate) fn stream(conn: StreamConn) -> Link {
        Link::Stream(conn)
    }

    pub(crate) fn datagrams(to: Socket) -> Link {
        Link::Datagrams(to, None)
    }

    pub(crate) async fn connect(&mut self) -> Result<(), SinkError> {
        match self {
            Link::Stream(conn) => conn.get().await.map(drop),
            Link::Datagrams(_, Some(_)) => Ok(()),
            Link::Datagrams(to, none) => {
                *none = Some(to.open().await?);
                Ok(())
            }
        }
    }

    /// Sends what is left. `encode` appends a record's message, or nothing; `pack` makes a message's datagrams.
    pub(crate) async fn deliver(
        &mut self,
        todo: &mut Todo<'_>,
        encode: impl Fn(&mut Vec<u8>, &Record),
        pack: impl Fn(Vec<u8>) -> Result<Vec<Vec<u8>>, SinkError>,
    ) -> Result<(), SinkError> {
        self.connect().await?;
        while !todo.left().is_empty() {
            match self {
                Link::Stream(conn) => {
                    let mut out = Vec::new();
                    let mut count = 0;
                    for record in todo.left() {
                        if out.len() >= WRITE_BYTES {
                            break;
                        }
                        encode(&mut out, record);
                        count += 1;
                    }
                    conn.write(&out).await?;
                    todo.took(count);
                }
                Link::Datagrams(_, socket) => {
                    let Some(open) = &socket else {
                        return Err(SinkError::passing("no socket"));
                    };
                    let mut out = Vec::new();
                    encode(&mut out, &todo.left()[0]);
                    if let Err(e) = send(open, out, &pack).await {
                        if let Sent::Refused(_) = e {
                            // It is the one before of which the other side says that nobody takes it.
                            todo.step_back();
                        }
                        if !matches!(e, Sent::Never(_)) {
                            *socket = None;
                        }
                        return Err(e.into());
                    }
                    todo.took(1);
                }
            }
        }
        Ok(())
    }
}

/// Why a datagram was not sent.
enum Sent {
    /// This one will never be.
    Never(SinkError),
    /// An earlier one was answered by an error.
    Refused(SinkError),
    Failed(SinkError),
}

impl From<Sent> for SinkError {
    fn from(sent: Sent) -> SinkError {
        match sent {
            Sent::Never(e) | Sent::Refused(e) | Sent::Failed(e) => e,
        }
    }
}

async fn send(
    socket: &Datagram,
    message: Vec<u8>,
    pack: &impl Fn(Vec<u8>) -> Result<Vec<Vec<u8>>, SinkError>,
) -> Result<(), Sent> {
    if message.is_empty() {
        return Ok(());
    }
    for datagram in pack(message).map_err(Sent::Never)? {
        socket.send(&datagram).await.map_err(|e| {
            let error = SinkError::io("write", &e);
            if rustix::io::Errno::from_io_error(&e) == Some(rustix::io::Errno::MSGSIZE) {
                Sent::Never(SinkError::permanent(error.text, 1))
            } else if e.kind() == io::ErrorKind::ConnectionRefused {
                Sent::Refused(error)
            } else {
                Sent::Failed(error)
            }
        })?;
    }
    Ok(())
}
