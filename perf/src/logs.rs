//! Logs: how fast they are written, and read back.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::cases::{Size, ms};
use crate::engine::Engine;
use crate::http::{Client, json_string};

/// How long a container gets to make what it prints.
const PREPARE: Duration = Duration::from_secs(2);
/// The container makes a file once and prints it so often.
const TIMES: u64 = 8;
/// Calls for the last lines.
const TAILS: usize = 20;

/// Rate of 100-byte lines and of 1 KiB lines, and the engine's CPU for them.
pub fn ingest(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let mut found = Vec::new();
    for line in [100, 1024] {
        let mut client = engine.client()?;
        let log = Log::make(engine, &mut client, size, line)?;
        client.expect("DELETE", &format!("/v1.48/containers/{}", log.id), None)?;
        found.push(vec![log.bytes as f64 / MIB / log.took.as_secs_f64()]);
        found.push(vec![cpu_per_gib(log.cpu_us, log.bytes)]);
    }
    Ok(found)
}

/// Rate of reading a whole log of 100-byte lines, the engine's CPU for it, and the time for its last ten lines.
pub fn read(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let mut client = engine.client()?;
    let log = Log::make(engine, &mut client, size, 100)?;
    let path = format!("/v1.48/containers/{}/logs?stdout=1&stderr=1", log.id);
    let (cpu_us, begin) = (engine.cpu_us(), Instant::now());
    let body = client.expect("GET", &path, None)?;
    let (took, cpu_us) = (begin.elapsed(), engine.cpu_us() - cpu_us);
    // A header of 8 bytes for each line of 100.
    let wanted = log.bytes + log.bytes / 100 * 8;
    if body.len() as u64 != wanted {
        return Err(io::Error::other(format!(
            "the log has {} bytes, not {wanted}",
            body.len()
        )));
    }
    drop(body);
    let mut tails = Vec::new();
    for _ in 0..TAILS {
        let begin = Instant::now();
        let body = client.expect("GET", &format!("{path}&tail=10"), None)?;
        tails.push(ms(begin.elapsed()));
        if body.len() != 1080 {
            return Err(io::Error::other("not ten lines"));
        }
    }
    client.expect("DELETE", &format!("/v1.48/containers/{}", log.id), None)?;
    Ok(vec![
        vec![log.bytes as f64 / MIB / took.as_secs_f64()],
        vec![cpu_per_gib(cpu_us, log.bytes)],
        tails,
    ])
}

const MIB: f64 = 1_048_576.0;

fn cpu_per_gib(cpu_us: u64, bytes: u64) -> f64 {
    cpu_us as f64 / 1e6 / (bytes as f64 / MIB / 1024.0)
}

/// An ended container that has printed.
struct Log {
    id: String,
    bytes: u64,
    took: Duration,
    cpu_us: u64,
}

impl Log {
    /// Lets a container print lines of `line` bytes. It makes them before, and begins when it is told.
    fn make(engine: &Engine, client: &mut Client, size: &Size, line: u64) -> io::Result<Log> {
        let lines = ((size.attach_mib as u64) << 20).div_ceil(line * TIMES);
        let text = "x".repeat(line as usize - 1);
        let script = format!(
            "yes {text} | head -n {lines} > /file; read begin; for i in $(seq {TIMES}); do cat /file; done"
        );
        let body = format!(
            r#"{{"Image":"busybox","OpenStdin":true,"StdinOnce":true,"AttachStdin":true,"Cmd":["sh","-c","{script}"],"HostConfig":{{"NetworkMode":"none","LogConfig":{{"Type":"{}","Config":{}}}}}}}"#,
            size.log_driver,
            unrotated(&size.log_driver),
        );
        let answer = client.expect("POST", "/v1.48/containers/create", Some(&body))?;
        let id = json_string(&answer, "Id").ok_or_else(|| io::Error::other("no id"))?;
        let attach = format!("/v1.48/containers/{id}/attach?stream=1&stdin=1");
        let mut stdin = engine.client()?.hijack(&attach)?;
        client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
        thread::sleep(PREPARE);
        let (cpu_us, begin) = (engine.cpu_us(), Instant::now());
        stdin.get_mut().write_all(b"\n")?;
        client.expect("POST", &format!("/v1.48/containers/{id}/wait"), None)?;
        Ok(Log {
            id,
            bytes: lines * TIMES * line,
            took: begin.elapsed(),
            cpu_us: engine.cpu_us() - cpu_us,
        })
    }
}

/// Options with which a driver keeps everything in one file.
fn unrotated(driver: &str) -> &'static str {
    match driver {
        "local" => r#"{"max-size":"100g"}"#,
        _ => "{}",
    }
}
