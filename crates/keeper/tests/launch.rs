//! Containers run by a real keeper, as root.

mod common;

use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{Host, connect, finish, launch, run, try_launch};
use gantry_cgroup::Group;
use gantry_launch::{BindFile, NamespaceMode, TmpfsMount};
use gantry_rt::testing::on_shard;

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo")
        .expect("mountinfo")
        .lines()
        .count()
}

#[test]
fn exit_code_output_and_environment() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let before = mounts();
        let (client, adopted) = connect(&host.exec_root()).await;
        assert!(adopted.is_empty());
        let script = "echo out; echo err >&2; hostname; pwd; echo $HOME; ls /proc/self/fd; cat /proc/self/cgroup; exit 7";
        let mut spec = host.spec(&["sh", "-c", script]);
        spec.cwd = "/made/for/it".into();
        spec.hostname = "box".into();
        let (code, out, err) = run(&client, spec).await;
        assert_eq!(err, "err\n");
        assert_eq!(code, 7, "{out}");
        assert!(
            out.starts_with("out\nbox\n/made/for/it\n/\n0\n1\n2\n3\n"),
            "{out}"
        );
        let groups: Vec<&str> = out.lines().filter(|l| l.contains(':')).collect();
        assert!(
            !groups.is_empty()
                && groups
                    .iter()
                    .all(|l| l.ends_with(":/") || l.contains("name=")),
            "{groups:?}"
        );
        assert_eq!(mounts(), before, "the host's mount table does not grow");
        finish(&client).await;
    });
}

#[test]
fn file_systems_look_as_dockers() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let script = "mount; ls -l /dev; cat /proc/kcore; ls /proc/scsi; echo x > /proc/sys/kernel/hostname; \
                      echo x > /sys/x; ls /sys/fs/cgroup; ip addr; touch /written && echo root-writable; \
                      echo hidden > /dev/null && echo null-works; cat /etc/hosts; cat /etc/mtab | wc -l; ls /sys/firmware";
        let mut spec = host.spec(&["sh", "-c", script]);
        std::fs::write(host.dir.join("hosts"), "127.0.0.1 localhost\n").expect("write");
        spec.binds.push(BindFile {
            source: host.dir.join("hosts"),
            target: "/etc/hosts".into(),
            readonly: false,
        });
        spec.tmpfs.push(TmpfsMount {
            target: "/scratch/deep".into(),
            options: "size=1m,exec".into(),
        });
        let upper = spec.rootfs.upper.clone();
        let (code, out, err) = run(&client, spec).await;
        let has = |what: &str| assert!(out.contains(what), "{what:?} in:\n{out}\n{err}");
        has("overlay on / type overlay (rw");
        has("proc on /proc type proc (rw,nosuid,nodev,noexec,relatime)");
        has("tmpfs on /dev type tmpfs (rw,nosuid,");
        has("on /dev/pts type devpts (rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666)");
        has("on /sys type sysfs (ro,nosuid,nodev,noexec,relatime)");
        has("on /dev/mqueue type mqueue (rw,nosuid,nodev,noexec,relatime)");
        has("shm on /dev/shm type tmpfs (rw,nosuid,nodev,noexec,relatime,size=65536k");
        has("on /scratch/deep type tmpfs (rw,nosuid,nodev,relatime,size=1024k");
        has("proc on /proc/sys type proc (ro,");
        has("ptmx -> pts/ptmx");
        has("root-writable\nnull-works\n127.0.0.1 localhost\n");
        has("inet 127.0.0.1/8");
        assert!(
            err.contains("can't create /proc/sys/kernel/hostname: Read-only file system"),
            "{err}"
        );
        assert!(err.contains("can't create /sys/x"), "{err}");
        assert!(!out.contains("eth"), "only the loopback interface: {out}");
        assert_eq!(code, 0, "{err}");
        // What was made for mounts that the image lacks is below the image where Docker's init layer has it.
        let mut changed: Vec<_> = std::fs::read_dir(upper)
            .expect("upper")
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect();
        changed.sort();
        assert_eq!(changed, ["scratch", "written"]);
        finish(&client).await;
    });
}

