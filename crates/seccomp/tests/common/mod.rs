//! What the tests share: a machine for the programs, and the profile read plainly.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::collections::HashMap;

use gantry_seccomp::{
    ActionName, Arch, Argument, KernelVersion, Operator, Profile, Program, SockFilter, Syscall,
    capability_number,
};

pub const ALLOW: u32 = 0x7fff_0000;
pub const KILL_THREAD: u32 = 0;
pub const ENOSYS: u32 = 0x0005_0000 | 38;
pub const X32_BIT: u32 = 0x4000_0000;

/// A call as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: u32,
    pub audit_arch: u32,
    pub args: [u64; 6],
}

/// Runs a program; returns its answer and how many instructions it took.
pub fn run(program: &[SockFilter], call: &Call) -> (u32, usize) {
    let mut data = Vec::new();
    data.extend(call.number.to_le_bytes());
    data.extend(call.audit_arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    for argument in call.args {
        data.extend(argument.to_le_bytes());
    }
    let (mut at, mut steps, mut accumulator) = (0usize, 0usize, 0u32);
    loop {
        let SockFilter { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => {
                let word = &data[k as usize..k as usize + 4];
                accumulator = u32::from_le_bytes(word.try_into().unwrap());
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x45 => at += jump(accumulator & k != 0),
            0x06 => return (k, steps),
            other => panic!("no such instruction {other:#x}"),
        }
    }
}

pub fn instructions(program: &Program) -> Vec<SockFilter> {
    program.instructions().collect()
}

/// What the profile says, read plainly: rule by rule, name by name, no numbers merged.
pub struct Oracle<'a> {
    profile: &'a Profile,
    native: Arch,
    caps: u64,
    kernel: KernelVersion,
    arches: Vec<ArchEntries<'a>>,
}

/// An architecture, its last known number, its rules.
type ArchEntries<'a> = (Arch, Option<u32>, HashMap<u32, Vec<Entry<'a>>>);

/// A rule for a number: made directly, or with the selector in the first argument.
#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    rule: &'a Syscall,
    selector: Option<u64>,
}

impl<'a> Oracle<'a> {
    pub fn new(profile: &'a Profile, native: Arch, caps: u64, kernel: KernelVersion) -> Self {
        let mut oracle = Oracle {
            profile,
            native,
            caps,
            kernel,
            arches: Vec::new(),
        };
        oracle.arches = oracle
            .arches()
            .into_iter()
            .map(|arch| (arch, oracle.last(arch), oracle.entries(arch)))
            .collect();
        oracle
    }

