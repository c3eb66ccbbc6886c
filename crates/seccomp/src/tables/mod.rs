//! System call tables.

mod aarch64;
mod arm;
mod x32;
mod x86;
mod x86_64;

use crate::arch::Arch;

pub(crate) fn table(arch: Arch) -> &'static [(&'static str, u32)] {
    match arch {
        Arch::X86_64 => x86_64::TABLE,
        Arch::X86 => x86::TABLE,
        Arch::X32 => x32::TABLE,
        Arch::Aarch64 => aarch64::TABLE,
        Arch::Arm => arm::TABLE,
    }
}

pub(crate) fn number(arch: Arch, name: &str) -> Option<u32> {
    let table = table(arch);
    let at = table
        .binary_search_by(|(known, _)| (*known).cmp(name))
        .ok()?;
    Some(table[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_without_duplicates() {
        for arch in Arch::ALL {
            for pair in table(arch).windows(2) {
                assert!(
                    pair[0].0 < pair[1].0,
                    "{arch:?}: {} {}",
                    pair[0].0,
                    pair[1].0
                );
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_agree_with_libc() {
        for (name, number) in [
            ("read", libc::SYS_read),
            ("clone3", libc::SYS_clone3),
            ("openat2", libc::SYS_openat2),
            ("futex_waitv", libc::SYS_futex_waitv),
            ("bpf", libc::SYS_bpf),
        ] {
            assert_eq!(
                super::number(Arch::X86_64, name).map(i64::from),
                Some(number)
            );
        }
        assert_eq!(number(Arch::X86, "socketcall"), Some(102));
        assert_eq!(number(Arch::X32, "ioctl"), Some(0x4000_0000 + 514));
        assert_eq!(number(Arch::Aarch64, "openat"), Some(56));
        assert_eq!(number(Arch::Arm, "open"), Some(5));
    }
}
