//! Random profiles against libseccomp itself, put together as runc does. Skipped where the library is missing;
//! GANTRY_LIBSECCOMP names another one. Rules that the library refuses because they contradict an earlier one
//! (runc does not start such a container) are left out on both sides.

mod common;
mod generate;

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use common::{Call, X32_BIT, candidates, combinations, instructions, run};
use gantry_seccomp::{
    ActionName, Arch, Argument, KernelVersion, Operator, Profile, SockFilter, Syscall, compile_for,
    resolve,
};
use proptest::prelude::*;

const KERNEL: KernelVersion = KernelVersion {
    major: 6,
    minor: 18,
};
const LIBRARY: &str = "libseccomp.so.2";
const TOKEN_X86_64: u32 = 0xc000_003e;
const TOKEN_X86: u32 = 0x4000_0003;
const TOKEN_X32: u32 = 0x4000_003e;
const MAX_VECTORS: usize = 3000;

/// `struct scmp_arg_cmp`
#[repr(C)]
struct Compare {
    argument: c_uint,
    operator: c_int,
    value: u64,
    value_two: u64,
}

type Context = *mut c_void;

/// `struct scmp_version`
#[repr(C)]
struct Version {
    major: c_uint,
    minor: c_uint,
    micro: c_uint,
}

struct Library {
    init: unsafe extern "C" fn(u32) -> Context,
    release: unsafe extern "C" fn(Context),
    arch_add: unsafe extern "C" fn(Context, u32) -> c_int,
    resolve: unsafe extern "C" fn(*const c_char) -> c_int,
    add: unsafe extern "C" fn(Context, u32, c_int, c_uint, *const Compare) -> c_int,
    export: unsafe extern "C" fn(Context, c_int) -> c_int,
}

fn library() -> Option<&'static Library> {
    static LOADED: OnceLock<Option<Library>> = OnceLock::new();
    let loaded = LOADED.get_or_init(load).as_ref();
    if loaded.is_none() {
        println!("skipped: there is no {LIBRARY} of version 2.6 or newer on this machine");
    }
    loaded
}

fn load() -> Option<Library> {
    let name = std::env::var("GANTRY_LIBSECCOMP").unwrap_or_else(|_| LIBRARY.to_owned());
    let name = CString::new(name).unwrap();
    // SAFETY: a plain C library; the handle is kept for the life of the process.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    if handle.is_null() {
        return None;
    }
    let symbol = |name: &str| {
        let name = CString::new(name).unwrap();
        // SAFETY: the handle is alive, the name ends with a zero.
        let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
        assert!(!address.is_null(), "{name:?}");
        address
    };
    // SAFETY: the function of seccomp.h by this name has this signature; its answer is a constant.
    let version = unsafe {
        let version = std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const Version>(
            symbol("seccomp_version"),
        );
        &*version()
    };
    // Before, calls that 32-bit x86 only has by way of ipc were not found.
    if (version.major, version.minor) < (2, 6) {
        return None;
    }
    // SAFETY: the functions of seccomp.h by these names have these signatures.
    unsafe {
        Some(Library {
            init: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32) -> Context>(symbol(
                "seccomp_init",
            )),
            release: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Context)>(symbol(
                "seccomp_release",
            )),
            arch_add: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Context, u32) -> c_int>(
                symbol("seccomp_arch_add"),
            ),
            resolve: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> c_int>(
                symbol("seccomp_syscall_resolve_name"),
            ),
            add: std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(Context, u32, c_int, c_uint, *const Compare) -> c_int,
            >(symbol("seccomp_rule_add_array")),
            export: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Context, c_int) -> c_int>(
                symbol("seccomp_export_bpf"),
            ),
        })
    }
}

/// Gives the profile's rules to the library; those it refuses are taken out of the profile.
fn build(library: &Library, profile: &mut Profile) -> Vec<SockFilter> {
    let default = value(profile.default_action.unwrap(), profile.default_errno_ret);
    // SAFETY: the context is used by this thread only and released once.
    unsafe {
        let context = (library.init)(default);
        assert!(!context.is_null());
        for (name, token) in [
            ("SCMP_ARCH_X86", TOKEN_X86),
            ("SCMP_ARCH_X32", TOKEN_X32),
            ("SCMP_ARCH_X86_64", TOKEN_X86_64),
        ] {
            if profile.architectures.iter().any(|listed| listed == name) {
                (library.arch_add)(context, token);
            }
        }
        profile
            .syscalls
            .retain(|rule| add(library, context, rule, default));
        let mut file = tempfile();
        assert_eq!((library.export)(context, file.as_raw_fd()), 0);
        (library.release)(context);
        read_program(&mut file)
    }
}

