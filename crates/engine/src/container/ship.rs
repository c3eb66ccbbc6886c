//! Sending a container's output to the service that its log driver names.
//!
//! A container has at most one sender of its log: of its run, or of what an earlier run left. The next start ends it, and
//! goes on where it was.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use gantry_logs::{LogDriver, Remote};
use gantry_logship::{Refused, Sender, Shipper, When};

use super::{Container, logs};
use crate::EngineError;

/// How long the rest of a removed container's output is tried to be sent.
pub const REMOVED_DRAIN: Duration = Duration::from_secs(60);

/// Docker's words in front of what its drivers say at a start.
const FAILED: &str = "failed to create task for container: failed to initialize logging driver: ";
/// Docker's exit code of a start that misses a file.
const NO_FILE: i32 = 127;

fn remote(container: &Container) -> Option<Remote> {
    match LogDriver::named(&container.fixed.host.log.driver) {
        Some(LogDriver::Remote(remote)) => Some(remote),
        _ => None,
    }
}

/// Where it is kept how far a log is sent.
fn place(container: &Container) -> PathBuf {
    container.fixed.local_log_base().with_extension("sent")
}

/// A start's failure in Docker's words and classes.
pub(crate) fn failed(text: &str) -> EngineError {
    let message = format!("{FAILED}{text}");
    if text.contains("no such file or directory") {
        return EngineError::BadCommand {
            message,
            exit_code: NO_FILE,
        };
    }
    EngineError::System(message)
}

/// The same of a log that can't be opened.
pub(crate) fn log_failed(error: EngineError) -> EngineError {
    let EngineError::Io { context, source } = &error else {
        return error;
    };
    let text = source.to_string().to_lowercase();
    let words = text.split(" (os error").next().unwrap_or_default();
    failed(&format!(
        "{}: {words}",
        context.replacen("open log", "open", 1)
    ))
}

/// Before a start: ends what sends the log of an earlier run, and connects where Docker does. `None` for a driver that
/// writes files only.
pub(crate) async fn prepare(container: &Rc<Container>) -> Result<Option<Sender>, EngineError> {
    let Some(remote) = remote(container) else {
        return Ok(None);
    };
    let info = logs::info(container);
    let opened = gantry_logship::open(remote, info, When::Start).await;
    let sender = opened.map_err(|Refused(text)| failed(&text))?;
    let earlier = container.inner.borrow_mut().shipper.take();
    if let Some(earlier) = earlier {
        earlier.stop().await;
    }
    Ok(Some(sender))
}

/// A sender for output that there is already. That it cannot be opened is told in the daemon's log: the container goes on.
pub(crate) async fn resumed(container: &Rc<Container>) -> Option<Sender> {
    let remote = remote(container)?;
    let info = logs::info(container);
    match gantry_logship::open(remote, info, When::Resume).await {
        Ok(sender) => Some(sender),
        Err(error) => {
            tracing::error!(id = %container.id, %error, "a log driver can't be opened; the output is only kept");
            None
        }
    }
}

/// Begins to send what the log has and gets.
pub(crate) fn begin(
    container: &Rc<Container>,
    sender: Option<Sender>,
    log: Option<&logs::LogHandle>,
) {
    let (Some(sender), Some(log)) = (sender, log) else {
        return;
    };
    match Shipper::start(sender, log, &place(container), &container.id) {
        Ok(shipper) => container.inner.borrow_mut().shipper = Some(Rc::new(shipper)),
        Err(error) => {
            tracing::error!(id = %container.id, %error, "a log can't be read to be sent; the output is only kept");
        }
    }
}

/// Sends what an ended run has left. The lock is held and nothing runs.
pub(crate) async fn resume(container: &Rc<Container>) {
    if remote(container).is_none()
        || container.inner.borrow().shipper.is_some()
        || !container.fixed.dir.join("local-logs").exists()
    {
        return;
    }
    let Some(sender) = resumed(container).await else {
        return;
    };
    match logs::open_sink(container) {
        Ok(Some((mut sink, log))) => {
            sink.close();
            begin(container, Some(sender), Some(&log));
        }
        Ok(None) => {}
        Err(error) => {
            tracing::error!(id = %container.id, %error, "a log can't be opened to send the rest of it");
        }
    }
}

/// As [`resume`], without anybody waiting.
pub(crate) fn resume_later(container: &Rc<Container>) {
    if remote(container).is_none() {
        return;
    }
    let container = container.clone();
    gantry_rt::spawn("logs.resume", async move {
        let _guard = container.ops.lock().await;
        if !container.status().is_alive() && !container.removing.get() {
            resume(&container).await;
        }
    });
}

/// A removed container's output is sent on for a while, from files that nobody else sees any more.
pub(crate) fn leave(container: &Rc<Container>) {
    let shipper = container.inner.borrow_mut().shipper.take();
    let Some(shipper) = shipper.filter(|s| !s.has_ended()) else {
        return;
    };
    let id = container.id.clone();
    gantry_rt::spawn("logs.leave", async move {
        if gantry_rt::timeout(REMOVED_DRAIN, shipper.ended())
            .await
            .is_err()
        {
            tracing::warn!(%id, "the output of a removed container could not be sent to its end");
            shipper.give_up().await;
        }
    });
}
