//! The Dockerfile instructions `import` and `commit` take as changes.

mod health;
mod lines;
mod ports;
mod signal;
mod words;

use serde_json::Value;

use crate::ImageError;
use crate::model::ImageConfig;
use lines::Instruction;

/// Instructions in one request.
pub(crate) const MAX_CHANGES: usize = 1024;
/// The shell of shell forms.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

fn invalid(text: impl Into<String>) -> ImageError {
    ImageError::InvalidReference(text.into())
}

/// Applies instructions to a config: the strings are the lines of a Dockerfile.
pub(crate) fn apply(config: &mut ImageConfig, changes: &[String]) -> Result<(), ImageError> {
    if changes.is_empty() {
        return Ok(());
    }
    let all = lines::split(&changes.join("\n"))?;
    if all.is_empty() {
        return Err(invalid("file with no instructions"));
    }
    if all.len() > MAX_CHANGES {
        return Err(invalid(format!("more than {MAX_CHANGES} changes")));
    }
    let mut cmd_given = false;
    for line in &all {
        instruction(config, line, &mut cmd_given)?;
    }
    Ok(())
}

/// One instruction. `cmd_given`: a CMD came before, which an ENTRYPOINT keeps.
fn instruction(
    config: &mut ImageConfig,
    line: &Instruction,
    cmd_given: &mut bool,
) -> Result<(), ImageError> {
    let word = line.word.to_ascii_uppercase();
    let rest = line.rest.as_str();
    check_arguments(&word, rest)?;
    let env = config.env.clone().unwrap_or_default();
    let expand = |text: &str| words::expand(text, &env);
    match word.as_str() {
        "CMD" => {
            config.cmd = command(config, rest);
            *cmd_given = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = if rest.is_empty() {
                None
            } else {
                command(config, rest)
            };
            if !*cmd_given {
                config.cmd = None;
            }
        }
        "ENV" => {
            for (name, value) in pairs("ENV", rest, &env)? {
                set_env(config.env.get_or_insert_default(), &name, &value);
            }
        }
        "LABEL" => {
            let labels = pairs("LABEL", rest, &env)?;
            config.labels.get_or_insert_default().extend(labels);
        }
        "EXPOSE" => {
            for spec in rest.split_whitespace() {
                for port in ports::exposed(&expand(spec)?)? {
                    insert_key(&mut config.exposed_ports, port);
                }
            }
        }
        "VOLUME" => volumes(config, rest, &env)?,
        "USER" => config.user = expand(rest)?,
        "WORKDIR" => config.working_dir = working_dir(&config.working_dir, &expand(rest)?),
        "STOPSIGNAL" => config.stop_signal = Some(signal::checked(&expand(rest)?)?),
        "ONBUILD" => config
            .on_build
            .get_or_insert_default()
            .push(trigger(rest)?.to_owned()),
        "HEALTHCHECK" => config.healthcheck = Some(health::parse(rest)?),
        _ => {
            let word = &line.word;
            return Err(invalid(format!("{word} is not a valid change command")));
        }
    }
    Ok(())
}

fn check_arguments(word: &str, rest: &str) -> Result<(), ImageError> {
    match word {
        "USER" | "WORKDIR" | "STOPSIGNAL" if rest.is_empty() => {
            Err(invalid(format!("{word} requires exactly one argument")))
        }
        "ENV" | "LABEL" | "EXPOSE" | "VOLUME" | "ONBUILD" | "HEALTHCHECK" if rest.is_empty() => {
            Err(invalid(format!("{word} requires at least one argument")))
        }
        _ => Ok(()),
    }
}

fn insert_key(keys: &mut Option<crate::model::KeySet>, key: String) {
    keys.get_or_insert_default()
        .insert(key, Value::Object(serde_json::Map::new()));
}

fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let new = format!("{name}={value}");
    match env
        .iter_mut()
        .find(|known| known.split('=').next() == Some(name))
    {
        Some(known) => *known = new,
        None => env.push(new),
    }
}

