//! A closed-loop load generator: one thread, one request in flight per connection.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

const CONNECTIONS: usize = 32;
const REQUEST: &[u8] = b"GET /v1.51/_ping HTTP/1.1\r\nHost: docker\r\nUser-Agent: bench\r\n\r\n";
const START_LIMIT: Duration = Duration::from_secs(5);

struct Sample {
    requests: u64,
    elapsed: Duration,
    server_cpu: Duration,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(e) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("end of the server: {e}");
        }
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

fn start(side: &str, path: &Path) -> io::Result<Server> {
    // The child inherits the affinity of the moment it is started.
    pin(0)?;
    let child = Command::new(std::env::current_exe()?)
        .arg(side)
        .arg(path)
        .spawn()?;
    pin(1)?;
    Ok(Server(child))
}

/// User and system time of a process, in clock ticks of 10 ms.
fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let started = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(e) if started.elapsed() > START_LIMIT => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn round_trip(streams: &mut [UnixStream], until: Instant) -> io::Result<u64> {
    for stream in streams.iter_mut() {
        stream.write_all(REQUEST)?;
    }
    let mut requests = 0;
    let mut buf = [0; 4096];
    while Instant::now() < until {
        let ready: Vec<bool> = {
            let mut fds: Vec<PollFd<'_>> = streams
                .iter()
                .map(|s| PollFd::new(s, PollFlags::IN))
                .collect();
            rustix::event::poll(&mut fds, None)?;
            fds.iter().map(|fd| !fd.revents().is_empty()).collect()
        };
        for (stream, _) in streams.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            // The answer is far below a socket buffer and written at once: one read takes it whole.
            let n = stream.read(&mut buf)?;
            if !buf[..n].ends_with(b"\r\n\r\nOK") {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    String::from_utf8_lossy(&buf[..n]).into_owned(),
                ));
            }
            requests += 1;
            stream.write_all(REQUEST)?;
        }
    }
    for stream in streams.iter_mut() {
        // The last request's answer, so that the next phase starts clean.
        let _ = stream.read(&mut buf)?;
    }
    Ok(requests)
}

fn measure(side: &str, seconds: u32) -> io::Result<Sample> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("sock");
    let server = start(side, &path)?;
    let mut streams = (0..CONNECTIONS)
        .map(|_| connect(&path))
        .collect::<io::Result<Vec<_>>>()?;
    round_trip(&mut streams, Instant::now() + Duration::from_millis(300))?;
    let (started, cpu_before) = (Instant::now(), cpu_time(server.0.id())?);
    let requests = round_trip(&mut streams, started + Duration::from_secs(seconds.into()))?;
    Ok(Sample {
        requests,
        elapsed: started.elapsed(),
        server_cpu: cpu_time(server.0.id())? - cpu_before,
    })
}

/// Both sides in turns; prints every sample and the medians.
pub fn compare(seconds: u32, rounds: u32) -> io::Result<()> {
    let sides = ["serve-shard", "serve-tokio"];
    let mut rates = [Vec::new(), Vec::new()];
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (index, side) in sides.iter().enumerate() {
            let sample = measure(side, seconds)?;
            let rate = sample.requests as f64 / sample.elapsed.as_secs_f64();
            let cost = sample.server_cpu.as_secs_f64() * 1e6 / sample.requests.max(1) as f64;
            println!("{side:12} {rate:9.0} req/s  {cost:6.2} us server CPU per request");
            rates[index].push(rate);
            costs[index].push(cost);
        }
    }
    for (index, side) in sides.iter().enumerate() {
        println!(
            "median {side:12} {:9.0} req/s  {:6.2} us",
            median(&mut rates[index]),
            median(&mut costs[index])
        );
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
