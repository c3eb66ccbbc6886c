//! Device rules of version 2: a BPF program on the group, generated and attached here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::device::{Access, DeviceKind, DeviceRule};
use crate::error::CgroupError;

/// Device rules one group can have.
pub const MAX_DEVICE_RULES: usize = 512;
/// Programs on one group that are looked at when one is replaced.
const MAX_ATTACHED: usize = 64;
/// Room for the verifier's words.
const VERIFIER_LOG_BYTES: usize = 16 * 1024;

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
const ATTACH_ALLOW_MULTI: u32 = 2;

const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;

/// One instruction as the kernel reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub code: u8,
    /// Destination in the low half, source in the high one.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

pub(crate) const LDX_W: u8 = 0x61;
pub(crate) const AND_K: u8 = 0x57;
pub(crate) const RSH_K: u8 = 0x77;
pub(crate) const MOV_X: u8 = 0xbf;
pub(crate) const MOV_K: u8 = 0xb7;
pub(crate) const JNE_K: u8 = 0x55;
pub(crate) const JNE_X: u8 = 0x5d;
pub(crate) const JEQ_K: u8 = 0x15;
pub(crate) const EXIT: u8 = 0x95;

const R_RESULT: u8 = 0;
const R_CONTEXT: u8 = 1;
const R_TYPE: u8 = 2;
const R_ACCESS: u8 = 3;
const R_MAJOR: u8 = 4;
const R_MINOR: u8 = 5;
/// The context is not needed any more once its words are loaded.
const R_SCRATCH: u8 = R_CONTEXT;

/// A program that decides about device nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProgram {
    pub(crate) instructions: Vec<Instruction>,
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate,
    }
}

impl DeviceProgram {
    /// Writes the program of a list of rules: the last one that matches decides, nothing is
    /// allowed if none does. A rule that allows matches if it covers all of the access, one that
    /// denies if it covers any of it.
    pub fn from_rules(rules: &[DeviceRule]) -> Result<DeviceProgram, CgroupError> {
        if rules.len() > MAX_DEVICE_RULES {
            return Err(CgroupError::TooManyDeviceRules(rules.len()));
        }
        let mut all = vec![
            instruction(LDX_W, R_TYPE, R_CONTEXT, 0, 0),
            instruction(LDX_W, R_MAJOR, R_CONTEXT, 4, 0),
            instruction(LDX_W, R_MINOR, R_CONTEXT, 8, 0),
            instruction(MOV_X, R_ACCESS, R_TYPE, 0, 0),
            instruction(RSH_K, R_ACCESS, 0, 0, 16),
            instruction(AND_K, R_TYPE, 0, 0, 0xffff),
        ];
        for rule in rules.iter().rev() {
            let block = rule_block(rule)?;
            let unconditional = block.len() == 2;
            all.extend(block);
            if unconditional {
                // The verifier refuses what cannot be reached.
                return Ok(DeviceProgram { instructions: all });
            }
        }
        all.push(instruction(MOV_K, R_RESULT, 0, 0, 0));
        all.push(instruction(EXIT, 0, 0, 0, 0));
        Ok(DeviceProgram { instructions: all })
    }

    /// Puts the program on a cgroup2 directory in place of those that are there.
    ///
    /// While both are there both must allow, so there is no moment without rules.
    pub fn attach(&self, group: BorrowedFd<'_>) -> Result<(), CgroupError> {
        let before = attached(group).map_err(|error| bpf_error("query device programs", error))?;
        let program = self.load()?;
        attach_or_detach(PROG_ATTACH, group, program.as_fd(), ATTACH_ALLOW_MULTI)
            .map_err(|error| bpf_error("attach device program", error))?;
        for id in before {
            program_by_id(id)
                .and_then(|old| attach_or_detach(PROG_DETACH, group, old.as_fd(), 0))
                .map_err(|error| bpf_error("detach device program", error))?;
        }
        Ok(())
    }

    fn load(&self) -> Result<OwnedFd, CgroupError> {
        self.load_logged(None).or_else(|_| {
            // Again with room for the verifier's words, which cost memory on the usual path.
            let mut log = vec![0u8; VERIFIER_LOG_BYTES];
            self.load_logged(Some(&mut log)).map_err(|source| {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                CgroupError::DeviceProgram {
                    source,
                    log: String::from_utf8_lossy(&log[..end]).into_owned(),
                }
            })
        })
    }

