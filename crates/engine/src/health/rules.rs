//! The rules of health checks, without clocks and processes: Docker's, also where they are odd.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    ContainerConfig, Health, HealthCheck, HealthStatus, MAX_HEALTH_RESULTS, ProbeResult, Status,
};

/// Interval of probes that is not given.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
/// Time limit of a probe that is not given.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval in the start period that is not given.
pub const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
/// Failures in a row that are not given.
pub const DEFAULT_RETRIES: u32 = 3;
/// Bytes of a probe's output that are kept.
pub const MAX_PROBE_OUTPUT_BYTES: usize = 4096;

/// Shell of a check in shell form when neither image nor client says.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Program and arguments of the probe; `None` if the container has no check, or one that is switched off or of an
/// unknown kind.
pub(crate) fn command(config: &ContainerConfig) -> Option<Vec<String>> {
    let (kind, words) = config.health.as_ref()?.test.split_first()?;
    let shell = match kind.as_str() {
        "CMD" => Vec::new(),
        "CMD-SHELL" if config.shell.is_empty() => DEFAULT_SHELL.map(str::to_owned).to_vec(),
        "CMD-SHELL" => config.shell.clone(),
        _ => return None,
    };
    Some([shell.as_slice(), words].concat())
}

/// Fills what the client left open from the image, field by field.
pub(crate) fn merge(own: &mut Option<HealthCheck>, image: Option<&HealthCheck>) {
    let Some(image) = image else { return };
    let Some(own) = own else {
        *own = Some(image.clone());
        return;
    };
    if own.test.is_empty() {
        own.test.clone_from(&image.test);
    }
    for (span, default) in [
        (&mut own.interval_ns, image.interval_ns),
        (&mut own.timeout_ns, image.timeout_ns),
        (&mut own.start_period_ns, image.start_period_ns),
        (&mut own.start_interval_ns, image.start_interval_ns),
        (&mut own.retries, image.retries),
    ] {
        if *span == 0 {
            *span = default;
        }
    }
}

fn span(given_ns: i64, default: Duration) -> Duration {
    match u64::try_from(given_ns) {
        Ok(0) | Err(_) => default,
        Ok(ns) => Duration::from_nanos(ns),
    }
}

/// How long a probe may run.
pub(crate) fn timeout(check: &HealthCheck) -> Duration {
    span(check.timeout_ns, DEFAULT_TIMEOUT)
}

fn in_start_period(check: &HealthCheck, since_start: Duration) -> bool {
    since_start < span(check.start_period_ns, Duration::ZERO)
}

/// How long after now the next probe begins. In the start period the interval of that time counts even if it is the
/// longer one.
pub(crate) fn next_delay(
    check: &HealthCheck,
    status: HealthStatus,
    since_start: Duration,
) -> Duration {
    if status == HealthStatus::Starting && in_start_period(check, since_start) {
        span(check.start_interval_ns, DEFAULT_START_INTERVAL)
    } else {
        span(check.interval_ns, DEFAULT_INTERVAL)
    }
}

/// The health after a probe that began `since_start` after the container's start.
pub(crate) fn after_probe(
    mut health: Health,
    check: &HealthCheck,
    result: ProbeResult,
    since_start: Duration,
) -> Health {
    let succeeded = result.exit_code == 0;
    let surplus = (health.log.len() + 1).saturating_sub(MAX_HEALTH_RESULTS);
    health.log.drain(..surplus);
    health.log.push(Arc::new(result));
    if succeeded {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
        return health;
    }
    if health.status == HealthStatus::Starting && in_start_period(check, since_start) {
        return health;
    }
    let retries = u32::try_from(check.retries).unwrap_or(0);
    let retries = if retries == 0 {
        DEFAULT_RETRIES
    } else {
        retries
    };
    health.failing_streak = health.failing_streak.saturating_add(1);
    if health.failing_streak >= retries {
        health.status = HealthStatus::Unhealthy;
    }
    health
}

/// The health of a container with a check after it went from one state to another: a start begins anew, and what is
/// not probed counts as unhealthy. The results stay.
pub(crate) fn after_transition(before: Option<Health>, from: Status, to: Status) -> Option<Health> {
    match to {
        Status::Running if from != Status::Paused => Some(begun(before)),
        Status::Running => before,
        _ => before.map(|health| Health {
            status: HealthStatus::Unhealthy,
            ..health
        }),
    }
}

/// The health of a container that is probed from now on.
pub(crate) fn begun(before: Option<Health>) -> Health {
    Health {
        status: HealthStatus::Starting,
        failing_streak: 0,
        ..before.unwrap_or_default()
    }
}

/// The begin of a probe's output.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    cut: bool,
}

impl Output {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(MAX_PROBE_OUTPUT_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.cut |= kept < bytes.len();
    }

    /// As text; every byte that is none becomes a replacement character, as in Go's JSON.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes.len() + 3);
        for chunk in self.bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(std::iter::repeat_n(
                char::REPLACEMENT_CHARACTER,
                chunk.invalid().len(),
            ));
        }
        if self.cut {
            text.push_str("...");
        }
        text
    }
}

/// What Docker says of a probe that took too long.
pub(crate) fn timed_out(limit: Duration, output: &str) -> String {
    let limit = go_duration(limit);
    match output {
        "" => format!("Health check exceeded timeout ({limit})"),
        output => format!("Health check exceeded timeout ({limit}): {output}"),
    }
}

/// A span as Go writes it: `1m30s`, `1.5s`, `700ms`.
fn go_duration(span: Duration) -> String {
    const MINUTE_NS: u128 = 60_000_000_000;
    // A number that is given in parts of which `unit` has `10^digits`.
    let decimal = |parts: u128, digits: u32, unit: &str| {
        let scale = 10u128.pow(digits);
        let tail = format!("{:0width$}", parts % scale, width = digits as usize);
        match tail.trim_end_matches('0') {
            "" => format!("{}{unit}", parts / scale),
            tail => format!("{}.{tail}{unit}", parts / scale),
        }
    };
    match span.as_nanos() {
        0 => "0s".to_owned(),
        ns @ 1..1_000 => format!("{ns}ns"),
        ns @ 1_000..1_000_000 => decimal(ns, 3, "µs"),
        ns @ 1_000_000..1_000_000_000 => decimal(ns, 6, "ms"),
        ns => {
            let seconds = decimal(ns % MINUTE_NS, 9, "s");
            match (ns / MINUTE_NS / 60, ns / MINUTE_NS % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
