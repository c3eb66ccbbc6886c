//! Rules for device nodes.

use std::fmt;

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character and block devices.
    Any,
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

/// What may be done with a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// Create a node.
    pub mknod: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Access = Access {
        read: true,
        write: true,
        mknod: true,
    };
    /// Only creating a node.
    pub const MKNOD: Access = Access {
        read: false,
        write: false,
        mknod: true,
    };

    /// Reads `rwm` in any order; `None` for other letters or nothing.
    pub fn parse(text: &str) -> Option<Access> {
        let mut access = Access {
            read: false,
            write: false,
            mknod: false,
        };
        for letter in text.chars() {
            match letter {
                'r' => access.read = true,
                'w' => access.write = true,
                'm' => access.mknod = true,
                _ => return None,
            }
        }
        access.any().then_some(access)
    }

    /// Whether anything is allowed at all.
    pub fn any(self) -> bool {
        self.read || self.write || self.mknod
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (set, letter) in [(self.read, "r"), (self.write, "w"), (self.mknod, "m")] {
            if set {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// One rule; in a list the last one that matches wins, and nothing is allowed if none does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Which kind.
    pub kind: DeviceKind,
    /// Major number; `None` for all.
    pub major: Option<u32>,
    /// Minor number; `None` for all.
    pub minor: Option<u32>,
    /// What is allowed or denied.
    pub access: Access,
}

impl DeviceRule {
    /// Allows or denies everything.
    pub const fn everything(allow: bool) -> DeviceRule {
        DeviceRule {
            allow,
            kind: DeviceKind::Any,
            major: None,
            minor: None,
            access: Access::ALL,
        }
    }

    const fn char_device(major: u32, minor: Option<u32>) -> DeviceRule {
        DeviceRule {
            allow: true,
            kind: DeviceKind::Char,
            major: Some(major),
            minor,
            access: Access::ALL,
        }
    }

    const fn mknod_of(kind: DeviceKind) -> DeviceRule {
        DeviceRule {
            allow: true,
            kind,
            major: None,
            minor: None,
            access: Access::MKNOD,
        }
    }

    /// What a container may touch by default: nothing but the usual nodes, pseudo terminals,
    /// and creating (not opening) any node.
    pub fn defaults() -> Vec<DeviceRule> {
        vec![
            DeviceRule::everything(false),
            DeviceRule::mknod_of(DeviceKind::Char),
            DeviceRule::mknod_of(DeviceKind::Block),
            DeviceRule::char_device(1, Some(3)),    // null
            DeviceRule::char_device(1, Some(5)),    // zero
            DeviceRule::char_device(1, Some(7)),    // full
            DeviceRule::char_device(1, Some(8)),    // random
            DeviceRule::char_device(1, Some(9)),    // urandom
            DeviceRule::char_device(5, Some(0)),    // tty
            DeviceRule::char_device(5, Some(1)),    // console
            DeviceRule::char_device(5, Some(2)),    // ptmx
            DeviceRule::char_device(10, Some(200)), // net/tun
            DeviceRule::char_device(136, None),     // pts
        ]
    }

    /// What a privileged container may touch.
    pub fn privileged() -> Vec<DeviceRule> {
        vec![DeviceRule::everything(true)]
    }

    /// The line for `devices.allow` or `devices.deny` of v1.
    pub(crate) fn v1_line(&self) -> String {
        if self.kind == DeviceKind::Any
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == Access::ALL
        {
            return "a".to_owned();
        }
        let kind = match self.kind {
            DeviceKind::Any => 'a',
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        format!(
            "{kind} {}:{} {}",
            number(self.major),
            number(self.minor),
            self.access
        )
    }
}
