//! Random profiles.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use gantry_seccomp::{Arch, Operator, Profile, Syscall};
use proptest::prelude::*;

/// Values around what Docker's rules compare with.
pub const VALUES: [u64; 16] = [
    0,
    1,
    8,
    3,
    39,
    40,
    41,
    0x2_0000,
    0x2_0008,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0028,
    0x7e02_0000,
    0x1000_0000,
    u64::MAX,
    0xffff_ffff_0000_0000,
];

pub const NAMES: [&str; 24] = [
    "read",
    "write",
    "open",
    "openat",
    "close",
    "socket",
    "connect",
    "socketcall",
    "ipc",
    "shmat",
    "semop",
    "clone",
    "clone3",
    "personality",
    "ioctl",
    "mmap",
    "cacheflush",
    "chown32",
    "file_setattr",
    "nosuchcall",
    "recvmmsg",
    "arch_prctl",
    "execve",
    "preadv2",
];
pub const ACTIONS: [&str; 7] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
];
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

pub fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        proptest::sample::select(VALUES.to_vec()),
        0u64..6,
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
    ]
}

pub fn any_argument() -> impl Strategy<Value = serde_json::Value> {
    let operator = proptest::sample::select(OPERATORS.to_vec());
    (0u32..6, any_value(), any_value(), operator).prop_map(|(index, value, two, op)| {
        serde_json::json!({"index": index, "value": value, "valueTwo": two, "op": op})
    })
}

pub fn any_rule() -> impl Strategy<Value = serde_json::Value> {
    let names = proptest::sample::subsequence(NAMES.to_vec(), 1..8);
    let args = prop_oneof![
        2 => Just(Vec::new()),
        3 => proptest::collection::vec(any_argument(), 1..4),
    ];
    let action = proptest::sample::select(ACTIONS.to_vec());
    let cap = proptest::option::of(Just("CAP_SYS_ADMIN"));
    (
        names,
        action,
        args,
        proptest::option::of(1u32..4095),
        cap,
        any::<bool>(),
    )
        .prop_map(|(names, action, args, errno, cap, include)| {
            let filter = serde_json::json!({"caps": cap.map(|cap| vec![cap])});
            let field = if include { "includes" } else { "excludes" };
            serde_json::json!({
                "names": names, "action": action, "args": args, "errnoRet": errno, field: filter,
            })
        })
}

pub fn any_profile() -> impl Strategy<Value = Profile> {
    let default = proptest::sample::select(ACTIONS.to_vec());
    let arches = [
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
        "SCMP_ARCH_ARM",
        "SCMP_ARCH_MIPS",
    ];
    let arches = proptest::sample::subsequence(arches.to_vec(), 0..5);
    let errno = proptest::option::of(prop_oneof![Just(38u32), 1u32..200]);
    let rules = proptest::collection::vec(any_rule(), 0..12);
    (default, arches, errno, rules).prop_map(|(default, arches, errno, rules)| {
        let json = serde_json::json!({
            "defaultAction": default,
            "defaultErrnoRet": errno,
            "architectures": arches,
            "syscalls": rules,
        });
        Profile::parse(&json.to_string()).unwrap()
    })
}

/// A profile of rules that name one call each. A call has one rule, or several that compare for equality only and
/// have one action: of others libseccomp makes trees that answer what no rule says. Every call is one of x86_64:
/// with others in front libseccomp 2.6.1 forgets to load the number.
pub fn any_plain_profile() -> impl Strategy<Value = Profile> {
    any_profile().prop_map(|mut profile| {
        let mut rules: Vec<Syscall> = Vec::new();
        for rule in &profile.syscalls {
            let native = |name: &&str| Arch::X86_64.syscall_number(name).is_some();
            for name in rule.all_names().filter(native) {
                let mut one = rule.clone();
                one.names = vec![name.to_owned()];
                one.includes = Default::default();
                one.excludes = Default::default();
                one.args.sort_by_key(|argument| argument.index);
                one.args.dedup_by_key(|argument| argument.index);
                if let Some(first) = rules.iter_mut().find(|rule| rule.names == one.names) {
                    (one.action, one.errno_ret) = (first.action, first.errno_ret);
                    let both = first.args.iter_mut().chain(&mut one.args);
                    both.for_each(|argument| argument.op = Operator::Equal);
                }
                rules.push(one);
            }
        }
        profile.syscalls = rules;
        profile
    })
}
