//! `top`: the processes of a container, from the host's side.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::{fs, io};

use super::{Container, files};
use crate::model::{Status, Top};
use crate::{EngineError, clock};

/// Processes listed at most.
pub const MAX_PROCESSES: usize = 10_000;
/// Bytes of a command line shown.
const MAX_COMMAND_BYTES: usize = 4096;
const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];

/// Lists processes as `ps` with these arguments (empty means `-ef`).
pub(crate) async fn top(container: &Rc<Container>, ps_args: &str) -> Result<Top, EngineError> {
    if container.status() == Status::Restarting {
        return Err(EngineError::Conflict(format!(
            "Container {} is restarting, wait until the container is running",
            container.id
        )));
    }
    let group = container.running("")?.group.clone();
    let args = ps_args.to_owned();
    let top = files::on_worker(move || {
        let pids: BTreeSet<i32> = group.pids()?.into_iter().take(MAX_PROCESSES).collect();
        if args.is_empty() || args == "-ef" {
            Ok(own(&pids))
        } else {
            run_ps(&args, &pids)
        }
    })
    .await?;
    container.event("top", &[]);
    Ok(top)
}

/// `ps -ef`, read from /proc.
fn own(pids: &BTreeSet<i32>) -> Top {
    let boot = boot_unix_s();
    let users = user_names();
    let processes = pids
        .iter()
        .filter_map(|pid| row(*pid, boot, &users))
        .collect();
    Top {
        titles: TITLES.map(str::to_owned).to_vec(),
        processes,
    }
}

fn boot_unix_s() -> i64 {
    fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok())
        })
        .unwrap_or(0)
}

fn user_names() -> BTreeMap<u32, String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((fields.nth(1)?.parse().ok()?, name))
        })
        .collect()
}

/// The fields of /proc/PID/stat that are shown.
struct Stat {
    comm: String,
    ppid: i32,
    tty: u32,
    cpu_ticks: u64,
    start_ticks: u64,
}

fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(") ")?;
    let comm = head.split_once(" (")?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        comm,
        ppid: fields.get(1)?.parse().ok()?,
        tty: fields.get(4)?.parse::<i64>().ok()? as u32,
        cpu_ticks: number(11)? + number(12)?,
        start_ticks: number(19)?,
    })
}

/// Clock ticks per second as /proc shows them on every Linux.
const TICKS_PER_S: u64 = 100;

fn row(pid: i32, boot_unix_s: i64, users: &BTreeMap<u32, String>) -> Option<Vec<String>> {
    use std::os::unix::fs::MetadataExt;
    let dir = format!("/proc/{pid}");
    // A process that ended meanwhile is left out.
    let uid = fs::metadata(&dir).ok()?.uid();
    let stat = parse_stat(&fs::read_to_string(format!("{dir}/stat")).ok()?)?;
    let raw = fs::read(format!("{dir}/cmdline")).unwrap_or_default();
    let started = boot_unix_s + (stat.start_ticks / TICKS_PER_S) as i64;
    let now = clock::unix_ns() / 1_000_000_000;
    let cpu_s = stat.cpu_ticks / TICKS_PER_S;
    let alive_s = u64::try_from(now - started).unwrap_or(0).max(1);
    Some(vec![
        users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
        pid.to_string(),
        stat.ppid.to_string(),
        (stat.cpu_ticks * 100 / TICKS_PER_S / alive_s)
            .min(99)
            .to_string(),
        start_text(started, now),
        tty_name(stat.tty),
        format!(
            "{:02}:{:02}:{:02}",
            cpu_s / 3600,
            cpu_s / 60 % 60,
            cpu_s % 60
        ),
        command(&raw, &stat.comm),
    ])
}

fn command(raw: &[u8], comm: &str) -> String {
    if raw.is_empty() {
        return format!("[{comm}]");
    }
    let shown = &raw[..raw.len().min(MAX_COMMAND_BYTES)];
    let text = String::from_utf8_lossy(shown.strip_suffix(b"\0").unwrap_or(shown)).into_owned();
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// HH:MM of the last day, else month and day.
fn start_text(started_unix_s: i64, now_unix_s: i64) -> String {
    let Ok(started) = jiff::Timestamp::from_second(started_unix_s) else {
        return "?".to_owned();
    };
    let format = if now_unix_s - started_unix_s < 86_400 {
        "%H:%M"
    } else {
        "%b%d"
    };
    started
        .to_zoned(jiff::tz::TimeZone::UTC)
        .strftime(format)
        .to_string()
}

fn tty_name(device: u32) -> String {
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xfff00),
    );
    match major {
        0 => "?".to_owned(),
        4 if minor < 64 => format!("tty{minor}"),
        136..=143 => {
            let name = format!("pts/{}", (major - 136) * 256 + minor);
            // Another pseudoterminal file system has the same numbers; `ps` names what the host has.
            match fs::metadata(format!("/dev/{name}")) {
                Ok(_) => name,
                Err(_) => "?".to_owned(),
            }
        }
        _ => format!("{major}:{minor}"),
    }
}