    fn entries(&self, arch: Arch) -> HashMap<u32, Vec<Entry<'a>>> {
        let mut all: HashMap<u32, Vec<Entry<'a>>> = HashMap::new();
        for rule in self.rules() {
            for name in rule.all_names() {
                if let Some(number) = arch.syscall_number(name) {
                    let selector = None;
                    all.entry(number)
                        .or_default()
                        .push(Entry { rule, selector });
                }
                if let Some((number, selector)) = selector(name).filter(|_| arch == Arch::X86) {
                    let selector = Some(selector);
                    all.entry(number)
                        .or_default()
                        .push(Entry { rule, selector });
                }
            }
        }
        all
    }

    pub fn decide(&self, call: &Call) -> u32 {
        let default = value(
            self.profile.default_action.unwrap(),
            self.profile.default_errno_ret,
        );
        let with_x32 = self.arches.iter().any(|(arch, ..)| *arch == Arch::X32);
        let Some((arch, last, entries)) = self.arches.iter().find(|(arch, ..)| {
            let is_x32 = call.number >= X32_BIT;
            arch.audit_value() == call.audit_arch
                && (call.audit_arch != Arch::X86_64.audit_value()
                    || !with_x32
                    || (*arch == Arch::X32) == is_x32)
        }) else {
            return KILL_THREAD;
        };
        let (arch, last) = (*arch, *last);
        let stub = !matches!(
            self.profile.default_action.unwrap(),
            ActionName::Allow | ActionName::Log | ActionName::Trace
        ) && default != ENOSYS;
        let last = last.filter(|_| stub);
        if arch == Arch::X86_64 && call.number >= X32_BIT {
            return match (call.number, last) {
                (u32::MAX, _) => default,
                (number, Some(_)) if number & X32_BIT == 0 => ENOSYS,
                _ => KILL_THREAD,
            };
        }
        if last.is_some_and(|last| call.number > last) {
            return ENOSYS;
        }
        let entries = entries.get(&call.number).map_or(&[][..], Vec::as_slice);
        by_rules(entries, arch, call, default)
    }

    fn rules(&self) -> impl Iterator<Item = &'a Syscall> + '_ {
        self.profile.syscalls.iter().filter(move |rule| {
            let has =
                |cap: &String| capability_number(cap).is_some_and(|bit| self.caps >> bit & 1 == 1);
            let (inc, exc) = (&rule.includes, &rule.excludes);
            let native = self.native.filter_name().to_owned();
            !exc.caps.iter().any(has)
                && !exc.arches.contains(&native)
                && exc.min_kernel.is_none_or(|least| least > self.kernel)
                && inc.caps.iter().all(has)
                && (inc.arches.is_empty() || inc.arches.contains(&native))
                && inc.min_kernel.is_none_or(|least| least <= self.kernel)
        })
    }

    fn arches(&self) -> Vec<Arch> {
        let mut names = self.profile.architectures.clone();
        for entry in &self.profile.arch_map {
            if entry.architecture == self.native.profile_name() {
                names.extend(entry.sub_architectures.clone());
            }
        }
        let listed = |arch: &Arch| names.iter().any(|name| name == arch.profile_name());
        Arch::ALL
            .into_iter()
            .filter(|arch| *arch == self.native || (listed(arch) && arch.runs_on(self.native)))
            .collect()
    }

    fn last(&self, arch: Arch) -> Option<u32> {
        self.rules()
            .flat_map(Syscall::all_names)
            .flat_map(|name| {
                let inside = (arch == Arch::X86).then(|| selector(name)).flatten();
                [arch.syscall_number(name), inside.map(|(number, _)| number)]
            })
            .flatten()
            .max()
    }
}

