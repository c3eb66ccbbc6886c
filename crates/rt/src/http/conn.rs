//! One connection: parked without buffers while idle, hyper's codec while requests come.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use rustix::event::{PollFd, PollFlags};

use super::io::{Io, Phase, Shared};
use super::{
    Body, Hijack, MAX_HEAD_BYTES, OnUpgrade, Outcome, Response, ResponseBody, Service, Timeouts,
    Upgrade, refuse,
};
use crate::fd::AsyncFd;
use crate::{Either, race, shard, sleep, timeout};

/// After the last answer: how long the client may take to read the answer before the socket closes under it.
const LINGER: Duration = Duration::from_millis(500);

/// Most of a request body that is read away after its response (Go's maxPostHandlerReadBytes).
const DISCARD_BYTES: u64 = 256 << 10;

/// How long the rest of a body may take to come before its response goes out without it.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// Most of an unread request body that a hijack reads away.
const HIJACK_DRAIN_BYTES: usize = 1 << 20;

/// How the codec part of a connection ended.
enum End {
    Idle(Bytes),
    Hijacked(OnUpgrade, Bytes),
    /// The last answer is sent; the client may still be sending.
    Answered,
    Closed,
}

/// Serves one connected socket (O_NONBLOCK not needed) until it is closed or hijacked.
pub async fn serve_connection<S: Service>(
    fd: OwnedFd,
    service: Rc<S>,
    timeouts: &Timeouts,
) -> io::Result<()> {
    let fd = Rc::new(AsyncFd::new(fd)?);
    let mut prefix = Bytes::new();
    loop {
        if prefix.is_empty() {
            match timeout(timeouts.idle, fd.readable()).await {
                Ok(ready) => ready?,
                Err(_idle_too_long) => return Ok(()),
            }
        }
        match serve_active(&fd, &service, prefix, timeouts).await? {
            End::Idle(rest) => prefix = rest,
            End::Closed => return Ok(()),
            End::Answered => return linger(&fd).await,
            End::Hijacked(on_upgrade, over_read) => {
                // Every wait on the socket has ended with the codec, so this handle is the last.
                let fd = Rc::try_unwrap(fd)
                    .map_err(|_| io::Error::other("hijacked socket is still in use"))?;
                on_upgrade(fd.into_inner()?, over_read);
                return Ok(());
            }
        }
    }
}

async fn linger(fd: &AsyncFd) -> io::Result<()> {
    let drain = async {
        let mut sink = [0u8; 4096];
        while fd.recv(&mut sink).await? > 0 {}
        Ok(())
    };
    timeout(LINGER, drain).await.unwrap_or(Ok(()))
}

fn builder() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .title_case_headers(true)
        // The number of header lines is left at hyper's default, MAX_HEADERS: naming it, even the same, makes hyper put
        // its header table on the heap for each request.
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        // Deadlines are ours (no Send timer, one timer per connection).
        .header_read_timeout(None);
    builder
}

async fn serve_active<S: Service>(
    fd: &Rc<AsyncFd>,
    service: &Rc<S>,
    prefix: Bytes,
    timeouts: &Timeouts,
) -> io::Result<End> {
    let shared = Shared::new();
    let hijack: Rc<RefCell<Option<OnUpgrade>>> = Rc::default();
    if !prefix.is_empty() {
        shared.enter(Phase::Head);
    }
    let wrapper = Wrapper {
        service: service.clone(),
        shared: shared.clone(),
        hijack: hijack.clone(),
    };
    let mut conn = builder().serve_connection(Io::new(fd.clone(), shared.clone(), prefix), wrapper);
    let mut age = Age::default();
    let failed = loop {
        let drive = std::future::poll_fn(|cx| Pin::new(&mut conn).poll(cx));
        match race(drive, sleep(timeouts.tick)).await {
            Either::Left(ended) => break ended.err(),
            Either::Right(()) => age.tick(&shared),
        }
        if shared.phase() == Phase::Idle && age.phase_ticks > 1 {
            return Ok(End::Idle(conn.into_parts().read_buf));
        }
        if is_overdue(fd, &shared, &age, timeouts) {
            return Ok(End::Closed);
        }
    };
    let parts = conn.into_parts();
    let on_upgrade = hijack.borrow_mut().take();
    match (failed, on_upgrade) {
        (None, Some(on_upgrade)) => {
            drop(parts.io.finish().await?);
            Ok(End::Hijacked(on_upgrade, parts.read_buf))
        }
        (_, None) if shared.errored() => {
            drop(parts.io.finish().await?);
            Ok(End::Answered)
        }
        (Some(e), _) => Err(io::Error::other(e)),
        // What the client still sends must not make the kernel throw away the response it has not read.
        (None, None) => Ok(End::Answered),
    }
}

/// How many ticks nothing has changed.
#[derive(Default)]
struct Age {
    changes: u64,
    phase_ticks: u32,
    writes: u64,
    write_ticks: u32,
}

impl Age {
    fn tick(&mut self, shared: &Shared) {
        self.phase_ticks = if self.changes == shared.changes() {
            self.phase_ticks + 1
        } else {
            1
        };
        self.changes = shared.changes();
        let stands = shared.is_write_blocked() && self.writes == shared.writes();
        self.write_ticks = if stands { self.write_ticks + 1 } else { 0 };
        self.writes = shared.writes();
    }
}

/// A deadline has passed, or the client is gone while nobody reads from it.
fn is_overdue(fd: &AsyncFd, shared: &Shared, age: &Age, timeouts: &Timeouts) -> bool {
    if shared.phase() == Phase::Head {
        return timeouts.tick * age.phase_ticks > timeouts.head;
    }
    if timeouts.tick * age.write_ticks > timeouts.write_stall && !shared.streaming.get() {
        return true;
    }
    !shared.read_armed() && is_hung_up(fd)
}