fn working_dir(base: &str, dir: &str) -> String {
    let whole = if dir.starts_with('/') {
        dir.to_owned()
    } else {
        format!("{base}/{dir}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn volumes(config: &mut ImageConfig, rest: &str, env: &[String]) -> Result<(), ImageError> {
    let named =
        json_words(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
    if named.is_empty() {
        return Err(invalid("VOLUME requires at least one argument"));
    }
    for volume in named {
        let volume = words::expand(&volume, env)?;
        if volume.trim().is_empty() {
            return Err(invalid("VOLUME specified can not be an empty string"));
        }
        insert_key(&mut config.volumes, volume);
    }
    Ok(())
}

/// The instruction a build on top of the image runs.
fn trigger(rest: &str) -> Result<&str, ImageError> {
    let word = rest.split_whitespace().next().unwrap_or_default();
    match word.to_ascii_uppercase().as_str() {
        "ONBUILD" => Err(invalid(
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        )),
        kind @ ("MAINTAINER" | "FROM") => Err(invalid(format!(
            "{kind} isn't allowed as an ONBUILD trigger"
        ))),
        _ => Ok(rest),
    }
}

fn json_words(rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[')
        .then(|| serde_json::from_str(rest).ok())
        .flatten()
}

/// JSON form as it is, else by the shell; an empty list is none.
fn command(config: &ImageConfig, rest: &str) -> Option<Vec<String>> {
    let words = json_words(rest).unwrap_or_else(|| {
        let mut words = config
            .shell
            .clone()
            .unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).to_vec());
        if !rest.is_empty() {
            words.push(rest.to_owned());
        }
        words
    });
    (!words.is_empty()).then_some(words)
}

/// `a=b c=d`, or the old `a b`; expanded.
fn pairs(word: &str, rest: &str, env: &[String]) -> Result<Vec<(String, String)>, ImageError> {
    let all = words::split(rest);
    let raw: Vec<(&str, &str)> = if all.first().is_some_and(|first| !first.contains('=')) {
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| invalid(format!("{word} must have two arguments")))?;
        vec![(name, value.trim_start())]
    } else {
        let no_value = |one: &str| {
            invalid(format!(
                "Syntax error - can't find = in {one:?}. Must be of the form: name=value"
            ))
        };
        all.iter()
            .map(|one| one.split_once('=').ok_or_else(|| no_value(one)))
            .collect::<Result<_, _>>()?
    };
    raw.into_iter()
        .map(|(name, value)| {
            if name.is_empty() {
                return Err(invalid(format!("{word} names can not be blank")));
            }
            Ok((words::expand(name, env)?, words::expand(value, env)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(changes: &[&str]) -> Result<ImageConfig, String> {
        let mut config = ImageConfig::default();
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        apply(&mut config, &changes).map_err(|e| e.to_string())?;
        Ok(config)
    }

    #[test]
    fn commands_and_entrypoints() {
        let c = applied(&["CMD ls -l", "ENTRYPOINT [\"a\",\"b\"]"]).unwrap();
        assert_eq!(c.cmd.unwrap(), ["/bin/sh", "-c", "ls -l"]);
        assert_eq!(c.entrypoint.unwrap(), ["a", "b"]);
        let c = applied(&["CMD", "ENTRYPOINT"]).unwrap();
        assert_eq!((c.cmd.unwrap().len(), c.entrypoint), (2, None));
        assert_eq!(applied(&["CMD []"]).unwrap().cmd, None);
    }

    #[test]
    fn variables_and_lines() {
        let c = applied(&[
            "env A=1 B=\"x y\"",
            "ENV C=$A-${B} D=${E:-dflt} F='$A' A=2",
            "WORKDIR /w\nWORKDIR $A/../r",
            "LABEL a=b \\\n c=d # no comment",
            "# a comment",
            "LABEL old style value",
        ]);
        assert!(c.is_err(), "`#` is a word without =");
        let c = applied(&[
            "env A=1 B=\"x y\"",
            "ENV C=$A-${B} D=${E:-dflt} F='$A' A=2",
            "WORKDIR /w\nWORKDIR $A/../r",
            "LABEL a=b \\\n c=d",
            "LABEL old style value",
        ])
        .unwrap();
        assert_eq!(
            c.env.unwrap(),
            ["A=2", "B=x y", "C=1-x y", "D=dflt", "F=$A"]
        );
        assert_eq!(c.working_dir, "/w/r");
        let labels = c.labels.unwrap();
        assert_eq!((&*labels["c"], &*labels["old"]), ("d", "style value"));
    }

    #[test]
    fn ports_and_volumes() {
        let c = applied(&[
            "EXPOSE 80 443/udp 90-92/tcp ${P:-8080}",
            "VOLUME [\"/v\", \"/w x\"]",
        ]);
        let c = c.unwrap();
        let ports: Vec<String> = c.exposed_ports.unwrap().into_keys().collect();
        assert_eq!(
            ports,
            [
                "443/udp", "80/tcp", "8080/tcp", "90/tcp", "91/tcp", "92/tcp"
            ]
        );
        assert!(c.volumes.unwrap().contains_key("/w x"));
    }

    #[test]
    fn refusals_have_dockers_words() {
        for (change, text) in [
            ("", "file with no instructions"),
            ("#only", "file with no instructions"),
            ("RUN x", "RUN is not a valid change command"),
            ("ENV A", "ENV must have two arguments"),
            ("ENV =x", "ENV names can not be blank"),
            (
                "LABEL a=b c",
                "Syntax error - can't find = in \"c\". Must be of the form: name=value",
            ),
            ("USER", "USER requires exactly one argument"),
            ("EXPOSE", "EXPOSE requires at least one argument"),
            ("EXPOSE 80/foo", "Invalid proto: foo"),
            ("EXPOSE abc", "Invalid containerPort: abc"),
            ("EXPOSE 70000", "Invalid containerPort: 70000"),
            ("VOLUME []", "VOLUME requires at least one argument"),
            ("STOPSIGNAL nope", "invalid signal: nope"),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
            ("HEALTHCHECK --foo=1 CMD x", "unknown flag: --foo"),
            (
                "HEALTHCHECK --interval=1us CMD x",
                "Interval \"interval\" cannot be less than 1ms",
            ),
        ] {
            assert_eq!(applied(&[change]).unwrap_err(), text, "{change:?}");
        }
    }
}
