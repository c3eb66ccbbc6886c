//! Wait, logs and attach: answers that grow, and connections that stop being HTTP.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use gantry_engine::model::{AttachOptions, LogsOptions, WaitCondition};
use gantry_rt::http::{Hijack, Outcome, ResponseBody, Upgrade};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::service::Call;

const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
const RAW: &str = "application/vnd.docker.raw-stream";
/// Clients below this version know only the raw content type.
const MULTIPLEXED_SINCE_MINOR: u32 = 42;

fn stream_type(call: &Call, tty: bool) -> &'static str {
    if tty || !call.version.at_least(MULTIPLEXED_SINCE_MINOR) {
        RAW
    } else {
        MULTIPLEXED
    }
}

pub(super) async fn wait(call: Call) -> Reply {
    let condition = match call.query.get("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => {
            return Err(ApiError::invalid(format!(
                "invalid condition: {}",
                crate::query::quoted(other)
            )));
        }
    };
    let handle = call.ctx.engine.wait(&call.key, condition).await?;
    // The head goes out at once: the CLI starts the container only after it.
    let body = ResponseBody::generate(move |tx| async move {
        let document = match handle.wait().await {
            Ok(result) => {
                let mut document = serde_json::json!({ "StatusCode": result.status_code });
                if let Some(message) = result.error {
                    document["Error"] = serde_json::json!({ "Message": message });
                }
                document
            }
            Err(error) => {
                serde_json::json!({ "StatusCode": -1, "Error": { "Message": error.to_string() } })
            }
        };
        tx.send(Bytes::from(format!("{document}\n"))).await?;
        Ok(())
    });
    reply::stream("application/json", body)
}

pub(super) async fn logs(call: Call) -> Reply {
    let options = LogsOptions {
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        follow: call.query.flag("follow"),
        timestamps: call.query.flag("timestamps"),
        details: call.query.flag("details"),
        since: call.query.get("since").to_owned(),
        until: call.query.get("until").to_owned(),
        tail: call.query.get("tail").to_owned(),
    };
    if !options.stdout && !options.stderr {
        return Err(ApiError::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let mut log = call.ctx.engine.logs(&call.key, options).await?;
    let content_type = stream_type(&call, log.tty());
    let body = ResponseBody::generate(move |tx| async move {
        while let Some(chunk) = log.next().await {
            tx.send(chunk.map_err(|e| std::io::Error::other(e.to_string()))?)
                .await?;
        }
        Ok(())
    });
    reply::stream(content_type, body)
}

pub(super) async fn attach(call: Call) -> Reply {
    let options = attach_options(&call);
    let ticket = match call.ctx.engine.attach(&call.key, options).await {
        Ok(ticket) => ticket,
        // dockerd has taken the connection by then: the answer is plain text, and its end is the end of the connection.
        Err(error) => return reply::plain_error(&error.into(), RAW),
    };
    let tty = ticket.tty();
    hijack(&call, tty, move |socket, over_read| {
        ticket.serve(socket, over_read)
    })
}

/// What the query of an attach asks for.
pub(super) fn attach_options(call: &Call) -> AttachOptions {
    AttachOptions {
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        logs: call.query.flag("logs"),
        stream: call.query.flag("stream"),
        detach_keys: call
            .query
            .find("detachKeys")
            .filter(|k| !k.is_empty())
            .map(str::to_owned),
    }
}

/// The connection becomes a stream, in one of Docker's two forms: asked for by an upgrade, or not.
pub(super) fn hijack(
    call: &Call,
    tty: bool,
    serve: impl FnOnce(OwnedFd, Bytes) + 'static,
) -> Reply {
    let upgrade = call.header("upgrade").map(|_| Upgrade::TCP);
    let content_type = upgrade.map_or(RAW, |_| stream_type(call, tty));
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply::common_headers(&mut headers);
    Ok(Outcome::Hijack(Hijack {
        upgrade,
        headers,
        on_upgrade: Box::new(serve),
    }))
}
