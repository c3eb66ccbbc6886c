//! The init program run for real: exit codes, signals, orphans.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

struct Init {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
}

impl Init {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("docker-init");
        let mut file = std::fs::File::create(&path).expect("create");
        file.write_all(gantry_init::PROGRAM).expect("write");
        file.set_permissions(std::fs::Permissions::from_mode(0o755))
            .expect("chmod");
        Self { _dir: dir, path }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--").args(arguments);
        command
    }
}

#[test]
fn exit_codes() {
    let init = Init::new();
    for (arguments, code) in [
        (vec!["sh", "-c", "exit 7"], 7),
        (vec!["true"], 0),
        (vec!["sh", "-c", "kill -9 $$"], 137),
        (vec!["sh", "-c", "kill -TERM $$"], 143),
        (vec!["no-such-program"], 127),
        (vec!["/no/such/program"], 127),
        (vec!["/etc/passwd"], 126),
        (vec!["/"], 126),
    ] {
        let done = init.command(&arguments).output().expect("run");
        assert_eq!(done.status.code(), Some(code), "{arguments:?}");
    }
    let done = Command::new(&init.path).output().expect("run");
    assert_eq!(done.status.code(), Some(1));
    assert_eq!(done.stderr, b"docker-init: no program was given\n");
}

#[test]
fn the_program_is_found_by_path_and_gets_its_arguments() {
    let init = Init::new();
    let dir = tempfile::tempdir().expect("directory");
    let program = dir.path().join("mine");
    std::fs::write(&program, "#!/bin/sh\nprintf '%s|' \"$0\" \"$@\" \"$X\"\n").expect("write");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = format!("/nonexistent::/etc/passwd:{}", dir.path().display());
    let done = init
        .command(&["mine", "a b", "--", ""])
        .env_clear()
        .env("X", "y")
        .env("PATH", path)
        .output()
        .expect("run");
    let text = String::from_utf8(done.stdout).expect("text");
    assert_eq!(text, format!("{}|a b|--||y|", program.display()));
}

#[test]
fn signals_are_passed_on() {
    let init = Init::new();
    for (name, number) in [
        ("TERM", libc::SIGTERM),
        ("INT", libc::SIGINT),
        ("HUP", libc::SIGHUP),
        ("USR1", libc::SIGUSR1),
        ("QUIT", libc::SIGQUIT),
        ("WINCH", libc::SIGWINCH),
    ] {
        let script =
            format!("trap 'echo got; exit 5' {name}; echo up; while :; do sleep 0.05; done");
        let mut child = init
            .command(&["sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("run");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        assert_eq!(lines.next().expect("line").expect("read"), "up");
        // SAFETY: a plain system call; the process is our child and not yet collected.
        assert_eq!(unsafe { libc::kill(child.id() as i32, number) }, 0);
        assert_eq!(lines.next().expect("line").expect("read"), "got", "{name}");
        assert_eq!(child.wait().expect("wait").code(), Some(5), "{name}");
    }
}

#[test]
fn orphans_are_collected() {
    let init = Init::new();
    // As process 1 of a process namespace it gets every orphan; zombies would be seen in /proc.
    let script = "for i in 1 2 3 4 5; do (sh -c 'sleep 0.05 & exit' &); done; sleep 0.5; \
                  grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; exit 3";
    let mut command = Command::new("unshare");
    command.args(["-pf", "--mount-proc"]).arg(&init.path);
    command.args(["--", "sh", "-c", script]);
    let done = command.output().expect("run unshare");
    if done.status.code() != Some(3) && String::from_utf8_lossy(&done.stderr).contains("ermitted") {
        eprintln!("skipped: namespaces need privileges");
        return;
    }
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "0");
    assert_eq!(done.status.code(), Some(3));
}

#[test]
fn the_program_has_its_signals_back() {
    let init = Init::new();
    let mut command = init.command(&["grep", "^SigBlk", "/proc/self/status"]);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGUSR2);
            libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
            Ok(())
        });
    }
    let done = command.output().expect("run");
    assert_eq!(
        String::from_utf8_lossy(&done.stdout).trim(),
        "SigBlk:\t0000000000000800"
    );
    assert_eq!(done.status.signal(), None);
}
