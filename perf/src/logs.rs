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
/// Calls for what is younger than a time; an engine may read the whole log for each.
const SINCES: usize = 2;

/// Rate of 100-byte lines and of 1 KiB lines, and the engine's CPU for them.
pub fn ingest(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let mut found = Vec::new();
    for line in [100, 1024] {
        let mut client = engine.client()?;
        let log = Log::make(engine, &mut client, size, &size.log_driver, line)?;
        client.expect("DELETE", &format!("/v1.48/containers/{}", log.id), None)?;
        found.push(vec![log.bytes as f64 / MIB / log.took.as_secs_f64()]);
        found.push(vec![cpu_per_gib(log.cpu_us, log.bytes)]);
    }
    Ok(found)
}

/// Rate of reading a whole log of 100-byte lines, the engine's CPU for it, and the time for its last ten lines and for those
/// since the last one's time.
pub fn read(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    read_driver(engine, size, &size.log_driver)
}

/// As [`read`], with driver `local`.
pub fn read_local(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    read_driver(engine, size, "local")
}

fn read_driver(engine: &Engine, size: &Size, driver: &str) -> io::Result<Vec<Vec<f64>>> {
    let mut client = engine.client()?;
    let log = Log::make(engine, &mut client, size, driver, 100)?;
    let path = format!("/v1.48/containers/{}/logs?stdout=1&stderr=1", log.id);
    let (cpu_us, begin) = (engine.cpu_us(), Instant::now());
    let bytes = client.count(&path)?;
    let (took, cpu_us) = (begin.elapsed(), engine.cpu_us() - cpu_us);
    // A header of 8 bytes for each line of 100.
    let wanted = log.bytes + log.bytes / 100 * 8;
    if bytes != wanted {
        return Err(io::Error::other(format!(
            "the log has {bytes} bytes, not {wanted}"
        )));
    }
    let last = client.expect("GET", &format!("{path}&tail=1&timestamps=1"), None)?;
    let last = last.get(8..).unwrap_or_default();
    let time = String::from_utf8_lossy(last.split(|b| *b == b' ').next().unwrap_or_default());
    let since = format!("{path}&since={}", unix_time(&time)?);
    let (mut tails, mut sinces) = (Vec::new(), Vec::new());
    for _ in 0..TAILS {
        tails.push(timed(&mut client, &format!("{path}&tail=10"), 10)?);
    }
    for _ in 0..SINCES {
        sinces.push(timed(&mut client, &since, 1)?);
    }
    client.expect("DELETE", &format!("/v1.48/containers/{}", log.id), None)?;
    Ok(vec![
        vec![log.bytes as f64 / MIB / took.as_secs_f64()],
        vec![cpu_per_gib(cpu_us, log.bytes)],
        tails,
        sinces,
    ])
}

/// Milliseconds for a few lines.
fn timed(client: &mut Client, path: &str, lines: usize) -> io::Result<f64> {
    let begin = Instant::now();
    let body = client.expect("GET", path, None)?;
    let took = ms(begin.elapsed());
    if body.len() != lines * 108 {
        return Err(io::Error::other(format!("{path}: not {lines} lines")));
    }
    Ok(took)
}

/// `2006-01-02T15:04:05.999999999Z` as `since` takes it.
fn unix_time(text: &str) -> io::Result<String> {
    let bad = || io::Error::other(format!("not a time: {text}"));
    let (seconds, fraction) = text.trim_end_matches('Z').split_once('.').ok_or_else(bad)?;
    let parts: Vec<i64> = seconds
        .split(['-', 'T', ':'])
        .filter_map(|n| n.parse().ok())
        .collect();
    let [year, month, day, hour, minute, second] = parts[..] else {
        return Err(bad());
    };
    // Years begin in March here, so that a leap day is their last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    let unix = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Ok(format!("{unix}.{fraction}"))
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
    fn make(
        engine: &Engine,
        client: &mut Client,
        size: &Size,
        driver: &str,
        line: u64,
    ) -> io::Result<Log> {
        let lines = ((size.attach_mib as u64) << 20).div_ceil(line * TIMES);
        let text = "x".repeat(line as usize - 1);
        let script = format!(
            "yes {text} | head -n {lines} > /file; read begin; for i in $(seq {TIMES}); do cat /file; done"
        );
        let body = format!(
            r#"{{"Image":"busybox","OpenStdin":true,"StdinOnce":true,"AttachStdin":true,"Cmd":["sh","-c","{script}"],"HostConfig":{{"NetworkMode":"none","LogConfig":{{"Type":"{}","Config":{}}}}}}}"#,
            driver,
            unrotated(driver),
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

#[cfg(test)]
mod tests {
    #[test]
    fn times() {
        let unix = |text| super::unix_time(text).unwrap();
        assert_eq!(unix("1970-01-01T00:00:00.5Z"), "0.5");
        assert_eq!(
            unix("2024-02-29T23:59:59.000000001Z"),
            "1709251199.000000001"
        );
        assert_eq!(unix("2026-03-01T00:00:00.1Z"), "1772323200.1");
        assert!(super::unix_time("x").is_err());
    }
}
