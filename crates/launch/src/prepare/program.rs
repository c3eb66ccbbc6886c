//! Where the program may lie, and the way to the working directory. Pure.

use std::ffi::CString;

use crate::error::LaunchError;

/// Paths to try, and whether they come from PATH.
pub(crate) fn candidates(
    argv: &[CString],
    env: &[CString],
) -> Result<(bool, Vec<CString>), LaunchError> {
    let program = argv.first().map(|a| a.as_bytes()).unwrap_or_default();
    if program.contains(&b'/') {
        return Ok((false, vec![text("program", program.to_vec())?]));
    }
    if program.is_empty() {
        return Ok((true, Vec::new()));
    }
    let path = env
        .iter()
        .rev()
        .find_map(|e| e.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or_default();
    let mut found = Vec::new();
    for dir in path.split(|b| *b == b':') {
        // A relative entry would depend on the working directory; Go (and so runc) refuses what it finds there.
        if dir.starts_with(b"/") {
            found.push(text("PATH", [dir, b"/", program].concat())?);
        }
    }
    Ok((true, found))
}

/// The directories from the root down to `cwd`, outermost first.
pub(crate) fn parents(cwd: &str) -> Result<Vec<CString>, LaunchError> {
    let mut so_far = String::new();
    let mut all = Vec::new();
    for part in cwd.split('/').filter(|p| !p.is_empty() && *p != ".") {
        so_far.push('/');
        so_far.push_str(part);
        all.push(text("working directory", so_far.clone().into_bytes())?);
    }
    Ok(all)
}

/// A path of the container, which must be absolute.
pub(crate) fn absolute(what: &'static str, path: &str) -> Result<CString, LaunchError> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(LaunchError::Invalid {
            what,
            value: path.to_owned(),
        });
    }
    text(what, path.as_bytes().to_vec())
}

pub(crate) fn text(what: &'static str, bytes: Vec<u8>) -> Result<CString, LaunchError> {
    CString::new(bytes).map_err(|e| LaunchError::Invalid {
        what,
        value: String::from_utf8_lossy(&e.into_vec()).into_owned(),
    })
}

/// `net.ipv4.ip_forward` as the path of its file. A dot that belongs to a name is written as a slash, as sysctl(8)
/// has it.
pub(crate) fn sysctl_path(name: &str) -> Result<CString, LaunchError> {
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    if name.contains("..") {
        return absolute("sysctl", name);
    }
    let separated_by_slash = name
        .find(['.', '/'])
        .is_some_and(|at| name[at..].starts_with('/'));
    let path: String = if separated_by_slash {
        name.to_owned()
    } else {
        name.chars().map(swapped).collect()
    };
    absolute("sysctl", &format!("/proc/sys/{path}"))
}

/// The other way round: the dotted name of a kernel parameter's file.
pub(crate) fn sysctl_name(path: &str) -> String {
    let swapped = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    let relative = path.strip_prefix("/proc/sys/").unwrap_or(path);
    relative.chars().map(swapped).collect()
}

/// Whether the filter forbids something that is still to be done once it is loaded, where the last process is made after
/// that.
pub(crate) fn filter_last(program: &[u8], tty: bool) -> bool {
    let allows =
        |number: libc::c_long, args: [u64; 6]| gantry_seccomp::allows(program, number as u32, args);
    let fork = (libc::CLONE_PARENT | libc::SIGCHLD) as u64;
    let terminal = [0, libc::TIOCSCTTY, 0, 0, 0, 0];
    let fine = allows(libc::SYS_clone, [fork, 0, 0, 0, 0, 0])
        && allows(libc::SYS_exit_group, [0; 6])
        && allows(libc::SYS_setsid, [0; 6])
        && (!tty || allows(libc::SYS_ioctl, terminal))
        // Rights that only the loading needed are given up after it.
        && allows(libc::SYS_capset, [0; 6])
        && allows(libc::SYS_prctl, [libc::PR_CAP_AMBIENT as u64, 0, 0, 0, 0, 0]);
    !fine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(s: &str) -> CString {
        CString::new(s).expect("no NUL")
    }

    #[test]
    fn programs_are_looked_for_in_path() {
        let env = [c("PATH=/x"), c("A=b"), c("PATH=/usr/bin::rel:/bin")];
        let (search, found) = candidates(&[c("sh"), c("-c")], &env).expect("valid");
        assert!(search);
        assert_eq!(found, [c("/usr/bin/sh"), c("/bin/sh")]);
        assert_eq!(
            candidates(&[c("./sh")], &env).expect("valid"),
            (false, vec![c("./sh")])
        );
        assert_eq!(candidates(&[c("")], &env).expect("valid"), (true, vec![]));
        assert_eq!(candidates(&[c("sh")], &[]).expect("valid"), (true, vec![]));
    }

    #[test]
    fn paths_are_checked() {
        assert_eq!(
            parents("/a//b/./c").expect("valid"),
            [c("/a"), c("/a/b"), c("/a/b/c")]
        );
        assert!(absolute("x", "a/b").is_err());
        assert!(absolute("x", "/a/../b").is_err());
        assert_eq!(
            sysctl_path("net.ipv4.ip_forward").expect("valid"),
            c("/proc/sys/net/ipv4/ip_forward")
        );
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/1.forwarding").expect("valid"),
            c("/proc/sys/net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(
            sysctl_path("net/ipv4/ip_forward").expect("valid"),
            c("/proc/sys/net/ipv4/ip_forward")
        );
        assert_eq!(
            sysctl_name("/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            "net.ipv4.conf.eth0/1.forwarding"
        );
        assert!(sysctl_path("net../../x").is_err());
    }

    #[test]
    fn a_filter_without_forks_is_loaded_last() {
        let compiled = |profile: &gantry_seccomp::Profile| {
            gantry_seccomp::compile(profile, 0, (6, 0))
                .expect("program")
                .bytes()
        };
        let docker = compiled(&gantry_seccomp::Profile::default_docker());
        assert!(!filter_last(&docker, true));
        assert!(!filter_last(&[], true));
        for (denied, tty, last) in [
            ("clone", false, true),
            ("setsid", false, true),
            ("ioctl", true, true),
            ("ioctl", false, false),
            ("unshare", true, false),
        ] {
            let text = format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["{denied}"],"action":"SCMP_ACT_ERRNO"}}]}}"#
            );
            let profile = gantry_seccomp::Profile::parse(&text).expect("profile");
            assert_eq!(filter_last(&compiled(&profile), tty), last, "{denied}");
        }
    }
}
