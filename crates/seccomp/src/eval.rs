//! What a program answers to one call: a walk through its instructions as the kernel does it.

use crate::arch::Arch;

const LD_W_ABS: u16 = 0x20;
const ALU_AND_K: u16 = 0x54;
const JMP_JA: u16 = 0x05;
const JMP_JEQ_K: u16 = 0x15;
const JMP_JGT_K: u16 = 0x25;
const JMP_JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;

const ACTION_MASK: u32 = 0xffff_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_LOG: u32 = 0x7ffc_0000;

/// Bytes of an instruction.
const INSTRUCTION_BYTES: usize = 8;
/// Bytes of the data a filter sees: number, architecture, instruction pointer, six arguments.
const DATA_BYTES: usize = 64;

/// Whether a native program (instructions of 8 bytes, of this crate's compiler) lets a call of this architecture pass.
/// Without instructions everything passes; one that is not known means no.
pub fn allows(program: &[u8], number: u32, args: [u64; 6]) -> bool {
    program.is_empty()
        || answer(program, number, args)
            .is_some_and(|a| [RET_ALLOW, RET_LOG].contains(&(a & ACTION_MASK)))
}

fn answer(program: &[u8], number: u32, args: [u64; 6]) -> Option<u32> {
    let mut data = [0u8; DATA_BYTES];
    data[..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&Arch::NATIVE.audit_value().to_ne_bytes());
    for (place, arg) in data[16..].chunks_exact_mut(8).zip(args) {
        place.copy_from_slice(&arg.to_ne_bytes());
    }
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let one = program.get(at * INSTRUCTION_BYTES..(at + 1) * INSTRUCTION_BYTES)?;
        let code = u16::from_ne_bytes([one[0], one[1]]);
        let k = u32::from_ne_bytes([one[4], one[5], one[6], one[7]]);
        let skip = |holds: bool| usize::from(if holds { one[2] } else { one[3] });
        at += 1;
        match code {
            LD_W_ABS => {
                let word = data.get(k as usize..)?.get(..4)?;
                accumulator = u32::from_ne_bytes(word.try_into().ok()?);
            }
            ALU_AND_K => accumulator &= k,
            JMP_JA => at += k as usize,
            JMP_JEQ_K => at += skip(accumulator == k),
            JMP_JGT_K => at += skip(accumulator > k),
            JMP_JGE_K => at += skip(accumulator >= k),
            RET_K => return Some(k),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Profile, compile};

    fn program(text: &str) -> Vec<u8> {
        let profile = Profile::parse(text).expect("profile");
        compile(&profile, 0, (6, 0))
            .expect("program")
            .bytes()
            .to_vec()
    }

    fn allowed(program: &[u8], number: libc::c_long, first: u64) -> bool {
        allows(program, number as u32, [first, 0, 0, 0, 0, 0])
    }

    #[test]
    fn the_default_profile_lets_a_process_fork_but_not_into_namespaces() {
        let profile = Profile::default_docker();
        let bytes = compile(&profile, 0, (6, 0)).expect("program").bytes();
        assert!(allowed(&bytes, libc::SYS_clone, 0x8000 | 17));
        assert!(!allowed(
            &bytes,
            libc::SYS_clone,
            libc::CLONE_NEWNS as u64 | 17
        ));
        assert!(allowed(&bytes, libc::SYS_setsid, 0));
        assert!(!allowed(&bytes, libc::SYS_reboot, 0));
    }

    #[test]
    fn actions() {
        let deny = program(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"names":["clone"],"action":"SCMP_ACT_ERRNO"},{"names":["setsid"],"action":"SCMP_ACT_LOG"},
                {"names":["exit_group"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
        );
        assert!(!allowed(&deny, libc::SYS_clone, 0));
        assert!(!allowed(&deny, libc::SYS_exit_group, 0));
        assert!(allowed(&deny, libc::SYS_setsid, 0));
        assert!(allowed(&deny, libc::SYS_read, 0));
        assert!(allowed(&[], libc::SYS_reboot, 0));
        assert!(!allowed(&[0xff; 8], libc::SYS_read, 0));
        assert!(!allowed(&deny[..8], libc::SYS_read, 0), "cut short");
    }
}
