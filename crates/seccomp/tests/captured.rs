//! Programs against the filters that dockerd's runtime installs (tests/data, see the README there): the same answer
//! for every number of every architecture, and for arguments around everything the profile compares with.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Call, X32_BIT, candidates, combinations, instructions, run};
use gantry_seccomp::{Arch, KernelVersion, Profile, SockFilter, compile_for};
use serde::Deserialize;

/// Beyond every table's ordinary numbers.
const NUMBERS: u32 = 700;
const ODD_NUMBERS: [u32; 10] = [
    1000,
    4096,
    0xf_0005,
    X32_BIT - 1,
    X32_BIT * 2 - 1,
    X32_BIT * 2,
    X32_BIT * 3 - 1,
    X32_BIT * 3,
    u32::MAX - 1,
    u32::MAX,
];
/// x86_64 with x32, 32-bit x86, and what an x86_64 kernel never shows.
const AUDIT_ARCHES: [u32; 4] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0];
/// Upper bound on argument vectors per number.
const MAX_VECTORS: usize = 20_000;

#[derive(Debug, Deserialize)]
struct Capture {
    profile: String,
    caps: u64,
    kernel: String,
    instructions: usize,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn captures() -> BTreeMap<String, Capture> {
    let text = std::fs::read_to_string(data().join("captures.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn profile_of(capture: &Capture) -> Profile {
    match capture.profile.as_str() {
        "default" => Profile::default_docker(),
        file => Profile::parse(&std::fs::read_to_string(data().join(file)).unwrap()).unwrap(),
    }
}

fn captured_program(case: &str) -> Vec<SockFilter> {
    let bytes = std::fs::read(data().join(format!("{case}.bpf"))).unwrap();
    let one = |b: &[u8]| SockFilter {
        code: u16::from_le_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(8).map(one).collect()
}

fn numbers() -> impl Iterator<Item = u32> {
    let plain = 0..NUMBERS;
    let x32 = plain.clone().map(|number| number | X32_BIT);
    plain.chain(x32).chain(ODD_NUMBERS)
}

fn name_of(audit_arch: u32, number: u32) -> String {
    let on = |arch: &&Arch| arch.audit_value() == audit_arch;
    let calls = Arch::ALL.iter().filter(on).flat_map(|arch| arch.syscalls());
    let name = calls
        .filter(|(_, known)| *known == number)
        .map(|(name, _)| *name)
        .next();
    format!("{audit_arch:#x} {number:#x} {}", name.unwrap_or("?"))
}

fn differences(case: &str, capture: &Capture) -> Vec<String> {
    let profile = profile_of(capture);
    let kernel = KernelVersion::parse_release(&capture.kernel).unwrap();
    let ours = compile_for(&profile, Arch::X86_64, capture.caps, kernel).unwrap();
    let ours = instructions(&ours);
    let theirs = captured_program(case);
    assert_eq!(theirs.len(), capture.instructions, "{case}");
    let mut differences = Vec::new();
    let mut compared = 0;
    for audit_arch in AUDIT_ARCHES {
        for number in numbers() {
            let values = candidates(&profile, audit_arch, number);
            for args in combinations(&values, MAX_VECTORS) {
                let call = Call {
                    number,
                    audit_arch,
                    args,
                };
                let (our, their) = (run(&ours, &call).0, run(&theirs, &call).0);
                compared += 1;
                if our != their {
                    let name = name_of(audit_arch, number);
                    differences.push(format!("{name} {args:x?}: {our:#x}, runc {their:#x}"));
                    break;
                }
            }
        }
    }
    println!(
        "{case}: {compared} calls, {} instructions of {}",
        ours.len(),
        theirs.len()
    );
    differences
}

#[test]
fn every_answer_is_runcs() {
    let captures = captures();
    assert!(captures.len() >= 9, "{captures:?}");
    let mut wrong = Vec::new();
    for (case, capture) in &captures {
        wrong.extend(
            differences(case, capture)
                .into_iter()
                .map(|line| format!("{case}: {line}")),
        );
    }
    assert!(
        wrong.is_empty(),
        "{}\n{} differences",
        wrong.join("\n"),
        wrong.len()
    );
}
