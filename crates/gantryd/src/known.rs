//! dockerd's settings that gantryd does not build: named when they are asked for, never ignored.

/// One setting of dockerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unbuilt {
    /// Name of the flag; empty when there is only a key.
    pub flag: &'static str,
    /// Short form of the flag.
    pub short: Option<char>,
    /// Key of daemon.json; empty when there is only a flag.
    pub key: &'static str,
    /// Whether the flag is a boolean.
    pub boolean: bool,
    /// The value that says what gantryd does anyway; it is accepted.
    pub same_as: Option<&'static str>,
}

const fn value(flag: &'static str, key: &'static str) -> Unbuilt {
    Unbuilt {
        flag,
        short: None,
        key,
        boolean: false,
        same_as: None,
    }
}

const fn only(flag: &'static str, accepted: &'static str) -> Unbuilt {
    Unbuilt {
        same_as: Some(accepted),
        ..value(flag, flag)
    }
}

const fn boolean(flag: &'static str, same_as: Option<&'static str>) -> Unbuilt {
    Unbuilt {
        boolean: true,
        same_as,
        ..value(flag, flag)
    }
}

/// Every setting of dockerd 28 that is not in [`crate::flags::FLAGS`].
pub const UNBUILT: &[Unbuilt] = &[
    boolean("allow-direct-routing", Some("false")),
    value("authorization-plugin", "authorization-plugins"),
    value("bip", "bip"),
    value("bip6", "bip6"),
    Unbuilt {
        short: Some('b'),
        ..value("bridge", "bridge")
    },
    value("", "builder"),
    value("cgroup-parent", "cgroup-parent"),
    value("containerd", "containerd"),
    value("containerd-namespace", "containerd-namespace"),
    value(
        "containerd-plugins-namespace",
        "containerd-plugin-namespace",
    ),
    value("cpu-rt-period", "cpu-rt-period"),
    value("cpu-rt-runtime", "cpu-rt-runtime"),
    boolean("cri-containerd", Some("false")),
    value("default-address-pool", "default-address-pools"),
    value("default-cgroupns-mode", "default-cgroupns-mode"),
    value("default-gateway", "default-gateway"),
    value("default-gateway-v6", "default-gateway-v6"),
    value("default-ipc-mode", "default-ipc-mode"),
    value("default-network-opt", "default-network-opts"),
    value("default-shm-size", "default-shm-size"),
    value("default-ulimit", "default-ulimits"),
    value("dns", "dns"),
    value("dns-opt", "dns-opts"),
    value("dns-search", "dns-search"),
    value("exec-opt", "exec-opts"),
    boolean("experimental", Some("false")),
    value("fixed-cidr", "fixed-cidr"),
    value("fixed-cidr-v6", "fixed-cidr-v6"),
    value("host-gateway-ip", "host-gateway-ip"),
    boolean("icc", None),
    boolean("init", Some("false")),
    value("init-path", "init-path"),
    value("ip", "ip"),
    // There is no networking yet that could change the machine's.
    boolean("ip-forward", Some("false")),
    boolean("ip-forward-no-drop", Some("true")),
    boolean("ip-masq", Some("false")),
    boolean("ip6tables", Some("false")),
    boolean("iptables", Some("false")),
    boolean("ipv6", Some("false")),
    // Containers always outlive the daemon.
    boolean("live-restore", Some("true")),
    value("metrics-addr", "metrics-addr"),
    value("mtu", "mtu"),
    value("network-control-plane-mtu", "network-control-plane-mtu"),
    boolean("no-new-privileges", Some("false")),
    value("node-generic-resource", "node-generic-resources"),
    boolean("raw-logs", Some("true")),
    boolean("rootless", Some("false")),
    only("seccomp-profile", "builtin"),
    boolean("selinux-enabled", Some("false")),
    Unbuilt {
        short: Some('s'),
        ..only("storage-driver", "overlay2")
    },
    value("storage-opt", "storage-opts"),
    value(
        "swarm-default-advertise-addr",
        "swarm-default-advertise-addr",
    ),
    boolean("tls", Some("false")),
    value("tlscacert", "tlscacert"),
    value("tlscert", "tlscert"),
    value("tlskey", "tlskey"),
    boolean("tlsverify", Some("false")),
    boolean("userland-proxy", Some("false")),
    value("userland-proxy-path", "userland-proxy-path"),
];

/// The setting with this flag.
pub fn by_flag(name: &str) -> Option<&'static Unbuilt> {
    UNBUILT
        .iter()
        .find(|u| !u.flag.is_empty() && u.flag == name)
}

/// The setting with this short flag.
pub fn by_short(letter: char) -> Option<&'static Unbuilt> {
    UNBUILT.iter().find(|u| u.short == Some(letter))
}

/// The setting with this key of daemon.json.
pub fn by_key(key: &str) -> Option<&'static Unbuilt> {
    UNBUILT.iter().find(|u| !u.key.is_empty() && u.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_is_listed_twice_or_built() {
        for (index, one) in UNBUILT.iter().enumerate() {
            for other in &UNBUILT[index + 1..] {
                assert!(
                    one.flag != other.flag || one.flag.is_empty(),
                    "{}",
                    one.flag
                );
                assert!(one.key != other.key, "{}", one.key);
            }
            assert!(
                crate::flags::FLAGS.iter().all(|f| f.0 != one.flag),
                "{}",
                one.flag
            );
        }
        assert_eq!(by_short('s').unwrap().flag, "storage-driver");
        assert!(by_key("").is_none() && by_flag("").is_none());
    }
}
