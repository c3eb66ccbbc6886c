//! The rules by which image and client configuration become one: program and arguments, environment.

use std::collections::BTreeMap;

use crate::EngineError;
use crate::health::rules;
use crate::model::{ContainerConfig, HealthCheck};

/// PATH when neither image nor client sets one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the merge needs of an image.
#[derive(Debug, Clone, Default)]
pub struct ImageDefaults {
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Command.
    pub cmd: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// User.
    pub user: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Exposed ports.
    pub exposed_ports: Vec<String>,
    /// Volumes.
    pub volumes: Vec<String>,
    /// Stop signal.
    pub stop_signal: String,
    /// Shell.
    pub shell: Vec<String>,
    /// ONBUILD triggers.
    pub on_build: Vec<String>,
    /// Health check.
    pub health: Option<HealthCheck>,
}

/// Fills what the client left open from the image.
pub fn merge(config: &mut ContainerConfig, image: &ImageDefaults) {
    let entrypoint_given = config.entrypoint.as_ref().is_some_and(|e| !e.is_empty());
    if !entrypoint_given {
        // The image's command belongs to the image's entrypoint: an own entrypoint drops it.
        if config.cmd.as_ref().is_none_or(Vec::is_empty) && !image.cmd.is_empty() {
            config.cmd = Some(image.cmd.clone());
        }
        if config.entrypoint.is_none() && !image.entrypoint.is_empty() {
            config.entrypoint = Some(image.entrypoint.clone());
        }
    } else if config
        .entrypoint
        .as_deref()
        .is_some_and(|e| e.len() == 1 && e[0].is_empty())
    {
        // `--entrypoint ""` removes the image's.
        config.entrypoint = None;
    }
    config.env = merge_env(&image.env, &config.env);
    for (target, source) in [
        (&mut config.working_dir, &image.working_dir),
        (&mut config.user, &image.user),
        (&mut config.stop_signal, &image.stop_signal),
    ] {
        if target.is_empty() {
            target.clone_from(source);
        }
    }
    for (name, value) in &image.labels {
        config
            .labels
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    union(&mut config.exposed_ports, &image.exposed_ports);
    union(&mut config.volumes, &image.volumes);
    if config.shell.is_empty() {
        config.shell.clone_from(&image.shell);
    }
    config.on_build.clone_from(&image.on_build);
    rules::merge(&mut config.health, image.health.as_ref());
}

fn union(target: &mut Vec<String>, source: &[String]) {
    for item in source {
        if !target.contains(item) {
            target.push(item.clone());
        }
    }
}

/// The client's variables, then those of the image that the client does not name.
pub fn merge_env(image: &[String], client: &[String]) -> Vec<String> {
    let mut merged = client.to_vec();
    for item in image {
        let name = variable_name(item);
        if !client.iter().any(|c| variable_name(c) == name) {
            merged.push(item.clone());
        }
    }
    merged
}

fn variable_name(item: &str) -> &str {
    item.split_once('=').map_or(item, |(name, _)| name)
}

/// Program and arguments of a merged configuration.
pub fn resolve_argv(config: &ContainerConfig) -> Result<(String, Vec<String>), EngineError> {
    let mut all = config
        .entrypoint
        .iter()
        .flatten()
        .chain(config.cmd.iter().flatten())
        .cloned();
    let path = all
        .next()
        .ok_or_else(|| EngineError::InvalidParameter("no command specified".to_owned()))?;
    Ok((path, all.collect()))
}

/// An absolute path without `.`, `..`, empty parts and a slash at its end, by its text alone, as Docker cleans it.
/// Nothing stays nothing.
pub fn clean_path(path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The environment of the program: Docker's variables first, the configured ones override.
pub fn process_env(config: &ContainerConfig, hostname: &str, home: &str) -> Vec<String> {
    last_of_each(daemon_env(config, hostname, config.tty), home)
}

/// The environment of a further program in the container: what its own would have, then the client's.
pub fn exec_env(
    config: &ContainerConfig,
    hostname: &str,
    tty: bool,
    client: &[String],
    home: &str,
) -> Vec<String> {
    let env = replace_or_append(daemon_env(config, hostname, tty), client);
    last_of_each(env, home)
}

fn daemon_env(config: &ContainerConfig, hostname: &str, tty: bool) -> Vec<String> {
    let mut env = vec![
        format!("PATH={DEFAULT_PATH}"),
        format!("HOSTNAME={hostname}"),
    ];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    replace_or_append(env, &config.env)
}

/// Overrides take the places of the defaults they name. What was taken away stays as an empty string.
fn replace_or_append(mut env: Vec<String>, overrides: &[String]) -> Vec<String> {
    let defaults = env.len();
    for item in overrides {
        let name = variable_name(item);
        let of_name = |e: &String| variable_name(e) == name;
        match env[..defaults].iter().position(of_name) {
            Some(at) if item.contains('=') => env[at].clone_from(item),
            // A name alone takes the default away.
            Some(at) => env[at].clear(),
            None if item.contains('=') => env.push(item.clone()),
            None => {}
        }
    }
    env
}

/// Of equal names the last one counts, where it stands; an empty home is none.
fn last_of_each(env: Vec<String>, home: &str) -> Vec<String> {
    let mut last: Vec<String> = Vec::with_capacity(env.len() + 1);
    for item in env.into_iter().rev().filter(|e| !e.is_empty()) {
        if !last
            .iter()
            .any(|l| variable_name(l) == variable_name(&item))
        {
            last.push(item);
        }
    }
    last.reverse();
    last.retain(|e| e != "HOME=");
    if !last.iter().any(|e| variable_name(e) == "HOME") {
        last.push(format!("HOME={home}"));
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn merged(
        entrypoint: Option<&[&str]>,
        cmd: Option<&[&str]>,
    ) -> Result<(String, Vec<String>), EngineError> {
        let image = ImageDefaults {
            entrypoint: words(&["/entry"]),
            cmd: words(&["image-arg"]),
            ..ImageDefaults::default()
        };
        let mut config = ContainerConfig {
            entrypoint: entrypoint.map(words),
            cmd: cmd.map(words),
            ..ContainerConfig::default()
        };
        merge(&mut config, &image);
        resolve_argv(&config)
    }

    #[test]
    fn entrypoint_and_command() {
        let ok = |e, c| {
            let (path, args) = merged(e, c).unwrap();
            [vec![path], args].concat().join(" ")
        };
        assert_eq!(ok(None, None), "/entry image-arg");
        assert_eq!(ok(None, Some(&["x", "y"])), "/entry x y");
        assert_eq!(ok(Some(&["/mine"]), None), "/mine");
        assert_eq!(ok(Some(&["/mine"]), Some(&["x"])), "/mine x");
        assert_eq!(ok(Some(&[""]), Some(&["x"])), "x");
        assert_eq!(
            merged(Some(&[""]), None).unwrap_err().to_string(),
            "no command specified"
        );
    }

    #[test]
    fn working_directories_are_cleaned() {
        for (given, clean) in [
            ("", ""),
            ("/", "/"),
            ("/a/../b/./c/", "/b/c"),
            ("/../..//a", "/a"),
        ] {
            assert_eq!(clean_path(given), clean);
        }
    }

    #[test]
    fn environment() {
        assert_eq!(
            merge_env(&words(&["A=1", "B=2"]), &words(&["B=3", "C"])),
            words(&["B=3", "C", "A=1"])
        );
        let config = ContainerConfig {
            env: words(&["PATH=/p", "HOSTNAME"]),
            tty: true,
            ..ContainerConfig::default()
        };
        assert_eq!(
            process_env(&config, "h", "/root"),
            words(&["PATH=/p", "TERM=xterm", "HOME=/root"])
        );
        let twice = ContainerConfig {
            env: words(&["HOME=/x", "HOME=", "A=1", "B=2", "A=3", "B"]),
            ..ContainerConfig::default()
        };
        assert_eq!(
            process_env(&twice, "h", "/root")[2..],
            words(&["B=2", "A=3", "HOME=/root"])
        );
        assert_eq!(
            exec_env(
                &config,
                "h",
                false,
                &words(&["HOME=/h", "PATH", "N=1", "gone"]),
                "/r"
            ),
            words(&["HOME=/h", "N=1"])
        );
        let plain = ContainerConfig::default();
        assert_eq!(
            process_env(&plain, "h", "/"),
            vec![
                format!("PATH={DEFAULT_PATH}"),
                "HOSTNAME=h".into(),
                "HOME=/".into()
            ]
        );
    }

    #[test]
    fn labels_of_the_client_win() {
        let image = ImageDefaults {
            labels: [
                ("a".to_owned(), "i".to_owned()),
                ("b".to_owned(), "i".to_owned()),
            ]
            .into(),
            ..ImageDefaults::default()
        };
        let mut config = ContainerConfig {
            labels: [("a".to_owned(), "c".to_owned())].into(),
            ..ContainerConfig::default()
        };
        merge(&mut config, &image);
        assert_eq!(config.labels["a"], "c");
        assert_eq!(config.labels["b"], "i");
    }
}
