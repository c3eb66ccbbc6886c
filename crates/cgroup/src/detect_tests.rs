use super::*;

const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
37 31 0:33 / /mnt/devices\\040again rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
";
const UNIFIED: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

fn tree(controllers: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let unified = dir.path().join("sys/fs/cgroup/unified");
    fs::create_dir_all(&unified).unwrap();
    fs::write(unified.join("cgroup.controllers"), controllers).unwrap();
    dir
}

#[test]
fn every_controller_has_a_name_of_its_own() {
    for (controller, name) in Controller::ALL {
        assert_eq!(controller.name(), name);
        assert_eq!(Controller::from_v1(name), Some(controller));
    }
}

#[test]
fn version_1() {
    let found = Hierarchy::from_mountinfo(V1, Path::new("/")).unwrap();
    assert_eq!(found.version(), Version::V1);
    assert_eq!(
        found.v1.len(),
        4,
        "a second mount of a hierarchy is not another one"
    );
    assert!(found.has(Controller::Cpuacct) && !found.has(Controller::Pids));
    let path = found.v1_path(Controller::Devices).unwrap();
    assert_eq!(path, Path::new("/sys/fs/cgroup/devices"));
    found.check_required().unwrap();
    assert!(found.missing().contains(&Controller::Freezer));
}

#[test]
fn hybrid() {
    let dir = tree("");
    let found = Hierarchy::from_mountinfo(&format!("{V1}{UNIFIED}"), dir.path()).unwrap();
    assert_eq!(found.version(), Version::Hybrid);
    assert!(found.v2.is_some());
}

#[test]
fn version_2_with_a_bare_systemd_hierarchy() {
    let dir = tree("cpuset cpu io memory hugetlb pids rdma misc\n");
    let systemd = V1.lines().last().unwrap();
    let found = Hierarchy::from_mountinfo(&format!("{systemd}\n{UNIFIED}"), dir.path()).unwrap();
    assert_eq!(found.version(), Version::V2);
    assert!(found.has(Controller::Blkio) && found.has(Controller::Devices));
    found.check_required().unwrap();
}

#[test]
fn missing_controllers_are_named_with_a_cause() {
    let dir = tree("cpu\n");
    let found = Hierarchy::from_mountinfo(UNIFIED, dir.path()).unwrap();
    let error = found.check_required().unwrap_err().to_string();
    assert!(
        error.contains("memory, pids") && error.contains("delegated"),
        "{error}"
    );

    let cpu_only = V1.lines().nth(1).unwrap();
    let found = Hierarchy::from_mountinfo(cpu_only, dir.path()).unwrap();
    let error = found.check_required().unwrap_err().to_string();
    assert!(
        error.contains("devices, memory") && error.contains("cgroup_disable"),
        "{error}"
    );
}

#[test]
fn nothing_mounted() {
    let error = Hierarchy::from_mountinfo("1 0 8:1 / / rw - ext4 /dev/vda rw\n", Path::new("/"));
    assert!(matches!(error, Err(CgroupError::NotMounted)));
}

#[test]
fn escaped_paths() {
    assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
    assert_eq!(unescape("a\\zz"), "a\\zz");
    assert_eq!(unescape("a\\"), "a\\");
}

#[test]
fn this_host() {
    let found = Hierarchy::detect().unwrap();
    println!("{:?}, missing {:?}", found.version(), found.missing());
}
