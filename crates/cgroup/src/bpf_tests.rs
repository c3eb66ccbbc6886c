use super::*;
use proptest::prelude::*;

/// Runs a program as the kernel would, for the instructions it uses.
fn run(program: &DeviceProgram, access: i32, kind: i32, major: u32, minor: u32) -> bool {
    let context = [
        (access << 16 | kind) as u64,
        u64::from(major),
        u64::from(minor),
    ];
    let mut registers = [0u64; 11];
    let mut at = 0usize;
    loop {
        let one = program.instructions[at];
        let (to, from) = (
            usize::from(one.registers & 15),
            usize::from(one.registers >> 4),
        );
        let immediate = i64::from(one.immediate) as u64;
        let jump = match one.code {
            LDX_W => {
                registers[to] = context[one.offset as usize / 4];
                false
            }
            AND_K => {
                registers[to] &= immediate;
                false
            }
            RSH_K => {
                registers[to] >>= immediate;
                false
            }
            MOV_X => {
                registers[to] = registers[from];
                false
            }
            MOV_K => {
                registers[to] = immediate;
                false
            }
            JNE_K => registers[to] != immediate,
            JNE_X => registers[to] != registers[from],
            JEQ_K => registers[to] == immediate,
            EXIT => return registers[0] == 1,
            other => panic!("no such instruction {other:#x}"),
        };
        at += 1 + if jump { one.offset as usize } else { 0 };
    }
}

/// The rules read plainly.
fn decide(rules: &[DeviceRule], access: i32, kind: i32, major: u32, minor: u32) -> bool {
    let matching = rules.iter().rev().find(|rule| {
        let bits = access_bits(rule.access);
        let kind_matches = match rule.kind {
            DeviceKind::Any => true,
            DeviceKind::Block => kind == TYPE_BLOCK,
            DeviceKind::Char => kind == TYPE_CHAR,
        };
        let access_matches = match rule.allow {
            true => access & !bits == 0,
            false => access & bits != 0,
        };
        kind_matches
            && access_matches
            && rule.major.is_none_or(|number| number == major)
            && rule.minor.is_none_or(|number| number == minor)
    });
    matching.is_some_and(|rule| rule.allow)
}

fn any_rule() -> impl Strategy<Value = DeviceRule> {
    let kind = prop_oneof![
        Just(DeviceKind::Any),
        Just(DeviceKind::Char),
        Just(DeviceKind::Block)
    ];
    let number = || proptest::option::of(0u32..4);
    (any::<bool>(), kind, number(), number(), 1u8..8).prop_map(
        |(allow, kind, major, minor, access)| DeviceRule {
            allow,
            kind,
            major,
            minor,
            access: Access {
                read: access & 1 != 0,
                write: access & 2 != 0,
                mknod: access & 4 != 0,
            },
        },
    )
}

proptest! {
    #[test]
    fn program_decides_as_the_rules_say(rules in proptest::collection::vec(any_rule(), 0..12)) {
        let program = DeviceProgram::from_rules(&rules).unwrap();
        for access in 1..8 {
            for kind in [TYPE_BLOCK, TYPE_CHAR] {
                for number in 0..25 {
                    let (major, minor) = (number / 5, number % 5);
                    prop_assert_eq!(
                        run(&program, access, kind, major, minor),
                        decide(&rules, access, kind, major, minor)
                    );
                }
            }
        }
    }
}

#[test]
fn defaults() {
    let program = DeviceProgram::from_rules(&DeviceRule::defaults()).unwrap();
    let read_write = ACCESS_READ | ACCESS_WRITE;
    assert!(run(&program, read_write, TYPE_CHAR, 1, 3));
    assert!(run(&program, read_write, TYPE_CHAR, 136, 77));
    assert!(run(&program, ACCESS_MKNOD, TYPE_BLOCK, 8, 0));
    assert!(!run(&program, ACCESS_READ, TYPE_BLOCK, 8, 0));
    assert!(!run(&program, ACCESS_READ, TYPE_CHAR, 10, 229));
    assert!(!run(&program, ACCESS_MKNOD | ACCESS_READ, TYPE_CHAR, 1, 1));
    let all = DeviceProgram::from_rules(&DeviceRule::privileged()).unwrap();
    assert!(run(&all, 7, TYPE_BLOCK, 8, 0));
}

#[test]
fn bounded() {
    let rules = vec![DeviceRule::everything(true); MAX_DEVICE_RULES + 1];
    let error = DeviceProgram::from_rules(&rules);
    assert!(matches!(error, Err(CgroupError::TooManyDeviceRules(513))));
    let large = DeviceRule {
        major: Some(u32::MAX),
        ..DeviceRule::everything(true)
    };
    assert!(DeviceProgram::from_rules(&[large]).is_err());
}
