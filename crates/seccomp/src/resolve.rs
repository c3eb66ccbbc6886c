//! From a profile to rules per architecture and number, for one set of capabilities.
//!
//! The meaning follows what runc and libseccomp make of a profile:
//! - a rule with the default's action is dropped;
//! - the first rule without conditions wins over all others of its call;
//! - two conditions on the same argument in one rule make one rule each;
//! - rules with conditions are tried in the profile's order (libseccomp orders overlapping conditions by its own
//!   tree, and gives some of them an answer that no rule says: docs/compat/hostconfig.md);
//! - 32-bit architectures (x32 too) compare the low 32 bits.

use std::collections::BTreeMap;

use crate::action::Action;
use crate::arch::Arch;
use crate::caps::capability_number;
use crate::mux;
use crate::profile::{ActionName, Argument, Filter, KernelVersion, Operator, Profile, Syscall};

/// Errno of an errno action without a number.
const EPERM: u16 = 1;
/// A default that already says "no such call".
const ENOSYS: u16 = 38;

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub index: u8,
    /// The comparison.
    pub op: Operator,
    /// Bits of the argument that count.
    pub mask: u64,
    /// What they are compared with.
    pub datum: u64,
}

/// Conditions that must all hold, and what happens then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// None means always.
    pub conditions: Vec<Condition>,
    /// What happens.
    pub action: Action,
}

/// The rules of one call, tried in order.
pub type SyscallRules = Vec<Rule>;

/// The rules of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchRules {
    /// The architecture.
    pub arch: Arch,
    /// Rules by number.
    pub calls: BTreeMap<u32, SyscallRules>,
    /// Calls above this number are newer than the profile and answered with ENOSYS.
    pub last_known: Option<u32>,
}

/// A profile made concrete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub default: Action,
    pub arches: Vec<ArchRules>,
}

/// The rules of a profile per architecture, for a bounding set and a kernel.
pub fn resolve(
    profile: &Profile,
    native: Arch,
    caps_mask: u64,
    kernel: KernelVersion,
) -> (Action, Vec<ArchRules>) {
    let resolved = resolve_all(profile, native, caps_mask, kernel);
    (resolved.default, resolved.arches)
}

pub(crate) fn resolve_all(
    profile: &Profile,
    native: Arch,
    caps_mask: u64,
    kernel: KernelVersion,
) -> Resolved {
    let default = profile.default_action.map_or(Action::Allow, |name| {
        action(name, profile.default_errno_ret)
    });
    let rules: Vec<&Syscall> = profile
        .syscalls
        .iter()
        .filter(|rule| applies(rule, native, caps_mask, kernel))
        .collect();
    let tells_unknown = !default.lets_unknown_calls_through() && default != Action::Errno(ENOSYS);
    let arches = architectures(profile, native)
        .into_iter()
        .map(|arch| {
            let mut resolved = arch_rules(arch, &rules, default);
            if !tells_unknown {
                resolved.last_known = None;
            }
            resolved
        })
        .collect();
    Resolved { default, arches }
}

fn action(name: ActionName, errno: Option<u32>) -> Action {
    // The parser has bounded it where it counts.
    let data = errno.and_then(|errno| u16::try_from(errno).ok());
    match name {
        ActionName::KillThread => Action::KillThread,
        ActionName::KillProcess => Action::KillProcess,
        ActionName::Trap => Action::Trap,
        ActionName::Errno => Action::Errno(data.unwrap_or(EPERM)),
        ActionName::Trace => Action::Trace(data.unwrap_or(EPERM)),
        ActionName::Log => Action::Log,
        ActionName::Allow => Action::Allow,
        // Refused by the parser; if it ever gets here, the safe reading is "no".
        ActionName::Notify => Action::Errno(EPERM),
    }
}

/// The host's architecture first, then the others of the profile that this host can run.
pub(crate) fn architectures(profile: &Profile, native: Arch) -> Vec<Arch> {
    let listed: Vec<&str> = if profile.arch_map.is_empty() {
        profile.architectures.iter().map(String::as_str).collect()
    } else {
        profile
            .arch_map
            .iter()
            .find(|entry| entry.architecture == native.profile_name())
            .into_iter()
            .flat_map(|entry| entry.sub_architectures.iter().map(String::as_str))
            .collect()
    };
    let mut arches = vec![native];
    for arch in Arch::ALL {
        if arch != native && arch.runs_on(native) && listed.contains(&arch.profile_name()) {
            arches.push(arch);
        }
    }
    arches
}

