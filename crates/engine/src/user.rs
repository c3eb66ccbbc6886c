//! Users and groups of a container, from the files of its own root file system.
//!
//! The files are hostile: they are looked up inside the root, must be regular, and are read up to a
//! bound.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::EngineError;
use crate::merged::Merged;

/// Bytes read of /etc/passwd and /etc/group.
pub const MAX_FILE_BYTES: u64 = 4 << 20;
/// Supplementary groups of a process (the kernel takes 65,536).
pub const MAX_GROUPS: usize = 1024;
const MAX_ID: i64 = (1 << 31) - 1;

/// Who runs the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// The text of both files; empty when a file does not exist.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// /etc/passwd.
    pub passwd: String,
    /// /etc/group.
    pub group: String,
}

impl Accounts {
    /// Reads both files through the layers of a root file system, top first.
    pub fn read(layers: &[impl AsRef<Path>]) -> Result<Accounts, EngineError> {
        let root = Merged::open(layers)?;
        let read = |path| match root.find(path)? {
            Some(file) => read_regular(&file),
            None => Ok(String::new()),
        };
        Ok(Accounts {
            passwd: read("etc/passwd")?,
            group: read("etc/group")?,
        })
    }

    /// Reads both files of a mounted root file system.
    pub fn read_root(root: &OwnedFd) -> Result<Accounts, EngineError> {
        let read = |path| find(root, path).map_or(Ok(String::new()), |found| read_regular(&found));
        Ok(Accounts {
            passwd: read("etc/passwd")?,
            group: read("etc/group")?,
        })
    }
}

/// The file at a path below a root; links are followed inside it.
fn find(root: &OwnedFd, path: &str) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).ok()
}

fn read_regular(found: &OwnedFd) -> Result<String, EngineError> {
    use std::os::fd::AsRawFd;
    let context = || "read the account files of the container".to_owned();
    let stat = rustix::fs::fstat(found).map_err(|e| EngineError::io(context(), e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        // A whiteout, a device, a directory: as if it were not there. Never opened for reading.
        return Ok(String::new());
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = std::fs::File::open(path).map_err(|e| EngineError::io(context(), e))?;
    // With room for what there is, it takes one read, and one more for the end.
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    let mut bytes = Vec::with_capacity(size.min(MAX_FILE_BYTES) as usize + 1);
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|e| EngineError::io(context(), e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn users(text: &str) -> impl Iterator<Item = User<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).unwrap_or("");
        (!name.is_empty()).then_some(User {
            name,
            uid,
            gid,
            home,
        })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        (!name.is_empty()).then_some(Group {
            name,
            gid,
            members: fields.next().unwrap_or(""),
        })
    })
}

fn number(text: &str) -> Result<Option<u32>, EngineError> {
    // A sign is part of a number, as in Docker; what does not fit in 64 bits is a name.
    match text.parse::<i64>() {
        Ok(value) if (0..=MAX_ID).contains(&value) => Ok(Some(value as u32)),
        Ok(_) => Err(cannot_be_found(format!(
            "uids and gids must be in range 0-{MAX_ID}"
        ))),
        Err(_) => Ok(None),
    }
}

/// Resolves `user[:group]` and additional groups.
pub fn resolve(
    spec: &str,
    group_add: &[String],
    accounts: &Accounts,
) -> Result<Identity, EngineError> {
    let (user_part, group_part) = spec.split_once(':').unwrap_or((spec, ""));
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let user_number = number(user_part)?;
    // A name wins over a number, as in Docker: a user may be called "1000".
    let user = users(&accounts.passwd)
        .find(|u| u.name == user_part)
        .or_else(|| users(&accounts.passwd).find(|u| Some(u.uid) == user_number));
    let (uid, mut gid, home) = match (&user, user_number) {
        (Some(u), _) => (u.uid, u.gid, u.home.to_owned()),
        (None, Some(uid)) => (uid, 0, String::new()),
        (None, None) => return Err(no_user(user_part)),
    };
    let mut extra = Vec::new();
    if !group_part.is_empty() {
        gid = resolve_group(group_part, &accounts.group)?;
    } else if let Some(user) = &user {
        extra.extend(
            groups(&accounts.group)
                .filter(|g| g.members.split(',').any(|m| m.trim() == user.name))
                .map(|g| g.gid),
        );
    }
    // As Docker: once each of those that are added, whatever the user has already.
    let mut added = Vec::new();
    for name in group_add {
        let id = resolve_group(name, &accounts.group)?;
        if !added.contains(&id) {
            added.push(id);
        }
    }
    let mut all = vec![gid];
    all.extend(extra.into_iter().chain(added).take(MAX_GROUPS));
    let home = if home.is_empty() {
        "/".to_owned()
    } else {
        home
    };
    Ok(Identity {
        uid,
        gid,
        groups: all,
        home,
    })
}