#[test]
fn terminal() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let mut spec = host.spec(&[
            "sh",
            "-c",
            "tty; stty size; read go; stty size; ls -l /dev/console; echo $go",
        ]);
        spec.tty = true;
        spec.console_size = Some((33, 77));
        let id = spec.id.clone();
        let launched = launch(&client, spec).await;
        client.resize(&id, 44, 88).await.expect("resize");
        let master = launched.process.tty_master.expect("master");
        // SAFETY: a plain system call with a live buffer.
        let n = unsafe { libc::write(master.as_raw_fd(), b"word\n".as_ptr().cast(), 5) };
        assert_eq!(n, 5);
        let out = String::from_utf8_lossy(&common::read_all(master).await).into_owned();
        assert!(
            out.contains("/dev/console") || out.contains("/dev/pts/0"),
            "{out}"
        );
        assert!(out.contains("44 88"), "{out}");
        assert!(out.trim_end().ends_with("word"), "{out}");
        assert_eq!(
            common::code(common::exited(&client, &id).await.wait_status),
            0
        );
        client.forget(&id).await.expect("forget");
        launched.group.remove().expect("remove the group");
        finish(&client).await;
    });
}

#[test]
fn programs_that_cannot_run() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let cases = [
            (
                "nosuch",
                "exec: \"nosuch\": executable file not found in $PATH",
                127,
            ),
            (
                "/nosuch",
                "exec: \"/nosuch\": stat /nosuch: no such file or directory",
                127,
            ),
            (
                "/etc/passwd",
                "exec: \"/etc/passwd\": permission denied",
                126,
            ),
            (
                "/etc",
                "exec: \"/etc\": is a directory: permission denied",
                126,
            ),
            ("", "exec: \"\": executable file not found in $PATH", 127),
        ];
        for (program, text, code) in cases {
            let error = try_launch(&client, host.spec(&[program]))
                .await
                .expect_err(program);
            let prefix = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                          runc create failed: unable to start container process: error during container init: ";
            assert_eq!(error.to_string(), format!("{prefix}{text}"));
            assert_eq!(error.exit_code(), code, "{program}");
        }
        let (code, _, err) = run(&client, host.spec(&["/opt/garbage"])).await;
        assert_eq!(
            (code, err.as_str()),
            (255, "exec /opt/garbage: exec format error\n")
        );
        let (code, _, err) = run(&client, host.spec(&["/opt/orphan"])).await;
        assert_eq!(
            (code, err.as_str()),
            (255, "exec /opt/orphan: no such file or directory\n")
        );
        assert!(
            client.list().await.expect("list").is_empty(),
            "failed launches leave nothing"
        );
        finish(&client).await;
    });
}

#[test]
fn identity_and_privileges() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let script = "id; grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj; \
                      echo again > /dev/stdout";
        let mut spec = host.spec(&["sh", "-c", script]);
        (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![1001, 7]);
        spec.capabilities.effective = 0;
        spec.capabilities.permitted = 0;
        spec.oom_score_adj = Some(123);
        spec.no_new_privs = true;
        let (code, out, err) = run(&client, spec).await;
        let has = |what: &str| assert!(out.contains(what), "{what:?} in:\n{out}\n{err}");
        has("uid=1000 gid=1001 groups=7,1001");
        has("CapPrm:\t0000000000000000");
        has("CapEff:\t0000000000000000");
        has("CapBnd:\t00000000a80425fb");
        has("NoNewPrivs:\t1");
        has("123\nagain\n");
        assert_eq!(code, 0, "{err}");
        let (_, out, _) = run(&client, host.spec(&["grep", "Cap", "/proc/self/status"])).await;
        assert!(out.contains("CapEff:\t00000000a80425fb"), "{out}");
        finish(&client).await;
    });
}

#[test]
fn filter() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        for (uid, no_new_privs) in [(0, false), (0, true), (1000, false), (1000, true)] {
            let mut spec = host.spec(&[
                "sh",
                "-c",
                "grep Seccomp: /proc/self/status; mkdir /tmp/x; grep CapEff /proc/self/status",
            ]);
            // mkdir(2) and mkdirat(2) say EPERM, everything else goes.
            let deny: [[u16; 4]; 5] = [
                [0x20, 0, 0, 0],
                [0x15, 2, 83, 0],
                [0x15, 1, 258, 0],
                [0x06, 0, 0, 0x7fff],
                [0x06, 0, 1, 5],
            ];
            spec.seccomp = Some(
                deny.as_flattened()
                    .iter()
                    .flat_map(|w| w.to_le_bytes())
                    .collect(),
            );
            spec.uid = uid;
            spec.no_new_privs = no_new_privs;
            if uid != 0 {
                spec.capabilities.effective = 0;
                spec.capabilities.permitted = 0;
            }
            eprintln!("user {uid}, no_new_privs {no_new_privs}");
            let (_, out, err) = run(&client, spec).await;
            assert!(out.contains("Seccomp:\t2"), "{out}");
            assert!(
                err.contains("can't create directory '/tmp/x': Operation not permitted"),
                "{err}"
            );
            let wanted = if uid == 0 { "a80425fb" } else { "00000000" };
            assert!(
                out.trim_end().ends_with(wanted),
                "no capability is left over: {out}"
            );
        }
        finish(&client).await;
    });
}

