//! Hooks of the OCI runtime specification: programs of devices' vendors that run while a container comes to be and when
//! it has gone.
//!
//! **Architecture invariants**
//! - A runtime of our own follows the specification: which namespaces, which moment, what a failure ends.
//! - No hook runs without a limit of time; only its own container waits for it.
//! - What is to run when the container has gone is noted (in the bundle's `config.json`) before anything runs.

mod bundle;
mod failure;
mod prepare;
mod run;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use bundle::HookBundle;
pub(crate) use prepare::{PreparedHooks, prepare};

/// How long a hook may take that says nothing of it, in s. (The runtime behind dockerd would wait for ever.)
pub const HOOK_LIMIT_S: i64 = 300;

/// When a hook runs, and in which namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookKind {
    /// The host's namespaces, the container's are there, before its root file system is `/`. Deprecated.
    Prestart,
    /// The same, after those.
    CreateRuntime,
    /// The container's namespaces, before its root file system is `/`.
    CreateContainer,
    /// In the container, right before its program.
    StartContainer,
    /// The host's namespaces, the program runs.
    Poststart,
    /// The host's namespaces, the container has gone.
    Poststop,
}

impl HookKind {
    const ALL: [HookKind; 6] = [
        HookKind::Prestart,
        HookKind::CreateRuntime,
        HookKind::CreateContainer,
        HookKind::StartContainer,
        HookKind::Poststart,
        HookKind::Poststop,
    ];

    /// As the specification names it.
    pub fn name(self) -> &'static str {
        match self {
            HookKind::Prestart => "prestart",
            HookKind::CreateRuntime => "createRuntime",
            HookKind::CreateContainer => "createContainer",
            HookKind::StartContainer => "startContainer",
            HookKind::Poststart => "poststart",
            HookKind::Poststop => "poststop",
        }
    }

    /// Of this name.
    pub fn from_name(name: &str) -> Option<HookKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path.
    pub path: String,
    /// Arguments, the program's name first; without any, its path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment; without any, a search path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// How long it may take, in s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

impl Hook {
    /// How long it may take, in ms.
    fn timeout_ms(&self) -> u32 {
        let seconds = self.timeout.unwrap_or(HOOK_LIMIT_S).max(0);
        u32::try_from(seconds.saturating_mul(1000)).unwrap_or(u32::MAX)
    }
}

/// The hooks of a container, by kind and in order.
pub type Hooks = BTreeMap<HookKind, Vec<Hook>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_specifications() {
        for kind in HookKind::ALL {
            assert_eq!(HookKind::from_name(kind.name()), Some(kind));
            let json = serde_json::to_value(kind).expect("JSON");
            assert_eq!(json, kind.name());
        }
        assert_eq!(HookKind::from_name("Prestart"), None);
    }

    #[test]
    fn every_hook_has_a_limit() {
        let of = |timeout| Hook {
            timeout,
            ..Hook::default()
        };
        assert_eq!(of(None).timeout_ms(), 300_000);
        assert_eq!(of(Some(2)).timeout_ms(), 2000);
        assert_eq!(of(Some(-1)).timeout_ms(), 0);
        assert_eq!(of(Some(i64::MAX)).timeout_ms(), u32::MAX);
    }
}
