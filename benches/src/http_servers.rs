//! The two servers under test. Both bind the path they are given and run until they are killed.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use gantry_rt::http::{Outcome, Request, Response, ResponseBody, Service};
use gantry_rt::net::ListenerHandle;

const ANSWER: &[u8] = b"OK";

fn bind(path: Option<&String>) -> io::Result<UnixListener> {
    UnixListener::bind(
        path.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a socket path is missing")
        })?,
    )
}

struct Ping;

impl Service for Ping {
    async fn call(self: Rc<Self>, _req: Request) -> Outcome {
        Response::new(ResponseBody::full(ANSWER)).into()
    }
}

pub fn on_shard(path: Option<&String>) -> io::Result<()> {
    let listener = ListenerHandle::unix(bind(path)?)?;
    let handle = gantry_rt::run(1, move |_| {
        let opened = listener.open();
        Box::pin(async move {
            match opened {
                Ok(listener) => gantry_rt::http::serve(listener, Rc::new(Ping)).await,
                Err(e) => eprintln!("open of the listener: {e}"),
            }
        })
    })?;
    handle.park_forever()
}

struct Full(Option<Bytes>);

impl http_body::Body for Full {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(
            self.get_mut()
                .0
                .take()
                .map(|bytes| Ok(http_body::Frame::data(bytes))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

pub fn on_tokio(path: Option<&String>) -> io::Result<()> {
    let listener = bind(path)?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async move {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let service = hyper::service::service_fn(
                    |_req: hyper::Request<hyper::body::Incoming>| async {
                        Ok::<_, Infallible>(hyper::Response::new(Full(Some(Bytes::from_static(
                            ANSWER,
                        )))))
                    },
                );
                let served = hyper::server::conn::http1::Builder::new()
                    .title_case_headers(true)
                    .header_read_timeout(None)
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await;
                if let Err(e) = served {
                    eprintln!("connection: {e}");
                }
            });
        }
    })
}
