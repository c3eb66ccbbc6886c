//! Streams: attach and exec, both ways, one client and many.

use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::{READ_BYTES, Size, in_container, read_frames, text_field};
use crate::engine::{CreateOptions, Engine};
use crate::http::Client;

/// Clients of the fan-out case.
const FAN_OUT: usize = 50;
/// Containers of the mixed case.
const MIXED: usize = 200;
/// How many MiB each of them prints, one a second.
const MIXED_MIB: usize = 3;
/// How long an exec takes to run, at most.
const EXEC_RUNS: Duration = Duration::from_millis(500);
/// Stack of a client thread: there are hundreds of them.
const STACK_BYTES: usize = 512 << 10;
/// What a container prints: lines, in a file in memory, so that the printer is quicker than any engine.
const MAKE_TEXT: &str = "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 16m >/dev/shm/t";
/// What it does before it prints: its clients are there, and what starting costs is over.
const SETTLE: &str = "sleep 0.5";
const TEXT_MIB: usize = 16;

/// Bytes, the time from the first of them to the last, and the engine's CPU time meanwhile, as the two metrics.
struct Flow {
    bytes: u64,
    took: Duration,
    cpu_us: u64,
}

impl Flow {
    fn metrics(&self) -> Vec<Vec<f64>> {
        let mib = self.bytes as f64 / f64::from(1 << 20);
        let cpu_s = self.cpu_us as f64 / 1e6;
        vec![
            vec![mib / self.took.as_secs_f64()],
            vec![cpu_s / (mib / 1024.0)],
        ]
    }
}

fn expect_bytes(got: u64, wanted: u64) -> io::Result<()> {
    if got == wanted {
        return Ok(());
    }
    Err(io::Error::other(format!("{got} bytes of {wanted} came")))
}

type Stream = io::BufReader<UnixStream>;

/// Reads a multiplexed stream to its end: the flow from its first byte on.
fn drain(engine: &Engine, stream: &mut Stream) -> io::Result<Drained> {
    stream.fill_buf()?;
    let (begin, cpu_us) = (Instant::now(), engine.cpu_us());
    let bytes = read_frames(stream)?;
    Ok(Drained {
        begin,
        cpu_us,
        bytes,
    })
}

/// What one client got, and the time and the engine's CPU time when its first byte came.
struct Drained {
    begin: Instant,
    cpu_us: u64,
    bytes: u64,
}

/// The flow to all clients, which has just ended.
fn flow_of(engine: &Engine, all: &[Drained]) -> Flow {
    let begin = all.iter().map(|d| d.begin).min();
    let cpu_us = all.iter().map(|d| d.cpu_us).min().unwrap_or(0);
    Flow {
        bytes: all.iter().map(|d| d.bytes).sum(),
        took: begin.map_or(Duration::ZERO, |begin| begin.elapsed()),
        cpu_us: engine.cpu_us() - cpu_us,
    }
}

