//! dockerd's command line, parsed by hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gantry_api::query::go_bool;

use crate::features::{self, Features};
use crate::known::{self, Unbuilt};

/// What the command line says; `None` and empty mean not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--cdi-spec-dir`
    pub cdi_spec_dirs: Vec<String>,
    /// `--feature`
    pub features: Features,
    /// `-H`, `--host`
    pub hosts: Vec<String>,
    /// `--data-root`
    pub data_root: Option<PathBuf>,
    /// `--exec-root`
    pub exec_root: Option<PathBuf>,
    /// `-p`, `--pidfile`
    pub pidfile: Option<PathBuf>,
    /// `--config-file`
    pub config_file: Option<PathBuf>,
    /// `-l`, `--log-level`
    pub log_level: Option<String>,
    /// `-D`, `--debug`
    pub debug: Option<bool>,
    /// `-G`, `--group`
    pub group: Option<String>,
    /// `--add-runtime`: paths by name
    pub runtimes: BTreeMap<String, String>,
    /// `--default-runtime`
    pub default_runtime: Option<String>,
    /// `--label`
    pub labels: Vec<String>,
    /// `--log-driver`
    pub log_driver: Option<String>,
    /// `--log-opt`
    pub log_opts: BTreeMap<String, String>,
    /// `--log-format`
    pub log_format: Option<String>,
    /// `--shutdown-timeout`, seconds
    pub shutdown_timeout_s: Option<i64>,
    /// Flags of registries
    pub registries: crate::registries::Flags,
    /// `--shards`, an extension: number of shards
    pub shards: Option<usize>,
    /// `--userns-remap`
    pub userns_remap: Option<String>,
    /// `-v`, `--version`
    pub version: bool,
    /// `--validate`
    pub validate: bool,
    /// `--help`
    pub help: bool,
}

/// Why the command line is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// unknown flag: --{0}
    #[error("unknown flag: --{0}")]
    Unknown(String),
    /// unknown shorthand flag: '{flag}' in -{word}
    #[error("unknown shorthand flag: '{flag}' in -{word}")]
    UnknownShort {
        /// The letter.
        flag: char,
        /// The word it is in.
        word: String,
    },
    /// flag needs an argument: {0}
    #[error("flag needs an argument: {0}")]
    Missing(String),
    /// invalid argument "{value}" for "{flag}" flag: {reason}
    #[error("invalid argument \"{value}\" for \"{flag}\" flag: {reason}")]
    Invalid {
        /// The flag.
        flag: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// this program takes no arguments, only flags
    #[error("\"gantryd\" accepts no arguments: {0}")]
    Argument(String),
    /// a flag of dockerd that is not built
    #[error("--{0} is a flag of dockerd that this version of gantryd does not support{1}")]
    Unbuilt(&'static str, String),
}

/// Long names, short names, and whether they are booleans.
pub const FLAGS: &[(&str, Option<char>, bool)] = &[
    ("add-runtime", None, false),
    ("cdi-spec-dir", None, false),
    ("config-file", None, false),
    ("data-root", None, false),
    ("debug", Some('D'), true),
    ("default-runtime", None, false),
    ("exec-root", None, false),
    ("feature", None, false),
    ("group", Some('G'), false),
    ("help", Some('h'), true),
    ("host", Some('H'), false),
    ("http-proxy", None, false),
    ("https-proxy", None, false),
    ("insecure-registry", None, false),
    ("label", None, false),
    ("log-driver", None, false),
    ("log-format", None, false),
    ("log-level", Some('l'), false),
    ("log-opt", None, false),
    ("max-concurrent-downloads", None, false),
    ("max-concurrent-uploads", None, false),
    ("max-download-attempts", None, false),
    ("no-proxy", None, false),
    ("pidfile", Some('p'), false),
    ("registry-mirror", None, false),
    ("shards", None, false),
    ("shutdown-timeout", None, false),
    ("userns-remap", None, false),
    ("validate", None, true),
    ("version", Some('v'), true),
];

/// Parses the words after the program's name.
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Flags, FlagError> {
    let mut flags = Flags::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            if long.is_empty() {
                if let Some(argument) = words.next() {
                    return Err(FlagError::Argument(argument));
                }
                break;
            }
            let (name, inline) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let known = FLAGS.iter().find(|f| f.0 == name).copied();
            let unbuilt = || known::by_flag(name).map(|u| (u.flag, u.short, u.boolean));
            let (name, short, boolean) = known
                .or_else(unbuilt)
                .ok_or_else(|| FlagError::Unknown(name.to_owned()))?;
            let value = match inline {
                Some(value) => value,
                None if boolean => "true".to_owned(),
                None => words
                    .next()
                    .ok_or_else(|| FlagError::Missing(format!("--{name}")))?,
            };
            set(&mut flags, name, short, &value)?;
        } else if word.len() > 1 && word.starts_with('-') {
            short_flags(&mut flags, &word[1..], &mut words)?;
        } else {
            return Err(FlagError::Argument(word));
        }
    }
    Ok(flags)
}