/// Whether the library took it.
///
/// # Safety
/// The context is one of `init` and alive.
unsafe fn add(library: &Library, context: Context, rule: &Syscall, default: u32) -> bool {
    let action = value(rule.action, rule.errno_ret);
    if action == default {
        return true;
    }
    let name = CString::new(rule.all_names().next().unwrap()).unwrap();
    // SAFETY: the name ends with a zero.
    let number = unsafe { (library.resolve)(name.as_ptr()) };
    if number == -1 {
        return false; // newer than the library
    }
    let compares: Vec<Compare> = rule.args.iter().map(compare).collect();
    let repeated = (0..compares.len()).any(|at| {
        compares[..at]
            .iter()
            .any(|c| c.argument == compares[at].argument)
    });
    let groups: Vec<&[Compare]> = if repeated {
        compares.chunks(1).collect()
    } else {
        vec![&compares]
    };
    let mut taken = 0;
    for group in &groups {
        // SAFETY: the array has as many entries as is said.
        let result = unsafe {
            (library.add)(
                context,
                action,
                number,
                group.len() as c_uint,
                group.as_ptr(),
            )
        };
        if result != 0 {
            break;
        }
        taken += 1;
    }
    // Half a rule in the library and none in the profile would differ.
    assume_whole(taken, groups.len())
}

fn assume_whole(taken: usize, all: usize) -> bool {
    assert!(
        taken == 0 || taken == all,
        "the generator makes no such rules"
    );
    taken == all
}

fn compare(argument: &Argument) -> Compare {
    let operator = match argument.op {
        Operator::NotEqual => 1,
        Operator::Less => 2,
        Operator::LessOrEqual => 3,
        Operator::Equal => 4,
        Operator::GreaterOrEqual => 5,
        Operator::Greater => 6,
        Operator::MaskedEqual => 7,
    };
    Compare {
        argument: argument.index,
        operator,
        value: argument.value,
        value_two: argument.value_two,
    }
}

fn value(action: ActionName, errno: Option<u32>) -> u32 {
    let data = errno.unwrap_or(1);
    match action {
        ActionName::KillThread => 0,
        ActionName::KillProcess => 0x8000_0000,
        ActionName::Trap => 0x0003_0000,
        ActionName::Errno => 0x0005_0000 | data,
        ActionName::Trace => 0x7ff0_0000 | data,
        ActionName::Log => 0x7ffc_0000,
        ActionName::Allow => 0x7fff_0000,
        ActionName::Notify => panic!("not generated"),
    }
}

fn tempfile() -> std::fs::File {
    use std::os::fd::FromRawFd;
    // SAFETY: the name ends with a zero; the new descriptor is owned by the file.
    unsafe {
        let fd = libc::memfd_create(c"filter".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        std::fs::File::from_raw_fd(fd)
    }
}

fn read_program(file: &mut std::fs::File) -> Vec<SockFilter> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let one = |b: &[u8]| SockFilter {
        code: u16::from_le_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(8).map(one).collect()
}

/// One line per rule.
fn in_short(profile: &Profile) -> String {
    let rule = |rule: &Syscall| {
        let args: Vec<String> = rule
            .args
            .iter()
            .map(|a| format!("a{} {:?} {:#x} {:#x}", a.index, a.op, a.value, a.value_two))
            .collect();
        let action = value(rule.action, rule.errno_ret);
        format!("{:?} {action:#x} {}", rule.names, args.join(" && "))
    };
    let lines: Vec<String> = profile.syscalls.iter().map(rule).collect();
    format!(
        "default {:?} {:?}\n{}",
        profile.default_action,
        profile.architectures,
        lines.join("\n")
    )
}

fn agree(mut profile: Profile) -> Result<(), TestCaseError> {
    let Some(library) = library() else {
        return Ok(());
    };
    let theirs = build(library, &mut profile);
    let ours = instructions(&compile_for(&profile, Arch::X86_64, 0, KERNEL).unwrap());
    for arch in resolve(&profile, Arch::X86_64, 0, KERNEL).1 {
        let first = if arch.arch == Arch::X32 { X32_BIT } else { 0 };
        // Above that runc's own part answers.
        let last = arch.last_known.unwrap_or(first + 600);
        let audit_arch = arch.arch.audit_value();
        for number in first..=last.min(first + 600) {
            let values = candidates(&profile, audit_arch, number);
            for args in combinations(&values, MAX_VECTORS) {
                let call = Call {
                    number,
                    audit_arch,
                    args,
                };
                let (our, their) = (run(&ours, &call).0, run(&theirs, &call).0);
                prop_assert!(
                    our == their,
                    "{:x?}: {:#x}, libseccomp {:#x}\n{}",
                    call,
                    our,
                    their,
                    in_short(&profile)
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_profiles(profile in generate::any_plain_profile()) {
        agree(profile)?;
    }
}
