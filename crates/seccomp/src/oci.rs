//! A profile as an OCI runtime takes it: Docker's conditions (capabilities, architectures, kernel) decided, the rest for
//! the runtime to compile.

use crate::arch::Arch;
use crate::profile::{ActionName, KernelVersion, Operator, Profile, Syscall};
use crate::resolve::{applies, architectures};

/// What is left of a profile for one set of capabilities on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRules<'p> {
    /// For calls without a rule.
    pub default_action: &'static str,
    /// Errno or trace message of the default action.
    pub default_errno_ret: Option<u32>,
    /// Architectures, the host's first.
    pub architectures: Vec<&'static str>,
    /// Flags of the filter; absent and empty differ.
    pub flags: Option<&'p [String]>,
    /// The rules that count.
    pub syscalls: Vec<&'p Syscall>,
}

/// Decides the conditions of a profile.
pub fn oci_rules(profile: &Profile, caps_mask: u64, kernel: (u32, u32)) -> OciRules<'_> {
    let kernel = KernelVersion {
        major: kernel.0,
        minor: kernel.1,
    };
    let default = profile.default_action.unwrap_or(ActionName::Allow);
    let native = Arch::NATIVE;
    OciRules {
        default_action: default.name(),
        default_errno_ret: profile.default_errno_ret,
        architectures: architectures(profile, native)
            .into_iter()
            .map(Arch::profile_name)
            .collect(),
        flags: profile.flags.as_deref(),
        syscalls: profile
            .syscalls
            .iter()
            .filter(|rule| applies(rule, native, caps_mask, kernel))
            .collect(),
    }
}

impl ActionName {
    /// The name in a profile.
    pub fn name(self) -> &'static str {
        match self {
            ActionName::KillThread => "SCMP_ACT_KILL",
            ActionName::KillProcess => "SCMP_ACT_KILL_PROCESS",
            ActionName::Trap => "SCMP_ACT_TRAP",
            ActionName::Errno => "SCMP_ACT_ERRNO",
            ActionName::Trace => "SCMP_ACT_TRACE",
            ActionName::Log => "SCMP_ACT_LOG",
            ActionName::Allow => "SCMP_ACT_ALLOW",
            ActionName::Notify => "SCMP_ACT_NOTIFY",
        }
    }
}

impl Operator {
    /// The name in a profile.
    pub fn name(self) -> &'static str {
        match self {
            Operator::NotEqual => "SCMP_CMP_NE",
            Operator::Less => "SCMP_CMP_LT",
            Operator::LessOrEqual => "SCMP_CMP_LE",
            Operator::Equal => "SCMP_CMP_EQ",
            Operator::GreaterOrEqual => "SCMP_CMP_GE",
            Operator::Greater => "SCMP_CMP_GT",
            Operator::MaskedEqual => "SCMP_CMP_MASKED_EQ",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYS_ADMIN: u64 = 1 << 21;

    fn allows(rules: &OciRules<'_>, call: &str) -> bool {
        rules.syscalls.iter().any(|rule| {
            rule.action == ActionName::Allow && rule.all_names().any(|name| name == call)
        })
    }

    #[test]
    fn conditions_are_decided() {
        let profile = Profile::default_docker();
        let without = oci_rules(&profile, 0, (6, 1));
        let with = oci_rules(&profile, SYS_ADMIN, (6, 1));
        assert_eq!(without.default_action, "SCMP_ACT_ERRNO");
        assert!(allows(&without, "read") && !allows(&without, "mount"));
        assert!(allows(&with, "mount"));
        // `ptrace` is allowed from 4.8 on.
        assert!(allows(&without, "ptrace"));
        assert!(!allows(&oci_rules(&profile, 0, (4, 4)), "ptrace"));
        assert_eq!(
            without.architectures.first(),
            Some(&Arch::NATIVE.profile_name())
        );
    }

    #[test]
    fn names_are_those_of_the_parser() {
        let text = r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS","flags":[],"syscalls":[{"names":["read"],
            "action":"SCMP_ACT_TRAP","args":[{"index":0,"value":1,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        let profile = Profile::parse(text).expect("profile");
        let rules = oci_rules(&profile, 0, (6, 1));
        assert_eq!(rules.default_action, "SCMP_ACT_KILL_PROCESS");
        assert_eq!(rules.flags, Some(&[][..]));
        let rule = rules.syscalls.first().expect("rule");
        assert_eq!(rule.action.name(), "SCMP_ACT_TRAP");
        assert_eq!(
            rule.args.first().map(|a| a.op.name()),
            Some("SCMP_CMP_MASKED_EQ")
        );
    }
}