/// `-D`, `-Dv`, `-H value`, `-Hvalue`, `-H=value`.
fn short_flags(
    flags: &mut Flags,
    word: &str,
    words: &mut impl Iterator<Item = String>,
) -> Result<(), FlagError> {
    let mut rest = word;
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        let known = FLAGS.iter().find(|f| f.1 == Some(letter)).copied();
        let unbuilt = || known::by_short(letter).map(|u| (u.flag, u.short, u.boolean));
        let (name, short, boolean) =
            known
                .or_else(unbuilt)
                .ok_or_else(|| FlagError::UnknownShort {
                    flag: letter,
                    word: word.to_owned(),
                })?;
        if let Some(value) = rest.strip_prefix('=') {
            return set(flags, name, short, value);
        }
        if boolean {
            set(flags, name, short, "true")?;
        } else if rest.is_empty() {
            let missing = || FlagError::Missing(format!("'{letter}' in -{word}"));
            return set(flags, name, short, &words.next().ok_or_else(missing)?);
        } else {
            return set(flags, name, short, rest);
        }
    }
    Ok(())
}

fn set(flags: &mut Flags, name: &str, short: Option<char>, value: &str) -> Result<(), FlagError> {
    let shown = || short.map_or(format!("--{name}"), |s| format!("-{s}, --{name}"));
    let invalid = |reason: String| FlagError::Invalid {
        flag: shown(),
        value: value.to_owned(),
        reason,
    };
    let boolean = || {
        go_bool(value).ok_or_else(|| {
            invalid(format!(
                "strconv.ParseBool: parsing \"{value}\": invalid syntax"
            ))
        })
    };
    let checked = |result: Result<(), String>| result.map_err(invalid);
    match name {
        "host" => {
            checked(crate::config::check_host(value))?;
            flags.hosts.push(value.to_owned());
        }
        "label" => {
            checked(crate::config::check_label(value))?;
            flags.labels.push(value.to_owned());
        }
        "cdi-spec-dir" => flags.cdi_spec_dirs.push(value.to_owned()),
        "feature" => {
            let (name, on) = features::parse_flag(value).map_err(invalid)?;
            flags.features.insert(name, on);
        }
        "add-runtime" => checked(crate::runtimes::add(&mut flags.runtimes, value))?,
        "default-runtime" => flags.default_runtime = Some(value.to_owned()),
        "log-driver" => flags.log_driver = Some(value.to_owned()),
        "log-opt" => {
            // Without a value it is an empty one.
            let (name, value) = value.split_once('=').unwrap_or((value, ""));
            flags.log_opts.insert(name.to_owned(), value.to_owned());
        }
        "log-format" => flags.log_format = Some(value.to_owned()),
        "shutdown-timeout" => {
            let reason = format!("strconv.ParseInt: parsing \"{value}\": invalid syntax");
            flags.shutdown_timeout_s = Some(value.parse().map_err(|_| invalid(reason))?);
        }
        "data-root" => flags.data_root = Some(value.into()),
        "exec-root" => flags.exec_root = Some(value.into()),
        "pidfile" => flags.pidfile = Some(value.into()),
        "config-file" => flags.config_file = Some(value.into()),
        "log-level" => flags.log_level = Some(value.to_owned()),
        "group" => flags.group = Some(value.to_owned()),
        "userns-remap" => flags.userns_remap = Some(value.to_owned()),
        "debug" => flags.debug = Some(boolean()?),
        "validate" => flags.validate = boolean()?,
        "version" => flags.version = boolean()?,
        "help" => flags.help = boolean()?,
        "shards" => {
            let number = value
                .parse()
                .map_err(|_| invalid("not a whole number".to_owned()))?;
            flags.shards = Some(number);
        }
        other => {
            if let Some(read) = flags.registries.set(other, value) {
                return checked(read);
            }
            let unbuilt =
                known::by_flag(other).ok_or_else(|| FlagError::Unknown(other.to_owned()))?;
            if unbuilt.boolean {
                boolean()?;
            }
            refuse_unbuilt(unbuilt, value)?;
        }
    }
    Ok(())
}