    fn load_logged(&self, log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
        let licence = c"Apache-2.0";
        let (log_level, log_size, log_address) = match log {
            Some(log) => (1, log.len() as u32, log.as_mut_ptr() as u64),
            None => (0, 0, 0),
        };
        let mut attributes = LoadAttributes {
            program_type: PROG_TYPE_CGROUP_DEVICE,
            count: self.instructions.len() as u32,
            instructions: self.instructions.as_ptr() as u64,
            licence: licence.as_ptr() as u64,
            log_level,
            log_size,
            log_address,
            kernel_version: 0,
            flags: 0,
            name: *b"gantry_devices\0\0",
            interface_index: 0,
            attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        };
        // SAFETY: the structure is the layout BPF_PROG_LOAD reads; the addresses in it are of
        // memory that lives until the call returns, with the lengths beside them.
        let fd = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn rule_block(rule: &DeviceRule) -> Result<Vec<Instruction>, CgroupError> {
    let mut tests = Vec::new();
    let kind = match rule.kind {
        DeviceKind::Any => None,
        DeviceKind::Block => Some(TYPE_BLOCK),
        DeviceKind::Char => Some(TYPE_CHAR),
    };
    let mut unequal = |register, value| tests.push(instruction(JNE_K, register, 0, 0, value));
    if let Some(kind) = kind {
        unequal(R_TYPE, kind);
    }
    for (register, number) in [(R_MAJOR, rule.major), (R_MINOR, rule.minor)] {
        if let Some(number) = number {
            let value = i32::try_from(number).map_err(|_| CgroupError::InvalidLimit {
                setting: "device number",
                value: number.to_string(),
            })?;
            unequal(register, value);
        }
    }
    if rule.access != Access::ALL {
        tests.push(instruction(MOV_X, R_SCRATCH, R_ACCESS, 0, 0));
        tests.push(instruction(
            AND_K,
            R_SCRATCH,
            0,
            0,
            access_bits(rule.access),
        ));
        tests.push(match rule.allow {
            true => instruction(JNE_X, R_SCRATCH, R_ACCESS, 0, 0),
            false => instruction(JEQ_K, R_SCRATCH, 0, 0, 0),
        });
    }
    tests.push(instruction(MOV_K, R_RESULT, 0, 0, i32::from(rule.allow)));
    tests.push(instruction(EXIT, 0, 0, 0, 0));
    let length = tests.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if matches!(test.code, JNE_K | JNE_X | JEQ_K) {
            test.offset = (length - at - 1) as i16; // a block has at most eight instructions
        }
    }
    Ok(tests)
}

pub(crate) fn access_bits(access: Access) -> i32 {
    let bit = |set: bool, bit: i32| if set { bit } else { 0 };
    bit(access.mknod, ACCESS_MKNOD)
        | bit(access.read, ACCESS_READ)
        | bit(access.write, ACCESS_WRITE)
}

#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log_address: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface_index: u32,
    attach_type: u32,
}

#[repr(C)]
struct AttachAttributes {
    target_fd: u32,
    program_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct QueryAttributes {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
struct IdAttributes {
    id: u32,
    next_id: u32,
    open_flags: u32,
    padding: u32,
}

/// # Safety
/// `attributes` must be what the command reads, with valid addresses in it.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    let size = size_of::<T>() as libc::c_long;
    // SAFETY: the caller's promise; the pointer and its size belong together.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *mut T, size) };
    match i32::try_from(result) {
        Ok(value @ 0..) => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

fn attached(group: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; MAX_ATTACHED];
    let mut attributes = QueryAttributes {
        target_fd: group.as_raw_fd() as u32,
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        padding: 0,
    };
    // SAFETY: the layout of BPF_PROG_QUERY; the address is of `count` words that live on.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = IdAttributes {
        id,
        next_id: 0,
        open_flags: 0,
        padding: 0,
    };
    // SAFETY: the layout of BPF_PROG_GET_FD_BY_ID, without addresses.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach_or_detach(
    command: libc::c_long,
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    flags: u32,
) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target_fd: group.as_raw_fd() as u32,
        program_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        flags,
    };
    // SAFETY: the layout of BPF_PROG_ATTACH and BPF_PROG_DETACH, without addresses.
    unsafe { bpf(command, &mut attributes) }.map(drop)
}

fn bpf_error(operation: &'static str, source: io::Error) -> CgroupError {
    CgroupError::io(operation, "bpf(2)", source)
}

#[cfg(test)]
#[path = "bpf_tests.rs"]
mod tests;
