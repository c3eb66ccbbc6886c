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
                ("tasks", ""),
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
        ("tasks", ""),
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

/// A version 2 host with the group docker/c1, which was not given pids.
fn v2_host() -> (tempfile::TempDir, Hierarchy) {
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
            ("cgroup.controllers", "cpu io memory\n"),
            ("memory.max", ""),
            ("memory.current", "4096\n"),
            ("cpu.max", ""),
            ("io.weight", ""),
            ("memory.events", "oom 1\noom_kill 2\n"),
            ("cgroup.procs", "7\n0\n5\n"),
            ("cgroup.freeze", "0\n"),
            ("cgroup.events", "populated 1\nfrozen 0\n"),
        ],
    );
    let mountinfo = "1 0 0:1 / /cg rw - cgroup2 cgroup2 rw\n";
    let hierarchy = Hierarchy::from_mountinfo(mountinfo, root.path()).unwrap();
    hierarchy.check_required().unwrap();
    (root, hierarchy)
}

#[test]
fn version_2_delegates_on_the_way() {
    let (root, hierarchy) = v2_host();
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
        ..Limits::default()
    };
    assert_eq!(group.apply(&limits).unwrap(), [""; 0]);
    assert_eq!(content(&root, "cg/docker/c1/cpu.max"), "50000 100000");
    assert_eq!(group.oom_kill_count().unwrap(), Some(2));
    assert!(group.attach_fds().unwrap().into.is_some());
}

#[test]
fn a_controller_that_is_not_handed_down_fails_its_limits() {
    let (_root, hierarchy) = v2_host();
    let made = Group::create(&hierarchy, "docker", "c1").unwrap();
    let limits = Limits {
        pids_max: Some(7),
        ..Limits::default()
    };
    for group in [made, Group::open(&hierarchy, "docker", "c1").unwrap()] {
        // It is no shortcoming of the kernel.
        assert_eq!(group.unsupported(&limits).unwrap(), [""; 0]);
        let error = group.apply(&limits).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot set the pids limit of /docker/c1: no pids controller there"),
            "{error}"
        );
    }
}

#[test]
fn a_controller_that_the_host_lacks_discards_its_limits() {
    let (_root, hierarchy) = v2_host();
    let group = Group::create(&hierarchy, "docker", "c1").unwrap();
    let limits = Limits {
        cpuset_cpus: Some("0".to_owned()),
        memory_swappiness: Some(5),
        oom_kill_disable: true,
        ..Limits::default()
    };
    assert_eq!(group.apply(&limits).unwrap(), ["cpuset cpus"]);
    assert_eq!(
        group.unsupported(&limits).unwrap(),
        ["cpuset cpus", "memory swappiness", "oom kill disable"]
    );
}

#[test]
fn a_block_weight_goes_where_the_kernel_has_a_file() {
    let (root, hierarchy) = v2_host();
    let group = Group::create(&hierarchy, "docker", "c1").unwrap();
    let limits = Limits {
        blkio_weight: Some(300),
        ..Limits::default()
    };
    assert_eq!(group.apply(&limits).unwrap(), [""; 0]);
    assert_eq!(content(&root, "cg/docker/c1/io.weight"), "default 2930");
    let bfq = root.path().join("cg/docker/c1/io.bfq.weight");
    fs::write(&bfq, "").unwrap();
    assert_eq!(group.apply(&limits).unwrap(), [""; 0]);
    assert_eq!(content(&root, "cg/docker/c1/io.bfq.weight"), "default 300");
}

#[test]
fn version_2_is_listed_frozen_and_counted() {
    let (root, hierarchy) = v2_host();
    let group = Group::open(&hierarchy, "/docker/", "c1").unwrap();
    assert_eq!(group.relative(), "/docker/c1");
    assert_eq!(group.pids().unwrap(), [5, 7], "0 is nobody of ours");
    assert_eq!(group.memory_usage_bytes().unwrap(), Some(4096));
    let error = group.freeze().unwrap_err();
    assert!(
        matches!(error, CgroupError::FreezeTimeout { .. }),
        "{error}"
    );
    assert_eq!(content(&root, "cg/docker/c1/cgroup.freeze"), "0", "thawed");
    write(
        &root.path().join("cg/docker/c1"),
        &[("cgroup.events", "populated 1\nfrozen 1\n")],
    );
    group.freeze().unwrap();
    assert_eq!(content(&root, "cg/docker/c1/cgroup.freeze"), "1");
    assert!(group.is_frozen().unwrap());
    group.thaw().unwrap();
    assert_eq!(content(&root, "cg/docker/c1/cgroup.freeze"), "0");
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
