//! HTTP on a shard, seen from a plain client.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_rt::fd::AsyncFd;
use gantry_rt::http::{
    Hijack, MAX_HEADERS, Outcome, Request, Response, ResponseBody, Service, Timeouts, Upgrade,
};
use gantry_rt::testing::on_shard;

static DROPPED: AtomicUsize = AtomicUsize::new(0);

struct CountDrop;
impl Drop for CountDrop {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

struct Echo {
    calls: Cell<usize>,
}

impl Service for Echo {
    async fn call(self: Rc<Self>, mut req: Request) -> Outcome {
        self.calls.set(self.calls.get() + 1);
        match req.uri().path() {
            "/hang" => {
                let _counted = CountDrop;
                std::future::pending().await
            }
            "/stream-hang" => {
                let body = ResponseBody::generate(|_tx| async {
                    let _counted = CountDrop;
                    std::future::pending().await
                });
                Response::new(body).into()
            }
            "/stream" => {
                let body = ResponseBody::generate(|tx| async move {
                    for n in 0..3 {
                        tx.send(Bytes::from(format!("{n};"))).await?;
                        gantry_rt::sleep(Duration::from_millis(5)).await;
                    }
                    Ok(())
                });
                Response::new(body).into()
            }
            "/unread" => Response::new(ResponseBody::full("no thanks")).into(),
            "/hijack" => hijack(&req),
            "/first" => {
                // Answers before the body is complete.
                let first = req.body_mut().next().await.unwrap().unwrap();
                Response::new(ResponseBody::full(first)).into()
            }
            _ => match std::mem::replace(req.body_mut(), gantry_rt::http::Body::empty())
                .collect(1 << 20)
                .await
            {
                Ok(body) => Response::new(ResponseBody::full(
                    [req.uri().path().as_bytes(), b" ", &body].concat(),
                ))
                .into(),
                Err(e) => panic!("{e}"),
            },
        }
    }
}

fn hijack(req: &Request) -> Outcome {
    let mut headers = http::HeaderMap::new();
    headers.insert(
        "content-type",
        "application/vnd.docker.raw-stream".parse().unwrap(),
    );
    Outcome::Hijack(Hijack {
        upgrade: Some(Upgrade::TCP).filter(|_| req.headers().contains_key("upgrade")),
        headers,
        on_upgrade: Box::new(|fd, over_read| {
            gantry_rt::spawn("echo", async move {
                let fd = AsyncFd::new(fd).unwrap();
                fd.send_all(&over_read).await.unwrap();
                let mut buf = [0; 1024];
                loop {
                    match fd.recv(&mut buf).await.unwrap() {
                        0 => return,
                        n => fd.send_all(&buf[..n]).await.unwrap(),
                    }
                }
            });
        }),
    })
}

fn connect() -> UnixStream {
    connect_with(Timeouts::DEFAULT)
}

fn connect_with(timeouts: Timeouts) -> UnixStream {
    let (client, server) = UnixStream::pair().unwrap();
    on_shard(move || async move {
        gantry_rt::spawn("conn", async move {
            // Clients of these tests hang up on purpose.
            let _ = gantry_rt::http::serve_connection(
                server.into(),
                Rc::new(Echo {
                    calls: Cell::new(0),
                }),
                &timeouts,
            )
            .await;
        });
    });
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    client
}

fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(end.as_bytes()) {
        match stream.read(&mut byte) {
            Ok(1) => all.push(byte[0]),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&all)),
        }
    }
    String::from_utf8(all).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: docker\r\n\r\n")
}

fn wait_dropped(before: usize) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while DROPPED.load(Ordering::SeqCst) == before {
        assert!(Instant::now() < deadline, "the handler was not dropped");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn keep_alive_and_parking() {
    let mut client = connect();
    for n in 0..5 {
        client.write_all(get(&format!("/n{n}")).as_bytes()).unwrap();
        let answer = read_until(&mut client, &format!("/n{n} "));
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"),
            "{answer}"
        );
        if n == 3 {
            // Longer than the time after which an idle connection gives its buffers back.
            std::thread::sleep(Duration::from_millis(2300));
        }
    }
}

#[test]
fn a_head_may_come_in_pieces_before_and_after_parking() {
    let mut client = connect();
    for piece in ["GET /sl", "ow HTTP/1.1\r\nHo", "st: x\r\n\r\nGET /n"] {
        client.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(1200));
    }
    read_until(&mut client, "/slow ");
    std::thread::sleep(Duration::from_millis(2300));
    client
        .write_all(b"ext HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    read_until(&mut client, "/next ");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut client = connect();
    let all: String = (0..50).map(|n| get(&format!("/p{n}."))).collect();
    client.write_all(all.as_bytes()).unwrap();
    for n in 0..50 {
        read_until(&mut client, &format!("/p{n}. "));
    }
}

