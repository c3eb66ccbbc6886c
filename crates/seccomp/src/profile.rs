//! Docker's profile format.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::caps::capability_number;

/// Docker's default profile.
const DEFAULT_JSON: &str = include_str!("../data/default.json");

/// Arguments a system call has.
pub(crate) const MAX_ARGUMENTS: u32 = 6;
/// Largest errno that libseccomp, and so runc, makes a filter return.
const MAX_ERRNO: u32 = 4094;
/// Largest message to a tracer.
const MAX_TRACE_MESSAGE: u32 = u16::MAX as u32;

/// Why a profile is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// not JSON, or not of the profile's shape
    #[error("Decoding seccomp profile failed: {0}")]
    Decode(#[from] serde_json::Error),
    /// both ways to name architectures
    #[error(
        "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'"
    )]
    ArchitecturesTwice,
    /// both ways to name calls
    #[error(
        "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
    )]
    NamesTwice,
    /// rules without a default
    #[error("string  is not a valid action for seccomp")]
    NoDefaultAction,
    /// no such argument
    #[error(
        "error creating seccomp syscall condition for syscall {name}: syscalls only have up to 6 arguments ({index} given)"
    )]
    ArgumentIndex {
        /// The call.
        name: String,
        /// The index.
        index: u32,
    },
    /// an errno that cannot be returned
    #[error("errno {0} is larger than 4094")]
    Errno(u32),
    /// a message that does not fit
    #[error("trace message {0} is larger than 65535")]
    TraceMessage(u32),
    /// a flag that is not known
    #[error("seccomp flag {0} is not known")]
    Flag(String),
    /// an architecture that is not known
    #[error("string {0} is not a valid arch for seccomp")]
    Arch(String),
    /// nobody to ask about every call
    #[error("SCMP_ACT_NOTIFY cannot be used as default action")]
    NotifyByDefault,
    /// nobody to ask
    #[error("seccomp listenerPath is not set")]
    NoListener,
    /// this engine does not talk to a listener
    #[error("SCMP_ACT_NOTIFY with a listenerPath is not supported")]
    Notify,
}

/// An action's name in a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActionName {
    /// `SCMP_ACT_KILL` and `SCMP_ACT_KILL_THREAD`
    KillThread,
    /// `SCMP_ACT_KILL_PROCESS`
    KillProcess,
    /// `SCMP_ACT_TRAP`
    Trap,
    /// `SCMP_ACT_ERRNO`
    Errno,
    /// `SCMP_ACT_TRACE`
    Trace,
    /// `SCMP_ACT_LOG`
    Log,
    /// `SCMP_ACT_ALLOW`
    Allow,
    /// `SCMP_ACT_NOTIFY`
    Notify,
}

/// A comparison's name in a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// not equal
    NotEqual,
    /// less
    Less,
    /// less or equal
    LessOrEqual,
    /// equal
    Equal,
    /// greater or equal
    GreaterOrEqual,
    /// greater
    Greater,
    /// equal under a mask
    MaskedEqual,
}

impl<'de> Deserialize<'de> for ActionName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        Ok(match name.as_str() {
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => ActionName::KillThread,
            "SCMP_ACT_KILL_PROCESS" => ActionName::KillProcess,
            "SCMP_ACT_TRAP" => ActionName::Trap,
            "SCMP_ACT_ERRNO" => ActionName::Errno,
            "SCMP_ACT_TRACE" => ActionName::Trace,
            "SCMP_ACT_LOG" => ActionName::Log,
            "SCMP_ACT_ALLOW" => ActionName::Allow,
            "SCMP_ACT_NOTIFY" => ActionName::Notify,
            _ => {
                let message = format!("string {name} is not a valid action for seccomp");
                return Err(D::Error::custom(message));
            }
        })
    }
}

impl<'de> Deserialize<'de> for Operator {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        Ok(match name.as_str() {
            "SCMP_CMP_NE" => Operator::NotEqual,
            "SCMP_CMP_LT" => Operator::Less,
            "SCMP_CMP_LE" => Operator::LessOrEqual,
            "SCMP_CMP_EQ" => Operator::Equal,
            "SCMP_CMP_GE" => Operator::GreaterOrEqual,
            "SCMP_CMP_GT" => Operator::Greater,
            "SCMP_CMP_MASKED_EQ" => Operator::MaskedEqual,
            _ => {
                let message = format!("string {name} is not a valid operator for seccomp");
                return Err(D::Error::custom(message));
            }
        })
    }
}

