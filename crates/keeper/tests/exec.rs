//! Processes that a real keeper puts into running containers, as root.

mod common;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use common::{DEFAULT_CAPABILITIES, Host, connect, exited, finish, launch, read_all};
use gantry_cgroup::Group;
use gantry_launch::{
    CapabilityMasks, ExecSpec, KeeperClient, LaunchError, Launched, LaunchedExec, prepare_exec,
};
use gantry_rt::testing::on_shard;
use gantry_rt::workers;

fn c(s: &str) -> CString {
    CString::new(s).expect("no NUL")
}

fn pidfd(pid: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: a plain system call; the descriptor it returns is ours alone.
    unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32) }
}

fn spec(id: &str, init: &Launched, argv: &[&str]) -> ExecSpec {
    ExecSpec {
        id: id.to_owned(),
        init: pidfd(init.process.pid),
        root: File::open(format!("/proc/{}/root", init.process.pid))
            .expect("root")
            .into(),
        argv: argv.iter().map(|a| c(a)).collect(),
        env: vec![c("PATH=/bin")],
        cwd: "/".into(),
        uid: 0,
        gid: 0,
        groups: vec![],
        tty: false,
        console_size: None,
        open_stdin: false,
        capabilities: CapabilityMasks {
            bounding: DEFAULT_CAPABILITIES,
            effective: DEFAULT_CAPABILITIES,
            permitted: DEFAULT_CAPABILITIES,
            ..CapabilityMasks::default()
        },
        seccomp: None,
        no_new_privs: false,
        rlimits: vec![],
        oom_score_adj: None,
        remap: None,
        apparmor_profile: None,
        group: Arc::new(init.group.clone()),
    }
}

async fn exec(client: &KeeperClient, spec: ExecSpec) -> Result<LaunchedExec, LaunchError> {
    let prepared = workers::run(move || prepare_exec(spec))
        .await
        .expect("worker")?;
    client.launch_exec(prepared).await
}

async fn finished(client: &KeeperClient, id: &str, launched: LaunchedExec) -> (i32, String) {
    let fd = launched.stdout.or(launched.tty_master).expect("output");
    let out = String::from_utf8_lossy(&read_all(fd).await).into_owned();
    let exit = exited(client, id).await;
    client.forget(id).await.expect("forget");
    (common::code(exit.wait_status), out)
}

async fn end(client: &KeeperClient, id: &str, init: Launched) {
    client.signal(id, libc::SIGKILL).await.expect("signal");
    exited(client, id).await;
    client.forget(id).await.expect("forget");
    remove(init.group).await;
}

async fn remove(group: Group) {
    workers::run(move || group.remove())
        .await
        .expect("worker")
        .expect("remove the group");
}

#[test]
fn a_process_in_all_namespaces_and_groups_of_the_container() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let container = host.spec(&["sleep", "1000"]);
        let id = container.id.clone();
        let init = launch(&client, container).await;
        let launched = exec(&client, spec("x.1", &init, &["sleep", "1000"]))
            .await
            .expect("exec");
        let link = |pid: i32, name: &str| {
            std::fs::read_link(format!("/proc/{pid}/{name}")).expect("readlink")
        };
        for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let name = format!("ns/{name}");
            assert_eq!(
                link(launched.pid, &name),
                link(init.process.pid, &name),
                "{name}"
            );
        }
        let text = |pid: i32, name: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("read")
        };
        assert_eq!(
            text(launched.pid, "cgroup"),
            text(init.process.pid, "cgroup")
        );
        let stat = text(launched.pid, "stat");
        let parent = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(1));
        assert_eq!(parent, Some(client.keeper_pid().to_string().as_str()));
        let open = std::fs::read_dir(format!("/proc/{}/fd", launched.pid)).expect("fds");
        assert_eq!(open.count(), 3);
        client.signal("x.1", libc::SIGTERM).await.expect("signal");
        assert_eq!(finished(&client, "x.1", launched).await.0, 128 + 15);
        let script = "echo $$; readlink /proc/1/exe; cat /proc/$$/stat | cut -d' ' -f 4,6; exit 7";
        let launched = exec(&client, spec("x.2", &init, &["sh", "-c", script]))
            .await
            .expect("exec");
        let (code, out) = finished(&client, "x.2", launched).await;
        let mut lines = out.lines();
        let own = lines.next().expect("pid");
        assert_eq!(lines.next(), Some("/bin/busybox"));
        assert_eq!(lines.next(), Some(format!("0 {own}").as_str()));
        assert_eq!(code, 7);
        end(&client, &id, init).await;
        finish(&client).await;
    });
}