#[test]
fn a_body_is_read_and_100_continue_is_sent() {
    let mut client = connect();
    client
        .write_all(
            b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        )
        .unwrap();
    assert_eq!(
        read_until(&mut client, "\r\n\r\n"),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.write_all(b"hello").unwrap();
    read_until(&mut client, "/b hello");
    client
        .write_all(b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        .unwrap();
    read_until(&mut client, "/c abcde");
    client
        .write_all(
            b"POST /first HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        )
        .unwrap();
    read_until(&mut client, "\r\n\r\nabc");
}

#[test]
fn a_stream_is_chunked_and_its_head_comes_first() {
    let mut client = connect();
    client.write_all(get("/stream").as_bytes()).unwrap();
    let head = read_until(&mut client, "\r\n\r\n");
    assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
    assert_eq!(
        read_until(&mut client, "0\r\n\r\n"),
        "2\r\n0;\r\n2\r\n1;\r\n2\r\n2;\r\n0\r\n\r\n"
    );
}

#[test]
fn a_hang_up_drops_the_handler_and_the_stream() {
    let before = DROPPED.load(Ordering::SeqCst);
    let mut client = connect();
    client.write_all(get("/hang").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(client);
    wait_dropped(before);

    let before = DROPPED.load(Ordering::SeqCst);
    let mut client = connect();
    client.write_all(get("/stream-hang").as_bytes()).unwrap();
    // The head is there although no data will ever come.
    read_until(&mut client, "\r\n\r\n");
    drop(client);
    wait_dropped(before);
}

#[test]
fn a_hang_up_is_seen_behind_pipelined_bytes() {
    let before = DROPPED.load(Ordering::SeqCst);
    let mut client = connect();
    client
        .write_all((get("/hang") + "GET /never").as_bytes())
        .unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(client);
    let deadline = Instant::now() + Duration::from_secs(3);
    while DROPPED.load(Ordering::SeqCst) == before {
        assert!(Instant::now() < deadline, "the handler was not dropped");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn hijack_with_upgrade() {
    let mut client = connect();
    client
        .write_all(b"POST /hijack HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}over")
        .unwrap();
    assert_eq!(
        read_until(&mut client, "\r\n\r\n"),
        "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Type: application/vnd.docker.raw-stream\r\n\r\n"
    );
    read_until(&mut client, "over");
    client.write_all(b"more").unwrap();
    read_until(&mut client, "more");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn hijack_without_upgrade_on_a_kept_alive_connection() {
    let mut client = connect();
    client.write_all(get("/before").as_bytes()).unwrap();
    read_until(&mut client, "/before ");
    client
        .write_all(b"POST /hijack HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_eq!(
        read_until(&mut client, "\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
    );
    client.write_all(b"raw").unwrap();
    read_until(&mut client, "raw");
}

fn refused(input: &[u8]) -> String {
    let mut client = connect();
    // The server may stop reading before all of it is sent.
    let _ = client.write_all(input);
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    answer
}

#[test]
fn refusals_are_those_of_go() {
    let text = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n";
    assert_eq!(
        refused(b"nonsense\r\n\r\n"),
        format!("HTTP/1.1 400 Bad Request{text}400 Bad Request")
    );
    let huge = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "y".repeat(2 << 20)
    );
    assert_eq!(
        refused(huge.as_bytes()),
        format!(
            "HTTP/1.1 431 Request Header Fields Too Large{text}431 Request Header Fields Too Large"
        )
    );
    let lines = |count: usize| {
        format!(
            "GET /n HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\n",
            "A: b\r\n".repeat(count - 2)
        )
    };
    assert!(refused(lines(MAX_HEADERS).as_bytes()).ends_with("/n "));
    assert!(refused(lines(MAX_HEADERS + 1).as_bytes()).starts_with("HTTP/1.1 431 "));
    let no_host = refused(b"GET / HTTP/1.1\r\n\r\n");
    assert!(
        no_host.ends_with("\r\n\r\n400 Bad Request: missing required Host header"),
        "{no_host}"
    );
    let large = format!(
        "GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {}\r\n\r\n",
        "y".repeat(900_000)
    );
    assert!(refused(large.as_bytes()).ends_with("/ok "));
}

#[test]
fn refusals_above_the_parser_are_those_of_go() {
    for (input, status, body) in [
        (
            "GET / HTTP/1.1\r\nHost: /a\r\n\r\n",
            "400 Bad Request: malformed Host header",
            "400 Bad Request: malformed Host header",
        ),
        (
            "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
            "400 Bad Request",
            "400 Bad Request",
        ),
        (
            "GET x HTTP/1.1\r\nHost: x\r\n\r\n",
            "400 Bad Request",
            "400 Bad Request",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "501 Not Implemented",
            "Unsupported transfer encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nExpect: x\r\nContent-Length: 3\r\n\r\nabc",
            "417 Expectation Failed",
            "",
        ),
    ] {
        let answer = refused(input.as_bytes());
        let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            head.lines().next(),
            Some(&*format!("HTTP/1.1 {status}")),
            "{input}"
        );
        assert!(head.contains("\r\nConnection: close"), "{head}");
        assert_eq!(rest, body, "{input}");
    }
    // Behind a request that is answered.
    let answer = refused(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK")
            && answer.contains("/a HTTP/1.1 400 Bad Request: missing"),
        "{answer}"
    );
    assert!(answer.ends_with("missing required Host header"), "{answer}");
}

#[test]
fn what_is_left_of_a_body_is_discarded_within_a_limit() {
    let post = |bytes: usize| {
        let body = "x".repeat(bytes);
        format!("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n{body}")
    };
    let mut client = connect();
    client.write_all(post(200_000).as_bytes()).unwrap();
    client.write_all(get("/next").as_bytes()).unwrap();
    read_until(&mut client, "/next ");
    // Far more than a socket holds: the client is still sending when the answer comes.
    let answer = refused(post(3_000_000).as_bytes());
    assert!(
        answer.contains("Connection: close") && answer.ends_with("no thanks"),
        "{answer}"
    );
    // The client waits to be asked for the body, and is not.
    let answer = refused(
        b"POST /unread HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains("Connection: close"),
        "{answer}"
    );
}

/// How long the server lets this client stand: until end of file.
fn closed_after(timeouts: Timeouts, input: &[u8]) -> Duration {
    let mut client = connect_with(timeouts);
    client.write_all(input).unwrap();
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    start.elapsed()
}

#[test]
fn clients_that_stand_still_are_closed() {
    let short = Duration::from_millis(200);
    let long = Duration::from_secs(100);
    let tick = Duration::from_millis(20);
    let at = |head, idle, write_stall| Timeouts {
        head,
        idle,
        write_stall,
        tick,
    };
    let soon = Duration::from_millis(150)..Duration::from_secs(4);
    for (timeouts, input) in [
        (at(short, long, long), &b"GET / HT"[..]),
        (
            at(short, long, long),
            b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET",
        ),
        (at(long, short, long), b""),
        (at(long, short, long), b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let took = closed_after(timeouts, input);
        assert!(soon.contains(&took), "{took:?} {input:?}");
    }
    // A body that stands still is the service's to judge.
    let mut client = connect_with(at(short, short, short));
    client
        .write_all(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
        .unwrap();
    std::thread::sleep(short * 3);
    client.write_all(b"y").unwrap();
    read_until(&mut client, "/a xy");
}

#[test]
fn a_client_that_reads_nothing_is_closed() {
    let (long, tick) = (Duration::from_secs(100), Duration::from_millis(20));
    let write_stall = Duration::from_millis(200);
    let mut client = connect_with(Timeouts {
        head: long,
        idle: long,
        write_stall,
        tick,
    });
    let body = "x".repeat(1 << 20);
    client
        .write_all(
            format!(
                "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
        .unwrap();
    std::thread::sleep(write_stall * 5);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert!(
        !answer.is_empty() && answer.len() < body.len(),
        "{}",
        answer.len()
    );
}

#[test]
fn fds_do_not_leak() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let round = || {
        for n in 0..100 {
            let mut client = connect();
            match n % 3 {
                0 => client.write_all(get("/hang").as_bytes()).unwrap(),
                1 => {
                    client
                        .write_all(b"POST /hijack HTTP/1.1\r\nHost: x\r\n\r\n")
                        .unwrap();
                    read_until(&mut client, "\r\n\r\n");
                }
                _ => {
                    client.write_all(get("/x").as_bytes()).unwrap();
                    read_until(&mut client, "/x ");
                }
            }
        }
        std::thread::sleep(Duration::from_millis(300));
    };
    round();
    let before = open();
    round();
    assert!(open() <= before, "{} fds before, {} after", before, open());
}

#[test]
fn a_listener_serves_on_every_shard_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let handle = gantry_rt::net::ListenerHandle::unix(
        std::os::unix::net::UnixListener::bind(&path).unwrap(),
    )
    .unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    on_shard(|| async {});
    for shard in 0..gantry_rt::shard_count() {
        let (handle, ended) = (handle.clone(), ended.clone());
        gantry_rt::block_on_shard(gantry_rt::ShardId(shard), move || async move {
            let listener = handle.open().unwrap();
            gantry_rt::spawn("serve", async move {
                gantry_rt::http::serve(
                    listener,
                    Rc::new(Echo {
                        calls: Cell::new(0),
                    }),
                )
                .await;
                ended.fetch_add(1, Ordering::SeqCst);
            });
        })
        .unwrap();
    }
    for _ in 0..20 {
        let mut client = UnixStream::connect(&path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        client.write_all(get("/l").as_bytes()).unwrap();
        read_until(&mut client, "/l ");
    }
    handle.stop().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ended.load(Ordering::SeqCst), gantry_rt::shard_count());
}
