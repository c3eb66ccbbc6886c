//! What is measured. Every case gives samples of one number for one engine.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

pub mod images;
mod streams;

use crate::burst::burst;
use crate::engine::Engine;
use crate::http::Client;
use crate::logs;

/// Clients of the parallel cases.
pub const CLIENTS: usize = 8;
/// How long one sample of the ping case lasts.
const PING_SAMPLE: Duration = Duration::from_millis(700);
/// How long idle containers settle before memory is read.
const SETTLE: Duration = Duration::from_millis(1500);

/// Most bytes a client takes at once.
const READ_BYTES: usize = 256 << 10;

/// How much work a sample is.
#[derive(Clone, Debug)]
pub struct Size {
    /// Lives per sequential sample.
    pub lives: usize,
    /// Lives per client in a parallel sample.
    pub lives_per_client: usize,
    /// Idle containers for the memory case.
    pub idle: usize,
    /// Containers started at once in the burst case.
    pub burst: usize,
    /// MiB through attach and exec.
    pub attach_mib: usize,
    /// Where `perf/images.py` put what the image cases work on.
    pub images: Option<PathBuf>,
    /// Log driver of the containers.
    pub log_driver: String,
}

/// Is a greater number better?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    /// Times, memory.
    Less,
    /// Rates.
    More,
}

/// One line of the table: what, in which unit, the promised ratio.
pub struct Case {
    /// Name for `--cases`.
    pub name: &'static str,
    /// One round only, however many are asked for.
    pub once: bool,
    /// Names and units of the numbers that `run` gives, in order.
    pub metrics: &'static [(&'static str, &'static str, Better)],
    /// Take samples: one list per metric.
    pub run: fn(&Engine, &Size) -> io::Result<Vec<Vec<f64>>>,
}

/// All cases, in the order in which they run.
pub const CASES: &[Case] = &[
    Case {
        name: "memory",
        // First and once: an engine that has worked has room that it reuses, which would hide what a container takes.
        once: true,
        metrics: &[
            ("engine memory per idle container", "KiB", Better::Less),
            ("engine memory without containers", "KiB", Better::Less),
            ("engine processes per idle container", "", Better::Less),
            ("engine threads per idle container", "", Better::Less),
        ],
        run: memory,
    },
    Case {
        name: "ping",
        once: false,
        metrics: &[("_ping, 8 connections", "req/s", Better::More)],
        run: ping,
    },
    Case {
        name: "lifecycle",
        once: false,
        metrics: &[
            ("create+start+wait+remove `true`", "ms", Better::Less),
            ("of it: start call", "ms", Better::Less),
            ("engine CPU per life", "ms", Better::Less),
        ],
        run: lifecycle,
    },
    Case {
        name: "clients",
        once: false,
        metrics: &[("lives, 8 clients", "1/s", Better::More)],
        run: parallel,
    },
    Case {
        name: "exec",
        once: false,
        metrics: &[
            (
                "exec `true`: create+start+output+inspect",
                "ms",
                Better::Less,
            ),
            ("engine CPU per exec", "ms", Better::Less),
        ],
        run: exec,
    },
    Case {
        name: "exec-clients",
        once: false,
        metrics: &[("execs, 8 clients", "1/s", Better::More)],
        run: exec_parallel,
    },
    Case {
        name: "attach",
        once: false,
        metrics: &[
            ("attach stdout", "MiB/s", Better::More),
            ("attach stdout: engine CPU", "s/GiB", Better::Less),
        ],
        run: streams::attach,
    },
    Case {
        name: "attach-lines",
        once: false,
        metrics: &[
            ("attach stdout, writes of 100 bytes", "MiB/s", Better::More),
            (
                "attach stdout, writes of 100 bytes: engine CPU",
                "s/GiB",
                Better::Less,
            ),
        ],
        run: streams::attach_lines,
    },
    Case {
        name: "stdin",
        once: false,
        metrics: &[
            ("attach stdin", "MiB/s", Better::More),
            ("attach stdin: engine CPU", "s/GiB", Better::Less),
        ],
        run: streams::stdin,
    },
    Case {
        name: "exec-out",
        once: false,
        metrics: &[
            ("exec stdout", "MiB/s", Better::More),
            ("exec stdout: engine CPU", "s/GiB", Better::Less),
        ],
        run: streams::exec_out,
    },
    Case {
        name: "exec-in",
        once: false,
        metrics: &[
            ("exec stdin", "MiB/s", Better::More),
            ("exec stdin: engine CPU", "s/GiB", Better::Less),
        ],
        run: streams::exec_in,
    },
    Case {
        name: "fanout",
        once: false,
        metrics: &[
            ("attach stdout, 50 clients together", "MiB/s", Better::More),
            (
                "attach stdout, 50 clients: engine CPU per GiB sent",
                "s/GiB",
                Better::Less,
            ),
        ],
        run: streams::fan_out,
    },
    Case {
        name: "mixed",
        once: true,
        metrics: &[
            (
                "200 containers print 1 MiB each second, a client each",
                "MiB/s",
                Better::More,
            ),
            (
                "200 containers print 1 MiB each second: engine CPU",
                "s/GiB",
                Better::Less,
            ),
        ],
        run: streams::mixed,
    },
    Case {
        name: "ingest",
        once: false,
        metrics: &[
            ("log ingest, lines of 100 bytes", "MiB/s", Better::More),
            ("of it: engine CPU", "s/GiB", Better::Less),
            ("log ingest, lines of 1 KiB", "MiB/s", Better::More),
            ("of it: engine CPU", "s/GiB", Better::Less),
        ],
        run: logs::ingest,
    },
    Case {
        name: "logs-read",
        once: false,
        metrics: &[
            ("log read, lines of 100 bytes", "MiB/s", Better::More),
            ("of it: engine CPU", "s/GiB", Better::Less),
            ("logs with tail=10", "ms", Better::Less),
            ("logs since the last line", "ms", Better::Less),
        ],
        run: logs::read,
    },
    Case {
        name: "logs-read-local",
        once: false,
        metrics: &[
            (
                "log read, driver local, lines of 100 bytes",
                "MiB/s",
                Better::More,
            ),
            ("of it: engine CPU", "s/GiB", Better::Less),
            ("driver local: logs with tail=10", "ms", Better::Less),
            ("driver local: logs since the last line", "ms", Better::Less),
        ],
        run: logs::read_local,
    },
    Case {
        name: "burst",
        // Last: engines go on cleaning up after it for a while.
        once: true,
        metrics: &[
            ("starts all at once: median", "ms", Better::Less),
            ("starts all at once: 99th percentile", "ms", Better::Less),
        ],
        run: burst,
    },
];

