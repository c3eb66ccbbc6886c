//! Kernel parameters of a container: which of them are its own.
//!
//! /proc/sys shows every parameter of the host; only those of a namespace that the container does not share with the
//! host may be written for it. The rules and texts are those of the OCI runtime behind dockerd.

use std::collections::BTreeMap;

use crate::EngineError;

/// Parameters of the IPC namespace.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The name with dots between its parts, as sysctl(8) converts it: the first separator says which form it has.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn refused(reason: &str) -> EngineError {
    EngineError::System(format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
         failed: sysctl {reason}"
    ))
}

/// What a start shares with the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sharing {
    /// Its network is new.
    pub(crate) new_network: bool,
    /// Its network is the host's.
    pub(crate) host_network: bool,
    /// Its IPC namespace is not the host's.
    pub(crate) own_ipc: bool,
    /// Its UTS namespace is not the host's.
    pub(crate) own_uts: bool,
    /// Its user namespace is not the host's.
    pub(crate) own_user: bool,
}

/// Refuses a parameter that the container would share with the host.
pub(crate) fn check_own(name: &str, sharing: &Sharing) -> Result<(), EngineError> {
    let name = dotted(name);
    if IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
        return match sharing.own_ipc {
            true => Ok(()),
            false => Err(refused(&format!(
                "{name:?} is not allowed in the hosts ipc namespace"
            ))),
        };
    }
    if name.starts_with("net.") {
        return match sharing.host_network {
            true => Err(refused(&format!(
                "{name:?} not allowed in host network namespace"
            ))),
            false => Ok(()),
        };
    }
    match name.as_str() {
        "kernel.domainname" if sharing.own_uts => Ok(()),
        "kernel.hostname" if sharing.own_uts => Err(refused(&format!(
            "{name:?} is not allowed as it conflicts with the OCI \"hostname\" field"
        ))),
        _ => Err(refused(&format!(
            "{name:?} is not in a separate kernel namespace"
        ))),
    }
}

/// What is written at a start: Docker's defaults for a network namespace that is new, overridden by the client's.
///
/// # Errors
/// A parameter that is not the container's own.
pub(crate) fn of_start(
    wanted: &BTreeMap<String, String>,
    sharing: &Sharing,
) -> Result<Vec<(String, String)>, EngineError> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    if sharing.new_network {
        // As Docker: programs without privileges may ping and serve low ports in their own namespace.
        for (name, value) in [
            ("net.ipv4.ping_group_range", "0 2147483647"),
            ("net.ipv4.ip_unprivileged_port_start", "0"),
        ] {
            // A user namespace may not have all of these groups.
            if !(sharing.own_user && name == "net.ipv4.ping_group_range") {
                all.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    for (name, value) in wanted {
        check_own(name, sharing)?;
        all.insert(name.clone(), value.clone());
    }
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, host_network: bool) -> Result<Vec<(String, String)>, EngineError> {
        let wanted = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        of_start(&wanted, &sharing(false, host_network))
    }

    fn sharing(new_network: bool, host_network: bool) -> Sharing {
        Sharing {
            new_network,
            host_network,
            own_ipc: true,
            own_uts: true,
            own_user: false,
        }
    }

    #[test]
    fn parameters_of_the_hosts_ipc_and_names_are_refused() {
        let shared = Sharing {
            own_ipc: false,
            own_uts: false,
            ..sharing(true, false)
        };
        for (name, text) in [
            ("kernel.shmmax", "is not allowed in the hosts ipc namespace"),
            ("kernel.domainname", "is not in a separate kernel namespace"),
            ("kernel.hostname", "is not in a separate kernel namespace"),
        ] {
            let error = check_own(name, &shared).unwrap_err().to_string();
            assert!(
                error.ends_with(&format!("sysctl \"{name}\" {text}")),
                "{error}"
            );
        }
    }

    #[test]
    fn only_parameters_of_own_namespaces_are_written() {
        for own in [
            "net.ipv4.ip_forward",
            "net/ipv4/ip_forward",
            "kernel.shmmax",
            "kernel/shmmax",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            assert_eq!(one(own, false).unwrap().len(), 1, "{own}");
        }
        for hosts in [
            "vm.swappiness",
            "vm/swappiness",
            "kernel.hostname",
            "kernel.core_pattern",
            "kernel/core_pattern",
            "fs.file-max",
            "net",
            "",
            "kernel.shmmax/../core_pattern",
            "/kernel/shmmax",
        ] {
            assert!(one(hosts, false).is_err(), "{hosts}");
        }
        let error = one("net.ipv4.ip_forward", true).unwrap_err().to_string();
        assert!(
            error.ends_with("sysctl \"net.ipv4.ip_forward\" not allowed in host network namespace")
        );
    }

    #[test]
    fn defaults_are_for_new_networks_and_can_be_overridden() {
        let wanted = BTreeMap::from([(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "7".to_owned(),
        )]);
        let all = of_start(&wanted, &sharing(true, false)).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].1, "7");
        assert!(
            of_start(&BTreeMap::new(), &sharing(false, true))
                .unwrap()
                .is_empty()
        );
    }
}
