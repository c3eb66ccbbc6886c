//! The daemon is killed again and again while containers print at full rate; every line must be in the log exactly once.
//!
//! The test plays the keeper; each life of the daemon is this test program once more, running [`daemon_life`].

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use gantry_keeper_proto::shm::{JournalMap, RingMap, SpillWriter, Stream, drain_ring};
use gantry_logs::{FileLog, FileOptions, Format, LogQuery, read_at_once};
use gantry_stream::{
    ContainerIo, IoConfig, LogBufferConfig, Pump, PumpKind, Step, StreamFds, unix_time_ns,
};

const CONTAINERS: u32 = 6;
const LIVES: usize = 12;
const LINES: u32 = 150_000;

fn file_of(dir: &Path, kind: &str, slot: u32) -> PathBuf {
    dir.join(format!("{slot}.{kind}"))
}

fn open_rw(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("open")
}

/// Kills this process at a step: "Written:3" is the third time a log is written and not committed.
fn die_at(pump: &Pump, at: &str) {
    let (name, count) = at.split_once(':').expect("step and count");
    let (name, left) = (
        name.to_owned(),
        Cell::new(count.parse::<u32>().expect("count")),
    );
    pump.on_step(move |step: Step| {
        if format!("{step:?}") == name {
            left.set(left.get() - 1);
            if left.get() == 0 {
                // SAFETY: a plain system call.
                unsafe { libc::raise(libc::SIGKILL) };
            }
        }
    });
}

/// In front of a max-size: the containers do not wait for their logs.
const BUFFERED: &str = "buffered:";

/// Opens the log as `GANTRY_MAX_SIZE` says: a size, or a form of files and a size.
fn open_log(path: &Path) -> FileLog {
    let text = std::env::var("GANTRY_MAX_SIZE").expect("max-size");
    let text = text.strip_prefix(BUFFERED).unwrap_or(&text);
    let files = ("max-file", "1000");
    match text.strip_prefix("local:") {
        Some(size) => {
            let options = FileOptions::parse_local([("max-size", size), files]).expect("options");
            FileLog::open_local(path, options)
        }
        None => {
            let options = FileOptions::parse([("max-size", text), files]).expect("options");
            FileLog::open_json(path, options)
        }
    }
    .expect("log")
}

async fn serve(dir: PathBuf, keeper: String) {
    let epoch = unix_time_ns();
    let kind = match std::env::var("GANTRY_PUMP").as_deref() {
        Ok("read") => PumpKind::Reads,
        _ => PumpKind::Ring,
    };
    let pump = Pump::new(kind, epoch).expect("pump");
    let ring = pump.ring_memfd().expect("ring memfd");
    let journal = File::options()
        .read(true)
        .write(true)
        .open(&keeper)
        .expect("journal");
    pump.set_journal(journal.into()).expect("journal");
    println!("\nring={}", ring.as_raw_fd());
    // Not before the parent has the ring too: it is gone with this process.
    std::io::stdin()
        .read_line(&mut String::new())
        .expect("the parent goes on");
    if let Ok(at) = std::env::var("GANTRY_KILL_AT") {
        die_at(&pump, &at);
    }
    let runner = pump.clone();
    gantry_rt::spawn("pump", async move {
        panic!("pump ended: {:?}", runner.run().await)
    });
    let first = std::env::var_os("GANTRY_FIRST").is_some();
    let pipes = std::env::var("GANTRY_PIPES").expect("pipes");
    let buffered = std::env::var("GANTRY_MAX_SIZE").is_ok_and(|s| s.starts_with(BUFFERED));
    let mut all: Vec<Rc<ContainerIo>> = Vec::new();
    for (slot, pipe) in (0..).zip(pipes.split(',')) {
        let log = open_log(&file_of(&dir, "log", slot));
        let config = IoConfig {
            tty: false,
            sink: Some(Box::new(log)),
            long_lines: None,
            buffer: buffered.then(|| LogBufferConfig {
                path: file_of(&dir, "spill", slot),
                max_bytes: u64::MAX,
            }),
        };
        let io = if first {
            ContainerIo::new(&pump, slot, config)
        } else {
            ContainerIo::adopt(&pump, slot, config)
        };
        let io = io.expect("io");
        let spill = open_rw(&file_of(&dir, "spill", slot));
        let end = spill.metadata().expect("stat").len();
        if buffered && !first {
            io.take_spill(spill, end).expect("spill");
        } else if !first {
            io.replay(spill, end).await.expect("replay");
        }
        let pipe = File::open(pipe).expect("pipe");
        io.start(StreamFds {
            stdout: Some(pipe.into()),
            ..StreamFds::default()
        })
        .expect("start");
        all.push(io);
    }
    println!("\nserving");
    for io in &all {
        io.drained().await;
    }
    std::process::exit(0);
}

