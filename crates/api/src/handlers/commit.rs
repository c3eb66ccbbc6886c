//! `docker commit`.

use gantry_engine::CommitSpec;
use gantry_image::{ImageConfig, Reference};
use http::StatusCode;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::service::Call;

pub(super) async fn commit(mut call: Call) -> Reply {
    let key = call.query.get("container").to_owned();
    let config = config(&mut call).await?;
    let reference = Reference::of_repo_and_tag(call.query.get("repo"), call.query.get("tag"))?;
    if key.is_empty() {
        return Err(ApiError::invalid("invalid name or ID supplied: \"\""));
    }
    let spec = CommitSpec {
        pause: call.query.get("pause").is_empty() || call.query.flag("pause"),
        reference,
        author: call.query.get("author").to_owned(),
        comment: call.query.get("comment").to_owned(),
        config,
        changes: call.query.all("changes").map(str::to_owned).collect(),
    };
    let id = call.ctx.engine.commit(&key, spec).await?;
    reply::json(StatusCode::CREATED, &json!({ "Id": id }))
}

/// The container's configuration that the client wants instead; none and `null` are the same.
async fn config(call: &mut Call) -> Result<Option<ImageConfig>, ApiError> {
    let body = call.json_bytes().await?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let mut document = crate::json::parse(&body)?;
    if let Value::Object(fields) = &mut document {
        // A command may be one word without a list.
        for name in ["Cmd", "Entrypoint"] {
            if let Some(word @ Value::String(_)) = fields.get(name) {
                let list = Value::Array(vec![word.clone()]);
                fields.insert(name.to_owned(), list);
            }
        }
    }
    serde_json::from_value(document).map_err(|e| ApiError::invalid(format!("invalid JSON: {e}")))
}