/// One whole life of `true`; the time of the start call.
fn life(engine: &Engine, client: &mut Client, size: &Size) -> io::Result<Duration> {
    let id = engine.create(client, &["true"], &size.log_driver)?;
    let begin = Instant::now();
    client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
    let start = begin.elapsed();
    client.expect("POST", &format!("/v1.48/containers/{id}/wait"), None)?;
    client.expect("DELETE", &format!("/v1.48/containers/{id}"), None)?;
    Ok(start)
}

fn lifecycle(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let mut client = engine.client()?;
    let (mut lives, mut starts) = (Vec::new(), Vec::new());
    let cpu = engine.cpu_us();
    for _ in 0..size.lives {
        let begin = Instant::now();
        starts.push(ms(life(engine, &mut client, size)?));
        lives.push(ms(begin.elapsed()));
    }
    let cpu_ms = (engine.cpu_us() - cpu) as f64 / 1000.0 / size.lives.max(1) as f64;
    Ok(vec![lives, starts, vec![cpu_ms]])
}

/// Run `work` on [`CLIENTS`] threads that begin together; the whole time and the sum of what they did.
fn together<F>(engine: &Engine, work: F) -> io::Result<(Duration, usize)>
where
    F: Fn(&mut Client) -> io::Result<usize> + Sync,
{
    let mut clients = (0..CLIENTS)
        .map(|_| engine.client())
        .collect::<io::Result<Vec<_>>>()?;
    let barrier = Barrier::new(CLIENTS + 1);
    thread::scope(|scope| {
        let (barrier, work) = (&barrier, &work);
        let handles: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(move || {
                    barrier.wait();
                    work(client)
                })
            })
            .collect();
        barrier.wait();
        let begin = Instant::now();
        let mut done = 0;
        for handle in handles {
            done += handle
                .join()
                .map_err(|_| io::Error::other("a client thread panicked"))??;
        }
        Ok((begin.elapsed(), done))
    })
}

fn parallel(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let (took, done) = together(engine, |client| {
        for _ in 0..size.lives_per_client {
            life(engine, client, size)?;
        }
        Ok(size.lives_per_client)
    })?;
    Ok(vec![vec![done as f64 / took.as_secs_f64()]])
}

fn ping(engine: &Engine, _size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let (took, done) = together(engine, |client| {
        let begin = Instant::now();
        let mut count = 0;
        while begin.elapsed() < PING_SAMPLE {
            client.expect("GET", "/_ping", None)?;
            count += 1;
        }
        Ok(count)
    })?;
    Ok(vec![vec![done as f64 / took.as_secs_f64()]])
}