/// One container that runs `print` with as many clients attached; what they got together.
fn printed(
    engine: &Engine,
    size: &Size,
    print: &str,
    mib: usize,
    clients: usize,
) -> io::Result<Flow> {
    let mut client = engine.client()?;
    let script = format!("{MAKE_TEXT}; {SETTLE}; {print}");
    let id = engine.create(&mut client, &["sh", "-c", &script], &size.log_driver)?;
    let query = format!("/v1.48/containers/{id}/attach?stream=1&stdout=1");
    let streams = (0..clients)
        .map(|_| engine.client()?.hijack(&query))
        .collect::<io::Result<Vec<_>>>()?;
    client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
    let (results, flow) = thread::scope(|scope| {
        let handles = streams
            .into_iter()
            .map(|mut stream| {
                thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || drain(engine, &mut stream))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let results = handles
            .into_iter()
            .map(|h| {
                h.join()
                    .map_err(|_| io::Error::other("a client thread panicked"))?
            })
            .collect::<io::Result<Vec<_>>>()?;
        let flow = flow_of(engine, &results);
        io::Result::Ok((results, flow))
    })?;
    client.expect("POST", &format!("/v1.48/containers/{id}/wait"), None)?;
    client.expect("DELETE", &format!("/v1.48/containers/{id}"), None)?;
    for got in &results {
        expect_bytes(got.bytes, (mib as u64) << 20)?;
    }
    Ok(flow)
}

/// Shell words that print at least `mib` MiB, and how many they print.
fn print_text(mib: usize) -> (String, usize) {
    let times = mib.div_ceil(TEXT_MIB);
    let words = format!("i=0; while [ $i -lt {times} ]; do cat /dev/shm/t; i=$((i+1)); done");
    (words, times * TEXT_MIB)
}

/// A container that prints as fast as it can, and one client.
pub fn attach(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let (print, mib) = print_text(size.attach_mib);
    Ok(printed(engine, size, &print, mib, 1)?.metrics())
}

/// As [`attach`], with writes of 100 bytes.
pub fn attach_lines(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let mib = size.attach_mib.div_ceil(8).min(TEXT_MIB);
    let writes = (mib << 20) / 100;
    let rest = (mib << 20) % 100;
    let print =
        format!("dd if=/dev/shm/t bs=100 count={writes} 2>/dev/null; head -c {rest} /dev/shm/t");
    Ok(printed(engine, size, &print, mib, 1)?.metrics())
}

/// A container that prints as fast as it can, and [`FAN_OUT`] clients.
pub fn fan_out(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let (print, mib) = print_text(size.attach_mib);
    Ok(printed(engine, size, &print, mib, FAN_OUT)?.metrics())
}

/// Takes input faster than any engine brings it and says how many blocks of [`COUNT_BYTES`] that were: `4096+0 records`.
const COUNT: &str = "dd bs=64k iflag=fullblock of=/dev/null 2>&1 | grep out";
const COUNT_BYTES: u64 = 64 << 10;

/// Sends `mib` MiB, ends the input and waits for the end of the answer.
fn feed(engine: &Engine, mut stream: UnixStream, mib: usize) -> io::Result<Flow> {
    let block = vec![b'x'; READ_BYTES];
    let bytes = (mib as u64) << 20;
    let (begin, cpu) = (Instant::now(), engine.cpu_us());
    for _ in 0..bytes / block.len() as u64 {
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let (took, cpu_us) = (begin.elapsed(), engine.cpu_us() - cpu);
    let said = answer.get(8..).map(String::from_utf8_lossy);
    let blocks = said.and_then(|text| text.split_once("+0 ")?.0.parse().ok());
    expect_bytes(blocks.unwrap_or(0) * COUNT_BYTES, bytes)?;
    Ok(Flow {
        bytes,
        took,
        cpu_us,
    })
}

/// A container that counts what it reads.
pub fn stdin(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let mut client = engine.client()?;
    let options = CreateOptions {
        log_driver: &size.log_driver,
        stdin: true,
    };
    let id = engine.create_with(&mut client, &["sh", "-c", COUNT], &options)?;
    let query = format!("/v1.48/containers/{id}/attach?stream=1&stdin=1&stdout=1");
    let stream = engine.client()?.hijack(&query)?.into_inner();
    client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
    let flow = feed(engine, stream, size.attach_mib)?;
    client.expect("POST", &format!("/v1.48/containers/{id}/wait"), None)?;
    client.expect("DELETE", &format!("/v1.48/containers/{id}"), None)?;
    Ok(flow.metrics())
}

fn exec_stream(
    engine: &Engine,
    client: &mut Client,
    container: &str,
    body: &str,
) -> io::Result<Stream> {
    let path = format!("/v1.48/containers/{container}/exec");
    let made = client.expect("POST", &path, Some(body))?;
    let id = text_field(&made, "Id")?;
    engine.client()?.hijack(&format!("/v1.48/exec/{id}/start"))
}

/// An exec that prints as fast as it can.
pub fn exec_out(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    in_container(engine, size, |client, id| {
        let (print, mib) = print_text(size.attach_mib);
        let body = format!(
            r#"{{"Cmd":["sh","-c","{MAKE_TEXT}; {SETTLE}; {print}"],"AttachStdout":true,"AttachStderr":true}}"#
        );
        let mut stream = exec_stream(engine, client, id, &body)?;
        let drained = drain(engine, &mut stream)?;
        let flow = flow_of(engine, &[drained]);
        expect_bytes(flow.bytes, (mib as u64) << 20)?;
        Ok(flow.metrics())
    })
}

/// An exec that counts what it reads.
pub fn exec_in(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    in_container(engine, size, |client, id| {
        let body =
            format!(r#"{{"Cmd":["sh","-c","{COUNT}"],"AttachStdin":true,"AttachStdout":true}}"#);
        let stream = exec_stream(engine, client, id, &body)?;
        // dockerd 28 loses input that comes before the exec runs.
        thread::sleep(EXEC_RUNS);
        Ok(feed(engine, stream.into_inner(), size.attach_mib)?.metrics())
    })
}

/// Many containers that print a little each, with a client each: what came a second, and the engine's CPU time for it.
pub fn mixed(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let mut client = engine.client()?;
    let script = format!(
        "yes 0123456789012345678901234567890123456789 | head -c 1m >/dev/shm/t; read x; i=0; \
         while [ $i -lt {MIXED_MIB} ]; do cat /dev/shm/t; sleep 1; i=$((i+1)); done"
    );
    let options = CreateOptions {
        log_driver: &size.log_driver,
        stdin: true,
    };
    let mut containers = Vec::new();
    for _ in 0..MIXED {
        let id = engine.create_with(&mut client, &["sh", "-c", &script], &options)?;
        let query = format!("/v1.48/containers/{id}/attach?stream=1&stdin=1&stdout=1");
        let stream = engine.client()?.hijack(&query)?;
        client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
        containers.push((id, stream));
    }
    let flow = together(engine, containers.iter_mut().map(|(_, stream)| stream))?;
    for (id, _) in &containers {
        client.expect("DELETE", &format!("/v1.48/containers/{id}?force=1"), None)?;
    }
    expect_bytes(flow.bytes, ((MIXED * MIXED_MIB) as u64) << 20)?;
    Ok(flow.metrics())
}

/// Has all containers begin at the same moment and reads them to their ends.
fn together<'a>(
    engine: &Engine,
    streams: impl ExactSizeIterator<Item = &'a mut Stream>,
) -> io::Result<Flow> {
    let barrier = Barrier::new(streams.len() + 1);
    thread::scope(|scope| {
        let barrier = &barrier;
        let handles = streams
            .map(|stream| {
                thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || {
                        barrier.wait();
                        stream.get_mut().write_all(b"\n")?;
                        read_frames(stream)
                    })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let cpu = engine.cpu_us();
        barrier.wait();
        let (begin, mut bytes) = (Instant::now(), 0);
        for handle in handles {
            bytes += handle
                .join()
                .map_err(|_| io::Error::other("a client thread panicked"))??;
        }
        let (took, cpu_us) = (begin.elapsed(), engine.cpu_us() - cpu);
        Ok(Flow {
            bytes,
            took,
            cpu_us,
        })
    })
}