#[test]
#[ignore = "the daemon's part of daemon_killed_at_full_rate"]
fn daemon_life() {
    let Some(dir) = std::env::var_os("GANTRY_DIR") else {
        return;
    };
    let keeper = std::env::var("GANTRY_JOURNAL").expect("journal");
    let init = move |_| -> gantry_rt::LocalBoxFuture<'static, ()> {
        Box::pin(serve(dir.clone().into(), keeper.clone()))
    };
    gantry_rt::run(1, init).expect("runtime").park_forever();
}

/// Starts a daemon that rotates at `max_size` and may die at a step; returns it and its ring.
fn live(
    dir: &Path,
    journal: &JournalMap,
    pipes: &[OwnedFd],
    first: bool,
    (kind, max_size, kill_at): (PumpKind, &str, Option<&str>),
) -> (Child, RingMap) {
    let me = std::process::id();
    let path = |fd: i32| format!("/proc/{me}/fd/{fd}");
    let names: Vec<String> = pipes.iter().map(|p| path(p.as_raw_fd())).collect();
    let mut command = Command::new(std::env::current_exe().expect("exe"));
    command
        .args(["daemon_life", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
        .env("GANTRY_DIR", dir)
        .env("GANTRY_PIPES", names.join(","));
    command.env("GANTRY_JOURNAL", path(journal.fd().as_raw_fd()));
    command
        .env("GANTRY_MAX_SIZE", max_size)
        .env("GANTRY_PUMP", kind.name());
    if first {
        command.env("GANTRY_FIRST", "1");
    }
    if let Some(kill_at) = kill_at {
        command.env("GANTRY_KILL_AT", kill_at);
    }
    let mut child = command.spawn().expect("spawn");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let fd = lines
        .by_ref()
        .find_map(|l| l.expect("line").strip_prefix("ring=").map(str::to_owned))
        .expect("ring fd");
    let memfd = format!("/proc/{}/fd/{fd}", child.id());
    let memfd = File::options()
        .read(true)
        .write(true)
        .open(memfd)
        .expect("ring memfd");
    let mut goes_on = child.stdin.take().expect("stdin");
    goes_on.write_all(b"\n").expect("the daemon listens");
    // The replay may be cut short by the kill as well: do not wait for "serving".
    std::thread::spawn(move || lines.for_each(drop));
    (child, RingMap::open(memfd.into()).expect("ring"))
}

/// Kills the daemon (or waits for it to die), waits for its pidfd only, and drains what it left. Returns spilled and already committed counts.
fn kill_and_drain(
    dir: &Path,
    child: &mut Child,
    ring: RingMap,
    journal: &JournalMap,
    kills: bool,
    (buffered, ours): (bool, &[u64]),
) -> (u64, u64, Duration) {
    // SAFETY: plain system call with our own child's pid.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id() as i32, 0) } as i32;
    assert!(pidfd >= 0, "pidfd");
    // SAFETY: the fd was just returned to us alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if kills {
        child.kill().expect("kill");
    }
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    assert_eq!(unsafe { libc::poll(&mut poll, 1, 10_000) }, 1);
    let started = Instant::now();
    let mut spills: Vec<SpillWriter> = (0..CONTAINERS)
        .map(|s| SpillWriter::new(open_rw(&file_of(dir, "spill", s))).expect("spill"))
        .collect();
    for (slot, spill) in (0..).zip(&mut spills) {
        // What a daemon with buffers wrote there and did not commit is in the ring.
        let daemons = journal.load(slot).expect("journal").spill_end;
        if buffered {
            spill
                .go_on_at(daemons.max(ours[slot as usize]))
                .expect("cut");
        }
    }
    let stats = drain_ring(ring, journal, &mut |slot, stream, bytes| {
        spills[slot as usize].append(stream, bytes, unix_time_ns())
    })
    .expect("drain");
    let took = started.elapsed();
    child.wait().expect("reap");
    (stats.bytes, stats.committed, took)
}

/// The keeper reads the pipes for a while. Gives the lengths of the spills.
fn keep_reading(dir: &Path, pipes: &mut [File]) -> Vec<u64> {
    let mut ends = Vec::new();
    for (slot, pipe) in (0..).zip(pipes) {
        let mut spill = SpillWriter::new(open_rw(&file_of(dir, "spill", slot))).expect("spill");
        let mut poll = libc::pollfd {
            fd: pipe.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        if unsafe { libc::poll(&mut poll, 1, 0) } == 1 {
            let mut data = vec![0; 40_000];
            let n = pipe.read(&mut data).expect("read");
            if n > 0 {
                spill
                    .append(Stream::Stdout, &data[..n], unix_time_ns())
                    .expect("spill");
            }
        }
        ends.push(spill.end());
    }
    ends
}

fn verify(dir: &Path, slot: u32, format: Format) {
    let both = LogQuery {
        stdout: true,
        stderr: true,
        tty: true,
        ..LogQuery::default()
    };
    let path = file_of(dir, "log", slot);
    let (text, torn) = read_at_once(&path, format, &both).expect("log");
    assert_eq!(torn, 0, "container {slot}");
    let mut next = 0;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let line = std::str::from_utf8(line).expect("text");
        let number: u32 = line
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number");
        assert_eq!(number, next, "container {slot}");
        assert!(line.ends_with("end\n"));
        next += 1;
    }
    assert_eq!(next, LINES, "container {slot}");
}

/// Containers that print numbered lines as fast as their pipes take them.
fn printers() -> (Vec<OwnedFd>, Vec<std::thread::JoinHandle<()>>) {
    let (mut reads, mut writers) = (Vec::new(), Vec::new());
    for slot in 0..CONTAINERS {
        let (read, mut write) = std::io::pipe().expect("pipe");
        reads.push(OwnedFd::from(read));
        writers.push(std::thread::spawn(move || {
            let mut text = Vec::new();
            for i in 0..LINES {
                writeln!(
                    text,
                    "{i} {} end",
                    "x".repeat((i * (slot + 1) % 120) as usize)
                )
                .expect("memory");
                if text.len() > 3000 || i + 1 == LINES {
                    write.write_all(&text).expect("write");
                    text.clear();
                }
            }
        }));
    }
    (reads, writers)
}

/// Lives and deaths of the daemon, and a last life to the end. `deaths`: the step to die at, or a random moment.
/// Returns how many completions had been committed but not freed.
fn lives_and_deaths(kind: PumpKind, max_size: &str, deaths: &[Option<&str>]) -> u64 {
    let dir = tempfile::tempdir().expect("dir");
    let dir = dir.path();
    let journal = JournalMap::create().expect("journal");
    let (reads, writers) = printers();
    let mut pipes: Vec<File> = reads
        .iter()
        .map(|p| p.try_clone().expect("dup").into())
        .collect();
    let (mut spilled, mut committed, mut killed) = (0, 0, 0);
    let buffered = max_size.starts_with(BUFFERED);
    let mut ours = vec![0; CONTAINERS as usize];
    for (life, death) in (0..).zip(deaths) {
        let how = (kind, max_size, *death);
        let (mut child, ring) = live(dir, &journal, &reads, life == 0, how);
        if death.is_none() {
            std::thread::sleep(Duration::from_millis(u64::from(7 + life * 37u32 % 90)));
            if child.try_wait().expect("wait").is_some() {
                break;
            }
        }
        let (s, c, took) = kill_and_drain(
            dir,
            &mut child,
            ring,
            &journal,
            death.is_none(),
            (buffered, &ours),
        );
        eprintln!(
            "life {life}: {s} bytes drained, {c} completions committed but not freed, {took:?}"
        );
        (spilled, committed, killed) = (spilled + s, committed + c, killed + 1);
        ours = keep_reading(dir, &mut pipes);
    }
    let (mut child, _ring) = live(dir, &journal, &reads, false, (kind, max_size, None));
    writers.into_iter().for_each(|w| w.join().expect("writer"));
    assert!(child.wait().expect("wait").success());
    eprintln!(
        "killed {killed} times: {spilled} bytes drained from rings, {committed} completions deduplicated"
    );
    assert!(killed > 0);
    for slot in 0..CONTAINERS {
        let format = match max_size.contains("local:") {
            true => Format::Frames,
            false => Format::Json,
        };
        verify(dir, slot, format);
    }
    committed
}

#[test]
fn daemon_killed_at_full_rate() {
    lives_and_deaths(PumpKind::Ring, "4m", &[None; LIVES]);
}

#[test]
fn daemon_that_reads_by_itself_killed_at_full_rate() {
    lives_and_deaths(PumpKind::Reads, "4m", &[None; LIVES]);
}

#[test]
fn daemon_with_local_logs_killed_at_full_rate() {
    lives_and_deaths(PumpKind::Ring, "local:1m", &[None; LIVES]);
}

#[test]
fn daemon_with_local_logs_killed_between_the_steps() {
    let committed = lives_and_deaths(PumpKind::Ring, "local:256k", &STEPS.map(Some));
    assert!(
        committed > 0,
        "no kill hit the window between commit and free"
    );
}

#[test]
fn daemon_with_buffers_killed_at_full_rate() {
    lives_and_deaths(PumpKind::Ring, "buffered:1m", &[None; LIVES]);
}

#[test]
fn daemon_with_buffers_killed_between_the_steps() {
    let steps = [
        "Committed:1",
        "Freed:1",
        "Committed:2",
        "Freed:4",
        "Committed:9",
        "Committed:40",
        "Freed:20",
        "Committed:77",
        "Freed:90",
    ];
    lives_and_deaths(PumpKind::Ring, "buffered:local:256k", &steps.map(Some));
}

const STEPS: [&str; 12] = [
    "Written:1",
    "Committed:1",
    "Freed:1",
    "Written:4",
    "Committed:9",
    "Freed:3",
    "ReplayWritten:3",
    "Written:17",
    "ReplayWritten:40",
    "Written:55",
    "Freed:9",
    "Committed:60",
];

#[test]
fn daemon_killed_between_the_steps_of_a_batch() {
    let committed = lives_and_deaths(PumpKind::Ring, "256k", &STEPS.map(Some));
    assert!(
        committed > 0,
        "no kill hit the window between commit and free"
    );
}

#[test]
fn daemon_that_reads_by_itself_killed_between_the_steps() {
    let reads = ["Read:1", "Read:20", "Read:77", "Read:150"];
    let steps = [STEPS.as_slice(), &reads].concat();
    let steps: Vec<Option<&str>> = steps.into_iter().map(Some).collect();
    let committed = lives_and_deaths(PumpKind::Reads, "256k", &steps);
    assert!(
        committed > 0,
        "no kill hit the window between commit and free"
    );
}