/// What `docker exec` does: make it, start it attached, read to the end, ask for the exit code.
fn exec_once(engine: &Engine, client: &mut Client, container: &str) -> io::Result<()> {
    let body = r#"{"Cmd":["true"],"AttachStdout":true,"AttachStderr":true}"#;
    let made = client.expect(
        "POST",
        &format!("/v1.48/containers/{container}/exec"),
        Some(body),
    )?;
    let id = text_field(&made, "Id")?;
    let mut stream = engine
        .client()?
        .hijack(&format!("/v1.48/exec/{id}/start"))?;
    read_frames(&mut stream)?;
    let state = client.expect("GET", &format!("/v1.48/exec/{id}/json"), None)?;
    if !String::from_utf8_lossy(&state).contains("\"ExitCode\":0,") {
        return Err(io::Error::other(format!(
            "an exec without exit code 0: {}",
            String::from_utf8_lossy(&state)
        )));
    }
    Ok(())
}

/// The value of a string field of a flat JSON answer.
fn text_field(json: &[u8], name: &str) -> io::Result<String> {
    let text = String::from_utf8_lossy(json);
    let value = text.split(&format!("\"{name}\":\"")).nth(1);
    value
        .and_then(|rest| Some(rest.split_once('"')?.0.to_owned()))
        .ok_or_else(|| io::Error::other(format!("no {name} in {text}")))
}

/// Runs `work` while one idle container runs.
fn in_container<T>(
    engine: &Engine,
    size: &Size,
    work: impl FnOnce(&mut Client, &str) -> io::Result<T>,
) -> io::Result<T> {
    let mut client = engine.client()?;
    let id = engine.create(&mut client, &["sleep", "3600"], &size.log_driver)?;
    client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
    let done = work(&mut client, &id);
    client.expect("DELETE", &format!("/v1.48/containers/{id}?force=1"), None)?;
    done
}

fn exec(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    in_container(engine, size, |client, id| {
        exec_once(engine, client, id)?;
        let (mut times, cpu) = (Vec::new(), engine.cpu_us());
        for _ in 0..size.lives {
            let begin = Instant::now();
            exec_once(engine, client, id)?;
            times.push(ms(begin.elapsed()));
        }
        let cpu_ms = (engine.cpu_us() - cpu) as f64 / 1000.0 / size.lives.max(1) as f64;
        Ok(vec![times, vec![cpu_ms]])
    })
}

fn exec_parallel(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let (took, done) = in_container(engine, size, |_, id| {
        together(engine, |client| {
            for _ in 0..size.lives_per_client {
                exec_once(engine, client, id)?;
            }
            Ok(size.lives_per_client)
        })
    })?;
    Ok(vec![vec![done as f64 / took.as_secs_f64()]])
}

/// Read multiplexed frames to the end; the bytes of their payloads.
fn read_frames(stream: &mut impl Read) -> io::Result<u64> {
    let (mut total, mut head) = (0, [0u8; 8]);
    let mut block = vec![0; READ_BYTES];
    loop {
        match stream.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(total),
            other => other?,
        }
        let length = u64::from(u32::from_be_bytes([head[4], head[5], head[6], head[7]]));
        let mut left = length;
        while left > 0 {
            let wanted = left.min(block.len() as u64) as usize;
            match stream.read(&mut block[..wanted])? {
                0 => return Err(io::Error::other("a frame is cut off")),
                n => left -= n as u64,
            }
        }
        total += length;
    }
}

fn memory(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let mut client = engine.client()?;
    life(engine, &mut client, size)?;
    thread::sleep(SETTLE);
    let (memory, (processes, threads)) = (engine.memory_bytes(), engine.process_counts());
    let mut ids = Vec::new();
    for _ in 0..size.idle {
        let id = engine.create(&mut client, &["sleep", "3600"], &size.log_driver)?;
        client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
        ids.push(id);
    }
    thread::sleep(SETTLE);
    let count = size.idle.max(1) as f64;
    let (more_memory, (more_processes, more_threads)) =
        (engine.memory_bytes(), engine.process_counts());
    for id in ids {
        client.expect("DELETE", &format!("/v1.48/containers/{id}?force=1"), None)?;
    }
    Ok(vec![
        vec![(more_memory as f64 - memory as f64) / 1024.0 / count],
        vec![memory as f64 / 1024.0],
        vec![(more_processes as f64 - processes as f64) / count],
        vec![(more_threads as f64 - threads as f64) / count],
    ])
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_or_missed() {
        assert_eq!(text_field(b"{\"Id\":\"ab\"}\n", "Id").unwrap(), "ab");
        assert!(text_field(b"{\"message\":\"no\"}", "Id").is_err());
    }

    #[test]
    fn frames_are_counted_and_a_cut_one_is_an_error() {
        let mut whole: &[u8] = b"\x01\0\0\0\0\0\0\x02ab\x01\0\0\0\0\0\0\x01c";
        assert_eq!(read_frames(&mut whole).unwrap(), 3);
        let mut cut: &[u8] = b"\x01\0\0\0\0\0\0\x09ab";
        assert!(read_frames(&mut cut).is_err());
    }
}
