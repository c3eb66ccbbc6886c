//! Capability sets: Docker's default, what is added and dropped.

use crate::EngineError;

const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability this program knows.
pub const ALL_MASK: u64 = (1 << NAMES.len()) - 1;

fn bit(name: &str) -> Option<u64> {
    NAMES
        .iter()
        .position(|n| *n == name)
        .map(|index| 1 << index)
}

/// The bounding set of this process. Blocks.
pub fn available() -> Result<u64, EngineError> {
    let text = std::fs::read_to_string("/proc/self/status")
        .map_err(|e| EngineError::io("read /proc/self/status", e))?;
    text.lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok())
        .ok_or_else(|| EngineError::System("/proc/self/status has no CapBnd".to_owned()))
}

/// Docker's default set.
pub fn default_mask() -> u64 {
    DEFAULT
        .iter()
        .filter_map(|name| bit(name))
        .fold(0, |mask, bit| mask | bit)
}

enum Item {
    All,
    One(u64),
}

/// One entry of a client's list, with dockerd's rules: `ALL`, or a capability with or without `CAP_`, in any case.
fn parse(list: &str, name: &str, available: u64) -> Result<Item, EngineError> {
    let upper = name.to_uppercase();
    if upper == "ALL" {
        return Ok(Item::All);
    }
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let invalid = |reason: &str| {
        Err(EngineError::InvalidParameter(format!(
            "invalid {list}: {reason}: \"CAP_{bare}\""
        )))
    };
    match bit(bare) {
        None => invalid("unknown capability"),
        Some(bit) if bit & available == 0 => invalid(
            "capability not supported by your kernel or not available in the current environment",
        ),
        Some(bit) => Ok(Item::One(bit)),
    }
}

/// The set of a container, of those that are available.
pub fn resolve(
    add: &[String],
    drop: &[String],
    privileged: bool,
    available: u64,
) -> Result<u64, EngineError> {
    let mut added = 0;
    let mut all_added = false;
    for name in add {
        match parse("CapAdd", name, available)? {
            Item::All => all_added = true,
            Item::One(bit) => added |= bit,
        }
    }
    let mut dropped = 0;
    let mut all_dropped = false;
    for name in drop {
        match parse("CapDrop", name, available)? {
            Item::All => all_dropped = true,
            Item::One(bit) => dropped |= bit,
        }
    }
    let wanted = if privileged {
        ALL_MASK
    } else if all_added {
        ALL_MASK & !dropped
    } else if all_dropped {
        added
    } else {
        (default_mask() & !dropped) | added
    };
    Ok(wanted & available)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn own_bounding_set_is_readable() {
        assert_eq!(available().unwrap() & !ALL_MASK, 0);
    }

    #[test]
    fn default_is_dockers() {
        assert_eq!(
            resolve(&[], &[], false, ALL_MASK).unwrap(),
            0x0000_0000_a804_25fb
        );
    }

    #[test]
    fn add_and_drop() {
        let net_admin = 1 << 12;
        assert_eq!(
            resolve(&names(&["cap_net_admin"]), &[], false, ALL_MASK).unwrap(),
            default_mask() | net_admin
        );
        assert_eq!(
            resolve(&names(&["NET_ADMIN"]), &names(&["ALL"]), false, ALL_MASK).unwrap(),
            net_admin
        );
        assert_eq!(
            resolve(&names(&["all"]), &names(&["NET_ADMIN"]), false, ALL_MASK).unwrap(),
            ALL_MASK & !net_admin
        );
        assert_eq!(
            resolve(&[], &names(&["CHOWN"]), true, ALL_MASK).unwrap(),
            ALL_MASK
        );
        assert_eq!(
            resolve(&[], &names(&["CHOWN"]), false, ALL_MASK).unwrap(),
            default_mask() & !1
        );
        let unknown = resolve(&[], &names(&["nope"]), false, ALL_MASK).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "invalid CapDrop: unknown capability: \"CAP_NOPE\""
        );
        let text = |name: &str, available| {
            resolve(&names(&[name]), &[], false, available)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            text("cap_all", ALL_MASK),
            "invalid CapAdd: unknown capability: \"CAP_ALL\""
        );
        assert_eq!(
            text("chown", ALL_MASK & !1),
            "invalid CapAdd: capability not supported by your kernel or not available in the current environment: \"CAP_CHOWN\""
        );
    }
}