#[test]
fn what_cannot_be_started_is_told_and_leaves_nothing() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let container = host.spec(&["sleep", "1000"]);
        let id = container.id.clone();
        let init = launch(&client, container).await;
        let cases = [
            ("nosuch", "/", 127, "executable file not found in $PATH"),
            ("/bin", "/", 126, "is a directory: permission denied"),
            ("/etc/passwd", "/", 126, "permission denied"),
            (
                "true",
                "/no",
                127,
                "chdir to cwd (\"/no\") set in config.json failed: no such file or directory",
            ),
        ];
        for (program, cwd, code, text) in cases {
            let mut wanted = spec("x.1", &init, &[program]);
            wanted.cwd = cwd.into();
            let error = exec(&client, wanted).await.expect_err("must fail");
            assert!(error.to_string().ends_with(text), "{error}");
            assert_eq!(error.exit_code(), code);
        }
        let late = spec("x.1", &init, &["true"]);
        assert_eq!(client.list().await.expect("list").len(), 1);
        end(&client, &id, init).await;
        let error = exec(&client, late).await.expect_err("nothing to join");
        assert!(!matches!(error, LaunchError::Keeper(_)), "{error}");
        finish(&client).await;
    });
}

#[test]
fn a_terminal_of_the_containers_own() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let container = host.spec(&["sleep", "1000"]);
        let id = container.id.clone();
        let init = launch(&client, container).await;
        let script = "tty; stty size; : > /dev/tty && echo controls; ls -ln /dev/pts/0";
        let mut wanted = spec("x.1", &init, &["sh", "-c", script]);
        wanted.tty = true;
        wanted.console_size = Some((33, 77));
        wanted.uid = 7;
        let launched = exec(&client, wanted).await.expect("exec");
        let (code, out) = finished(&client, "x.1", launched).await;
        assert!(
            out.starts_with("/dev/pts/0\r\n33 77\r\ncontrols\r\n"),
            "{out}"
        );
        assert!(out.contains(" 7 "), "it belongs to the user: {out}");
        assert_eq!(code, 0);
        end(&client, &id, init).await;
        finish(&client).await;
    });
}

#[test]
fn a_filter_that_forbids_forks_is_loaded_all_the_same() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let container = host.spec(&["sleep", "1000"]);
        let id = container.id.clone();
        let init = launch(&client, container).await;
        // Native instructions: load the number, refuse clone (56 on this architecture), allow the rest.
        let word = |code: u16, jt: u8, jf: u8, k: u32| {
            let mut bytes = code.to_ne_bytes().to_vec();
            bytes.extend([jt, jf]);
            bytes.extend(k.to_ne_bytes());
            bytes
        };
        let filter = [
            word(0x20, 0, 0, 0),
            word(0x15, 0, 1, libc::SYS_clone as u32),
            word(0x06, 0, 0, 0x0005_0001),
            word(0x06, 0, 0, 0x7fff_0000),
        ]
        .concat();
        let argv = [
            "grep",
            "-E",
            "^(Seccomp|CapEff|CapBnd):",
            "/proc/self/status",
        ];
        let mut wanted = spec("x.1", &init, &argv);
        wanted.seccomp = Some(filter.into());
        let launched = exec(&client, wanted).await.expect("exec");
        let (code, out) = finished(&client, "x.1", launched).await;
        let caps = format!("{DEFAULT_CAPABILITIES:016x}");
        assert_eq!(
            out,
            format!("CapEff:\t{caps}\nCapBnd:\t{caps}\nSeccomp:\t2\n")
        );
        assert_eq!(code, 0);
        end(&client, &id, init).await;
        finish(&client).await;
    });
}

#[test]
fn the_end_of_the_container_is_the_end_of_its_processes() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let container = host.spec(&["sleep", "1000"]);
        let id = container.id.clone();
        let init = launch(&client, container).await;
        let mut pids = Vec::new();
        for n in 0..4 {
            let key = format!("x.{n}");
            let launched = exec(&client, spec(&key, &init, &["sleep", "1000"]))
                .await
                .expect("exec");
            pids.push(launched.pid);
        }
        client.signal(&id, libc::SIGKILL).await.expect("signal");
        let mut ended = Vec::new();
        for _ in 0..5 {
            let gantry_launch::KeeperEvent::Exited { id, exit } = client.next_event().await else {
                panic!("the keeper is gone");
            };
            assert_eq!(common::code(exit.wait_status), 137);
            client.forget(&id).await.expect("forget");
            ended.push(id);
        }
        ended.sort();
        assert_eq!(ended[1..], ["x.0", "x.1", "x.2", "x.3"]);
        assert!(
            pids.iter()
                .all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        );
        remove(init.group).await;
        finish(&client).await;
    });
}
