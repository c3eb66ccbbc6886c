//! Seccomp profiles in Docker's format, compiled to interval-tree BPF programs.
//!
//! A profile lists hundreds of allowed numbers; a linear filter of it takes the kernel 1.5 ms to
//! load because every system call number is walked through it once. Allowed numbers come in runs,
//! so per architecture the numbers become a sorted list of runs with one action each, searched by
//! a balanced tree of comparisons: a few dozen instructions, loaded in less than a tenth of that.
//!
//! Absent on purpose: nothing here loads a filter, forks, or knows a container.

mod action;
mod arch;
mod cache;
mod caps;
mod compile;
mod emit;
mod eval;
mod mux;
mod oci;
mod profile;
mod resolve;
mod tables;

pub use action::Action;
pub use arch::Arch;
pub use cache::{PROGRAM_CACHE_CAPACITY, ProgramCache};
pub use caps::{capability_name, capability_number};
pub use compile::{CompileError, Program, compile, compile_for};
pub use emit::SockFilter;
pub use eval::allows;
pub use oci::{OciRules, oci_rules};
pub use profile::{
    ActionName, ArchMapEntry, Argument, Filter, KernelVersion, Operator, Profile, ProfileError,
    Syscall,
};
pub use resolve::{ArchRules, Condition, Rule, SyscallRules, resolve};
