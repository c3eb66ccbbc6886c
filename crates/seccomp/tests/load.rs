//! A real load in a forked child, and what it costs.

#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::time::Instant;

use gantry_seccomp::{Profile, Program, compile};

const KERNEL: (u32, u32) = (6, 18);

/// Loads a program in a child and runs `body` there; returns how the child ended.
///
/// `body` must not allocate: the child is a copy of one thread of a test with several.
fn in_child(program: &Program, body: impl FnOnce() -> i32) -> i32 {
    let bytes: Arc<[u8]> = program.bytes();
    // The kernel reads 8-byte records of u16, u8, u8, u32: the copy is aligned for them.
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|one| u64::from_ne_bytes(one.try_into().unwrap()))
        .collect();
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: words.as_ptr() as *mut libc::sock_filter,
    };
    // SAFETY: the child only makes system calls and exits.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: plain system calls on memory that was made before the fork.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let result = libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                program.flags(),
                &filter,
            );
            let code = if result == 0 { body() } else { 99 };
            libc::_exit(code);
        }
    }
    let mut status = 0;
    // SAFETY: the status word is ours.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    status
}

fn errno_of(result: libc::c_long) -> i32 {
    match result {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        _ => 0,
    }
}

#[test]
fn default_profile_blocks_and_allows() {
    let program = compile(&Profile::default_docker(), 0, KERNEL).unwrap();
    let status = in_child(&program, || {
        // SAFETY: calls with harmless arguments.
        let (allowed, blocked, namespaces, newer, clone3, vsock) = unsafe {
            (
                errno_of(libc::syscall(libc::SYS_getppid)),
                errno_of(libc::syscall(libc::SYS_swapoff, 0)),
                errno_of(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER)),
                errno_of(libc::syscall(4000)),
                errno_of(libc::syscall(libc::SYS_clone3, 0, 0)),
                errno_of(libc::syscall(libc::SYS_socket, 40, libc::SOCK_STREAM, 0)),
            )
        };
        let expected = [
            (allowed, 0),
            (blocked, libc::EPERM),
            (namespaces, libc::EPERM),
            (newer, libc::ENOSYS),
            (clone3, libc::ENOSYS),
            (vsock, libc::EPERM),
        ];
        let wrong = expected.iter().position(|(got, wanted)| got != wanted);
        wrong.map_or(0, |at| at as i32 + 1)
    });
    assert!(libc::WIFEXITED(status), "{status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0, "which check failed");
}

#[test]
fn kill_kills() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW",
        "syscalls":[{"names":["getppid"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
    let program = compile(&Profile::parse(json).unwrap(), 0, KERNEL).unwrap();
    // SAFETY: a call without arguments.
    let status = in_child(&program, || unsafe { libc::syscall(libc::SYS_getppid) }
        as i32);
    assert!(libc::WIFSIGNALED(status));
    assert_eq!(libc::WTERMSIG(status), libc::SIGSYS);
}

/// 32-bit calls of a 64-bit process: int 0x80, which Docker's default allows.
#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_another_architecture() {
    let getpid_on_x86 = || {
        let result: i32;
        // SAFETY: getpid by the 32-bit entry; it has no arguments. RBX is kept as it was.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("eax") 20 => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        result
    };
    let default = compile(&Profile::default_docker(), 0, KERNEL).unwrap();
    let status = in_child(&default, || i32::from(getpid_on_x86() <= 0));
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "{status:#x}"
    );

    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"]}"#;
    let only_64 = compile(&Profile::parse(json).unwrap(), 0, KERNEL).unwrap();
    let status = in_child(&only_64, || i32::from(getpid_on_x86() <= 0));
    assert!(
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS,
        "{status:#x}"
    );
}

/// Printed, not judged: a machine's speed is no property of the program.
#[test]
fn cost_of_loading() {
    let start = Instant::now();
    let profile = Profile::default_docker();
    let parsed = start.elapsed();
    let start = Instant::now();
    let program = compile(&profile, 0, KERNEL).unwrap();
    let compiled = start.elapsed();
    let nothing = compile(&Profile::parse("{}").unwrap(), 0, KERNEL).unwrap();
    let median = |program: &Program| {
        let mut times: Vec<_> = (0..50)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(in_child(program, || 0), 0);
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (loaded, base) = (median(&program), median(&nothing));
    println!(
        "{} instructions; parse {parsed:?}, compile {compiled:?}; fork, load, exit {loaded:?}, \
         with one instruction {base:?}, so the load {:?}",
        program.len(),
        loaded.saturating_sub(base),
    );
}