/// A kernel version, `major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl KernelVersion {
    /// Reads the beginning of a release string: `6.18.44-x` is 6.18.
    pub fn parse_release(text: &str) -> Option<KernelVersion> {
        let mut numbers = text.split(['.', '-', '+']);
        Some(KernelVersion {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl<'de> Deserialize<'de> for KernelVersion {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let exact = text.split_once('.').and_then(|(major, minor)| {
            Some(KernelVersion {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        });
        match exact {
            Some(KernelVersion { major: 0, minor: 0 }) | None => Err(D::Error::custom(format!(
                "invalid kernel version: {text:?}, expected \"<kernel>.<major>\""
            ))),
            Some(version) => Ok(version),
        }
    }
}

/// When a rule counts. Everything that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
pub struct Filter {
    /// Capabilities of the bounding set.
    #[serde(default, deserialize_with = "null_as_default")]
    pub caps: Vec<String>,
    /// The host's architecture is one of these.
    #[serde(default, deserialize_with = "null_as_default")]
    pub arches: Vec<String>,
    /// The kernel is at least this.
    #[serde(default, rename = "minKernel")]
    pub min_kernel: Option<KernelVersion>,
}

/// A condition on one argument.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Argument {
    /// Which argument.
    pub index: u32,
    /// What it is compared with, or the mask.
    #[serde(default)]
    pub value: u64,
    /// What the masked argument is compared with.
    #[serde(default, rename = "valueTwo")]
    pub value_two: u64,
    /// The comparison.
    pub op: Operator,
}

/// One rule of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Syscall {
    /// One name, the old way.
    #[serde(default)]
    pub name: String,
    /// Names.
    #[serde(default, deserialize_with = "null_as_default")]
    pub names: Vec<String>,
    /// What to do.
    pub action: ActionName,
    /// Errno or trace message.
    #[serde(default, rename = "errnoRet")]
    pub errno_ret: Option<u32>,
    /// Conditions.
    #[serde(default, deserialize_with = "null_as_default")]
    pub args: Vec<Argument>,
    /// The rule counts only if this holds.
    #[serde(default, deserialize_with = "null_as_default")]
    pub includes: Filter,
    /// The rule does not count if any of this holds.
    #[serde(default, deserialize_with = "null_as_default")]
    pub excludes: Filter,
}

impl Syscall {
    /// The names, from whichever field has them.
    pub fn all_names(&self) -> impl Iterator<Item = &str> {
        let single = (!self.name.is_empty()).then_some(self.name.as_str());
        single
            .into_iter()
            .chain(self.names.iter().map(String::as_str))
    }
}

/// An architecture and those its kernel can be called in besides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct ArchMapEntry {
    /// The host's architecture.
    pub architecture: String,
    /// The others.
    #[serde(
        default,
        rename = "subArchitectures",
        deserialize_with = "null_as_default"
    )]
    pub sub_architectures: Vec<String>,
}

/// A profile as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Profile {
    /// For calls without a rule.
    #[serde(default, rename = "defaultAction", deserialize_with = "empty_as_none")]
    pub default_action: Option<ActionName>,
    /// Errno or trace message of the default action.
    #[serde(default, rename = "defaultErrnoRet")]
    pub default_errno_ret: Option<u32>,
    /// Architectures, the old way.
    #[serde(default, deserialize_with = "null_as_default")]
    pub architectures: Vec<String>,
    /// Architectures by host.
    #[serde(default, rename = "archMap", deserialize_with = "null_as_default")]
    pub arch_map: Vec<ArchMapEntry>,
    /// Flags of the filter; absent and empty differ (absent means the default).
    #[serde(default)]
    pub flags: Option<Vec<String>>,
    /// Where notifications go.
    #[serde(default, rename = "listenerPath")]
    pub listener_path: String,
    /// The rules.
    #[serde(default, deserialize_with = "null_as_default")]
    pub syscalls: Vec<Syscall>,
}

fn null_as_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

fn empty_as_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ActionName>, D::Error> {
    match Option::<String>::deserialize(from)? {
        Some(name) if !name.is_empty() => {
            ActionName::deserialize(serde::de::value::StringDeserializer::new(name)).map(Some)
        }
        _ => Ok(None),
    }
}

