//! What is accepted as a profile, and the words of what is not.

use gantry_seccomp::{Arch, KernelVersion, Profile, compile};

fn error(json: &str) -> String {
    Profile::parse(json).unwrap_err().to_string()
}

#[test]
fn the_built_in_profile_is_valid() {
    let profile = Profile::default_docker();
    assert!(profile.enforces());
    assert!(profile.relevant_caps() & 1 << 21 != 0);
    let unknown: Vec<&str> = profile
        .syscalls
        .iter()
        .flat_map(|rule| rule.all_names())
        .filter(|name| {
            Arch::ALL
                .iter()
                .all(|arch| arch.syscall_number(name).is_none())
        })
        .collect();
    // Calls of architectures without a table here.
    assert_eq!(
        unknown,
        [
            "riscv_hwprobe",
            "swapcontext",
            "s390_pci_mmio_read",
            "s390_pci_mmio_write",
            "s390_runtime_instr",
            "riscv_flush_icache",
        ]
    );
}

#[test]
fn refused_with_dockers_or_runcs_words() {
    for (json, part) in [
        ("{", "Decoding seccomp profile failed: "),
        (
            r#"{"defaultAction":"SCMP_ACT_NO"}"#,
            "string SCMP_ACT_NO is not a valid action for seccomp",
        ),
        (
            r#"{"syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW"}]}"#,
            "string  is not a valid action",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            "SCMP_ACT_NOTIFY cannot be used as default action",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "seccomp listenerPath is not set",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/l","syscalls":[{"names":["a"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "SCMP_ACT_NOTIFY with a listenerPath is not supported",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_TRACE","errnoRet":65536}]}"#,
            "trace message 65536",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4095}"#,
            "errno 4095",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_Z80"]}"#,
            "string SCMP_ARCH_Z80 is not a valid arch",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","flags":["F"]}"#,
            "seccomp flag F is not known",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
            "use either 'architectures' or 'archMap'",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            "use either 'name' or 'names'",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}"#,
            "syscalls only have up to 6 arguments (6 given)",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"op":"SCMP_CMP_XX"}]}]}"#,
            "string SCMP_CMP_XX is not a valid operator for seccomp",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"four"}}]}"#,
            "invalid kernel version",
        ),
    ] {
        let error = error(json);
        assert!(error.contains(part), "{json}: {error}");
    }
}

#[test]
fn numbers_that_count_for_nothing_are_taken() {
    for json in [
        r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":70000}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoRet":70000}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_TRACE","errnoRet":5000}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","listenerPath":"/nobody/asks/it"}"#,
    ] {
        let profile = Profile::parse(json).unwrap();
        compile(&profile, 0, (6, 18)).unwrap();
    }
}

#[test]
fn nothing_to_enforce_allows_everything() {
    let profile = Profile::parse("{}").unwrap();
    assert!(!profile.enforces());
    let program = compile(&profile, 0, (6, 18)).unwrap();
    let only: Vec<_> = program.instructions().collect();
    assert_eq!((only.len(), only[0].k), (1, 0x7fff_0000));
}

#[test]
fn null_is_absent() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":null,"architectures":null,"flags":null,
        "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":null,"includes":null,"excludes":{"caps":null}}]}"#;
    assert_eq!(Profile::parse(json).unwrap().syscalls.len(), 1);
}

#[test]
fn flags() {
    let flags = |json: &str| {
        compile(&Profile::parse(json).unwrap(), 0, (6, 18))
            .unwrap()
            .flags()
    };
    assert_eq!(flags(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#), 4);
    assert_eq!(flags(r#"{"defaultAction":"SCMP_ACT_ERRNO","flags":[]}"#), 0);
    let log = r#"{"defaultAction":"SCMP_ACT_ERRNO","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#;
    assert_eq!(flags(log), 2);
}

#[test]
fn kernel_releases() {
    let version = |major, minor| Some(KernelVersion { major, minor });
    assert_eq!(
        KernelVersion::parse_release("6.18.44-fc-v657"),
        version(6, 18)
    );
    assert_eq!(KernelVersion::parse_release("4.8-rc1"), version(4, 8));
    assert_eq!(KernelVersion::parse_release("six"), None);
}
