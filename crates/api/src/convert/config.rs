//! What runs in the container: `Config` of the request.

use gantry_engine::model::{ContainerConfig, HealthCheck};
use serde_json::Value;

use crate::error::ApiError;
use crate::wire::create::{CreateRequest, Healthcheck, KeySet};

/// The engine's form of the configuration.
pub(super) fn to_engine(r: CreateRequest) -> ContainerConfig {
    ContainerConfig {
        image: r.image,
        hostname: r.hostname,
        domainname: r.domainname,
        user: r.user,
        attach_stdin: r.attach_stdin,
        attach_stdout: r.attach_stdout,
        attach_stderr: r.attach_stderr,
        tty: r.tty,
        open_stdin: r.open_stdin,
        stdin_once: r.stdin_once,
        env: r.env.unwrap_or_default(),
        cmd: r.cmd.0,
        entrypoint: r.entrypoint.0,
        working_dir: r.working_dir,
        labels: r.labels.unwrap_or_default(),
        stop_signal: r.stop_signal,
        stop_timeout_s: r.stop_timeout,
        exposed_ports: r
            .exposed_ports
            .into_iter()
            .flatten()
            .map(|(port, _)| port)
            .collect(),
        volumes: r
            .volumes
            .into_iter()
            .flatten()
            .map(|(path, _)| path)
            .collect(),
        shell: r.shell.0.unwrap_or_default(),
        on_build: r.on_build.unwrap_or_default(),
        health: r.healthcheck.map(health_check),
        network_disabled: r.network_disabled,
    }
}

fn health_check(check: Healthcheck) -> HealthCheck {
    HealthCheck {
        test: check.test.unwrap_or_default(),
        interval_ns: check.interval.ns,
        timeout_ns: check.timeout.ns,
        start_period_ns: check.start_period.ns,
        start_interval_ns: check.start_interval.ns,
        retries: check.retries,
    }
}

/// Checks what the container is to run.
pub(super) fn check(request: &CreateRequest) -> Result<(), ApiError> {
    let nothing = |list: &Option<Vec<String>>| list.as_ref().is_none_or(|l| l.is_empty());
    if request.image.is_empty() {
        let text = if nothing(&request.cmd.0) && nothing(&request.entrypoint.0) {
            "no command specified"
        } else {
            "a container needs an image: Image is empty"
        };
        return Err(ApiError::invalid(text));
    }
    if !request.working_dir.is_empty() && !request.working_dir.starts_with('/') {
        return Err(ApiError::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            request.working_dir
        )));
    }
    for variable in request.env.iter().flatten() {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(ApiError::invalid(format!(
                "invalid environment variable: {variable}"
            )));
        }
    }
    for (field, set) in [
        ("ExposedPorts", &request.exposed_ports),
        ("Volumes", &request.volumes),
    ] {
        key_set(field, set.as_ref())?;
    }
    request.healthcheck.as_ref().map_or(Ok(()), check_health)
}

/// The values of a set of keys are empty objects.
fn key_set(field: &str, set: Option<&KeySet>) -> Result<(), ApiError> {
    for (key, value) in set.into_iter().flatten() {
        let kind = match value {
            Value::Null | Value::Object(_) => continue,
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
        };
        return Err(ApiError::invalid(format!(
            "invalid JSON: json: cannot unmarshal {kind} into Go struct field .{field}.{key} of type struct {{}}"
        )));
    }
    Ok(())
}

/// Shortest span of a health check that is not zero, in nanoseconds.
const MIN_HEALTH_SPAN_NS: i64 = 1_000_000;

fn check_health(check: &Healthcheck) -> Result<(), ApiError> {
    for (name, span_ns) in [
        ("Interval", check.interval.ns),
        ("Timeout", check.timeout.ns),
    ] {
        short_span(name, span_ns)?;
    }
    if check.retries < 0 {
        return Err(ApiError::invalid(
            "Retries in Healthcheck cannot be negative",
        ));
    }
    short_span("StartPeriod", check.start_period.ns)?;
    short_span("StartInterval", check.start_interval.ns)
}

fn short_span(name: &str, span_ns: i64) -> Result<(), ApiError> {
    if span_ns == 0 || span_ns >= MIN_HEALTH_SPAN_NS {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "{name} in Healthcheck cannot be less than 1ms"
    )))
}
