//! Output that nothing logs is moved to the clients, whole and in order, by both kinds of pump.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use gantry_keeper_proto::shm::JournalMap;
use gantry_rt::fd::AsyncFd;
use gantry_rt::sleep;
use gantry_rt::testing::on_shard;
use gantry_stream::attach::{self, AttachOptions};
use gantry_stream::mux::FrameReader;
use gantry_stream::{
    ContainerIo, IoConfig, Pump, PumpKind, StreamFds, SubscribeOptions, unix_time_ns,
};

const WORDS: u64 = 4 << 20;
const STEP: Duration = Duration::from_millis(5);

fn pump(kind: PumpKind) -> Rc<Pump> {
    let pump = Pump::new(kind, unix_time_ns()).expect("pump");
    let journal = JournalMap::create().expect("journal");
    let fd = journal.fd().try_clone_to_owned().expect("dup");
    pump.set_journal(fd).expect("journal");
    let runner = pump.clone();
    gantry_rt::spawn("pump", async move {
        panic!("the pump ended: {:?}", runner.run().await)
    });
    pump
}

fn io(pump: &Rc<Pump>) -> Rc<ContainerIo> {
    let config = IoConfig {
        tty: false,
        sink: None,
        long_lines: None,
        buffer: None,
    };
    ContainerIo::new(pump, 0, config).expect("io")
}

/// Prints the numbers `0..WORDS` in writes of `write_bytes`; every byte of the output says where it belongs.
fn print(io: &Rc<ContainerIo>, write_bytes: usize) -> JoinHandle<()> {
    let (read, mut write) = std::io::pipe().expect("pipe");
    let stdout = Some(OwnedFd::from(read));
    let fds = StreamFds {
        stdout,
        ..StreamFds::default()
    };
    io.start(fds).expect("start");
    std::thread::spawn(move || {
        let mut block = Vec::new();
        for word in 0..WORDS {
            block.extend_from_slice(&word.to_ne_bytes());
            if block.len() >= write_bytes || word == WORDS - 1 {
                write.write_all(&block).expect("print");
                block.clear();
            }
        }
    })
}

/// A client that checks what it gets: the number of words, which begin with `first` if that is said.
fn client(io: &Rc<ContainerIo>, multiplexed: bool, first: Option<u64>) -> JoinHandle<u64> {
    let (mut ours, theirs) = UnixStream::pair().expect("pair");
    let subscription = io.subscribe(SubscribeOptions {
        stdout: true,
        stderr: false,
    });
    let options = AttachOptions {
        stdout: true,
        multiplexed,
        ..AttachOptions::default()
    };
    let io = io.clone();
    gantry_rt::spawn("attach", async move {
        let sock = AsyncFd::new_nonblocking(OwnedFd::from(theirs)).expect("socket");
        attach::serve(subscription, sock, Bytes::new(), io, options, || ()).await;
    });
    std::thread::spawn(move || {
        let (mut frames, mut words) = (FrameReader::default(), Vec::new());
        let (mut next, mut count) = (first, 0);
        let mut block = vec![0; 256 * 1024];
        loop {
            let n = ours.read(&mut block).expect("read");
            if n == 0 {
                assert_eq!((frames.rest(), words.len()), (0, 0), "whole words");
                return count;
            }
            if multiplexed {
                frames.push(&block[..n]);
                while let Some((stream, bytes)) = frames.next_frame().expect("frame") {
                    assert_eq!(stream, 1);
                    words.extend_from_slice(&bytes);
                }
            } else {
                words.extend_from_slice(&block[..n]);
            }
            let whole = words.len() / 8 * 8;
            for word in words[..whole].as_chunks::<8>().0 {
                let word = u64::from_ne_bytes(*word);
                assert_eq!(word, *next.get_or_insert(word));
                next = Some(word + 1);
                count += 1;
            }
            words.drain(..whole);
        }
    })
}

async fn joined<T>(thread: JoinHandle<T>) -> T {
    while !thread.is_finished() {
        sleep(STEP).await;
    }
    thread.join().expect("a thread that checks")
}

fn whole_and_moved(kind: PumpKind, clients: usize, write_bytes: usize) -> u64 {
    let (send, receive) = std::sync::mpsc::channel();
    on_shard(move || async move {
        let pump = pump(kind);
        let io = io(&pump);
        let clients: Vec<_> = (0..clients)
            .map(|n| client(&io, n % 2 == 0, Some(0)))
            .collect();
        // A client takes part when it is connected.
        sleep(STEP).await;
        let printer = print(&io, write_bytes);
        io.drained().await;
        io.close();
        for client in clients {
            assert_eq!(joined(client).await, WORDS);
        }
        joined(printer).await;
        let stats = pump.stats();
        assert_eq!(stats.bytes + stats.moved_bytes, WORDS * 8);
        assert_eq!(io.total_bytes(), WORDS * 8);
        send.send(stats.moved_bytes).expect("the test waits");
    });
    receive.recv().expect("moved bytes")
}

#[test]
fn one_client() {
    for kind in [PumpKind::Ring, PumpKind::Reads] {
        assert!(whole_and_moved(kind, 1, 256 * 1024) > WORDS, "{kind:?}");
    }
}

#[test]
fn many_clients_share_the_pages() {
    for kind in [PumpKind::Ring, PumpKind::Reads] {
        assert!(whole_and_moved(kind, 9, 256 * 1024) > WORDS, "{kind:?}");
    }
}

#[test]
fn writes_that_fill_no_page_are_whole_too() {
    // Whether they are bulk depends on who is quicker.
    whole_and_moved(PumpKind::Ring, 2, 104);
}

#[test]
fn clients_come_and_go_in_bulk() {
    on_shard(|| async {
        let pump = pump(PumpKind::Ring);
        let io = io(&pump);
        let first = client(&io, true, Some(0));
        sleep(STEP).await;
        let printer = print(&io, 64 * 1024);
        let mut others = Vec::new();
        while !io.is_drained() {
            // From a write's beginning on: every frame begins with a whole word here.
            others.push(client(&io, true, None));
            let (ours, theirs) = UnixStream::pair().expect("pair");
            let wanted = SubscribeOptions {
                stdout: true,
                stderr: true,
            };
            let gone = io.subscribe(wanted);
            gone.connect(
                AsyncFd::new_nonblocking(theirs.into())
                    .expect("socket")
                    .into(),
                true,
            );
            sleep(STEP).await;
            drop((ours, gone));
        }
        io.close();
        assert_eq!(joined(first).await, WORDS);
        for other in others {
            assert!(joined(other).await <= WORDS);
        }
        joined(printer).await;
    });
}
