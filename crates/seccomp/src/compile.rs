//! From rules to a program: per architecture a balanced tree over runs of numbers.

use std::sync::Arc;

use crate::action::Action;
use crate::arch::{Arch, X32_BIT};
use crate::emit::{Emitter, Label, SockFilter, Test};
use crate::profile::{KernelVersion, Operator, Profile};
use crate::resolve::{ArchRules, Condition, Resolved, Rule, SyscallRules, resolve_all};

/// Offset of the call's number in the data a filter sees.
const OFFSET_NUMBER: u32 = 0;
/// Offset of the architecture.
const OFFSET_ARCH: u32 = 4;
/// Offset of the first argument, 8 bytes each, low word first on every architecture known here.
const OFFSET_ARGUMENTS: u32 = 16;
/// The kernel's limit on a program.
const MAX_INSTRUCTIONS: usize = 4096;
/// Errno of calls that are newer than the profile.
const ENOSYS: u16 = 38;
/// What an architecture gets that the profile does not name: libseccomp's default.
const BAD_ARCH: Action = Action::KillThread;

/// Why a profile does not compile.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// more instructions than the kernel takes
    #[error("the seccomp profile needs {0} instructions, the kernel takes at most 4096")]
    TooLong(usize),
}

/// A filter, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    bytes: Arc<[u8]>,
    flags: u32,
}

impl Program {
    fn new(instructions: &[SockFilter], flags: u32) -> Program {
        let bytes = instructions
            .iter()
            .flat_map(|one| {
                let mut bytes = [0; 8];
                bytes[..2].copy_from_slice(&one.code.to_ne_bytes());
                bytes[2] = one.jt;
                bytes[3] = one.jf;
                bytes[4..].copy_from_slice(&one.k.to_ne_bytes());
                bytes
            })
            .collect();
        Program { bytes, flags }
    }

    /// The instructions as the kernel reads them, 8 bytes each.
    pub fn bytes(&self) -> Arc<[u8]> {
        Arc::clone(&self.bytes)
    }

    /// `SECCOMP_FILTER_FLAG_*` bits to load it with.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Number of instructions.
    pub fn len(&self) -> usize {
        self.bytes.len() / size_of::<SockFilter>()
    }

    /// Never: a program has at least the instruction that ends it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The instructions one by one.
    pub fn instructions(&self) -> impl Iterator<Item = SockFilter> + '_ {
        self.bytes.chunks_exact(8).map(|b| SockFilter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
    }
}

/// Compiles for this machine: `caps_mask` is the bounding set, `kernel` the running kernel's
/// version. A profile that enforces nothing becomes a program that allows everything.
pub fn compile(
    profile: &Profile,
    caps_mask: u64,
    kernel: (u32, u32),
) -> Result<Program, CompileError> {
    let kernel = KernelVersion {
        major: kernel.0,
        minor: kernel.1,
    };
    compile_for(profile, Arch::NATIVE, caps_mask, kernel)
}

/// Compiles for a kernel of any architecture.
pub fn compile_for(
    profile: &Profile,
    native: Arch,
    caps_mask: u64,
    kernel: KernelVersion,
) -> Result<Program, CompileError> {
    let mut emitter = Emitter::default();
    if profile.enforces() {
        write_filter(
            &mut emitter,
            &resolve_all(profile, native, caps_mask, kernel),
        );
    } else {
        emitter.ret(Action::Allow);
    }
    if emitter.len() > MAX_INSTRUCTIONS {
        return Err(CompileError::TooLong(emitter.len()));
    }
    Ok(Program::new(&emitter.finish(), profile.flag_bits()))
}

/// A part of the number space with one answer. It reaches to the next run's start.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run<'a> {
    start: u32,
    answer: Answer<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer<'a> {
    Always(Action),
    Rules(&'a SyscallRules),
}

fn write_filter(emitter: &mut Emitter, resolved: &Resolved) {
    let mut checks: Vec<(u32, Label)> = Vec::new();
    // The host's architecture is the first of the list: written last it stands first.
    for arch in resolved.arches.iter().rev() {
        let entry = match arch.arch {
            Arch::X32 => continue, // a sub-tree of x86_64
            Arch::X86_64 => {
                let x32 = resolved.arches.iter().find(|other| other.arch == Arch::X32);
                write_x86_64(emitter, arch, x32, resolved.default)
            }
            _ => {
                let runs = runs(arch, resolved.default, 0);
                write_tree(emitter, &runs, resolved.default)
            }
        };
        let entry = emitter.load(OFFSET_NUMBER, entry);
        checks.push((arch.arch.audit_value(), entry));
    }
    let mut next = emitter.ret(BAD_ARCH);
    for (audit_value, entry) in checks {
        next = emitter.branch(Test::Equal, audit_value, entry, next);
    }
    emitter.load(OFFSET_ARCH, next);
}

/// x86_64 and x32 share an audit architecture: bit 30 decides.
fn write_x86_64(
    emitter: &mut Emitter,
    x86_64: &ArchRules,
    x32: Option<&ArchRules>,
    default: Action,
) -> Label {
    let above = match x32 {
        Some(x32) => runs(x32, default, X32_BIT),
        None => runs_without_x32(x86_64, default),
    };
    let above = write_tree(emitter, &above, default);
    let below = write_tree(emitter, &runs(x86_64, default, 0), default);
    emitter.branch(Test::GreaterOrEqual, X32_BIT, above, below)
}