#[test]
fn a_filter_that_forbids_everything_does_not_hang_the_keeper() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let mut spec = host.spec(&["true"]);
        spec.seccomp = Some(
            [0x06, 0, 1, 5u16]
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .collect(),
        );
        spec.no_new_privs = true;
        let (code, ..) = run(&client, spec).await;
        assert_eq!(code, 128 + libc::SIGILL);
        assert_eq!(run(&client, host.spec(&["true"])).await.0, 0);
        finish(&client).await;
    });
}

#[test]
fn signals_and_standard_input() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let spec = host.spec(&[
            "sh",
            "-c",
            "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done",
        ]);
        let id = spec.id.clone();
        let launched = launch(&client, spec).await;
        gantry_rt::sleep(Duration::from_millis(300)).await;
        client.signal(&id, libc::SIGTERM).await.expect("signal");
        let exit = common::exited(&client, &id).await;
        assert_eq!(common::code(exit.wait_status), 9);
        assert!(exit.maxrss_kib > 0 && exit.exited_at_unix_ns > 0);
        assert!(
            client.signal(&id, libc::SIGTERM).await.is_err(),
            "it has ended"
        );
        client.forget(&id).await.expect("forget");
        launched.group.remove().expect("remove the group");

        let mut spec = host.spec(&["cat"]);
        spec.open_stdin = true;
        let id = spec.id.clone();
        let mut launched = launch(&client, spec).await;
        let stdin = launched.process.stdin.take().expect("stdin");
        // SAFETY: a plain system call with a live buffer.
        let written = unsafe { libc::write(stdin.as_raw_fd(), b"in".as_ptr().cast(), 2) };
        assert_eq!(written, 2);
        assert!(client.forget(&id).await.is_err(), "it runs");
        drop(stdin);
        client.close_stdin(&id).await.expect("close stdin");
        let out = common::read_all(launched.process.stdout.take().expect("stdout")).await;
        assert_eq!(out, b"in");
        assert_eq!(
            common::code(common::exited(&client, &id).await.wait_status),
            0
        );
        client.forget(&id).await.expect("forget");
        launched.group.remove().expect("remove the group");

        let spec = host.spec(&["sleep", "1000"]);
        let id = spec.id.clone();
        let launched = launch(&client, spec).await;
        assert_eq!(launched.group.pids().expect("pids"), [launched.process.pid]);
        launched.group.kill_all().expect("kill all");
        assert_eq!(
            common::code(common::exited(&client, &id).await.wait_status),
            128 + 9
        );
        client.forget(&id).await.expect("forget");
        launched.group.remove().expect("remove the group");
        finish(&client).await;
    });
}

#[test]
fn shared_network_namespace_and_options() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let first = host.spec(&["sleep", "1000"]);
        let first_id = first.id.clone();
        let one = launch(&client, first).await;
        let namespace =
            gantry_launch::namespace_of(one.process.pid, one.process.start_time_ticks, "net")
                .expect("namespace");
        assert!(
            gantry_launch::namespace_of(one.process.pid, one.process.start_time_ticks + 1, "net")
                .is_err()
        );
        let wanted = std::fs::read_link(format!("/proc/{}/ns/net", one.process.pid)).expect("link");
        let mut spec = host.spec(&[
            "sh",
            "-c",
            "readlink /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_forward; touch /x",
        ]);
        spec.network = NamespaceMode::Join(namespace);
        spec.sysctls
            .push(("net.ipv4.ip_forward".into(), "1".into()));
        spec.readonly_rootfs = true;
        // A plan that does not fit into a message.
        spec.env
            .push(std::ffi::CString::new(format!("BIG={}", "x".repeat(100_000))).expect("no NUL"));
        let (code, out, err) = run(&client, spec).await;
        assert_eq!(out, format!("{}\n1\n", wanted.display()));
        assert!(err.contains("/x: Read-only file system"), "{err}");
        assert_eq!(code, 1);
        let mut spec = host.spec(&["readlink", "/proc/self/ns/net"]);
        spec.network = NamespaceMode::Host;
        let own = std::fs::read_link("/proc/self/ns/net").expect("link");
        assert_eq!(run(&client, spec).await.1.trim_end(), own.to_string_lossy());
        client.signal(&first_id, libc::SIGKILL).await.expect("kill");
        common::exited(&client, &first_id).await;
        client.forget(&first_id).await.expect("forget");
        one.group.remove().expect("remove the group");
        finish(&client).await;
    });
}

