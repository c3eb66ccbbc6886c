//! Programs against the profile read plainly, over all numbers, architectures and arguments.

mod common;
mod generate;

use common::{Call, Oracle, X32_BIT, instructions, run};
use gantry_seccomp::{Arch, KernelVersion, Profile, capability_number, compile_for};
use generate::{ACTIONS, OPERATORS, VALUES, any_profile};
use proptest::prelude::*;

const KERNEL: KernelVersion = KernelVersion {
    major: 6,
    minor: 18,
};
/// Beyond every table's ordinary numbers.
const NUMBERS: u32 = 600;
const ODD_NUMBERS: [u32; 12] = [
    X32_BIT - 1,
    X32_BIT * 2 - 1,
    X32_BIT * 2,
    X32_BIT * 3 - 1,
    X32_BIT * 3,
    u32::MAX - 1,
    u32::MAX,
    0xf_0000,
    0xf_0001,
    0xf_0005,
    0xf_0006,
    0xf_0007,
];
const AUDIT_ARCHES: [u32; 6] = [
    0xc000_003e, // x86_64 and x32
    0x4000_0003, // x86
    0xc000_00b7, // aarch64
    0x4000_0028, // arm
    0xc000_00f3, // riscv64
    0,
];

fn caps(names: &[&str]) -> u64 {
    names
        .iter()
        .fold(0, |mask, name| mask | 1 << capability_number(name).unwrap())
}

fn all_numbers() -> impl Iterator<Item = u32> {
    let plain = 0..NUMBERS;
    plain
        .clone()
        .chain(plain.map(|number| number | X32_BIT))
        .chain(ODD_NUMBERS)
}

fn agree(profile: &Profile, native: Arch, caps: u64, kernel: KernelVersion, values: &[u64]) {
    let program = compile_for(profile, native, caps, kernel).unwrap();
    let program = instructions(&program);
    let oracle = Oracle::new(profile, native, caps, kernel);
    for audit_arch in AUDIT_ARCHES {
        for number in all_numbers() {
            for (at, value) in values.iter().enumerate() {
                let mut args = [values[(at + 1) % values.len()]; 6];
                args[number as usize % 2] = *value;
                args[2] = *value;
                let call = Call {
                    number,
                    audit_arch,
                    args,
                };
                let (answer, _) = run(&program, &call);
                let expected = oracle.decide(&call);
                assert_eq!(
                    answer, expected,
                    "{native:?} {call:x?}: {answer:#x}, not {expected:#x}"
                );
            }
        }
    }
}

#[test]
fn default_profile_for_every_host_and_kernel() {
    let profile = Profile::default_docker();
    let old = KernelVersion { major: 4, minor: 7 };
    for native in [Arch::X86_64, Arch::Aarch64] {
        for caps in [
            0,
            caps(&["CAP_SYS_ADMIN"]),
            caps(&["CAP_SYS_PTRACE", "CAP_SYSLOG"]),
            u64::MAX,
        ] {
            agree(&profile, native, caps, KERNEL, &VALUES);
        }
        agree(&profile, native, 0, old, &VALUES[..4]);
    }
}

/// The values a profile compares with and their neighbours, so that conditions do hold at times.
fn interesting(profile: &Profile) -> Vec<u64> {
    let args = profile.syscalls.iter().flat_map(|rule| &rule.args);
    let mut values: Vec<u64> = args
        .flat_map(|argument| {
            let (one, two) = (argument.value, argument.value_two);
            [
                one,
                one.wrapping_add(1),
                one.wrapping_sub(1),
                one ^ 1 << 32,
                two,
                two & one,
            ]
        })
        .collect();
    values.extend([0, 1, u64::MAX]);
    values
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_profiles(profile in any_profile(), admin in any::<bool>(), arm in any::<bool>()) {
        let native = if arm { Arch::Aarch64 } else { Arch::X86_64 };
        let caps = if admin { caps(&["CAP_SYS_ADMIN"]) } else { 0 };
        agree(&profile, native, caps, KERNEL, &interesting(&profile));
    }

    #[test]
    fn random_arguments(args in any::<[u64; 6]>(), number in 0u32..NUMBERS, low in any::<u32>()) {
        let profile = Profile::default_docker();
        let oracle = Oracle::new(&profile, Arch::X86_64, 0, KERNEL);
        let program = instructions(&compile_for(&profile, Arch::X86_64, 0, KERNEL).unwrap());
        let mut args = args;
        args[0] = u64::from(low);
        for number in [number, number | X32_BIT, 41, 56, 135] {
            for audit_arch in AUDIT_ARCHES {
                let call = Call { number, audit_arch, args };
                prop_assert_eq!(run(&program, &call).0, oracle.decide(&call));
            }
        }
    }

    #[test]
    fn hostile_text_is_an_error_not_a_panic(text in ".{0,200}", cut in 0usize..20_000) {
        let _ = Profile::parse(&text);
        let whole = include_str!("../data/default.json");
        if let Some(part) = whole.get(..cut.min(whole.len() - 2)) {
            prop_assert!(Profile::parse(part).is_err());
        }
    }
}

/// Long jumps: hundreds of runs with conditions are further apart than a conditional jump reaches.
#[test]
fn programs_longer_than_a_jump() {
    let rules: Vec<_> = Arch::X86_64
        .syscalls()
        .iter()
        .enumerate()
        .map(|(at, (name, _))| {
            let args = match at % 3 {
                0 => serde_json::json!([]),
                _ => serde_json::json!([{"index": at % 6, "value": at, "op": OPERATORS[at % 7]}]),
            };
            serde_json::json!({
                "names": [name], "action": ACTIONS[at % 3], "errnoRet": at + 1, "args": args,
            })
        })
        .collect();
    let json = serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": rules,
    });
    let profile = Profile::parse(&json.to_string()).unwrap();
    let program = compile_for(&profile, Arch::X86_64, 0, KERNEL).unwrap();
    println!("{} instructions", program.len());
    assert!(program.len() > 1000);
    agree(
        &profile,
        Arch::X86_64,
        0,
        KERNEL,
        &[0, 1, 100, 200, u64::MAX],
    );
}

#[test]
fn a_profile_that_does_not_fit_is_refused() {
    let args = |at: u32| serde_json::json!([{"index": 0, "value": at, "op": "SCMP_CMP_EQ"}]);
    let rules: Vec<_> = (0..2000)
        .map(|at| serde_json::json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args(at)}))
        .collect();
    let json = serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
    let profile = Profile::parse(&json.to_string()).unwrap();
    let error = compile_for(&profile, Arch::X86_64, 0, KERNEL).unwrap_err();
    println!("{error}");
}

#[test]
fn size_of_the_default_program() {
    let profile = Profile::default_docker();
    let program = compile_for(&profile, Arch::X86_64, 0, KERNEL).unwrap();
    let code = instructions(&program);
    let steps: Vec<usize> = (0..470)
        .map(|number| {
            let args = [0; 6];
            run(
                &code,
                &Call {
                    number,
                    audit_arch: AUDIT_ARCHES[0],
                    args,
                },
            )
            .1
        })
        .collect();
    println!(
        "default profile: {} instructions for x86_64, x86 and x32; a call takes {} on average, {} at most",
        code.len(),
        steps.iter().sum::<usize>() / steps.len(),
        steps.iter().max().unwrap(),
    );
}
