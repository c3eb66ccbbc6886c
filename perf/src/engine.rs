//! One engine under measurement: its socket, and what it costs the machine.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::http::{Client, json_string};

/// Where an engine is and how its processes are found.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Name in the tables.
    pub name: String,
    /// Unix socket of its API.
    pub socket: PathBuf,
    /// cgroup v1 cpuacct directory or cgroup v2 directory that holds the engine's processes (not its containers').
    pub cgroup: Option<PathBuf>,
    /// Registry that it pulls from and pushes to, as HOST:PORT.
    pub registry: Option<String>,
    /// Process ids, where there is no cgroup.
    pub pids: Vec<u32>,
}

/// What a created container has beside its command.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions<'a> {
    /// Log driver.
    pub log_driver: &'a str,
    /// It has a stdin that ends with its first client's.
    pub stdin: bool,
}

impl Engine {
    /// Parse `NAME=SOCKET[,cgroup=DIR][,registry=HOST:PORT][,pid=N]...`.
    pub fn parse(text: &str) -> Result<Engine, String> {
        let (name, rest) = text
            .split_once('=')
            .ok_or("an engine is NAME=SOCKET[,cgroup=DIR][,registry=HOST:PORT][,pid=N]")?;
        let mut parts = rest.split(',');
        let socket = PathBuf::from(parts.next().unwrap_or_default());
        let mut engine = Engine {
            name: name.to_owned(),
            socket,
            cgroup: None,
            registry: None,
            pids: Vec::new(),
        };
        for part in parts {
            match part.split_once('=') {
                Some(("cgroup", dir)) => engine.cgroup = Some(PathBuf::from(dir)),
                Some(("registry", host)) => engine.registry = Some(host.to_owned()),
                Some(("pid", n)) => engine
                    .pids
                    .push(n.parse().map_err(|_| format!("bad pid {n}"))?),
                _ => return Err(format!("unknown part of an engine: {part}")),
            }
        }
        Ok(engine)
    }

    /// A new connection.
    pub fn client(&self) -> io::Result<Client> {
        Client::connect(&self.socket)
    }

    /// Create a container that runs `cmd` without a network; returns its id.
    pub fn create(
        &self,
        client: &mut Client,
        cmd: &[&str],
        log_driver: &str,
    ) -> io::Result<String> {
        let options = CreateOptions {
            log_driver,
            stdin: false,
        };
        self.create_with(client, cmd, &options)
    }

    /// As [`Engine::create`].
    pub fn create_with(
        &self,
        client: &mut Client,
        cmd: &[&str],
        options: &CreateOptions<'_>,
    ) -> io::Result<String> {
        let quoted: Vec<String> = cmd.iter().map(|c| format!("\"{c}\"")).collect();
        let CreateOptions { log_driver, stdin } = options;
        let body = format!(
            r#"{{"Image":"busybox","Cmd":[{}],"OpenStdin":{stdin},"StdinOnce":{stdin},"HostConfig":{{"NetworkMode":"none","LogConfig":{{"Type":"{log_driver}","Config":{{}}}}}}}}"#,
            quoted.join(",")
        );
        let answer = client.expect("POST", "/v1.48/containers/create", Some(&body))?;
        json_string(&answer, "Id").ok_or_else(|| io::Error::other("create answered no id"))
    }

    /// The engine's own processes now.
    pub fn processes(&self) -> Vec<u32> {
        let Some(dir) = &self.cgroup else {
            return self.pids.clone();
        };
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    }

    /// Memory of the engine's processes, in bytes: their proportional set size, and each of their memfds once and whole,
    /// mapped or not, so that nothing hides in memory that they share.
    pub fn memory_bytes(&self) -> u64 {
        let pids = self.processes();
        let mut memfds = HashMap::new();
        for pid in &pids {
            memfds_of(*pid, &mut memfds);
        }
        let own: u64 = pids.into_iter().map(process_pss_bytes).sum();
        own + memfds.values().sum::<u64>()
    }

    /// CPU time the engine has used, in microseconds.
    pub fn cpu_us(&self) -> u64 {
        match &self.cgroup {
            Some(dir) => cgroup_cpu_us(dir),
            None => self.pids.iter().map(|p| process_cpu_us(*p)).sum(),
        }
    }

    /// Processes and threads of the engine.
    pub fn process_counts(&self) -> (usize, usize) {
        let pids = self.processes();
        let threads = pids
            .iter()
            .map(|p| fs::read_dir(format!("/proc/{p}/task")).map_or(0, Iterator::count))
            .sum();
        (pids.len(), threads)
    }
}

/// PSS of a process without the memfds it has mapped.
fn process_pss_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut counts, mut kib) = (false, 0u64);
    for line in text.lines() {
        if let Some(pss) = line.strip_prefix("Pss:") {
            let number = pss.split_whitespace().next();
            let number = number.and_then(|n| n.parse::<u64>().ok());
            kib += number.filter(|_| counts).unwrap_or(0);
        } else if line.split_whitespace().next().is_some_and(is_range) {
            counts = !line.contains(" /memfd:");
        }
    }
    kib * 1024
}

/// `7f00-7f01`, the beginning of a mapping in smaps.
fn is_range(word: &str) -> bool {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    word.split_once('-')
        .is_some_and(|(from, to)| hex(from) && hex(to))
}

/// Adds a process's open memfds: allocated bytes by inode.
fn memfds_of(pid: u32, all: &mut HashMap<u64, u64>) {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return;
    };
    for entry in entries.flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().starts_with("/memfd:")
            && let Ok(meta) = fs::metadata(entry.path())
        {
            all.insert(meta.ino(), meta.blocks() * 512);
        }
    }
}

fn cgroup_cpu_us(dir: &Path) -> u64 {
    if let Ok(text) = fs::read_to_string(dir.join("cpuacct.usage")) {
        return text.trim().parse::<u64>().unwrap_or(0) / 1000;
    }
    let text = fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("usage_usec "))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// utime, stime, cutime and cstime of a process: its ended children are part of what it costs.
fn process_cpu_us(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(4)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    // SAFETY: sysconf reads no memory of ours.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ticks * 1_000_000 / u64::try_from(per_second).unwrap_or(100).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_an_engine() {
        let e = Engine::parse("g=/run/x.sock,cgroup=/c,pid=7").unwrap();
        assert_eq!(
            (e.name.as_str(), e.socket.to_str(), e.pids.as_slice()),
            ("g", Some("/run/x.sock"), &[7][..])
        );
        assert!(Engine::parse("nonsense").is_err());
        assert!(Engine::parse("a=b,what=1").is_err());
    }

    #[test]
    fn sees_itself() {
        let me = std::process::id();
        assert!(process_pss_bytes(me) > 0);
        assert!(is_range("7f00-7fff") && !is_range("Pss:"));
        let e = Engine::parse(&format!("me=/x,pid={me}")).unwrap();
        assert_eq!(e.process_counts().0, 1);
    }
}
