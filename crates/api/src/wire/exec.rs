//! Documents of execs.

use serde::Serialize;

use super::create::List;
use super::document;

document! {
    /// Body of `POST /containers/{id}/exec`.
    pub struct ExecCreateRequest = "container.ExecOptions" {
        "User" => user: String,
        "Privileged" => privileged: bool,
        "Tty" => tty: bool,
        "ConsoleSize" => console_size: Option<[u32; 2]>,
        "AttachStdin" => attach_stdin: bool,
        "AttachStderr" => attach_stderr: bool,
        "AttachStdout" => attach_stdout: bool,
        "DetachKeys" => detach_keys: String,
        "Env" => env: List<String>,
        "WorkingDir" => working_dir: String,
        "Cmd" => cmd: List<String>,
    }
}

document! {
    /// Body of `POST /exec/{id}/start`.
    pub struct ExecStartRequest = "container.ExecStartOptions" {
        "Detach" => detach: bool,
        "Tty" => tty: bool,
        "ConsoleSize" => console_size: Option<[u32; 2]>,
    }
}

/// Answer to a create.
#[derive(Debug, Serialize)]
pub struct ExecCreateResponse {
    /// Id of the exec.
    #[serde(rename = "Id")]
    pub id: String,
}

/// Answer to an inspect.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct ExecInspect {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Running")]
    pub running: bool,
    #[serde(rename = "ExitCode")]
    pub exit_code: Option<i32>,
    #[serde(rename = "ProcessConfig")]
    pub process_config: ProcessConfig,
    #[serde(rename = "OpenStdin")]
    pub open_stdin: bool,
    #[serde(rename = "OpenStderr")]
    pub open_stderr: bool,
    #[serde(rename = "OpenStdout")]
    pub open_stdout: bool,
    #[serde(rename = "CanRemove")]
    pub can_remove: bool,
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// Base64 of the bytes.
    #[serde(rename = "DetachKeys")]
    pub detach_keys: String,
    #[serde(rename = "Pid")]
    pub pid: i32,
}

/// The program of an exec.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct ProcessConfig {
    pub tty: bool,
    pub entrypoint: String,
    pub arguments: Vec<String>,
    pub privileged: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
}