const FLAG_SPEC_ALLOW: u32 = 1 << 2;

/// The filter flags a profile may ask for, with the kernel's bits. TSYNC means nothing before
/// an exec of a single thread, WAIT_KILLABLE_RECV nothing without a listener: they have none.
pub(crate) const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 0),
];

const KNOWN_ARCHES: [&str; 22] = [
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_SHEB",
];

impl Profile {
    /// Reads and checks a profile.
    pub fn parse(json: &str) -> Result<Profile, ProfileError> {
        let profile: Profile = serde_json::from_str(json)?;
        profile.check()?;
        Ok(profile)
    }

    /// Docker's default profile.
    ///
    /// # Panics
    /// Never outside of a broken build: the text is part of the program and parsed by a test.
    pub fn default_docker() -> Profile {
        Profile::parse(DEFAULT_JSON).expect("the built-in profile is valid")
    }

    /// Whether there is anything to enforce: neither a default nor rules means seccomp is off.
    pub fn enforces(&self) -> bool {
        self.default_action.is_some() || !self.syscalls.is_empty()
    }

    /// The capabilities that change what this profile compiles to, as a mask.
    pub fn relevant_caps(&self) -> u64 {
        self.syscalls
            .iter()
            .flat_map(|rule| rule.includes.caps.iter().chain(&rule.excludes.caps))
            .filter_map(|name| capability_number(name))
            .fold(0, |mask, bit| mask | 1 << bit)
    }

    /// The kernel's flag bits of the filter. Without a list it is what runc takes by default,
    /// SPEC_ALLOW: no speculative-store-bypass mitigation just because of the filter.
    pub(crate) fn flag_bits(&self) -> u32 {
        let Some(flags) = &self.flags else {
            return FLAG_SPEC_ALLOW;
        };
        FLAGS
            .iter()
            .filter(|(known, _)| flags.iter().any(|flag| flag == known))
            .fold(0, |bits, (_, bit)| bits | bit)
    }

    fn check(&self) -> Result<(), ProfileError> {
        if !self.architectures.is_empty() && !self.arch_map.is_empty() {
            return Err(ProfileError::ArchitecturesTwice);
        }
        if self.default_action.is_none() && !self.syscalls.is_empty() {
            return Err(ProfileError::NoDefaultAction);
        }
        if self.default_action == Some(ActionName::Notify) {
            return Err(ProfileError::NotifyByDefault);
        }
        for name in &self.architectures {
            if !KNOWN_ARCHES.contains(&name.as_str()) {
                return Err(ProfileError::Arch(name.clone()));
            }
        }
        for flag in self.flags.iter().flatten() {
            if !FLAGS.iter().any(|(known, _)| known == flag) {
                return Err(ProfileError::Flag(flag.clone()));
            }
        }
        if let Some(action) = self.default_action {
            check_errno(action, self.default_errno_ret)?;
        }
        self.syscalls
            .iter()
            .try_for_each(|rule| check_rule(rule, !self.listener_path.is_empty()))
    }
}

/// Other actions have no number, and what is given for them counts for nothing.
fn check_errno(action: ActionName, errno: Option<u32>) -> Result<(), ProfileError> {
    match (action, errno) {
        (ActionName::Errno, Some(errno)) if errno > MAX_ERRNO => Err(ProfileError::Errno(errno)),
        (ActionName::Trace, Some(message)) if message > MAX_TRACE_MESSAGE => {
            Err(ProfileError::TraceMessage(message))
        }
        _ => Ok(()),
    }
}

fn check_rule(rule: &Syscall, has_listener: bool) -> Result<(), ProfileError> {
    if !rule.name.is_empty() && !rule.names.is_empty() {
        return Err(ProfileError::NamesTwice);
    }
    if rule.action == ActionName::Notify {
        return Err(match has_listener {
            true => ProfileError::Notify,
            false => ProfileError::NoListener,
        });
    }
    check_errno(rule.action, rule.errno_ret)?;
    match rule
        .args
        .iter()
        .find(|argument| argument.index >= MAX_ARGUMENTS)
    {
        Some(argument) => Err(ProfileError::ArgumentIndex {
            name: rule.all_names().next().unwrap_or_default().to_owned(),
            index: argument.index,
        }),
        None => Ok(()),
    }
}
