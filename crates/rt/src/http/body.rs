//! Request and response bodies.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::LocalBoxFuture;
use crate::sync::mpsc;

/// Chunks a streamed response may be ahead of its client.
pub const RESPONSE_CHUNKS: usize = 4;

/// Why a request body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// the client hung up or sent a malformed body
    #[error("{}", go_text(.0))]
    Read(#[source] hyper::Error),
    /// http: request body too large
    #[error("http: request body too large")]
    TooLarge,
}

/// Go's text for a body that cannot be read.
fn go_text(error: &hyper::Error) -> &'static str {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            let text = io.to_string();
            return match io.kind() {
                io::ErrorKind::UnexpectedEof => "unexpected EOF",
                _ if text.contains("overflow") => "http chunk length too large",
                _ if text.contains("chunk size") => "invalid byte in chunk length",
                _ if text.contains("over limit") => "header line too long",
                _ => "malformed chunked encoding",
            };
        }
        cause = e.source();
    }
    // hyper's own: the connection closed before the message was complete.
    "unexpected EOF"
}

impl From<BodyError> for io::Error {
    fn from(e: BodyError) -> Self {
        match e {
            BodyError::Read(_) => io::Error::new(io::ErrorKind::UnexpectedEof, e),
            BodyError::TooLarge => io::Error::new(io::ErrorKind::InvalidData, e),
        }
    }
}

/// A request body. Shared with the connection, which reads what a hijacking handler left.
pub struct Body(Option<Rc<RefCell<Incoming>>>);

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Body(None)
    }

    pub(crate) fn new(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            Body(None)
        } else {
            Body(Some(Rc::new(RefCell::new(incoming))))
        }
    }

    pub(crate) fn share(&self) -> Body {
        Body(self.0.clone())
    }

    /// Nothing (more) to read.
    pub fn is_end(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|incoming| incoming.borrow().is_end_stream())
    }

    /// Length if the client declared one.
    pub fn exact_len(&self) -> Option<u64> {
        self.0
            .as_ref()
            .map_or(Some(0), |incoming| incoming.borrow().size_hint().exact())
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As `next`, for hand-written futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(incoming) = &self.0 else {
            return Poll::Ready(None);
        };
        loop {
            let frame = match Pin::new(&mut *incoming.borrow_mut()).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(BodyError::Read(e)))),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            // Trailers mean nothing to any of our handlers.
            if let Ok(data) = frame.into_data() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    /// The whole body, at most `limit_bytes` of it.
    pub async fn collect(mut self, limit_bytes: usize) -> Result<Bytes, BodyError> {
        let Some(first) = self.next().await.transpose()? else {
            return Ok(Bytes::new());
        };
        if first.len() > limit_bytes {
            return Err(BodyError::TooLarge);
        }
        let Some(second) = self.next().await.transpose()? else {
            return Ok(first);
        };
        let mut all = BytesMut::from(&first[..]);
        let mut piece = second;
        loop {
            if all.len() + piece.len() > limit_bytes {
                return Err(BodyError::TooLarge);
            }
            all.extend_from_slice(&piece);
            match self.next().await.transpose()? {
                Some(next) => piece = next,
                None => return Ok(all.freeze()),
            }
        }
    }

    /// Feeds a blocking reader until the end, an error, or until the reader is gone.
    pub async fn feed(mut self, to: crate::bridge::BodySender) {
        loop {
            // A reader that is gone ends this at once: the connection may want to read the rest away by itself.
            let piece = match crate::race(to.closed(), self.next()).await {
                crate::Either::Left(()) => return,
                crate::Either::Right(None) => break,
                crate::Either::Right(Some(piece)) => piece,
            };
            match piece {
                Ok(piece) => {
                    if to.send(piece).await.is_err() {
                        return;
                    }
                }
                Err(e) => return to.fail(e.into()),
            }
        }
        to.finish();
    }
}

/// the client is gone
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct ClientGone;

impl From<ClientGone> for io::Error {
    fn from(e: ClientGone) -> Self {
        io::Error::new(io::ErrorKind::BrokenPipe, e)
    }
}

/// Writes a streamed response body.
#[derive(Clone)]
pub struct BodyTx(mpsc::Sender<io::Result<Bytes>>);

impl BodyTx {
    /// Sends a piece, waiting while the client is behind.
    pub async fn send(&self, piece: Bytes) -> Result<(), ClientGone> {
        if piece.is_empty() {
            return Ok(());
        }
        self.0.send(Ok(piece)).await.map_err(|_| ClientGone)
    }

    /// Breaks the response off, so that the client sees an error and not an end.
    pub async fn abort(&self, error: io::Error) {
        // Without a client there is nothing to break off.
        let _ = self.0.send(Err(error)).await;
    }

    /// Waits until the client is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

enum Kind {
    Empty,
    Full(Bytes),
    Stream {
        rx: mpsc::Receiver<io::Result<Bytes>>,
        producer: Option<LocalBoxFuture<'static, io::Result<()>>>,
    },
}

/// A response body.
pub struct ResponseBody(Kind);

impl ResponseBody {
    /// No body (`Content-Length: 0` where a length is due).
    pub fn empty() -> Self {
        ResponseBody(Kind::Empty)
    }

    /// A complete body.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        ResponseBody(if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Full(bytes)
        })
    }

    /// A body written by another task of this shard. It ends when every `BodyTx` is dropped.
    pub fn channel() -> (BodyTx, Self) {
        let (tx, rx) = mpsc::channel(RESPONSE_CHUNKS);
        (
            BodyTx(tx),
            ResponseBody(Kind::Stream { rx, producer: None }),
        )
    }

    /// A body written by a future that lives and dies with the response: dropped when the client hangs up. An error breaks
    /// the response off. The head goes out at once, before any data.
    pub fn generate<F: Future<Output = io::Result<()>> + 'static>(
        f: impl FnOnce(BodyTx) -> F,
    ) -> Self {
        let (tx, rx) = mpsc::channel(RESPONSE_CHUNKS);
        ResponseBody(Kind::Stream {
            rx,
            producer: Some(Box::pin(f(BodyTx(tx)))),
        })
    }

    /// A body written by a blocking writer on a worker.
    pub fn from_bridge(mut from: crate::bridge::BodyReceiver) -> Self {
        Self::generate(move |tx| async move {
            while let Some(piece) = from.next().await {
                tx.send(piece?).await?;
            }
            Ok(())
        })
    }

    /// A body of lines that another thread sends.
    pub fn from_lines(mut from: crate::lines::LineReceiver) -> Self {
        Self::generate(move |tx| async move {
            while let Some(line) = from.next().await {
                tx.send(line).await?;
            }
            Ok(())
        })
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.0, Kind::Stream { .. })
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        match &mut this.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Stream { rx, producer } => {
                let mut failed = None;
                if let Some(running) = producer
                    && let Poll::Ready(result) = running.as_mut().poll(cx)
                {
                    *producer = None;
                    failed = result.err();
                }
                // What was sent before the failure goes out first only if it fits in this poll; a broken response is
                // broken either way.
                if let Some(e) = failed {
                    return Poll::Ready(Some(Err(e)));
                }
                rx.poll_recv(cx)
                    .map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream { .. } => SizeHint::default(),
        }
    }
}
