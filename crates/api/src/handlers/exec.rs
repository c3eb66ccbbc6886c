//! Execs: further processes of running containers.

use base64::Engine as _;
use gantry_engine::{ExecConfig, ExecRequest, ExecStart, ExecView};
use http::StatusCode;

use super::{containers, streams};
use crate::error::ApiError;
use crate::json;
use crate::json::decode::FromJson;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::exec::*;

/// Clients below this version know no first size of a terminal.
const CONSOLE_SIZE_SINCE_MINOR: u32 = 42;

/// A body that may be empty, as dockerd has it here.
async fn body<T: FromJson + Default>(call: &mut Call) -> Result<T, ApiError> {
    read(&call.json_bytes().await?)
}

fn read<T: FromJson + Default>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    let document: Option<T> = json::decode(json::parse(bytes)?)?;
    Ok(document.unwrap_or_default())
}

/// Rows and columns, which only terminals have. The kernel's window size has 16 bits; more is cut off.
fn console_size(call: &Call, tty: bool, size: Option<[u32; 2]>) -> Option<(u16, u16)> {
    size.filter(|_| tty && call.version.at_least(CONSOLE_SIZE_SINCE_MINOR))
        .map(|[rows, columns]| (rows as u16, columns as u16))
}

pub(super) async fn create(mut call: Call) -> Reply {
    let request: ExecCreateRequest = body(&mut call).await?;
    let config = ExecConfig {
        argv: request.cmd.unwrap_or_default(),
        attach_stdin: request.attach_stdin,
        attach_stdout: request.attach_stdout,
        attach_stderr: request.attach_stderr,
        tty: request.tty,
        privileged: request.privileged,
        user: request.user,
        working_dir: request.working_dir,
        detach_keys: Vec::new(),
        console_size: console_size(&call, request.tty, request.console_size),
        probe: false,
    };
    let wanted = ExecRequest {
        config,
        env: request.env.unwrap_or_default(),
        detach_keys: request.detach_keys,
    };
    let id = call.ctx.engine.exec_create(&call.key, wanted).await?;
    reply::json(StatusCode::CREATED, &ExecCreateResponse { id })
}

pub(super) async fn start(mut call: Call) -> Reply {
    let request: ExecStartRequest = body(&mut call).await?;
    let options = ExecStart {
        raw: request.tty,
        console_size: console_size(&call, request.tty, request.console_size),
    };
    if request.detach {
        call.ctx
            .engine
            .exec_start_detached(&call.key, options)
            .await?;
        return reply::empty(StatusCode::OK);
    }
    let ticket = call.ctx.engine.exec_start(&call.key, options).await?;
    streams::hijack(&call, request.tty, move |socket, over_read| {
        ticket.serve(socket, over_read)
    })
}

pub(super) async fn resize(call: Call) -> Reply {
    let (rows, columns) = containers::window_size(&call)?;
    call.ctx
        .engine
        .exec_resize(&call.key, rows, columns)
        .await?;
    reply::empty(StatusCode::OK)
}

pub(super) async fn inspect(call: Call) -> Reply {
    let view = call.ctx.engine.exec_inspect(&call.key).await?;
    reply::ok(&document(view))
}

fn document(view: ExecView) -> ExecInspect {
    let ExecConfig {
        argv,
        attach_stdin,
        attach_stdout,
        attach_stderr,
        tty,
        privileged,
        user,
        detach_keys,
        ..
    } = view.config;
    let mut words = argv.into_iter();
    ExecInspect {
        id: view.id.to_string(),
        running: view.running,
        exit_code: view.exit_code,
        process_config: ProcessConfig {
            tty,
            entrypoint: words.next().unwrap_or_default(),
            arguments: words.collect(),
            privileged,
            user,
        },
        open_stdin: attach_stdin,
        open_stderr: attach_stderr,
        open_stdout: attach_stdout,
        can_remove: view.can_remove,
        container_id: view.container.to_string(),
        detach_keys: base64::engine::general_purpose::STANDARD.encode(detach_keys),
        pid: view.pid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_clients_write_them() {
        let parsed: ExecCreateRequest =
            read(br#"{"Cmd":["a"],"detachKeys":"ctrl-x","Env":null,"Container":"c"}"#)
                .expect("docker-py's");
        assert_eq!(parsed.detach_keys, "ctrl-x");
        assert_eq!(parsed.cmd.as_deref(), Some(["a".to_owned()].as_slice()));
        assert!(read::<ExecCreateRequest>(br#"{"Cmd":"a"}"#).is_err());
    }

    #[test]
    fn an_inspection_has_dockers_shape() {
        let view = ExecView {
            id: "e".into(),
            container: "c".into(),
            running: false,
            exit_code: None,
            pid: 0,
            can_remove: false,
            config: ExecConfig {
                argv: vec!["sh".into(), "-c".into()],
                detach_keys: vec![1, 2],
                ..ExecConfig::default()
            },
        };
        assert_eq!(
            serde_json::to_string(&document(view)).expect("JSON"),
            r#"{"ID":"e","Running":false,"ExitCode":null,"ProcessConfig":{"tty":false,"entrypoint":"sh","arguments":["-c"],"privileged":false},"OpenStdin":false,"OpenStderr":false,"OpenStdout":false,"CanRemove":false,"ContainerID":"c","DetachKeys":"AQI=","Pid":0}"#
        );
    }
}