fn resolve_group(name: &str, text: &str) -> Result<u32, EngineError> {
    if let Some(group) = groups(text).find(|g| g.name == name) {
        return Ok(group.gid);
    }
    number(name)?.ok_or_else(|| {
        cannot_be_found(format!(
            "unable to find group {name}: no matching entries in group file"
        ))
    })
}

fn no_user(name: &str) -> EngineError {
    cannot_be_found(format!(
        "unable to find user {name}: no matching entries in passwd file"
    ))
}

/// Docker answers a start with a status of its own fault: the request to start was right, what create took was not.
fn cannot_be_found(message: String) -> EngineError {
    EngineError::System(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:1000:1001:Web:/srv:/bin/sh\n1234:x:7:8::/n:\n".into(),
            group: "root:x:0:\nstaff:x:50:web,other\nweb:x:1001:\n".into(),
        }
    }

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        }
    }

    #[test]
    fn forms() {
        let a = accounts();
        let none = [];
        assert_eq!(
            resolve("", &none, &a).unwrap(),
            identity(0, 0, &[0], "/root")
        );
        assert_eq!(
            resolve("web", &none, &a).unwrap(),
            identity(1000, 1001, &[1001, 50], "/srv")
        );
        assert_eq!(
            resolve("1000", &none, &a).unwrap(),
            identity(1000, 1001, &[1001, 50], "/srv")
        );
        assert_eq!(
            resolve("web:staff", &none, &a).unwrap(),
            identity(1000, 50, &[50], "/srv")
        );
        assert_eq!(
            resolve("77:88", &none, &a).unwrap(),
            identity(77, 88, &[88], "/")
        );
        assert_eq!(
            resolve("77", &none, &a).unwrap(),
            identity(77, 0, &[0], "/")
        );
        assert_eq!(
            resolve("1234", &none, &a).unwrap(),
            identity(7, 8, &[8], "/n")
        );
        let added = ["staff".to_owned(), "99".to_owned()];
        assert_eq!(
            resolve("root", &added, &a).unwrap(),
            identity(0, 0, &[0, 50, 99], "/root")
        );
        assert_eq!(
            resolve("+77", &none, &a).unwrap(),
            identity(77, 0, &[0], "/")
        );
        for bad in [
            "nobody",
            "web:nogroup",
            "4294967296",
            "0:4294967295",
            "-1",
            "0:-1",
        ] {
            assert!(resolve(bad, &none, &a).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_read_through_layers_and_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (top, low) = (dir.path().join("top"), dir.path().join("low"));
        for layer in [&top, &low] {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        std::fs::write(low.join("etc/passwd"), "low:x:5:5::/:\n").unwrap();
        let layers = [dir.path().join("absent"), top.clone(), low];
        assert_eq!(Accounts::read(&layers).unwrap().passwd, "low:x:5:5::/:\n");
        std::os::unix::fs::symlink("/etc/real", top.join("etc/passwd")).unwrap();
        std::fs::write(top.join("etc/real"), "top:x:6:6::/:\n").unwrap();
        assert_eq!(Accounts::read(&layers).unwrap().passwd, "top:x:6:6::/:\n");
        std::fs::remove_file(top.join("etc/passwd")).unwrap();
        std::fs::create_dir(top.join("etc/passwd")).unwrap();
        assert_eq!(Accounts::read(&layers).unwrap().passwd, "");
    }
}
