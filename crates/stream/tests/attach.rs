//! Attached clients and the reads of their container: bounded, and each for itself.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gantry_keeper_proto::shm::JournalMap;
use gantry_rt::fd::AsyncFd;
use gantry_rt::sleep;
use gantry_rt::testing::on_shard;
use gantry_stream::attach::{self, AttachEnd, AttachOptions};
use gantry_stream::{
    ContainerIo, IoConfig, Pump, PumpKind, StreamFds, SubscribeOptions, unix_time_ns,
};

/// More than a client's queue, its socket, the pipe and the ring hold together.
const PLENTY_BYTES: usize = 32 * 1024 * 1024;
/// What a stalled client may make the daemon take: its queue, one batch, its socket.
const BOUND_BYTES: usize = 8 * 1024 * 1024;
const STEP: Duration = Duration::from_millis(10);

fn pump() -> Rc<Pump> {
    let pump = Pump::new(PumpKind::Ring, unix_time_ns()).expect("pump");
    let journal = JournalMap::create().expect("journal");
    let fd = journal.fd().try_clone_to_owned().expect("dup");
    pump.set_journal(fd).expect("journal");
    let runner = pump.clone();
    gantry_rt::spawn("pump", async move {
        panic!("the pump ended: {:?}", runner.run().await)
    });
    pump
}

/// A container that prints `bytes` and ends; how much it has printed.
fn printer(pump: &Rc<Pump>, slot: u32, bytes: usize) -> (Rc<ContainerIo>, Arc<AtomicUsize>) {
    let config = IoConfig {
        tty: false,
        sink: None,
        long_lines: None,
        buffer: None,
    };
    let io = ContainerIo::new(pump, slot, config).expect("io");
    let (read, mut write) = std::io::pipe().expect("pipe");
    let printed = Arc::new(AtomicUsize::new(0));
    let count = printed.clone();
    std::thread::spawn(move || {
        let block = [b'x'; 4096];
        while count.load(Ordering::Relaxed) < bytes {
            write.write_all(&block).expect("print");
            count.fetch_add(block.len(), Ordering::Relaxed);
        }
    });
    let fds = StreamFds {
        stdout: Some(read.into()),
        ..StreamFds::default()
    };
    io.start(fds).expect("start");
    (io, printed)
}

fn attach(io: &Rc<ContainerIo>) -> (UnixStream, gantry_rt::sync::oneshot::Receiver<AttachEnd>) {
    let (ours, theirs) = UnixStream::pair().expect("pair");
    let subscription = io.subscribe(SubscribeOptions {
        stdout: true,
        stderr: false,
    });
    let options = AttachOptions {
        stdout: true,
        multiplexed: true,
        ..AttachOptions::default()
    };
    let (send, end) = gantry_rt::sync::oneshot::channel();
    let io = io.clone();
    gantry_rt::spawn("attach", async move {
        let sock = AsyncFd::new_nonblocking(OwnedFd::from(theirs)).expect("socket");
        let ended = attach::serve(subscription, sock, Bytes::new(), io, options, || ()).await;
        assert!(send.send(ended).is_ok(), "the test waits");
    });
    (ours, end)
}

/// Waits until the printer stands still, and says how far it came.
async fn stalled(printed: &AtomicUsize) -> usize {
    let (mut last, mut same) = (usize::MAX, 0);
    while same < 20 {
        sleep(STEP).await;
        let now = printed.load(Ordering::Relaxed);
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

#[test]
fn a_stalled_client_stops_its_container_only_and_loses_nothing() {
    on_shard(|| async {
        let pump = pump();
        let (slow, slow_printed) = printer(&pump, 0, PLENTY_BYTES);
        let (client, end) = attach(&slow);
        let came = stalled(&slow_printed).await;
        assert!(
            came < BOUND_BYTES,
            "{came} bytes for a client that reads nothing"
        );
        // Another container of the same pump, with a client of its own, is not held up.
        let (quick, quick_printed) = printer(&pump, 1, PLENTY_BYTES);
        let (quick_client, _quick_end) = attach(&quick);
        let reader = std::thread::spawn(move || payload(quick_client));
        quick.drained().await;
        quick.close();
        assert_eq!(quick_printed.load(Ordering::Relaxed), PLENTY_BYTES);
        assert_eq!(slow_printed.load(Ordering::Relaxed), came);
        // The slow one goes on when its client reads.
        let slow_reader = std::thread::spawn(move || payload(client));
        slow.drained().await;
        slow.close();
        assert_eq!(end.await, Ok(AttachEnd::Eof));
        assert_eq!(slow_reader.join().expect("reader"), PLENTY_BYTES);
        assert_eq!(reader.join().expect("reader"), PLENTY_BYTES);
    });
}

/// Reads frames to the end and gives the bytes in them.
fn payload(mut client: UnixStream) -> usize {
    let (mut frames, mut total) = (gantry_stream::mux::FrameReader::default(), 0);
    let mut block = vec![0; 64 * 1024];
    loop {
        let n = client.read(&mut block).expect("read");
        if n == 0 {
            assert_eq!(frames.rest(), 0, "a whole frame at the end");
            return total;
        }
        frames.push(&block[..n]);
        while let Some((stream, bytes)) = frames.next_frame().expect("frame") {
            assert_eq!(stream, 1);
            total += bytes.len();
        }
    }
}

#[test]
fn a_stalled_client_that_vanishes_frees_its_container() {
    on_shard(|| async {
        let pump = pump();
        let (io, printed) = printer(&pump, 0, PLENTY_BYTES);
        let (client, end) = attach(&io);
        assert!(stalled(&printed).await < BOUND_BYTES);
        drop(client);
        assert_eq!(end.await, Ok(AttachEnd::ClientGone));
        io.drained().await;
        assert_eq!(printed.load(Ordering::Relaxed), PLENTY_BYTES);
        io.close();
    });
}

#[test]
fn a_client_that_only_ends_its_input_gets_everything_until_the_close() {
    on_shard(|| async {
        let pump = pump();
        let (io, _) = printer(&pump, 0, 10 * 4096);
        let (client, end) = attach(&io);
        client.shutdown(Shutdown::Write).expect("shutdown");
        io.drained().await;
        sleep(STEP * 5).await;
        io.close();
        assert_eq!(end.await, Ok(AttachEnd::Eof));
        assert_eq!(payload(client), 10 * 4096);
    });
}

#[test]
fn output_that_others_hold_open_can_be_given_up() {
    on_shard(|| async {
        let pump = pump();
        let config = IoConfig {
            tty: false,
            sink: None,
            long_lines: None,
            buffer: None,
        };
        let io = ContainerIo::new(&pump, 0, config).expect("io");
        let (read, mut write) = std::io::pipe().expect("pipe");
        let fds = StreamFds {
            stdout: Some(read.into()),
            ..StreamFds::default()
        };
        io.start(fds).expect("start");
        let (client, end) = attach(&io);
        write.write_all(b"said").expect("print");
        while io.total_bytes() < 4 {
            sleep(STEP).await;
        }
        assert!(!io.is_drained());
        io.abandon().expect("abandon");
        io.drained().await;
        io.close();
        assert_eq!(end.await, Ok(AttachEnd::Eof));
        assert_eq!(payload(client), 4);
    });
}