/// The host's `ps`, its rows filtered by pid.
fn run_ps(args: &str, pids: &BTreeSet<i32>) -> Result<Top, EngineError> {
    let words = check_ps_args(args)?;
    let list = pids
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let run = |with_pids: bool| {
        let mut ps = Command::new("ps");
        ps.args(&words).stdin(Stdio::null());
        if with_pids {
            ps.arg(format!("-q{list}"));
        }
        ps.output().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => EngineError::System(
                "ps: exec: \"ps\": executable file not found in $PATH".to_owned(),
            ),
            _ => EngineError::io("run ps", e),
        })
    };
    let mut output = run(true)?;
    if !output.status.success() {
        // Some formats do not go with a selection by pid.
        output = run(false)?;
    }
    if !output.status.success() {
        // The usage is behind it.
        let text = String::from_utf8_lossy(&output.stderr);
        let text = text.trim().lines().next().unwrap_or_default();
        return Err(EngineError::InvalidParameter(format!("ps: {text}")));
    }
    parse_ps(&String::from_utf8_lossy(&output.stdout), pids)
}

fn check_ps_args(args: &str) -> Result<Vec<String>, EngineError> {
    let words: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    // `-o cmd=PID` gives another column the title of the one that rows are found by.
    let pairs = words
        .iter()
        .zip(words.iter().skip(1).map(Some).chain([None]));
    for (at, (word, next)) in pairs.enumerate() {
        let Some((key, title)) = word.rsplit_once('=') else {
            continue;
        };
        let title = match (title, next) {
            ("", Some(next)) => next,
            (title, _) => title,
        };
        if at > 0 && key != "pid" && title.starts_with("PID") {
            return Err(EngineError::InvalidParameter(format!(
                "specifying \"{key}={title}\" is not allowed"
            )));
        }
    }
    Ok(words)
}

fn parse_ps(text: &str, pids: &BTreeSet<i32>) -> Result<Top, EngineError> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or("")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let pid_column = titles.iter().position(|t| t == "PID").ok_or_else(|| {
        EngineError::InvalidParameter("Couldn't find PID field in ps output".to_owned())
    })?;
    let mut processes = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(pid) = words.get(pid_column).and_then(|w| w.parse().ok()) else {
            continue;
        };
        if !pids.contains(&pid) || words.len() < titles.len() {
            continue;
        }
        // The last column is a command line and has blanks.
        let (head, tail) = words.split_at(titles.len() - 1);
        processes.push(
            head.iter()
                .map(|w| (*w).to_owned())
                .chain([tail.join(" ")])
                .collect(),
        );
    }
    Ok(Top { titles, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_listed() {
        let pid = std::process::id() as i32;
        let top = own(&BTreeSet::from([pid, i32::MAX]));
        assert_eq!(top.processes.len(), 1);
        assert_eq!(top.processes[0].len(), TITLES.len());
        assert_eq!(top.processes[0][1], pid.to_string());
    }

    #[test]
    fn hostile_process_names() {
        let stat =
            parse_stat("7 (a) b (c) R 1 2 3 34816 5 6 7 8 9 10 150 50 13 14 15 16 17 18 4200 1")
                .unwrap();
        assert_eq!(
            (
                stat.comm.as_str(),
                stat.ppid,
                stat.cpu_ticks,
                stat.start_ticks
            ),
            ("a) b (c", 1, 200, 4200)
        );
        assert_eq!(tty_name(4 << 8 | 1), "tty1");
        assert_eq!(tty_name(143 << 8 | 255), "?");
        assert_eq!(tty_name(0), "?");
        assert_eq!(command(b"a\0b\nc\0", "x"), "a b c");
        assert_eq!(command(b"", "x"), "[x]");
    }

    #[test]
    fn ps_output() {
        let pids = BTreeSet::from([5]);
        let top = parse_ps("  PID COMMAND\n    5 sleep  10\n    6 other\n", &pids).unwrap();
        assert_eq!(
            top.processes,
            vec![vec!["5".to_owned(), "sleep 10".to_owned()]]
        );
        assert!(parse_ps("X\n", &pids).is_err());
        for (args, fine) in [
            ("-o pid=x", true),
            ("-o pid=PID", true),
            ("-o cmd=X", true),
            ("-o cmd=PID", false),
            ("-o cmd= PIDX", false),
            ("cmd=PID", true),
        ] {
            assert_eq!(check_ps_args(args).is_ok(), fine, "{args}");
        }
    }
}
