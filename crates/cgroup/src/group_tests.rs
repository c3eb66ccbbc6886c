use std::fs;

use super::*;
use crate::limits::{Limits, UNLIMITED};

fn write(dir: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(dir).unwrap();
    for (file, value) in files {
        fs::write(dir.join(file), value).unwrap();
    }
}

/// A tree that looks like a v1 host's: directories are made, files are not, so they are put there
/// before.
fn v1_host() -> (tempfile::TempDir, Hierarchy) {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().join("cg");
    let cpuset = base.join("cpuset");
    write(&cpuset, &[("cpuset.cpus", "0-3\n"), ("cpuset.mems", "0\n")]);
    for level in ["docker", "docker/c1"] {
        write(
            &cpuset.join(level),
            &[
                ("cpuset.cpus", "\n"),
                ("cpuset.mems", "\n"),
                ("cgroup.procs", ""),
            ],
        );
    }
    let memory = [
        ("memory.limit_in_bytes", "8192\n"),
        ("memory.usage_in_bytes", "4096\n"),
        (
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        ),
        ("cgroup.procs", ""),
    ];
    write(&base.join("memory/docker/c1"), &memory);
    let mountinfo = "1 0 0:1 / /cg/cpuset rw - cgroup cgroup rw,cpuset\n\
                     2 0 0:2 / /cg/memory rw - cgroup cgroup rw,memory\n";
    let hierarchy = Hierarchy::from_mountinfo(mountinfo, root.path()).unwrap();
    (root, hierarchy)
}

fn content(root: &tempfile::TempDir, file: &str) -> String {
    fs::read_to_string(root.path().join(file))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn cpuset_is_inherited_level_by_level() {
    let (root, hierarchy) = v1_host();
    Group::create(&hierarchy, "/docker", "c1").unwrap();
    assert_eq!(content(&root, "cg/cpuset/docker/cpuset.cpus"), "0-3");
    assert_eq!(content(&root, "cg/cpuset/docker/c1/cpuset.mems"), "0");
}

#[test]
fn limits_without_a_place_are_reported_not_swallowed() {
    let (root, hierarchy) = v1_host();
    let group = Group::create(&hierarchy, "docker", "c1").unwrap();
    let limits = Limits {
        memory_bytes: Some(1 << 20),
        memory_swap_bytes: Some(UNLIMITED),
        cpuset_cpus: Some("0-1".to_owned()),
        pids_max: Some(7),
        ..Limits::default()
    };
    assert_eq!(group.apply(&limits).unwrap(), ["swap limit", "pids limit"]);
    assert_eq!(
        content(&root, "cg/memory/docker/c1/memory.limit_in_bytes"),
        "1048576"
    );
    assert_eq!(content(&root, "cg/cpuset/docker/c1/cpuset.cpus"), "0-1");
    assert_eq!(group.oom_kill_count().unwrap(), Some(3));
    assert_eq!(group.memory_usage_bytes().unwrap(), Some(4096));
    assert_eq!(group.pids_current().unwrap(), None);
}

#[test]
fn device_rules_without_the_controller_are_an_error() {
    let (_root, hierarchy) = v1_host();
    let group = Group::create(&hierarchy, "docker", "c1").unwrap();
    let limits = Limits {
        devices: Some(DeviceRule::defaults()),
        ..Limits::default()
    };
    assert!(matches!(
        group.apply(&limits),
        Err(CgroupError::MissingControllers { .. })
    ));
}

#[test]
fn version_2_delegates_on_the_way() {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().join("cg");
    let lists = |enabled| {
        [
            ("cgroup.controllers", "cpu io memory pids\n"),
            ("cgroup.subtree_control", enabled),
        ]
    };
    write(&base, &lists("cpu\n"));
    write(&base.join("docker"), &lists(""));
    write(
        &base.join("docker/c1"),
        &[
            ("cgroup.controllers", "cpu memory\n"),
            ("memory.max", ""),
            ("cpu.max", ""),
            ("memory.events", "oom 1\noom_kill 2\n"),
        ],
    );
    let mountinfo = "1 0 0:1 / /cg rw - cgroup2 cgroup2 rw\n";
    let hierarchy = Hierarchy::from_mountinfo(mountinfo, root.path()).unwrap();
    hierarchy.check_required().unwrap();
    let group = Group::create(&hierarchy, "docker", "c1").unwrap();
    assert_eq!(
        content(&root, "cg/cgroup.subtree_control"),
        "+io +memory +pids"
    );
    assert_eq!(
        content(&root, "cg/docker/cgroup.subtree_control"),
        "+cpu +io +memory +pids"
    );
    let limits = Limits {
        memory_bytes: Some(1 << 20),
        nano_cpus: Some(500_000_000),
        pids_max: Some(7),
        ..Limits::default()
    };
    assert_eq!(group.apply(&limits).unwrap(), ["pids limit"]);
    assert_eq!(content(&root, "cg/docker/c1/cpu.max"), "50000 100000");
    assert_eq!(group.oom_kill_count().unwrap(), Some(2));
    assert!(group.attach_fds().unwrap().into.is_some());
}

#[test]
fn paths_cannot_leave_the_hierarchy() {
    for (parent, id) in [
        ("/docker", ".."),
        ("/docker", "a/b"),
        ("/docker", ""),
        ("/docker", "."),
        ("/docker", "a/."),
        ("do\0cker", "a"),
    ] {
        let error = relative_path(parent, id);
        assert!(
            matches!(error, Err(CgroupError::InvalidPath(_))),
            "{parent} {id}"
        );
    }
    assert_eq!(
        relative_path("//docker/./x/", "c").unwrap(),
        Path::new("docker/x/c")
    );
    // As a path below the root of a container: nothing is above it.
    assert_eq!(relative_path("/a/../../b", "c").unwrap(), Path::new("b/c"));
    assert_eq!(relative_path("a/../..", "c").unwrap(), Path::new("c"));
    assert_eq!(relative_path("", "c").unwrap(), Path::new("c"));
    assert_eq!(relative_path("/", "c").unwrap(), Path::new("c"));
}

#[test]
fn open_finds_only_what_is_there() {
    let (_root, hierarchy) = v1_host();
    assert!(Group::open(&hierarchy, "docker", "c2").is_err());
    let group = Group::open(&hierarchy, "docker", "c1").unwrap();
    assert_eq!(group.relative(), "/docker/c1");
    assert!(group.path(Controller::Memory).is_some());
}
