//! The Dockerfile instructions `import` and `commit` take as changes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::ImageError;
use crate::model::{Healthcheck, ImageConfig};

/// Instructions in one request.
pub(crate) const MAX_CHANGES: usize = 1024;

fn invalid(text: impl Into<String>) -> ImageError {
    ImageError::InvalidReference(text.into())
}

/// Applies instructions (one per string) to a config.
pub(crate) fn apply(config: &mut ImageConfig, changes: &[String]) -> Result<(), ImageError> {
    if changes.len() > MAX_CHANGES {
        return Err(invalid(format!("more than {MAX_CHANGES} changes")));
    }
    for line in changes.iter().map(|l| l.trim()).filter(|l| !l.is_empty()) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        instruction(config, &word.to_ascii_uppercase(), rest.trim())?;
    }
    Ok(())
}

fn instruction(config: &mut ImageConfig, word: &str, rest: &str) -> Result<(), ImageError> {
    if rest.is_empty() && !matches!(word, "CMD" | "ENTRYPOINT") {
        return Err(invalid(format!("{word} requires at least one argument")));
    }
    match word {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest));
            config.cmd = None;
        }
        "ENV" => {
            for (name, value) in pairs(rest)? {
                let env = config.env.get_or_insert_default();
                env.retain(|known| known.split('=').next() != Some(name.as_str()));
                env.push(format!("{name}={value}"));
            }
        }
        "LABEL" => config
            .labels
            .get_or_insert_with(BTreeMap::new)
            .extend(pairs(rest)?),
        "EXPOSE" => {
            for port in words(rest)? {
                let key = if port.contains('/') {
                    port.to_ascii_lowercase()
                } else {
                    format!("{port}/tcp")
                };
                config
                    .exposed_ports
                    .get_or_insert_default()
                    .insert(key, Value::Object(Default::default()));
            }
        }
        "VOLUME" => {
            for volume in json_words(rest).map_or_else(|| words(rest), Ok)? {
                config
                    .volumes
                    .get_or_insert_default()
                    .insert(volume, Value::Object(Default::default()));
            }
        }
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" if rest.starts_with('/') => config.working_dir = rest.to_owned(),
        "WORKDIR" => {
            config.working_dir = format!("{}/{rest}", config.working_dir.trim_end_matches('/'))
        }
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        "ONBUILD" => config
            .on_build
            .get_or_insert_default()
            .push(rest.to_owned()),
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        _ => {
            return Err(invalid(format!(
                "{} is not a valid change command",
                word.to_lowercase()
            )));
        }
    }
    Ok(())
}

fn json_words(rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[')
        .then(|| serde_json::from_str(rest).ok())
        .flatten()
}

/// JSON form as it is, else by the shell.
fn command(rest: &str) -> Vec<String> {
    json_words(rest).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), rest.into()])
}

/// Words with quotes and backslashes removed.
fn words(rest: &str) -> Result<Vec<String>, ImageError> {
    let mut found: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\\', q) if q != Some('\'') => word
                .get_or_insert_default()
                .push(chars.next().unwrap_or('\\')),
            (c, None) if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => found.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(invalid(
            "unexpected end of statement while looking for matching quote",
        ));
    }
    found.extend(word);
    Ok(found)
}

/// `a=b c=d`, or the old `a b`.
fn pairs(rest: &str) -> Result<Vec<(String, String)>, ImageError> {
    let all = words(rest)?;
    if all.first().is_some_and(|first| !first.contains('=')) {
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| invalid("must have two arguments"))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(invalid(format!(
            "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
        ))),
    };
    all.into_iter().map(pair).collect()
}

fn healthcheck(rest: &str) -> Result<Healthcheck, ImageError> {
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
            "interval" => check.interval_ns = duration_ns(value)?,
            "timeout" => check.timeout_ns = duration_ns(value)?,
            "start-period" => check.start_period_ns = duration_ns(value)?,
            "start-interval" => check.start_interval_ns = duration_ns(value)?,
            "retries" => check.retries = value.parse().map_err(|_| invalid("invalid --retries"))?,
            _ => return Err(invalid(format!("unknown flag: {name}"))),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" => vec!["NONE".into()],
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
