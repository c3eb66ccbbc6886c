use super::*;

fn c(s: &str) -> CString {
    CString::new(s).expect("no NUL")
}

fn plan(join: Option<Join>) -> Plan {
    Plan {
        id: "c.e".into(),
        may_block: join.is_some(),
        log_nonblocking: false,
        rootfs: 0,
        cgroup_dir: Some(1),
        cgroup_procs: vec![2, 3],
        cgroup_namespace: join.is_none(),
        oom_counter: None,
        network: Namespace::Host,
        stdio: StdioFds {
            stdout_write: Some(1),
            ..StdioFds::default()
        },
        hostname: c("h"),
        domainname: c(""),
        mounts: Vec::new(),
        sysctls: Vec::new(),
        masked_paths: Vec::new(),
        mask_dir: None,
        readonly_paths: Vec::new(),
        rlimits: vec![Rlimit {
            resource: 7,
            soft: 1,
            hard: 2,
        }],
        oom_score_adj: Some(-5),
        uid: 1,
        gid: 2,
        groups: vec![2, 3],
        capabilities: CapabilityMasks::default(),
        no_new_privs: true,
        seccomp: vec![0; 16],
        cwd_parents: Vec::new(),
        cwd: c("/"),
        search_path: true,
        candidates: vec![c("/bin/true")],
        argv: vec![c("true")],
        env: vec![c("A=b")],
        join,
        pid: Namespace::New,
        ipc: Namespace::New,
        host_uts: false,
        user: None,
        apparmor_profile: None,
        filter_last: false,
        hooks: None,
    }
}

#[test]
fn hooks_come_back_and_need_memory_of_their_own() {
    let hook = |path: &str| HookCommand {
        path: c(path),
        argv: vec![c("hook"), c("x")],
        env: vec![c("A=b")],
        timeout_ms: 1500,
    };
    let hooked = Plan {
        may_block: true,
        hooks: Some(HookPlan {
            gate: 0,
            mount_namespace: 1,
            root: 2,
            root_point: c("/run/r"),
            create_container: vec![hook("/a"), hook("/b")],
            start_container: vec![hook("/c")],
            create_state: 3,
            start_state: 0,
            stdout: 1,
            stderr: 2,
        }),
        ..plan(None)
    };
    assert_eq!(hooked.oldest_keeper(), HOOKS_VERSION);
    assert_eq!(Plan::decode(&hooked.encode(), 4), Ok(hooked.clone()));
    assert!(Plan::decode(&hooked.encode(), 3).is_err());
    let shares_memory = Plan {
        may_block: false,
        ..hooked.clone()
    };
    assert!(Plan::decode(&shares_memory.encode(), 4).is_err());
    let mut many = hooked;
    if let Some(hooks) = &mut many.hooks {
        hooks.start_container = vec![hook("/c"); MAX_HOOKS];
    }
    assert!(Plan::decode(&many.encode(), 4).is_err());
}

#[test]
fn shared_namespaces_come_back_and_memory_is_not_shared_in_sight_of_others() {
    let shared = Plan {
        may_block: true,
        pid: Namespace::Join(3),
        ipc: Namespace::Host,
        host_uts: true,
        ..plan(None)
    };
    assert_eq!(Plan::decode(&shared.encode(), 4), Ok(shared.clone()));
    assert_eq!(Plan::decode(&shared.encode(), 3), Err(WireError::NoFd(3)));
    for pid in [Namespace::Host, Namespace::Join(3)] {
        let unsafe_one = Plan {
            may_block: false,
            pid,
            ..shared.clone()
        };
        assert!(Plan::decode(&unsafe_one.encode(), 4).is_err());
    }
}

#[test]
fn plans_come_back_as_they_went() {
    let join = |pidfd, filter_last, user_namespace| {
        Some(Join {
            pidfd,
            filter_last,
            user_namespace,
        })
    };
    for (plan, oldest) in [
        (plan(None), OLDEST_VERSION),
        (plan(join(3, false, false)), EXEC_VERSION),
        (plan(join(0, true, false)), EXEC_VERSION),
        (plan(join(0, true, true)), RIGHTS_VERSION),
    ] {
        assert_eq!(plan.oldest_keeper(), oldest);
        assert_eq!(Plan::decode(&plan.encode(), 4), Ok(plan));
    }
}

#[test]
fn user_namespaces_and_profiles_come_back_and_need_a_keeper_that_knows_them() {
    let user = |source| {
        Some(UserNamespace {
            source,
            views: [2, 3],
        })
    };
    let maps = UserSource::New {
        uid_map: b"0 100000 65536\n".to_vec(),
        gid_map: b"0 7 1\n1 100000 9\n".to_vec(),
    };
    let profile = |name| Some(c(name));
    for (user, pid, apparmor_profile) in [
        (user(maps), Namespace::New, None),
        (user(UserSource::Join(1)), Namespace::Join(0), None),
        (None, Namespace::New, profile("docker-default")),
        (None, Namespace::Host, profile("unconfined")),
    ] {
        let plan = Plan {
            may_block: true,
            filter_last: pid == Namespace::Join(0),
            user,
            pid,
            apparmor_profile,
            ..plan(None)
        };
        assert_eq!(plan.oldest_keeper(), RIGHTS_VERSION);
        assert_eq!(Plan::decode(&plan.encode(), 4), Ok(plan.clone()));
        if plan.user.is_some() {
            assert_eq!(Plan::decode(&plan.encode(), 3), Err(WireError::NoFd(3)));
            let shares_memory = Plan {
                may_block: false,
                ..plan
            };
            assert!(Plan::decode(&shares_memory.encode(), 4).is_err());
        }
    }
}

#[test]
fn proc_of_a_joined_pid_namespace_is_brought_along() {
    let joined = Plan {
        may_block: true,
        pid: Namespace::Join(3),
        mounts: vec![MountOp {
            source: MountSource::Proc,
            target: c("/proc"),
            attributes: 0,
            no_symlinks: true,
        }],
        ..plan(None)
    };
    assert!(Plan::decode(&joined.encode(), 4).is_err());
}

#[test]
fn a_plan_without_join_field_is_a_container() {
    let mut bytes = plan(None).encode();
    bytes.pop();
    assert_eq!(Plan::decode(&bytes, 4), Ok(plan(None)));
}

#[test]
fn a_pidfd_that_was_not_sent_and_every_cut_are_refused() {
    let join = Some(Join {
        pidfd: 4,
        filter_last: false,
        user_namespace: false,
    });
    assert_eq!(
        Plan::decode(&plan(join).encode(), 4),
        Err(WireError::NoFd(4))
    );
    let bytes = plan(Some(Join {
        pidfd: 1,
        filter_last: false,
        user_namespace: false,
    }))
    .encode();
    // What is cut off exactly before the field is a plan of version 1.
    let version_1 = bytes.len() - 3;
    for len in (0..bytes.len()).filter(|len| *len != version_1) {
        assert!(Plan::decode(&bytes[..len], 4).is_err(), "{len}");
    }
}
