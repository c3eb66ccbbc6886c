use super::*;

fn spec(json: &str) -> Result<CreateSpec, ApiError> {
    let request = crate::json::decode(crate::json::parse(json.as_bytes())?)?;
    let machine = Machine {
        cpus: 2,
        ..Machine::default()
    };
    create_spec(None, request, ApiVersion::CURRENT, &machine).map(|(spec, _)| spec)
}

fn error(host: &str) -> (u16, String) {
    let e = spec(&format!("{{\"Image\":\"busybox\",\"HostConfig\":{host}}}")).unwrap_err();
    (e.status.as_u16(), e.message)
}

#[test]
fn texts_of_dockerd() {
    for (host, want) in [
        (r#"{"Memory":1}"#, "Minimum memory limit allowed is 6MB"),
        (
            r#"{"RestartPolicy":{"Name":"foo"}}"#,
            "invalid restart policy: unknown policy 'foo'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        ),
        (
            r#"{"RestartPolicy":{"Name":"always"},"AutoRemove":true}"#,
            "can't create 'AutoRemove' container with restart policy",
        ),
        (r#"{"ShmSize":-1}"#, "SHM size can not be less than 0"),
        (
            r#"{"LogConfig":{"Type":"foo"}}"#,
            "error looking up logging plugin foo: plugin \"foo\" not found",
        ),
        (
            r#"{"NanoCpus":1000000000000}"#,
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        ),
        (r#"{"PidMode":"foo"}"#, "invalid PID mode: foo"),
        (r#"{"IpcMode":"foo"}"#, "invalid IPC mode: foo"),
        (
            r#"{"Memory":10000000,"MemorySwap":1}"#,
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            r#"{"CpuShares":-1}"#,
            "invalid CPU shares (-1): value must be a positive integer",
        ),
        (
            r#"{"ExtraHosts":["foo"]}"#,
            "bad format for add-host: \"foo\"",
        ),
        (
            r#"{"OomScoreAdj":2000}"#,
            "Invalid value 2000, range for oom score adj is [-1000, 1000]",
        ),
        (
            r#"{"Tmpfs":{"foo":""}}"#,
            "invalid mount path: 'foo' mount path must be absolute",
        ),
        (
            r#"{"CpusetCpus":"8000"}"#,
            "Requested CPUs are not available - requested 8000, available: ",
        ),
    ] {
        let (status, text) = error(host);
        assert_eq!(status, 400, "{host}");
        assert!(text.starts_with(want), "{host}: {text}");
    }
    assert_eq!(
        spec("{\"Image\":\"\"}").unwrap_err().message,
        "no command specified"
    );
    assert_eq!(
        spec(r#"{"Image":"b","WorkingDir":"rel"}"#)
            .unwrap_err()
            .message,
        "the working directory 'rel' is invalid, it needs to be an absolute path"
    );
    assert_eq!(
        spec(r#"{"Image":"b","Env":["=x"]}"#).unwrap_err().message,
        "invalid environment variable: =x"
    );
}

#[test]
fn what_is_not_built_is_refused_loudly() {
    for host in [
        r#"{"PortBindings":{"80/tcp":[{"HostPort":"8080"}]}}"#,
        r#"{"PublishAllPorts":true}"#,
        r#"{"Links":["a:b"]}"#,
    ] {
        assert_eq!(error(host).0, 501, "{host}");
    }
    let other = r#"{"Image":"b","NetworkingConfig":{"EndpointsConfig":{"mine":{}}}}"#;
    assert_eq!(spec(other).unwrap_err().message, "network mine not found");
    // A network's absence is found at the start.
    let named = spec(r#"{"Image":"b","HostConfig":{"NetworkMode":"mine"}}"#).unwrap();
    assert_eq!(named.host.network_mode.as_docker(), "mine");
}

#[test]
fn joined_containers_are_named_by_id() {
    let mut host = HostConfig {
        pid_mode: "container:web".to_owned(),
        ipc_mode: "container:".to_owned(),
        ..HostConfig::default()
    };
    name_joined(&mut host, |key| Ok(format!("id-of-{key}"))).unwrap();
    assert_eq!(
        (host.pid_mode.as_str(), host.ipc_mode.as_str()),
        ("container:id-of-web", "container:")
    );
    let missing = |key: &str| Err(ApiError::not_found(format!("No such container: {key}")));
    let error = name_joined(&mut host, missing).unwrap_err();
    assert_eq!(
        (error.status.as_u16(), error.message.as_str()),
        (400, "No such container: id-of-web")
    );
}

#[test]
fn defaults_are_filled_in() {
    let spec = spec(r#"{"Image":"b","Cmd":"ls","HostConfig":{"Memory":10000000,"Dns":[],"MemorySwappiness":-1,"PidsLimit":0,"Cgroup":"any"}}"#).unwrap();
    let kept: Kept = serde_json::from_str(&spec.wire).unwrap();
    let host = kept.host_config;
    assert_eq!(host.network_mode, "bridge");
    assert_eq!(host.memory_swap, 20_000_000);
    assert_eq!(host.memory_swappiness, None);
    assert_eq!(host.pids_limit, None);
    assert_eq!(host.cgroup, "any");
    assert_eq!(host.dns, Some(vec![]));
    assert_eq!(host.dns_search, None);
    assert_eq!(host.shm_size, DEFAULT_SHM_BYTES);
    assert_eq!(host.log_config.driver, "json-file");
    assert_eq!(host.masked_paths.unwrap().len(), DEFAULT_MASKED_PATHS.len());
    assert_eq!(spec.config.cmd, Some(vec!["ls".to_owned()]));
    assert_eq!(spec.config.entrypoint, None);
}

#[test]
fn security_options() {
    let with = |o: &str| {
        spec(&format!(
            "{{\"Image\":\"b\",\"HostConfig\":{{\"SecurityOpt\":[{o}]}}}}"
        ))
    };
    let parsed = |o: &str| with(o).unwrap().host.security;
    assert!(parsed("\"no-new-privileges\"").no_new_privileges);
    assert!(parsed("\"no-new-privileges:1\"").no_new_privileges);
    assert!(!parsed("\"no-new-privileges\",\"no-new-privileges=false\"").no_new_privileges);
    assert_eq!(parsed("\"writable-cgroups\"").writable_cgroups, Some(true));
    assert_eq!(parsed("\"apparmor=mine\"").apparmor_profile, "mine");
    for taken in [
        "seccomp=unconfined",
        "seccomp=",
        "label=disable",
        "label:type:x",
        "label=bogus",
    ] {
        assert!(with(&format!("\"{taken}\"")).is_ok(), "{taken}");
    }
    for (refused, kind) in [
        ("foo=bar", 2),
        ("=", 2),
        ("no-new-privileges=", 2),
        ("no-new-privileges:true:false", 2),
        ("writable-cgroups=maybe", 2),
        // The client's own way to say MaskedPaths and ReadonlyPaths.
        ("systempaths=unconfined", 2),
        ("apparmor", 1),
        ("seccomp", 1),
        ("", 1),
    ] {
        assert_eq!(
            with(&format!("\"{refused}\"")).unwrap_err().message,
            format!("invalid --security-opt {kind}: \"{refused}\"")
        );
    }
}

#[test]
fn the_real_cli() {
    let body = include_str!("../../data/cli-create.json");
    let spec = spec(body).unwrap();
    assert!(spec.config.attach_stdin && spec.config.open_stdin && spec.host.auto_remove);
    assert_eq!(
        spec.config.cmd,
        Some(vec!["echo".to_owned(), "hi".to_owned()])
    );
}

/// The first two columns of the rows of a section of the table.
fn rows(section: &str) -> Vec<(&'static str, &'static str)> {
    let table = include_str!("../../../../docs/compat/hostconfig.md");
    let section = table.split("\n## ").find(|s| s.starts_with(section));
    let lines = section.expect("the section").lines();
    let cells = lines
        .filter_map(|line| line.strip_prefix("| "))
        .filter(|line| !line.starts_with("field "));
    cells
        .map(|line| {
            let mut cells = line.split(" | ");
            (cells.next().unwrap(), cells.next().unwrap())
        })
        .collect()
}

#[test]
fn every_field_is_in_the_table() {
    let sections = [
        ("HostConfig\n", HostConfig::KEYS),
        ("Config\n", CreateRequest::KEYS),
    ];
    for (section, fields) in sections {
        let rows = rows(section);
        let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, fields, "the rows are the fields in their order");
        for (name, state) in rows {
            let known = state == "built" || state == "kept" || state.starts_with("refused");
            assert!(known, "{name}: {state}");
        }
    }
}
