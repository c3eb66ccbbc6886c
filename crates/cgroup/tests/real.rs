//! On this host's own cgroups, in groups of a name of their own that are removed afterwards.
//! Without root or cgroups these tests say so and pass.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gantry_cgroup::{
    Access, CgroupError, Controller, DeviceKind, DeviceProgram, DeviceRule, Fired, Group,
    Hierarchy, Limits, OomWatch, Version,
};

const PARENT: &str = "/gantry-cgroup-test";

/// The group of one test, gone with its processes when the test is, whatever happens.
struct Scratch {
    group: Group,
    children: Vec<Child>,
}

impl Scratch {
    fn new(name: &str) -> Option<Scratch> {
        let hierarchy = match Hierarchy::detect() {
            Ok(hierarchy) => hierarchy,
            Err(error) => {
                println!("skipped: {error}");
                return None;
            }
        };
        let id = format!("{name}-{}", std::process::id());
        match Group::create(&hierarchy, PARENT, &id) {
            Ok(group) => Some(Scratch {
                group,
                children: Vec::new(),
            }),
            Err(CgroupError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                println!("skipped: {source}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A shell that waits for a line before it runs `script`, put into the group meanwhile.
    fn shell(&mut self, script: &str) -> &mut Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read line; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.group.attach(child.id() as i32).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        self.children.push(child);
        self.children.last_mut().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        let killed = self.group.kill_all();
        for child in &mut self.children {
            let _ = child.wait();
        }
        let removed = self.group.remove();
        if !thread::panicking() {
            killed.unwrap();
            removed.unwrap();
            remove_parent();
        }
    }
}

/// The parent stays while another test uses it.
fn remove_parent() {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in mountinfo.lines().filter(|line| line.contains(" - cgroup")) {
        let point = line.split(' ').nth(4).unwrap();
        let _ = fs::remove_dir(format!("{point}{PARENT}"));
    }
}

fn wait_until(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn limits_reach_the_kernel() {
    let Some(scratch) = Scratch::new("limits") else {
        return;
    };
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        memory_reservation_bytes: Some(32 << 20),
        cpu_shares: Some(512),
        nano_cpus: Some(500_000_000),
        pids_max: Some(50),
        devices: Some(DeviceRule::defaults()),
        ..Limits::default()
    };
    let discarded = scratch.group.apply(&limits).unwrap();
    println!("discarded here: {discarded:?}");
    let file = |controller, v1: &str, v2: &str| {
        let dir = scratch.group.path(controller).unwrap();
        let name = if dir.join(v1).exists() { v1 } else { v2 };
        fs::read_to_string(dir.join(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(
        file(Controller::Memory, "memory.limit_in_bytes", "memory.max"),
        "67108864"
    );
    assert_eq!(file(Controller::Pids, "pids.max", "pids.max"), "50");
    let quota = file(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota.split(' ').next(), Some("50000"));
    assert_eq!(scratch.group.oom_kill_count().unwrap(), Some(0));
    // A live update to a shorter period that the quota of before does not fit.
    let update = Limits {
        cpu_quota_us: Some(5_000),
        cpu_period_us: Some(10_000),
        ..Limits::default()
    };
    assert_eq!(scratch.group.apply(&update).unwrap(), Vec::<&str>::new());
}

#[test]
fn processes_are_listed_frozen_killed() {
    let Some(mut scratch) = Scratch::new("life") else {
        return;
    };
    scratch.shell("sleep 1000 & sleep 1000 & wait");
    wait_until("three processes", || {
        scratch.group.pids().unwrap().len() == 3
    });
    assert!(!scratch.group.is_frozen().unwrap());
    scratch.group.freeze().unwrap();
    assert!(scratch.group.is_frozen().unwrap());
    assert!(matches!(
        scratch.group.remove(),
        Err(CgroupError::Busy { .. })
    ));
    scratch.group.kill_all().unwrap(); // frozen: killed all the same
    assert!(!scratch.group.is_frozen().unwrap());
    assert_eq!(scratch.group.pids().unwrap(), Vec::<i32>::new());
    scratch.group.kill_all().unwrap(); // nobody there
}

#[test]
fn processes_outside_of_the_unified_hierarchy_are_killed_too() {
    let Some(mut scratch) = Scratch::new("v1kill") else {
        return;
    };
    if Hierarchy::detect().unwrap().version() != Version::Hybrid {
        return;
    }
    let child = scratch.shell("sleep 1000 & wait");
    let pid = child.id();
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let unified = mountinfo
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .unwrap();
    let procs = format!("{}/cgroup.procs", unified.split(' ').nth(4).unwrap());
    for pid in scratch.group.pids().unwrap() {
        fs::write(&procs, pid.to_string()).unwrap();
    }
    assert!(scratch.group.pids().unwrap().contains(&(pid as i32)));
    scratch.group.kill_all().unwrap();
}

#[test]
fn nested_groups_are_seen_and_removed() {
    let Some(mut scratch) = Scratch::new("nested") else {
        return;
    };
    let child = scratch.shell("sleep 1000").id();
    let inner = scratch.group.path(Controller::Pids).unwrap().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("cgroup.procs"), child.to_string()).unwrap();
    assert!(scratch.group.pids().unwrap().contains(&(child as i32)));
}

#[test]
fn memory_kill_is_counted() {
    let Some(mut scratch) = Scratch::new("oom") else {
        return;
    };
    let limits = Limits {
        memory_bytes: Some(16 << 20),
        memory_swap_bytes: Some(16 << 20),
        ..Limits::default()
    };
    scratch.group.apply(&limits).unwrap();
    let child = scratch.shell("exec dd if=/dev/zero of=/dev/null bs=100M count=1");
    let status = child.wait().unwrap();
    assert!(!status.success());
    wait_until("a counted kill", || {
        scratch.group.oom_kill_count().unwrap() == Some(1)
    });
}

#[test]
fn memory_kills_are_heard_of_while_a_group_lives() {
    let Some(mut scratch) = Scratch::new("heard") else {
        return;
    };
    let hierarchy = Hierarchy::detect().unwrap();
    let watch = OomWatch::new(hierarchy.version()).unwrap();
    let mark = watch.add(&scratch.group).unwrap().unwrap();
    assert!(matches!(
        watch.fired().unwrap(),
        Fired::Times(0) | Fired::In(_)
    ));
    let limits = Limits {
        memory_bytes: Some(16 << 20),
        memory_swap_bytes: Some(16 << 20),
        ..Limits::default()
    };
    scratch.group.apply(&limits).unwrap();
    scratch.shell("head -c 100000000 /dev/zero | tail -c 90000000");
    wait_until("a kill is heard of", || match watch.fired().unwrap() {
        Fired::Times(times) => times > 0,
        Fired::In(marks) => marks.contains(&mark),
        Fired::Anywhere => true,
    });
    wait_until("and counted", || {
        scratch
            .group
            .oom_kill_count()
            .unwrap()
            .is_some_and(|n| n > 0)
    });
    scratch.group.kill_all().unwrap();
    watch.fired().unwrap();
    if hierarchy.version() != Version::V2 {
        // The owner of the watch knows what it removes, and takes this signal for that.
        scratch.group.remove().unwrap();
        wait_until("the removal is heard of", || {
            watch.fired().unwrap() == Fired::Times(1)
        });
    }
}

fn open_in_group(scratch: &mut Scratch, path: &str) -> bool {
    let child = scratch.shell(&format!("exec 3<{path}"));
    child.wait().unwrap().success()
}

#[test]
fn default_devices_are_enforced() {
    let Some(mut scratch) = Scratch::new("devices") else {
        return;
    };
    let node = std::env::temp_dir().join(format!("gantry-cgroup-test-{}", std::process::id()));
    let node = node.to_str().unwrap().to_owned();
    let made = Command::new("mknod")
        .args([&node, "c", "1", "11"])
        .status()
        .unwrap();
    assert!(made.success());
    let before = open_in_group(&mut scratch, &node);
    let limits = Limits {
        devices: Some(DeviceRule::defaults()),
        ..Limits::default()
    };
    scratch.group.apply(&limits).unwrap();
    let (kmsg, null) = (
        open_in_group(&mut scratch, &node),
        open_in_group(&mut scratch, "/dev/null"),
    );
    fs::remove_file(&node).unwrap();
    assert!(before, "/dev/kmsg's number opens without rules");
    assert!(!kmsg && null);
}

/// The program of v2, on the cgroup2 directory that a hybrid host has as well.
#[test]
fn device_program_is_enforced_and_replaced() {
    let Some(mut scratch) = Scratch::new("bpf") else {
        return;
    };
    let Some(path) = scratch.group.v2_path().map(ToOwned::to_owned) else {
        println!("skipped: no cgroup2 here");
        return;
    };
    let dir = OpenOptions::new().read(true).open(path).unwrap();
    let only_null = [DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(3),
        access: Access::ALL,
    }];
    let program = DeviceProgram::from_rules(&only_null).unwrap();
    match program.attach(dir.as_fd()) {
        Err(CgroupError::Io { source, .. }) if source.raw_os_error() == Some(libc::ENOSYS) => {
            println!("skipped: {source}");
            return;
        }
        result => result.unwrap(),
    }
    assert!(open_in_group(&mut scratch, "/dev/null"));
    assert!(!open_in_group(&mut scratch, "/dev/zero"));
    let defaults = DeviceProgram::from_rules(&DeviceRule::defaults()).unwrap();
    defaults.attach(dir.as_fd()).unwrap();
    assert!(
        open_in_group(&mut scratch, "/dev/zero"),
        "the earlier program is gone"
    );
}

#[test]
fn creating_costs_little() {
    let Some(scratch) = Scratch::new("time") else {
        return;
    };
    let hierarchy = Hierarchy::detect().unwrap();
    let rounds = 20u32;
    let start = Instant::now();
    for round in 0..rounds {
        let id = format!("time-{}-{round}", std::process::id());
        let group = Group::create(&hierarchy, PARENT, &id).unwrap();
        group.attach_fds().unwrap();
        group.remove().unwrap();
    }
    println!("create, open, remove: {:?} each", start.elapsed() / rounds);
    drop(scratch);
}
