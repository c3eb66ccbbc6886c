//! A system call filter in the specification's words.

use gantry_seccomp::{OciRules, Profile, oci_rules};
use serde_json::{Value, json};

/// A profile for processes with these capabilities on this kernel, as `linux.seccomp`.
pub fn oci_seccomp(profile: &Profile, caps_mask: u64, kernel: (u32, u32)) -> Value {
    render(&oci_rules(profile, caps_mask, kernel))
}

fn render(rules: &OciRules<'_>) -> Value {
    let syscalls: Vec<Value> = rules.syscalls.iter().map(|s| syscall(s)).collect();
    let mut all = json!({
        "defaultAction": rules.default_action,
        "architectures": rules.architectures,
        "syscalls": syscalls,
    });
    if let Some(errno) = rules.default_errno_ret {
        all["defaultErrnoRet"] = errno.into();
    }
    if let Some(flags) = rules.flags {
        all["flags"] = flags.into();
    }
    all
}

fn syscall(rule: &gantry_seccomp::Syscall) -> Value {
    let args: Vec<Value> = rule
        .args
        .iter()
        .map(|a| {
            json!({
                "index": a.index,
                "value": a.value,
                "valueTwo": a.value_two,
                "op": a.op.name(),
            })
        })
        .collect();
    let mut one = json!({
        "names": rule.all_names().collect::<Vec<_>>(),
        "action": rule.action.name(),
    });
    if !args.is_empty() {
        one["args"] = args.into();
    }
    if let Some(errno) = rule.errno_ret {
        one["errnoRet"] = errno.into();
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_becomes_a_filter_section() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["read","write"],"action":"SCMP_ACT_ERRNO","errnoRet":5,
             "args":[{"index":1,"value":2,"valueTwo":3,"op":"SCMP_CMP_MASKED_EQ"}]},
            {"names":["mount"],"action":"SCMP_ACT_ERRNO","includes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;
        let profile = Profile::parse(text).expect("profile");
        let json = oci_seccomp(&profile, 0, (6, 1));
        assert_eq!(
            json["syscalls"],
            json!([{"names": ["read", "write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
                "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}])
        );
        assert!(json.get("flags").is_none());
    }
}