fn by_rules(entries: &[Entry<'_>], arch: Arch, call: &Call, default: u32) -> u32 {
    let mut conditional = None;
    for Entry { rule, selector } in entries {
        let answer = value(rule.action, rule.errno_ret);
        if answer == default {
            continue;
        }
        let holds = match selector {
            None if rule.args.is_empty() => return answer, // wins over all other rules
            None => args_hold(&rule.args, call, arch),
            Some(selector) => {
                let mut all = vec![Argument {
                    index: 0,
                    value: *selector,
                    value_two: 0,
                    op: Operator::Equal,
                }];
                all.extend(rule.args.iter().filter(|other| other.index != 0).cloned());
                args_hold(&all, call, arch)
            }
        };
        if holds {
            conditional = conditional.or(Some(answer));
        }
    }
    conditional.unwrap_or(default)
}

fn value(action: ActionName, errno: Option<u32>) -> u32 {
    let data = errno.unwrap_or(1);
    match action {
        ActionName::KillThread => KILL_THREAD,
        ActionName::KillProcess => 0x8000_0000,
        ActionName::Trap => 0x0003_0000,
        ActionName::Errno => 0x0005_0000 | data,
        ActionName::Trace => 0x7ff0_0000 | data,
        ActionName::Log => 0x7ffc_0000,
        ActionName::Allow => ALLOW,
        ActionName::Notify => panic!("not accepted"),
    }
}

fn args_hold(args: &[Argument], call: &Call, arch: Arch) -> bool {
    let repeated = args
        .iter()
        .any(|one| args.iter().filter(|other| other.index == one.index).count() > 1);
    match repeated {
        true => args.iter().any(|argument| holds(argument, call, arch)),
        false => args.iter().all(|argument| holds(argument, call, arch)),
    }
}

fn holds(argument: &Argument, call: &Call, arch: Arch) -> bool {
    let cut = |value: u64| match arch.is_32_bit() {
        true => u64::from(value as u32),
        false => value,
    };
    let actual = cut(call.args[argument.index as usize]);
    let (first, second) = (cut(argument.value), cut(argument.value_two));
    match argument.op {
        Operator::NotEqual => actual != first,
        Operator::Less => actual < first,
        Operator::LessOrEqual => actual <= first,
        Operator::Equal => actual == first,
        Operator::GreaterOrEqual => actual >= first,
        Operator::Greater => actual > first,
        Operator::MaskedEqual => actual & first == second & first,
    }
}

/// The calls 32-bit x86 can make by another: number and selector.
fn selector(name: &str) -> Option<(u32, u64)> {
    Some(match name {
        "socket" => (102, 1),
        "bind" => (102, 2),
        "connect" => (102, 3),
        "listen" => (102, 4),
        "accept" => (102, 5),
        "getsockname" => (102, 6),
        "getpeername" => (102, 7),
        "socketpair" => (102, 8),
        "send" => (102, 9),
        "recv" => (102, 10),
        "sendto" => (102, 11),
        "recvfrom" => (102, 12),
        "shutdown" => (102, 13),
        "setsockopt" => (102, 14),
        "getsockopt" => (102, 15),
        "sendmsg" => (102, 16),
        "recvmsg" => (102, 17),
        "accept4" => (102, 18),
        "recvmmsg" => (102, 19),
        "sendmmsg" => (102, 20),
        "semop" => (117, 1),
        "semget" => (117, 2),
        "semctl" => (117, 3),
        "semtimedop" => (117, 4),
        "msgsnd" => (117, 11),
        "msgrcv" => (117, 12),
        "msgget" => (117, 13),
        "msgctl" => (117, 14),
        "shmat" => (117, 21),
        "shmdt" => (117, 22),
        "shmget" => (117, 23),
        "shmctl" => (117, 24),
        _ => return None,
    })
}

/// Per argument, values around everything the profile compares it with in calls of this number.
pub fn candidates(profile: &Profile, audit_arch: u32, number: u32) -> [Vec<u64>; 6] {
    let mut values: [Vec<u64>; 6] = Default::default();
    let arches = || {
        Arch::ALL
            .into_iter()
            .filter(|arch| arch.audit_value() == audit_arch)
    };
    for rule in &profile.syscalls {
        let named = rule.all_names().any(|name| {
            let multiplexed = selector(name).filter(|(by, _)| *by == number);
            if let Some((_, selector)) =
                multiplexed.filter(|_| audit_arch == Arch::X86.audit_value())
            {
                values[0].extend([selector, selector + (1 << 32), 0]);
                return true;
            }
            arches().any(|arch| arch.syscall_number(name) == Some(number))
        });
        for argument in rule.args.iter().filter(|_| named) {
            let (one, two) = (argument.value, argument.value_two);
            let around = [
                one,
                one.wrapping_add(1),
                one.wrapping_sub(1),
                one ^ 1 << 32,
                two,
                two & one,
                !one,
                0,
            ];
            values[argument.index as usize].extend(around);
        }
    }
    for list in &mut values {
        list.sort_unstable();
        list.dedup();
    }
    values
}

/// All combinations of the values, or an even sample of `most` of them.
pub fn combinations(values: &[Vec<u64>; 6], most: usize) -> impl Iterator<Item = [u64; 6]> + '_ {
    let all: usize = values.iter().map(|list| list.len().max(1)).product();
    let step = all.div_ceil(most);
    (0..all).step_by(step).map(|at| {
        let mut rest = at;
        std::array::from_fn(|index| {
            let list = &values[index];
            let value = list.get(rest % list.len().max(1)).copied().unwrap_or(0);
            rest /= list.len().max(1);
            value
        })
    })
}
