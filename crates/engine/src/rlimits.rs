//! Resource limits of processes: the daemon's and the container's.

use std::collections::BTreeMap;

use gantry_launch::Rlimit;

use crate::EngineError;
use crate::model::Ulimit;

/// How dockerd begins what its runtime says about a specification.
const RUNTIME_REFUSES: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: ";

const RLIMITS: [(&str, u32); 16] = [
    ("AS", libc::RLIMIT_AS),
    ("CORE", libc::RLIMIT_CORE),
    ("CPU", libc::RLIMIT_CPU),
    ("DATA", libc::RLIMIT_DATA),
    ("FSIZE", libc::RLIMIT_FSIZE),
    ("LOCKS", libc::RLIMIT_LOCKS),
    ("MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("NICE", libc::RLIMIT_NICE),
    ("NOFILE", libc::RLIMIT_NOFILE),
    ("NPROC", libc::RLIMIT_NPROC),
    ("RSS", libc::RLIMIT_RSS),
    ("RTPRIO", libc::RLIMIT_RTPRIO),
    ("RTTIME", libc::RLIMIT_RTTIME),
    ("SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("STACK", libc::RLIMIT_STACK),
];

/// The daemon's default limits, overridden by the container's, with the rules and words of the OCI runtime behind
/// dockerd.
pub(crate) fn merge(default: &[Ulimit], own: &[Ulimit]) -> Result<Vec<Rlimit>, EngineError> {
    let mut merged: BTreeMap<u32, Rlimit> = BTreeMap::new();
    for limit in default.iter().chain(own) {
        let name = limit.name.to_uppercase();
        let known = RLIMITS.iter().find(|(known, _)| *known == name);
        let (_, resource) = known.ok_or_else(|| {
            EngineError::System(format!(
                "{RUNTIME_REFUSES}wrong rlimit value: RLIMIT_{name}"
            ))
        })?;
        // A negative one is as large as it is in two's complement; -1 is no limit. One above the other is for the
        // kernel to refuse, as under dockerd.
        let (soft, hard) = (limit.soft.cast_unsigned(), limit.hard.cast_unsigned());
        merged.insert(
            *resource,
            Rlimit {
                resource: *resource,
                soft,
                hard,
            },
        );
    }
    Ok(merged.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_merge() {
        let limit = |name: &str, soft, hard| Ulimit {
            name: name.to_owned(),
            soft,
            hard,
        };
        let merged = merge(
            &[limit("nofile", 1, 2)],
            &[limit("nofile", 5, -1), limit("core", 0, 0)],
        )
        .unwrap();
        assert_eq!(merged.len(), 2);
        assert!(merged.iter().any(|r| r.soft == 5 && r.hard == u64::MAX));
        let of = |name| merge(&[], &[limit(name, 1, 2)]);
        assert_eq!(of("NOFILE").unwrap().len(), 1);
        let error = of("nope").unwrap_err().to_string();
        assert!(
            error.ends_with("wrong rlimit value: RLIMIT_NOPE"),
            "{error}"
        );
    }
}
