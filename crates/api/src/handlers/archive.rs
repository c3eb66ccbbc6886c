//! `docker cp`: what lies at a path of a container, out of it as an archive, and into it from one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_engine::{Access, ChangeKind, CopyIn, EngineError, PathStat};
use gantry_rt::http::ResponseBody;
use http::StatusCode;
use serde::Serialize;

use super::body::{begun, blocking_body};
use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::text;

const STAT_HEADER: &str = "x-docker-container-path-stat";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stat<'a> {
    name: &'a str,
    size: i64,
    mode: u32,
    mtime: String,
    link_target: &'a str,
}

/// Go's `FileMode` of a mode of the kernel's.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => (1 << 26) | (1 << 21),
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = bits.iter().filter(|(bit, _)| mode & bit != 0);
    special.fold(kind | (mode & 0o777), |all, (_, go)| all | go)
}

fn header(stat: &PathStat) -> Result<(&'static str, String), ApiError> {
    let mtime = match stat.mtime_unix_ns {
        0 => "1970-01-01T00:00:00Z".to_owned(),
        ns => text::rfc3339(ns),
    };
    let document = serde_json::to_vec(&Stat {
        name: &stat.name,
        size: stat.size,
        mode: go_mode(stat.mode),
        mtime,
        link_target: &stat.link_target,
    });
    let document = document.map_err(|e| ApiError::system(e.to_string()))?;
    Ok((STAT_HEADER, STANDARD.encode(document)))
}

fn path(call: &Call) -> Result<String, ApiError> {
    match call.query.get("path") {
        // Docker's words.
        "" => Err(ApiError::invalid("bad parameter: pathcannot be empty")),
        path if path.contains('\0') => Err(ApiError::invalid("bad parameter: path")),
        path => Ok(path.to_owned()),
    }
}

pub(super) async fn info(call: Call) -> Reply {
    let (path, key) = (path(&call)?, call.key.clone());
    let engine = &call.ctx.engine;
    let stat = engine
        .with_files(&call.key, Access::Read, None, move |files| {
            files.stat(&path, &key)
        })
        .await?;
    reply::stream_with(None, header(&stat)?, ResponseBody::empty())
}

pub(super) async fn get(call: Call) -> Reply {
    let (path, key) = (path(&call)?, call.key.clone());
    let engine = call.ctx.engine.clone();
    let (stat, body) = begun("api.archive", |begin, mut writer| async move {
        let named = key.clone();
        let job = move |files: &gantry_engine::Files| {
            let found = files.find(&path, &named)?;
            begin.send(found.stat.clone());
            let io = |e| EngineError::Io {
                context: format!("archive {path}"),
                source: e,
            };
            files.copy_out(&found, &mut writer).map_err(io)?;
            writer.finish().map_err(io)
        };
        engine
            .with_files(&key, Access::Read, Some("archive-path"), job)
            .await
    })
    .await?;
    reply::stream_with(Some("application/x-tar"), header(&stat)?, body)
}

pub(super) async fn put(mut call: Call) -> Reply {
    let (path, key) = (path(&call)?, call.key.clone());
    let options = CopyIn {
        no_overwrite_dir_non_dir: call.query.flag("noOverwriteDirNonDir"),
        to_user: call.query.flag("copyUIDGID"),
    };
    let archive = blocking_body(&mut call);
    let job = move |files: &gantry_engine::Files| files.copy_in(&path, &key, archive, options);
    call.ctx
        .engine
        .with_files(&call.key, Access::Write, Some("extract-to-dir"), job)
        .await?;
    reply::empty(StatusCode::OK)
}

/// `docker export`: the root file system without what is mounted in it.
pub(super) async fn export(call: Call) -> Reply {
    let (engine, key) = (call.ctx.engine.clone(), call.key.clone());
    let ((), body) = begun("api.export", |begin, mut writer| async move {
        let job = move |files: &gantry_engine::Files| {
            begin.send(());
            let io = |e| EngineError::Io {
                context: "export".to_owned(),
                source: e,
            };
            files.export(&mut writer).map_err(io)?;
            writer.finish().map_err(io)
        };
        engine
            .with_files(&key, Access::ReadRoot, Some("export"), job)
            .await
    })
    .await?;
    reply::stream("application/octet-stream", body)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    path: String,
    kind: u8,
}

/// `docker diff`.
pub(super) async fn changes(call: Call) -> Reply {
    let found = call.ctx.engine.changes(&call.key).await?;
    let shown = found.into_iter().map(|change| Change {
        path: change.path,
        kind: match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        },
    });
    let shown: Vec<Change> = shown.collect();
    // No change is no list.
    reply::ok(&(!shown.is_empty()).then_some(shown))
}

#[cfg(test)]
mod tests {
    use super::go_mode;

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o040_755), 2_147_484_141);
        assert_eq!(go_mode(0o104_755), 8_389_101);
        assert_eq!(go_mode(0o120_777), 134_218_239);
        assert_eq!(go_mode(0o010_644), 33_554_852);
        assert_eq!(go_mode(0o100_644), 420);
    }
}
