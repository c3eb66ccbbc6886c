//! `--userns-remap`: from a user's name to the ids of its containers, with dockerd's rules and words.

use std::fs;
use std::path::Path;
use std::process::Command;

use gantry_launch::IdRange;

/// The user that `default` means; made if there is none.
const DEFAULT_USER: &str = "dockremap";
const DEFAULT: &str = "default";
/// First id of the range that a made user gets, if nobody else has it, and how many it gets.
const FIRST_SUBORDINATE_ID: u64 = 100_000;
const SUBORDINATE_IDS: u64 = 65_536;

/// The ids of remapped containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

impl Ids {
    /// The directory below the data root that is theirs.
    pub fn directory(&self) -> String {
        let first = |ranges: &[IdRange]| ranges.first().map_or(0, |r| r.outside);
        format!("{}.{}", first(&self.uids), first(&self.gids))
    }
}

/// The ids of a setting; `None` if it names root, which is mapped to itself. Reads files of /etc and may run `getent`,
/// and for `default` the tools that make a user.
pub fn resolve(setting: &str) -> Result<Option<Ids>, String> {
    let user = user_of(setting)?;
    if user.name == "root" {
        tracing::warn!(
            "User namespaces: root cannot be remapped with itself; user namespaces are OFF"
        );
        return Ok(None);
    }
    tracing::info!(
        user = user.name,
        "ids are mapped to the subordinate ids of a user"
    );
    let load = |path: &str| {
        let text = fs::read(path).map_err(|e| format!("open {path}: {e}"))?;
        ranges(&String::from_utf8_lossy(&text), &user)
    };
    let load = |path| load(path).map_err(|e| format!("Can't create ID mappings: {e}"));
    Ok(Some(Ids {
        uids: load("/etc/subuid")?,
        gids: load("/etc/subgid")?,
    }))
}

/// A user or group: the first fields of its line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    name: String,
    id: u32,
}

/// A database of accounts.
#[derive(Clone, Copy)]
enum Database {
    Passwd,
    Group,
}

impl Database {
    fn name(self) -> &'static str {
        match self {
            Database::Passwd => "passwd",
            Database::Group => "group",
        }
    }

    /// By name or number: in the file, or wherever the machine has its accounts.
    fn find(self, key: &str) -> Result<Account, String> {
        let name = self.name();
        let file = fs::read(format!("/etc/{name}")).unwrap_or_default();
        if let Some(account) = account(&String::from_utf8_lossy(&file), key) {
            return Ok(account);
        }
        let missing = format!("getent unable to find entry {key:?} in {name} database");
        if key.is_empty() || key.starts_with('-') {
            return Err(missing);
        }
        let asked = Command::new("getent").args([name, key]).output();
        let answer = asked.map_err(|e| format!("unable to find getent command: {e}"))?;
        account(&String::from_utf8_lossy(&answer.stdout), key).ok_or(missing)
    }
}

/// The entry with this name or number.
fn account(text: &str, key: &str) -> Option<Account> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?;
        let wanted = match key.parse::<u32>() {
            Ok(number) => number == id,
            Err(_) => key == name,
        };
        (wanted && !name.is_empty()).then(|| Account {
            name: name.to_owned(),
            id,
        })
    })
}

/// Go's `ParseInt(text, 10, 32)`.
fn number(text: &str) -> Option<i32> {
    text.parse().ok()
}

/// `user`, `user:group`, each by name or number, or `default`. The group has to be there and means nothing else.
fn user_of(setting: &str) -> Result<Account, String> {
    let mut parts = setting.split(':');
    let (first, group) = (parts.next().unwrap_or_default(), parts.next());
    if parts.next().is_some() {
        return Err(format!(
            "Invalid user/group specification in --userns-remap: {setting:?}"
        ));
    }
    let user = match number(first) {
        Some(uid) => Database::Passwd
            .find(&uid.to_string())
            .map_err(|e| format!("Uid {uid} has no entry in /etc/passwd: {e}"))?,
        None => {
            let name = if first == DEFAULT {
                DEFAULT_USER
            } else {
                first
            };
            match Database::Passwd.find(name) {
                Ok(user) => user,
                Err(_) if first == DEFAULT => {
                    make_default_user()
                        .map_err(|e| format!("Error during {DEFAULT_USER:?} user creation: {e}"))?;
                    Database::Passwd.find(name)?
                }
                Err(e) => return Err(format!("Error during uid lookup for {name:?}: {e}")),
            }
        }
    };
    check_group(first, group, &user)?;
    Ok(user)
}

fn check_group(first: &str, group: Option<&str>, user: &Account) -> Result<(), String> {
    match (group, number(first)) {
        (None, Some(gid)) => Database::Group
            .find(&gid.to_string())
            .map_err(|e| format!("Gid {gid} has no entry in /etc/group: {e}"))?,
        (None, None) => Database::Group
            .find(&user.name)
            .map_err(|e| format!("Error during gid lookup for {:?}: {e}", user.name))?,
        (Some(group), _) => match number(group) {
            // In these words.
            Some(gid) => Database::Group
                .find(&gid.to_string())
                .map_err(|e| format!("Gid {gid} has no entry in /etc/passwd: {e}"))?,
            None => Database::Group
                .find(group)
                .map_err(|e| format!("Error during groupname lookup for {group:?}: {e}"))?,
        },
    };
    Ok(())
}