fn is_hung_up(fd: &AsyncFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    match rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())) {
        Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        Err(e) => {
            tracing::debug!(error = %e, "poll of a connection failed");
            false
        }
    }
}

/// hyper's view of our service.
struct Wrapper<S> {
    service: Rc<S>,
    shared: Rc<Shared>,
    hijack: Rc<RefCell<Option<OnUpgrade>>>,
}

impl<S: Service> hyper::service::Service<hyper::Request<Incoming>> for Wrapper<S> {
    type Response = hyper::Response<Tracked>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>>>>;

    fn call(&self, req: hyper::Request<Incoming>) -> Self::Future {
        self.shared.enter(Phase::InFlight);
        self.shared.streaming.set(false);
        shard::counters().requests.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight::new();
        let (shared, hijack) = (self.shared.clone(), self.hijack.clone());
        if let Some(refusal) = refuse::check(&req) {
            return Box::pin(async move {
                earlier_is_out(&shared).await;
                shared.refuse(refusal);
                let mut response = Response::new(ResponseBody::empty());
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                Ok(track(response, &shared, Some(in_flight)))
            });
        }
        let req = req.map(Body::new);
        let body = req.body().share();
        let awaits_continue = req.headers().contains_key(header::EXPECT);
        let answer = self.service.clone().call(req);
        Box::pin(async move {
            match answer.await {
                Outcome::Response(mut response) => {
                    shared.streaming.set(response.body().is_stream());
                    // A stream may be the report on a body that is still being read.
                    if !response.body().is_stream()
                        && (awaits_continue && !body.is_end() || !discard_rest(body).await)
                    {
                        let close = HeaderValue::from_static("close");
                        response.headers_mut().insert(header::CONNECTION, close);
                    }
                    let in_flight = Some(in_flight).filter(|_| !shared.streaming.get());
                    Ok(track(response, &shared, in_flight))
                }
                Outcome::Hijack(taken) => {
                    drain(body).await?;
                    earlier_is_out(&shared).await;
                    shared.replace_head(hijack_head(&taken));
                    *hijack.borrow_mut() = Some(taken.on_upgrade);
                    let mut response = Response::new(ResponseBody::empty());
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                    Ok(track(response, &shared, None))
                }
            }
        })
    }
}

/// Waits until an earlier, pipelined response is sent: what hyper still has to write would be replaced with the head.
async fn earlier_is_out(shared: &Shared) {
    while shared.is_write_blocked() {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Reads away what the service left of a request's body, so that the next request can follow. `false` if that is more
/// than [`DISCARD_BYTES`], comes too slowly, or is malformed: then the connection ends with the response.
async fn discard_rest(mut body: Body) -> bool {
    if body.is_end() {
        return true;
    }
    if body.exact_len().is_some_and(|rest| rest > DISCARD_BYTES) {
        return false;
    }
    let discard = async {
        let mut total_bytes = 0;
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => total_bytes += piece.len() as u64,
                Err(_) => return false,
            }
            if total_bytes > DISCARD_BYTES {
                return false;
            }
        }
        true
    };
    timeout(DISCARD_TIMEOUT, discard).await.unwrap_or(false)
}

/// Reads what a hijacking handler left of its request's body, so that it is not taken for stream data.
async fn drain(mut body: Body) -> io::Result<()> {
    let mut total_bytes = 0;
    while let Some(piece) = body.next().await {
        total_bytes += piece?.len();
        if total_bytes > HIJACK_DRAIN_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "request body of a hijack is too large",
            ));
        }
    }
    Ok(())
}

fn hijack_head(hijack: &Hijack) -> Vec<u8> {
    let mut head = Vec::with_capacity(256);
    match hijack.upgrade {
        Some(Upgrade { reason, protocol }) => {
            head.extend_from_slice(format!("HTTP/1.1 101 {reason}\r\n").as_bytes());
            put_header(&mut head, b"Connection", b"Upgrade");
            put_header(&mut head, b"Upgrade", protocol.as_bytes());
        }
        None => head.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
    }
    for (name, value) in &hijack.headers {
        put_header(
            &mut head,
            title_case(name.as_str()).as_bytes(),
            value.as_bytes(),
        );
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn put_header(head: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// `content-type` to `Content-Type`, as Go writes names and hyper does for us elsewhere; `WebSocket` as RFC 6455 has it.
fn title_case(name: &str) -> String {
    let mut start = true;
    let name: String = name
        .chars()
        .map(|c| {
            let cased = if start { c.to_ascii_uppercase() } else { c };
            start = c == '-';
            cased
        })
        .collect();
    name.replace("Websocket", "WebSocket")
}

fn track(
    response: Response,
    shared: &Rc<Shared>,
    in_flight: Option<InFlight>,
) -> hyper::Response<Tracked> {
    response.map(|body| Tracked {
        body,
        shared: shared.clone(),
        _in_flight: in_flight,
    })
}

/// Counts a request of this shard until its answer is handed over.
struct InFlight(());

impl InFlight {
    fn new() -> Self {
        let counter = &shard::counters().requests_in_flight;
        counter.fetch_add(1, Ordering::Relaxed);
        InFlight(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let counter = &shard::counters().requests_in_flight;
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body that notes its end.
struct Tracked {
    body: ResponseBody,
    shared: Rc<Shared>,
    _in_flight: Option<InFlight>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.shared.enter(Phase::Flushing);
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