pub(crate) fn applies(rule: &Syscall, native: Arch, caps_mask: u64, kernel: KernelVersion) -> bool {
    let has_cap = |name: &String| {
        capability_number(name).is_some_and(|number| caps_mask & (1 << number) != 0)
    };
    let is_native = |name: &String| name == native.filter_name();
    let Filter {
        caps,
        arches,
        min_kernel,
    } = &rule.excludes;
    let excluded = caps.iter().any(has_cap)
        || arches.iter().any(is_native)
        || min_kernel.is_some_and(|least| kernel >= least);
    let Filter {
        caps,
        arches,
        min_kernel,
    } = &rule.includes;
    let included = caps.iter().all(has_cap)
        && (arches.is_empty() || arches.iter().any(is_native))
        && min_kernel.is_none_or(|least| kernel >= least);
    included && !excluded
}

fn arch_rules(arch: Arch, rules: &[&Syscall], default: Action) -> ArchRules {
    let mut resolved = ArchRules {
        arch,
        calls: BTreeMap::new(),
        last_known: None,
    };
    for rule in rules {
        let action = action(rule.action, rule.errno_ret);
        for name in rule.all_names() {
            let direct = arch.syscall_number(name);
            let multiplexed = match arch {
                Arch::X86 => mux::on_x86(name),
                _ => None,
            };
            let highest = direct.max(multiplexed.map(|way| way.number));
            resolved.last_known = resolved.last_known.max(highest);
            if action == default {
                continue;
            }
            if let Some(number) = direct {
                let conditions = conditions(&rule.args, arch);
                insert(&mut resolved.calls, number, conditions, action);
            }
            if let Some(way) = multiplexed {
                let conditions = multiplexed_conditions(&rule.args, arch, way.selector);
                insert(&mut resolved.calls, way.number, conditions, action);
            }
        }
    }
    resolved
}

fn conditions(args: &[Argument], arch: Arch) -> Vec<Condition> {
    args.iter()
        .map(|argument| condition(argument, arch))
        .collect()
}

/// The selector takes the place of a condition on the first argument: the call's own arguments
/// are in memory, where a filter cannot see them.
fn multiplexed_conditions(args: &[Argument], arch: Arch, selector: u64) -> Vec<Condition> {
    let mut all = vec![Condition {
        index: 0,
        op: Operator::Equal,
        mask: u64::from(u32::MAX),
        datum: selector,
    }];
    let others = args.iter().filter(|argument| argument.index != 0);
    all.extend(others.map(|argument| condition(argument, arch)));
    all
}

fn condition(argument: &Argument, arch: Arch) -> Condition {
    let width = if arch.is_32_bit() {
        u64::from(u32::MAX)
    } else {
        u64::MAX
    };
    let (mask, datum) = match argument.op {
        Operator::MaskedEqual => {
            let mask = argument.value & width;
            (mask, argument.value_two & mask)
        }
        _ => (width, argument.value & width),
    };
    Condition {
        // The parser has bounded it by the number of arguments.
        index: argument.index as u8,
        op: argument.op,
        mask,
        datum,
    }
}

fn insert(
    calls: &mut BTreeMap<u32, SyscallRules>,
    number: u32,
    conditions: Vec<Condition>,
    action: Action,
) {
    let existing = calls.entry(number).or_default();
    if existing.iter().any(|rule| rule.conditions.is_empty()) {
        return;
    }
    if conditions.is_empty() {
        existing.clear();
        existing.push(Rule { conditions, action });
        return;
    }
    let repeats = conditions
        .iter()
        .enumerate()
        .any(|(at, condition)| conditions[..at].iter().any(|c| c.index == condition.index));
    if repeats {
        existing.extend(conditions.into_iter().map(|condition| Rule {
            conditions: vec![condition],
            action,
        }));
    } else {
        existing.push(Rule { conditions, action });
    }
}
