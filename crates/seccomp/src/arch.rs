//! Architectures a filter can distinguish.

use crate::tables;

/// Bit that marks an x32 call.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// An architecture with a table of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// x86_64.
    X86_64,
    /// 32-bit x86.
    X86,
    /// x32: x86_64's audit architecture, bit 30 set in the number.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM, EABI.
    Arm,
}

impl Arch {
    /// Every architecture of this crate.
    pub const ALL: [Arch; 5] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm];

    /// The architecture this program runs on.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Arch = Arch::X86_64;
    /// The architecture this program runs on.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Arch = Arch::Aarch64;

    /// The kernel's `AUDIT_ARCH_*` value.
    pub const fn audit_value(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }

    /// The name in a profile's architecture lists.
    pub const fn profile_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::X86 => "SCMP_ARCH_X86",
            Arch::X32 => "SCMP_ARCH_X32",
            Arch::Aarch64 => "SCMP_ARCH_AARCH64",
            Arch::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// The name in `includes` and `excludes`.
    pub const fn filter_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::X86 => "x86",
            Arch::X32 => "x32",
            Arch::Aarch64 => "arm64",
            Arch::Arm => "arm",
        }
    }

    /// Whether arguments are compared in 32 bits only.
    pub const fn is_32_bit(self) -> bool {
        matches!(self, Arch::X86 | Arch::X32 | Arch::Arm)
    }

    /// Whether a kernel of architecture `native` can be called in this one.
    pub const fn runs_on(self, native: Arch) -> bool {
        match native {
            Arch::X86_64 => matches!(self, Arch::X86_64 | Arch::X86 | Arch::X32),
            Arch::Aarch64 => matches!(self, Arch::Aarch64 | Arch::Arm),
            other => self as u8 == other as u8,
        }
    }

    /// The number of a call, x32 with its bit; `None` if the architecture has no such call.
    pub fn syscall_number(self, name: &str) -> Option<u32> {
        tables::number(self, name)
    }

    /// Every call's name and number, by name.
    pub fn syscalls(self) -> &'static [(&'static str, u32)] {
        tables::table(self)
    }
}
