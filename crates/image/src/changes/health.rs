//! HEALTHCHECK and Go's durations.

use super::{invalid, json_words};
use crate::ImageError;
use crate::model::Healthcheck;

/// Shortest interval Docker takes.
const MIN_INTERVAL_NS: i64 = 1_000_000;

pub(super) fn parse(rest: &str) -> Result<Healthcheck, ImageError> {
    let mut check = Healthcheck::default();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option
            .split_once(char::is_whitespace)
            .unwrap_or((option, ""));
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| invalid("HEALTHCHECK option without a value"))?;
        match name {
            "interval" => check.interval_ns = interval_ns(name, value)?,
            "timeout" => check.timeout_ns = interval_ns(name, value)?,
            "start-period" => check.start_period_ns = interval_ns(name, value)?,
            "start-interval" => check.start_interval_ns = interval_ns(name, value)?,
            "retries" => check.retries = retries(value)?,
            _ => return Err(invalid(format!("unknown flag: --{name}"))),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => vec!["NONE".into()],
        "NONE" => return Err(invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" if !command.is_empty() => match json_words(command) {
            Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            None => vec!["CMD-SHELL".into(), command.into()],
        },
        "CMD" => return Err(invalid("Missing command after HEALTHCHECK CMD")),
        other => {
            return Err(invalid(format!(
                "Unknown type {other:?} in HEALTHCHECK (try CMD)"
            )));
        }
    };
    Ok(check)
}

fn interval_ns(name: &str, value: &str) -> Result<i64, ImageError> {
    match duration_ns(value)? {
        ns if ns != 0 && ns < MIN_INTERVAL_NS => Err(invalid(format!(
            "Interval {name:?} cannot be less than 1ms"
        ))),
        ns => Ok(ns),
    }
}

fn retries(value: &str) -> Result<i64, ImageError> {
    match value.parse::<i64>() {
        Ok(n) if n < 0 => Err(invalid(format!("--retries cannot be negative ({n})"))),
        Ok(n) => Ok(n),
        Err(_) => Err(invalid(format!(
            "strconv.ParseInt: parsing {value:?}: invalid syntax"
        ))),
    }
}

/// Go's durations: `1m30s`, `1.5h`, `300ms`.
fn duration_ns(text: &str) -> Result<i64, ImageError> {
    let bad = || invalid(format!("time: invalid duration {text:?}"));
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let value: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |n| digits + n);
        let unit = match &rest[digits..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        total += value * unit;
        rest = &rest[unit_end..];
    }
    if total < i64::MAX as f64 {
        Ok(total as i64)
    } else {
        Err(bad())
    }
}
