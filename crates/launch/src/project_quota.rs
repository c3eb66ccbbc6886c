//! Limits of directory trees by the project quotas of the file system they are on (XFS with `pquota`, ext4 with
//! `prjquota`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `PRJQUOTA`
const PROJECT: libc::c_uint = 2;
/// `Q_XGETQUOTA`, `Q_XSETQLIM`, `Q_XGETQSTAT`
const GET_QUOTA: libc::c_uint = 0x5803;
const SET_LIMITS: libc::c_uint = 0x5804;
const GET_STATE: libc::c_uint = 0x5805;
/// `FS_QUOTA_PDQ_ACCT | FS_QUOTA_PDQ_ENFD`: projects are counted, and their limits enforced.
const COUNTED_AND_ENFORCED: u16 = 1 << 4 | 1 << 5;
/// `FS_DQUOT_VERSION`, `FS_PROJ_QUOTA`
const VERSION: i8 = 1;
const KIND_PROJECT: i8 = 2;
/// `FS_DQ_BSOFT | FS_DQ_BHARD`
const BLOCK_LIMITS: u16 = 1 << 2 | 1 << 3;
/// Unit of block counts.
const BASIC_BLOCK_BYTES: u64 = 512;
/// `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f;
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`: what is made in the directory belongs to its project.
const INHERIT: u32 = 0x200;

/// `struct fs_disk_quota`
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    field_mask: u16,
    id: u32,
    block_hard_limit: u64,
    block_soft_limit: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    block_count: u64,
    inode_count: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    realtime: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [u8; 10],
}

const _: () = assert!(size_of::<DiskQuota>() == 112);

/// The head of `struct fs_quota_stat`, and room for the rest of it.
#[repr(C)]
struct State {
    version: i8,
    flags: u16,
    rest: [u64; 16],
}

/// `struct fsxattr`
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

const _: () = assert!(size_of::<Attributes>() == 28);

/// A file system that limits projects, reached through a directory on it.
#[derive(Debug)]
pub struct ProjectQuota(File);

impl ProjectQuota {
    /// `None` if the file system has no such limits, or they are not switched on.
    pub fn of(dir: &Path) -> io::Result<Option<ProjectQuota>> {
        let quota = ProjectQuota(File::open(dir)?);
        let mut state = State {
            version: VERSION,
            flags: 0,
            rest: [0; 16],
        };
        match quota.control(GET_STATE, 0, &mut state) {
            Ok(()) if state.flags & COUNTED_AND_ENFORCED == COUNTED_AND_ENFORCED => Ok(Some(quota)),
            // A kernel or file system without quotas says so in many ways.
            _ => Ok(None),
        }
    }

    /// Whether anything on the file system belongs to a project.
    pub fn is_used(&self, project: u32) -> io::Result<bool> {
        let mut quota = DiskQuota::default();
        match self.control(GET_QUOTA, project, &mut quota) {
            Ok(()) => Ok(quota.block_count != 0 || quota.inode_count != 0),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Limits what belongs to a project; 0 lifts the limit. It is rounded up to a basic block.
    pub fn limit(&self, project: u32, bytes: u64) -> io::Result<()> {
        let blocks = bytes.div_ceil(BASIC_BLOCK_BYTES);
        let mut quota = DiskQuota {
            version: VERSION,
            flags: KIND_PROJECT,
            field_mask: BLOCK_LIMITS,
            id: project,
            block_hard_limit: blocks,
            block_soft_limit: blocks,
            ..DiskQuota::default()
        };
        self.control(SET_LIMITS, project, &mut quota)
    }

    fn control<T>(&self, command: libc::c_uint, id: u32, data: &mut T) -> io::Result<()> {
        // SAFETY: each command is called with the structure it reads or writes, which lives through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_quotactl_fd,
                self.0.as_raw_fd(),
                command << 8 | PROJECT,
                id,
                std::ptr::from_mut(data),
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Makes an empty directory, and what will be made in it, part of a project.
pub fn set_project(dir: &Path, project: u32) -> io::Result<()> {
    let dir = File::open(dir)?;
    let mut attributes = Attributes::default();
    // SAFETY: the structure is the one that both calls are about, and lives through them.
    let call = |request, attributes: &mut Attributes| match unsafe {
        libc::ioctl(dir.as_raw_fd(), request, std::ptr::from_mut(attributes))
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    call(GET_ATTRIBUTES, &mut attributes)?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    call(SET_ATTRIBUTES, &mut attributes)
}