#[test]
fn a_launch_that_hangs_holds_nobody_up() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        // In a frozen parent the child stops between clone and exec, as on a dead network file system.
        let parent =
            Group::create(&host.hierarchy, &host.cgroup_parent(), "frozen").expect("group");
        parent.freeze().expect("freeze");
        let mut stuck = host.spec(&["sh", "-c", "exit 5"]);
        let mut missing = host.spec(&["nosuch"]);
        let below = format!("{}/frozen", host.cgroup_parent());
        (stuck.cgroup.parent, missing.cgroup.parent) = (below.clone(), below);
        let stuck_id = stuck.id.clone();
        let started = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        for spec in [stuck, missing] {
            let (client, started) = (client.clone(), started.clone());
            gantry_rt::spawn("test.launch", async move {
                let result = try_launch(&client, spec).await;
                started.borrow_mut().push(result);
            });
        }
        gantry_rt::sleep(Duration::from_millis(300)).await;
        for _ in 0..3 {
            assert_eq!(run(&client, host.spec(&["sh", "-c", "exit 6"])).await.0, 6);
        }
        assert!(started.borrow().is_empty(), "still between clone and exec");
        parent.thaw().expect("thaw");
        assert_eq!(
            common::code(common::exited(&client, &stuck_id).await.wait_status),
            5
        );
        while started.borrow().len() < 2 {
            gantry_rt::sleep(Duration::from_millis(10)).await;
        }
        let results = std::mem::take(&mut *started.borrow_mut());
        for result in results {
            match result {
                Ok(launched) => launched.group.remove().expect("remove the group"),
                Err(e) => assert!(
                    e.to_string()
                        .ends_with("executable file not found in $PATH"),
                    "{e}"
                ),
            }
        }
        client.forget(&stuck_id).await.expect("forget");
        // The failed launch's group is removed in the background.
        for _ in 0..100 {
            if parent.remove().is_ok() {
                break;
            }
            gantry_rt::sleep(Duration::from_millis(20)).await;
        }
        finish(&client).await;
    });
}

#[test]
fn nothing_of_a_container_is_left() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let count = |pid: u32| {
            std::fs::read_dir(format!("/proc/{pid}/fd"))
                .expect("fd")
                .count()
        };
        let keeper = client.keeper_pid() as u32;
        // The first ones warm up what is made once.
        run(&client, host.spec(&["true"])).await;
        namespaces_made_ahead().await;
        // Who fills the pool still holds a namespace for a moment when it is full.
        gantry_rt::sleep(Duration::from_millis(200)).await;
        let before = (count(keeper), count(std::process::id()), mounts());
        for n in 0..20 {
            let mut spec = host.spec(if n % 4 == 3 { &["nosuch"] } else { &["true"] });
            spec.tty = n % 4 == 1;
            spec.open_stdin = n % 4 == 2;
            if n % 4 == 3 {
                try_launch(&client, spec).await.expect_err("nosuch");
            } else {
                assert_eq!(run(&client, spec).await.0, 0);
            }
        }
        namespaces_made_ahead().await;
        gantry_rt::sleep(Duration::from_millis(200)).await;
        assert_eq!((count(keeper), count(std::process::id()), mounts()), before);
        finish(&client).await;
    });
}

/// Waits until the pool of network namespaces is full again.
async fn namespaces_made_ahead() {
    loop {
        let links = std::fs::read_dir("/proc/self/fd").expect("own descriptors");
        let ready = links
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("net:["))
            .count();
        if ready >= gantry_launch::NETNS_POOL_CAPACITY {
            return;
        }
        gantry_rt::sleep(Duration::from_millis(10)).await;
    }
}