/// The entries of /etc/subuid or /etc/subgid: name or number, first id, count. What is no number counts as 0.
fn entries(text: &str) -> impl Iterator<Item = (&str, u64, u64)> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let mut fields = line.split(':').map(str::trim);
        let name = fields.next().unwrap_or_default();
        let mut number = || fields.next().and_then(|f| f.parse().ok()).unwrap_or(0);
        (name, number(), number())
    })
}

/// The ranges of a user, one after the other in the container.
fn ranges(text: &str, user: &Account) -> Result<Vec<IdRange>, String> {
    let number = user.id.to_string();
    let mut inside = 0u32;
    let mut found = Vec::new();
    for (_, first, count) in entries(text).filter(|e| e.0 == user.name || e.0 == number) {
        let invalid = || format!("the subordinate ids {first} to {first}+{count} are no ids");
        let outside = u32::try_from(first).map_err(|_| invalid())?;
        let count = u32::try_from(count).map_err(|_| invalid())?;
        outside.checked_add(count).ok_or_else(invalid)?;
        found.push(IdRange {
            inside,
            outside,
            count,
        });
        inside = inside.checked_add(count).ok_or_else(invalid)?;
    }
    if found.is_empty() {
        // Of groups too.
        return Err(format!("no subuid ranges found for user {:?}", user.name));
    }
    if found.len() > gantry_launch::MAX_RANGES {
        return Err(format!("too many subuid ranges of user {:?}", user.name));
    }
    Ok(found)
}

/// The first range that nobody has.
fn free_range(text: &str) -> u64 {
    let mut taken: Vec<(u64, u64)> = entries(text).map(|(_, first, n)| (first, n)).collect();
    taken.sort_unstable();
    let mut start = FIRST_SUBORDINATE_ID;
    for (first, count) in taken {
        if start < first.saturating_add(count) && first < start + SUBORDINATE_IDS {
            start = first.saturating_add(count);
        }
    }
    start
}

/// Makes the user of `default` and its ranges with the machine's tools.
fn make_default_user() -> Result<(), String> {
    const ADDUSER: &str =
        "--system --shell /bin/false --no-create-home --disabled-login --disabled-password --group";
    let added = run("adduser", &format!("{ADDUSER} {DEFAULT_USER}"));
    // Others know another tool, or another adduser.
    added.or_else(|_| run("useradd", &format!("-r -s /bin/false {DEFAULT_USER}")))?;
    for (path, option) in [("/etc/subuid", "-v"), ("/etc/subgid", "-w")] {
        let text = fs::read(Path::new(path)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if entries(&text).any(|(name, ..)| name == DEFAULT_USER) {
            continue;
        }
        let first = free_range(&text);
        let last = first + SUBORDINATE_IDS - 1;
        run(
            "usermod",
            &format!("{option} {first}-{last} {DEFAULT_USER}"),
        )?;
    }
    Ok(())
}

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {arguments}: {}", said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, id: u32) -> Account {
        Account {
            name: name.to_owned(),
            id,
        }
    }

    #[test]
    fn ranges_of_a_user_follow_each_other() {
        let text = "# comment\n\nother:1:2\n me:100000:10\n7:300000:5\nme:x:1\n";
        let found = ranges(text, &user("me", 7)).unwrap();
        let flat: Vec<_> = found
            .iter()
            .map(|r| (r.inside, r.outside, r.count))
            .collect();
        assert_eq!(flat, [(0, 100_000, 10), (10, 300_000, 5), (15, 0, 1)]);
        assert_eq!(
            ranges(text, &user("nobody", 8)).unwrap_err(),
            "no subuid ranges found for user \"nobody\""
        );
        for bad in ["me:4294967295:2", "me:4294967296:1", "me:0:4294967296"] {
            assert!(ranges(bad, &user("me", 7)).is_err(), "{bad}");
        }
        let ids = Ids {
            uids: found.clone(),
            gids: found,
        };
        assert_eq!(ids.directory(), "100000.100000");
    }

    #[test]
    fn free_ranges_are_nobodys() {
        assert_eq!(free_range(""), 100_000);
        assert_eq!(free_range("a:100000:65536\n"), 165_536);
        assert_eq!(free_range("b:165536:65536\na:100000:65536\n"), 231_072);
        assert_eq!(free_range("a:130000:1\n"), 130_001);
        assert_eq!(free_range("a:300000:65536\n"), 100_000);
    }

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:5:\nme:x:7:7::/:/bin/sh\n";
        assert_eq!(account(text, "me"), Some(user("me", 7)));
        assert_eq!(account(text, "7"), Some(user("me", 7)));
        assert_eq!(account(text, "0"), Some(user("root", 0)));
        for missing in ["nope", "8", "", "5"] {
            assert_eq!(account(text, missing), None, "{missing}");
        }
    }

    #[test]
    fn errors_are_dockerds() {
        let text = |setting| user_of(setting).unwrap_err();
        assert_eq!(
            text("a:b:c"),
            "Invalid user/group specification in --userns-remap: \"a:b:c\""
        );
        assert_eq!(
            text(":"),
            "Error during uid lookup for \"\": getent unable to find entry \"\" in passwd database"
        );
        assert_eq!(
            text("0:"),
            "Error during groupname lookup for \"\": getent unable to find entry \"\" in group database"
        );
        assert_eq!(user_of("0:0").unwrap().name, "root");
    }
}