/// Numbers from bit 30 on when x32 is not allowed: x32 calls are a foreign architecture,
/// but -1 (what a tracer sets to skip a call) and numbers without the bit are not.
fn runs_without_x32<'a>(x86_64: &ArchRules, default: Action) -> Vec<Run<'a>> {
    let unknown = Answer::Always(match x86_64.last_known {
        Some(_) => Action::Errno(ENOSYS),
        None => BAD_ARCH,
    });
    let foreign = Answer::Always(BAD_ARCH);
    let parts = [
        (X32_BIT, foreign),
        (X32_BIT << 1, unknown),
        (X32_BIT * 3, foreign),
        (u32::MAX, Answer::Always(default)),
    ];
    let mut runs = Vec::new();
    for (start, answer) in parts {
        push_run(&mut runs, start, answer);
    }
    runs
}

/// The number space from `first` on as runs of equal answers.
fn runs(arch: &ArchRules, default: Action, first: u32) -> Vec<Run<'_>> {
    let mut runs = vec![Run {
        start: first,
        answer: Answer::Always(default),
    }];
    let mut next = Some(first);
    for (number, rules) in &arch.calls {
        if let Some(gap) = next.filter(|gap| gap != number) {
            push_run(&mut runs, gap, Answer::Always(default));
        }
        push_run(&mut runs, *number, answer(rules));
        next = number.checked_add(1);
    }
    if let Some(gap) = next {
        push_run(&mut runs, gap, Answer::Always(default));
    }
    if let Some(unknown) = arch.last_known.and_then(|last| last.checked_add(1)) {
        push_run(&mut runs, unknown, Answer::Always(Action::Errno(ENOSYS)));
    }
    runs
}

fn answer(rules: &SyscallRules) -> Answer<'_> {
    match rules.as_slice() {
        [Rule { conditions, action }] if conditions.is_empty() => Answer::Always(*action),
        _ => Answer::Rules(rules),
    }
}

/// Appends a run, joining it with its neighbour if the answer is the same.
fn push_run<'a>(runs: &mut Vec<Run<'a>>, start: u32, answer: Answer<'a>) {
    if runs.last().is_some_and(|last| last.start == start) {
        runs.pop();
    }
    if runs.last().is_none_or(|last| last.answer != answer) {
        runs.push(Run { start, answer });
    }
}

/// Writes a balanced search tree; the number is in the accumulator at its root.
fn write_tree(emitter: &mut Emitter, runs: &[Run<'_>], default: Action) -> Label {
    if let [only] = runs {
        return match only.answer {
            Answer::Always(action) => emitter.ret(action),
            Answer::Rules(rules) => write_rules(emitter, rules, default),
        };
    }
    let middle = runs.len() / 2;
    let upper = write_tree(emitter, &runs[middle..], default);
    let lower = write_tree(emitter, &runs[..middle], default);
    emitter.branch(Test::GreaterOrEqual, runs[middle].start, upper, lower)
}

fn write_rules(emitter: &mut Emitter, rules: &SyscallRules, default: Action) -> Label {
    let mut next = emitter.ret(default);
    for rule in rules.iter().rev() {
        let mut holds = emitter.ret(rule.action);
        for condition in rule.conditions.iter().rev() {
            holds = write_condition(emitter, condition, holds, next);
        }
        next = holds;
    }
    next
}

fn write_condition(emitter: &mut Emitter, condition: &Condition, yes: Label, no: Label) -> Label {
    match condition.op {
        Operator::Equal | Operator::MaskedEqual => write_equal(emitter, condition, yes, no),
        Operator::NotEqual => write_equal(emitter, condition, no, yes),
        Operator::Greater => write_order(emitter, condition, Test::Greater, yes, no),
        Operator::GreaterOrEqual => write_order(emitter, condition, Test::GreaterOrEqual, yes, no),
        Operator::Less => write_order(emitter, condition, Test::GreaterOrEqual, no, yes),
        Operator::LessOrEqual => write_order(emitter, condition, Test::Greater, no, yes),
    }
}

fn offsets(condition: &Condition) -> (u32, u32) {
    let low = OFFSET_ARGUMENTS + 8 * u32::from(condition.index);
    (low, low + 4)
}

fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

fn write_equal(emitter: &mut Emitter, condition: &Condition, yes: Label, no: Label) -> Label {
    let (low_at, high_at) = offsets(condition);
    let (low, high) = halves(condition.datum);
    let (low_mask, high_mask) = halves(condition.mask);
    let mut word = |at, mask, value, yes| {
        if mask == 0 {
            return yes; // nothing of this half counts, and the datum has no bits outside the mask
        }
        let test = emitter.branch(Test::Equal, value, yes, no);
        let test = match mask {
            u32::MAX => test,
            _ => emitter.and(mask, test),
        };
        emitter.load(at, test)
    };
    let low = word(low_at, low_mask, low, yes);
    word(high_at, high_mask, high, low)
}

/// `test` is a comparison by "greater": it holds if the high half is greater, or is equal and
/// the low half compares so.
fn write_order(
    emitter: &mut Emitter,
    condition: &Condition,
    test: Test,
    yes: Label,
    no: Label,
) -> Label {
    let (low_at, high_at) = offsets(condition);
    let (low, high) = halves(condition.datum);
    let low_half = emitter.branch(test, low, yes, no);
    let low_half = emitter.load(low_at, low_half);
    if condition.mask >> 32 == 0 {
        return low_half;
    }
    let equal = emitter.branch(Test::Equal, high, low_half, no);
    let high_half = emitter.branch(Test::Greater, high, yes, equal);
    emitter.load(high_at, high_half)
}
