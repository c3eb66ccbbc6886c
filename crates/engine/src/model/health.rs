//! Health checks: what is asked for, and what was found.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};

/// Results of probes that are kept of a container.
pub const MAX_HEALTH_RESULTS: usize = 5;

/// A health check as an image and a client ask for it. A span or number that is 0 means the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `["CMD", ..]`, `["CMD-SHELL", ..]`, `["NONE"]`; empty means none, or the image's.
    pub test: Vec<String>,
    /// From the end of a probe to the begin of the next.
    pub interval_ns: i64,
    /// How long a probe may run.
    pub timeout_ns: i64,
    /// How long after the start of the container failures do not count, until a first success.
    pub start_period_ns: i64,
    /// The interval in that time.
    pub start_interval_ns: i64,
    /// Failures in a row that make a container unhealthy.
    pub retries: i64,
}

/// How a container is by its probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Not known yet.
    #[default]
    Starting,
    /// The last probe that counted succeeded.
    Healthy,
    /// Too many failed in a row, or it is not probed any more.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What one probe found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Its begin, nanoseconds since 1970.
    pub start_unix_ns: i64,
    /// Its end, nanoseconds since 1970.
    pub end_unix_ns: i64,
    /// Exit code; -1 if it could not be run or took too long.
    pub exit_code: i32,
    /// The begin of its output, or what went wrong.
    pub output: String,
}

/// What the probes of a container found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The sum of it.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last results, oldest first; at most [`MAX_HEALTH_RESULTS`].
    pub log: Vec<Arc<ProbeResult>>,
}

/// A container's health as its shard last found it, for readers on every shard. It changes without a new view of the
/// container, so that a probe costs the same however many containers there are.
#[derive(Debug, Clone, Default)]
pub struct HealthCell(Arc<ArcSwapOption<Health>>);

impl HealthCell {
    pub(crate) fn new(health: Option<Health>) -> Self {
        let cell = Self::default();
        cell.store(health);
        cell
    }

    /// Now; `None` before the first start.
    pub fn load(&self) -> Option<Arc<Health>> {
        self.0.load_full()
    }

    pub(crate) fn store(&self, health: Option<Health>) {
        self.0.store(health.map(Arc::new));
    }
}