/// Lets only the value pass that says what gantryd does anyway.
fn refuse_unbuilt(unbuilt: &'static Unbuilt, value: &str) -> Result<(), FlagError> {
    let same = match (unbuilt.same_as, unbuilt.boolean) {
        (None, _) => false,
        (Some(wanted), false) => wanted == value,
        (Some(wanted), true) => go_bool(value) == go_bool(wanted),
    };
    if same {
        return Ok(());
    }
    let hint = unbuilt
        .same_as
        .map(|wanted| format!(" (only the value {wanted})"))
        .unwrap_or_default();
    Err(FlagError::Unbuilt(unbuilt.flag, hint))
}

/// Text of `--help`.
pub const HELP: &str = "Usage:  gantryd [OPTIONS]

A container daemon that speaks the Engine API of Docker.

Flags of dockerd that are not listed are refused, unless their value is what gantryd does anyway.

Options:
      --add-runtime runtime  Register an additional OCI compatible runtime (name=path)
      --cdi-spec-dir list    Directories of CDI specifications (default /etc/cdi, /var/run/cdi; \"\" for none)
      --config-file string   Daemon configuration file (default \"/etc/gantry/daemon.json\")
      --data-root string     Root directory of persistent state (default \"/var/lib/gantry\")
  -D, --debug                Enable debug mode
      --default-runtime string
                             Default OCI runtime for containers (default \"gantry\", the built-in launcher)
      --exec-root string     Root directory for execution state files (default \"/run/gantry\")
      --feature map          Enable or disable a feature (cdi=false)
  -G, --group string         Group for the unix socket (default \"docker\")
  -H, --host list            Daemon socket(s) to connect to (unix://, tcp://, fd://)
      --label list           Set key=value labels to the daemon
      --log-driver string    Default driver for container logs (default \"json-file\")
      --log-format string    Set the logging format (\"text\") (default \"text\")
  -l, --log-level string     Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\") (default \"info\")
      --log-opt map          Default log driver options for containers
  -p, --pidfile string       Path to use for daemon PID file (default \"/run/gantry.pid\")
      --shards int           Number of shards (default: CPUs of this process)
      --shutdown-timeout int Seconds that requests in flight get when the daemon ends (default 15)
      --userns-remap string  User/Group setting for user namespaces
      --validate             Validate daemon configuration and exit
  -v, --version              Print version information and quit
";

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Result<Flags, FlagError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn forms() {
        let f = flags(
            "-H unix:///a --host=tcp://b -Hfd:// -D --validate=false -l warn -p=/x --shards 3",
        )
        .unwrap();
        assert_eq!(f.hosts, ["unix:///a", "tcp://b", "fd://"]);
        assert_eq!(
            (f.debug, f.validate, f.shards),
            (Some(true), false, Some(3))
        );
        assert_eq!(f.pidfile, Some("/x".into()));
        assert_eq!(flags("--debug=false").unwrap().debug, Some(false));
        assert!(flags("-Dv").unwrap().version);
    }

    #[test]
    fn errors() {
        let text = |line| flags(line).unwrap_err().to_string();
        assert_eq!(text("--x"), "unknown flag: --x");
        assert_eq!(text("-x"), "unknown shorthand flag: 'x' in -x");
        assert_eq!(text("--host"), "flag needs an argument: --host");
        assert_eq!(text("-H"), "flag needs an argument: 'H' in -H");
        assert!(
            text("--debug=maybe")
                .starts_with("invalid argument \"maybe\" for \"-D, --debug\" flag")
        );
        assert_eq!(text("serve"), "\"gantryd\" accepts no arguments: serve");
        assert_eq!(
            text("-H http://x"),
            "invalid argument \"http://x\" for \"-H, --host\" flag: invalid bind address (http://x): unsupported proto 'http'"
        );
        assert_eq!(
            text("--label x"),
            "invalid argument \"x\" for \"--label\" flag: bad attribute format: x"
        );
    }

    #[test]
    fn flags_of_dockerd_are_never_ignored() {
        let text = |line| flags(line).unwrap_err().to_string();
        assert_eq!(
            text("--bip 10.0.0.1/8"),
            "--bip is a flag of dockerd that this version of gantryd does not support"
        );
        assert_eq!(
            text("--live-restore=false"),
            "--live-restore is a flag of dockerd that this version of gantryd does not support (only the value true)"
        );
        assert!(text("-s btrfs").contains("only the value overlay2"));
        assert!(text("--iptables=maybe").contains("strconv.ParseBool"));
        let accepted = "--live-restore --iptables=0 --userland-proxy=false -s overlay2";
        assert_eq!(flags(accepted), Ok(Flags::default()));
    }
}
