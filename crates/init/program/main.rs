//! Process 1 of a container: starts the program, passes signals on to it, collects orphans, ends with
//! its exit code. No heap, no libc, no standard library; only system calls.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::ptr::null;

mod number;

use number as sys;

/// Exit code of a program that does not exist.
const NOT_FOUND: i32 = 127;
/// Exit code of a program that exists and cannot be executed.
const NOT_EXECUTABLE: i32 = 126;
/// Exit code of wrong use, and of a system call that must not fail.
const FAILED: i32 = 1;
/// Added to the number of the signal that ended the program.
const SIGNALLED: i32 = 128;

const SIGCHLD: i32 = 17;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;
const SIG_IGN: usize = 1;
const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
/// Faults of this program itself (QUIT is not one of them): ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS.
const FAULTS: u64 = bit(4) | bit(5) | bit(6) | bit(7) | bit(8) | bit(11) | bit(31);
const WNOHANG: usize = 1;
const TIOCSPGRP: usize = 0x5410;

const ENOENT: i32 = 2;
const EINTR: i32 = 4;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;

/// Longest path that is tried.
const PATH_BYTES: usize = 4096;
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

type Strings = *const *const u8;

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(FAILED)
}

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    start = sym start,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x0, sp",
    "bl {start}",
    start = sym start,
);

/// What the kernel put on the stack: the number of arguments, the arguments, a null, the environment, a null.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: `stack` is the initial stack pointer; the ABI lays it out as described above.
    let (arguments, environment) = unsafe {
        let count = *stack;
        let arguments = stack.add(1).cast::<*const u8>();
        (arguments, arguments.add(count + 1))
    };
    run(arguments, environment)
}

fn run(arguments: Strings, environment: Strings) -> ! {
    // SAFETY: the argument list is null-terminated, and `at` stops at the null.
    let mut first = 1;
    if at(arguments, 1).is_some_and(|a| bytes(a) == b"--") {
        first = 2;
    }
    let Some(program) = at(arguments, first) else {
        say(&[b"docker-init: no program was given\n"]);
        exit(FAILED)
    };
    let mut before = 0u64;
    let all = !FAULTS;
    must(call4(
        sys::RT_SIGPROCMASK,
        SIG_BLOCK,
        &raw const all as usize,
        &raw mut before as usize,
        8,
    ));
    let child = must(fork());
    if child == 0 {
        become_program(program, arguments, first, environment, before)
    }
    ignore(SIGTTIN);
    ignore(SIGTTOU);
    serve(child as i32, all)
}

/// An argument, if there is one at this place or none before it.
fn at(list: Strings, index: usize) -> Option<*const u8> {
    for i in 0..=index {
        // SAFETY: the list is null-terminated and we stop at the null.
        let item = unsafe { *list.add(i) };
        if item.is_null() {
            return None;
        }
        if i == index {
            return Some(item);
        }
    }
    None
}

/// Passes signals on and collects children until the program has ended.
fn serve(child: i32, signals: u64) -> ! {
    loop {
        let signal = match call4(sys::RT_SIGTIMEDWAIT, &raw const signals as usize, 0, 0, 8) {
            Err(EINTR) => continue,
            result => must(result) as i32,
        };
        if signal != SIGCHLD {
            // It may have ended just now; then SIGCHLD is next.
            let _ = call4(sys::KILL, child as usize, signal as usize, 0, 0);
        }
        if let Some(code) = collect(child) {
            exit(code)
        }
    }
}

/// Collects everything that has ended; the exit code if the program is among it.
fn collect(child: i32) -> Option<i32> {
    let mut code = None;
    loop {
        let mut status = 0i32;
        match call4(sys::WAIT4, usize::MAX, &raw mut status as usize, WNOHANG, 0) {
            Ok(pid) if pid > 0 => {
                if pid as i32 == child {
                    code = Some(exit_code(status));
                }
            }
            Err(EINTR) => {}
            _ => return code,
        }
    }
}

fn exit_code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => SIGNALLED + signal,
    }
}

/// The child: a process group of its own in the foreground, the signal mask as it was, the program.
fn become_program(
    program: *const u8,
    arguments: Strings,
    first: usize,
    environment: Strings,
    mask: u64,
) -> ! {
    let pid = must(call4(sys::GETPID, 0, 0, 0, 0)) as i32;
    must(call4(sys::SETPGID, 0, 0, 0, 0));
    // Without a terminal there is no foreground.
    let _ = call4(sys::IOCTL, 0, TIOCSPGRP, &raw const pid as usize, 0);
    must(call4(
        sys::RT_SIGPROCMASK,
        SIG_SETMASK,
        &raw const mask as usize,
        0,
        8,
    ));
    // SAFETY: `first` is the index of an argument that exists.
    let arguments = unsafe { arguments.add(first) };
    let error = execute(bytes(program), arguments, environment);
    let (text, code): (&[u8], i32) = match error {
        ENOENT => (b"No such file or directory", NOT_FOUND),
        EACCES => (b"Permission denied", NOT_EXECUTABLE),
        8 => (b"Exec format error", NOT_EXECUTABLE),
        20 => (b"Not a directory", NOT_EXECUTABLE),
        _ => (b"it cannot be executed", NOT_EXECUTABLE),
    };
    say(&[
        b"docker-init: exec ",
        bytes(program),
        b" failed: ",
        text,
        b"\n",
    ]);
    exit(code)
}

/// As execvp: a name without a slash is looked for in PATH.
fn execute(program: &[u8], arguments: Strings, environment: Strings) -> i32 {
    let mut path = [0u8; PATH_BYTES];
    if program.contains(&b'/') {
        return attempt(&mut path, &[program], arguments, environment);
    }
    let mut error = ENOENT;
    for directory in variable(environment, b"PATH=")
        .unwrap_or(DEFAULT_PATH)
        .split(|b| *b == b':')
    {
        let directory = if directory.is_empty() {
            b"."
        } else {
            directory
        };
        match attempt(
            &mut path,
            &[directory, b"/", program],
            arguments,
            environment,
        ) {
            ENOENT | ENOTDIR => {}
            EACCES => error = EACCES,
            other => return other,
        }
    }
    error
}

fn attempt(
    path: &mut [u8; PATH_BYTES],
    parts: &[&[u8]],
    arguments: Strings,
    environment: Strings,
) -> i32 {
    let mut length = 0;
    for part in parts {
        let Some(room) = path.get_mut(length..length + part.len()) else {
            return ENOENT;
        };
        room.copy_from_slice(part);
        length += part.len();
    }
    match path.get_mut(length) {
        Some(end) => *end = 0,
        None => return ENOENT,
    }
    match call4(
        sys::EXECVE,
        path.as_ptr() as usize,
        arguments as usize,
        environment as usize,
        0,
    ) {
        Err(errno) => errno,
        Ok(_) => 0,
    }
}

fn variable(environment: Strings, prefix: &[u8]) -> Option<&'static [u8]> {
    let mut i = 0;
    while let Some(item) = at(environment, i) {
        if let Some(value) = bytes(item).strip_prefix(prefix) {
            return Some(value);
        }
        i += 1;
    }
    None
}

fn bytes(text: *const u8) -> &'static [u8] {
    // SAFETY: strings of the kernel's argument block are zero-terminated and live as long as the process.
    unsafe { core::slice::from_raw_parts(text, strlen(text)) }
}

fn say(parts: &[&[u8]]) {
    for part in parts {
        // There is nobody else to tell.
        let _ = call4(sys::WRITE, 2, part.as_ptr() as usize, part.len(), 0);
    }
}

/// The kernel's `struct sigaction`.
#[repr(C)]
struct Action {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

fn ignore(signal: i32) {
    let action = Action {
        handler: SIG_IGN,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    must(call4(
        sys::RT_SIGACTION,
        signal as usize,
        &raw const action as usize,
        0,
        8,
    ));
}

fn fork() -> Result<usize, i32> {
    // SIGCHLD at its end and nothing shared: a fork.
    call4(sys::CLONE, SIGCHLD as usize, 0, 0, null::<u8>() as usize)
}

fn must(result: Result<usize, i32>) -> usize {
    match result {
        Ok(value) => value,
        Err(_) => {
            say(&[b"docker-init: a system call failed\n"]);
            exit(FAILED)
        }
    }
}

fn exit(code: i32) -> ! {
    loop {
        let _ = call4(sys::EXIT_GROUP, code as usize, 0, 0, 0);
    }
}

fn call4(number: usize, a: usize, b: usize, c: usize, d: usize) -> Result<usize, i32> {
    // SAFETY: every caller passes pointers to live memory of the size that its call reads or writes, or none; a
    // fifth argument of zero means "nothing" to the one call that has it (clone).
    let result = unsafe { raw(number, [a, b, c, d, 0]) };
    if (-4095..0).contains(&result) {
        Err(-result as i32)
    } else {
        Ok(result as usize)
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn raw(number: usize, a: [usize; 5]) -> isize {
    let result;
    // SAFETY: the kernel's calling convention; it clobbers rcx and r11 and nothing else.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn raw(number: usize, a: [usize; 5]) -> isize {
    let result;
    // SAFETY: the kernel's calling convention; only x0 changes.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a[0] as isize => result,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], options(nostack));
    }
    result
}

/// What the compiler calls for long copies; there is no libc to have it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for i in 0..length {
        // SAFETY: the caller's promise: both are valid for `length` bytes. Volatile, or this becomes a call of itself.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
    to
}

/// As [`memcpy`].
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    for i in 0..length {
        // SAFETY: the caller's promise: valid for `length` bytes.
        unsafe { to.add(i).write_volatile(byte as u8) };
    }
    to
}

/// As [`memcpy`].
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    for i in 0..length {
        // SAFETY: the caller's promise: both are valid for `length` bytes.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { memcmp(a, b, length) }
}

/// As [`memcpy`].
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller's promise: zero-terminated.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
