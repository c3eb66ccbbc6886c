//! External runtimes in flags and daemon.json: `--add-runtime`, `--default-runtime`, `runtimes`, `default-runtime`.

use std::collections::BTreeMap;

use gantry_engine::{BUILT_IN_RUNTIME, Runtime, Runtimes};
use serde_json::Value;

/// The one shim of containerd whose configuration can be followed: what it drives is an OCI command line.
const RUNC_SHIM: &str = "io.containerd.runc.v2";
/// Its option that names the program.
const BINARY_OPTION: &str = "BinaryName";

/// `--add-runtime NAME=PATH`, added to those before it. dockerd's texts.
pub fn add(all: &mut BTreeMap<String, String>, value: &str) -> Result<(), String> {
    let invalid = || format!("invalid runtime argument: {value}");
    let (name, path) = value.split_once('=').ok_or_else(invalid)?;
    let (name, path) = (name.trim(), path.trim());
    if name.is_empty() || path.is_empty() {
        return Err(invalid());
    }
    // dockerd's own runtime is called so; here it is a runtime like others.
    if name == BUILT_IN_RUNTIME {
        return Err(reserved(name));
    }
    if all.contains_key(name) {
        return Err(format!("runtime '{name}' was already defined"));
    }
    all.insert(name.to_owned(), path.to_owned());
    Ok(())
}

fn reserved(name: &str) -> String {
    format!("runtime name '{name}' is reserved")
}

/// What JSON's decoder of Go says of a value of another type.
fn wrong_type(value: &Value, field: &str, go_type: &str) -> String {
    let kind = crate::config::kind_of(value);
    format!(
        "invalid JSON: json: cannot unmarshal {kind} into Go struct field Config.runtimes{field} of type {go_type}"
    )
}

/// One runtime of daemon.json as it stands there.
#[derive(Debug, Default)]
struct Entry {
    path: String,
    args: Vec<String>,
    kind: String,
    options: serde_json::Map<String, Value>,
}

impl Entry {
    fn parse(name: &str, value: &Value) -> Result<Entry, String> {
        let field = |key: &str| format!(".{name}.{key}");
        let Some(map) = value.as_object() else {
            return Err(wrong_type(value, &format!(".{name}"), "system.Runtime"));
        };
        let mut entry = Entry::default();
        // Go takes keys in any case, and leaves unknown ones.
        for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            let text = || {
                let text = value.as_str().map(str::to_owned);
                text.ok_or_else(|| wrong_type(value, &field(key), "string"))
            };
            match key.to_ascii_lowercase().as_str() {
                "path" => entry.path = text()?,
                "runtimetype" => entry.kind = text()?,
                "runtimeargs" => {
                    let words = value.as_array().map(|all| all.iter().map(Value::as_str));
                    let words = words.and_then(|all| all.collect::<Option<Vec<_>>>());
                    let words = words.ok_or_else(|| wrong_type(value, &field(key), "[]string"))?;
                    entry.args = words.into_iter().map(str::to_owned).collect();
                }
                "options" => {
                    let map = value.as_object().cloned();
                    entry.options = map
                        .ok_or_else(|| wrong_type(value, &field(key), "map[string]interface {}"))?;
                }
                _ => {}
            }
        }
        Ok(entry)
    }

    /// The program and its arguments, or why there are none.
    fn program(self) -> Result<(String, Vec<String>), String> {
        match (self.path.is_empty(), self.kind.is_empty()) {
            (true, true) => Err("either a runtimeType or a path must be configured".to_owned()),
            (false, false) => {
                Err("cannot configure both path and runtimeType for the same runtime".to_owned())
            }
            (false, true) if !self.options.is_empty() => {
                Err("options cannot be used with a path runtime".to_owned())
            }
            (false, true) => Ok((self.path, self.args)),
            (true, false) if !self.args.is_empty() => {
                Err("args cannot be used with a runtimeType runtime".to_owned())
            }
            (true, false) => self.shim_program(),
        }
    }

    fn shim_program(self) -> Result<(String, Vec<String>), String> {
        if self.kind != RUNC_SHIM {
            return Err(format!(
                "runtimeType {} is not supported: gantryd runs no shims of containerd, only programs with the command \
                 line of runc (give their path)",
                self.kind
            ));
        }
        if let Some(other) = self.options.keys().find(|key| *key != BINARY_OPTION) {
            return Err(format!(
                "option {other} of {RUNC_SHIM} is not supported by this version of gantryd"
            ));
        }
        match self.options.get(BINARY_OPTION) {
            None => Ok(("runc".to_owned(), Vec::new())),
            Some(Value::String(path)) if !path.is_empty() => Ok((path.clone(), Vec::new())),
            Some(_) => Err(format!(
                "option {BINARY_OPTION} is not the path of a program"
            )),
        }
    }
}

/// Puts flags and file together; of two with one name the file's counts.
pub fn resolve(
    flags: &BTreeMap<String, String>,
    file: Option<&Value>,
    default: Option<String>,
) -> Result<Runtimes, String> {
    let mut external: BTreeMap<String, Runtime> = BTreeMap::new();
    for (name, path) in flags {
        insert(&mut external, name, path.clone(), Vec::new())?;
    }
    match file {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => {
            for (name, value) in map {
                let entry = Entry::parse(name, value)?;
                let program = entry.program();
                let (path, args) = program.map_err(|why| format!("runtime {name}: {why}"))?;
                insert(&mut external, name, path, args)?;
            }
        }
        Some(other) => return Err(wrong_type(other, "", "map[string]system.Runtime")),
    }
    let default = default.filter(|name| !name.is_empty());
    let runtimes = Runtimes {
        default: default.unwrap_or_else(|| BUILT_IN_RUNTIME.to_owned()),
        external,
    };
    if runtimes.find("").is_err() {
        return Err(format!(
            "specified default runtime '{}' does not exist",
            runtimes.default
        ));
    }
    Ok(runtimes)
}

fn insert(
    all: &mut BTreeMap<String, Runtime>,
    name: &str,
    path: String,
    args: Vec<String>,
) -> Result<(), String> {
    if name == BUILT_IN_RUNTIME {
        return Err(reserved(name));
    }
    // What it keeps lies in a directory of its name.
    if name.is_empty() || name.contains(['/', '\0']) || matches!(name, "." | "..") {
        return Err(format!(
            "runtime {name}: the name cannot be that of a directory"
        ));
    }
    let runtime = Runtime {
        name: name.to_owned(),
        path,
        args,
    };
    all.insert(name.to_owned(), runtime);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(text: &str) -> Result<Runtimes, String> {
        let value = serde_json::from_str(text).unwrap();
        resolve(&BTreeMap::new(), Some(&value), None)
    }

    #[test]
    fn flags() {
        let mut all = BTreeMap::new();
        add(&mut all, "a=/x").unwrap();
        for (value, want) in [
            ("foo", "invalid runtime argument: foo"),
            ("=/a", "invalid runtime argument: =/a"),
            ("foo=", "invalid runtime argument: foo="),
            ("a=/b", "runtime 'a' was already defined"),
            ("gantry=/b", "runtime name 'gantry' is reserved"),
        ] {
            assert_eq!(add(&mut all, value).unwrap_err(), want);
        }
        add(&mut all, "runc=/y").unwrap();
        let file = serde_json::json!({"a": {"path": "/z", "runtimeArgs": ["-v"]}});
        let both = resolve(&all, Some(&file), Some("runc".into())).unwrap();
        let paths: Vec<_> = both.external.values().map(|r| r.path.as_str()).collect();
        assert_eq!(paths, ["/z", "/y"]);
        assert_eq!(both.external["a"].args, ["-v"]);
        assert_eq!(both.default, "runc");
    }

    #[test]
    fn defaults() {
        let none = BTreeMap::new();
        assert_eq!(resolve(&none, None, None).unwrap(), Runtimes::default());
        let stock = resolve(&none, None, Some("runc".into())).unwrap();
        assert_eq!(stock.find("").unwrap(), None);
        assert_eq!(
            resolve(&none, None, Some("crun".into())).unwrap_err(),
            "specified default runtime 'crun' does not exist"
        );
    }

    #[test]
    fn texts() {
        for (text, want) in [
            (
                "[]",
                "invalid JSON: json: cannot unmarshal array into Go struct field Config.runtimes of type map[string]system.Runtime",
            ),
            (
                r#"{"foo":5}"#,
                "invalid JSON: json: cannot unmarshal number into Go struct field Config.runtimes.foo of type system.Runtime",
            ),
            (
                r#"{"foo":{"path":5}}"#,
                "invalid JSON: json: cannot unmarshal number into Go struct field Config.runtimes.foo.path of type string",
            ),
            (
                r#"{"foo":{}}"#,
                "runtime foo: either a runtimeType or a path must be configured",
            ),
            (
                r#"{"foo":{"path":"/a","runtimeType":"x"}}"#,
                "runtime foo: cannot configure both path and runtimeType for the same runtime",
            ),
            (
                r#"{"foo":{"path":"/a","options":{"x":1}}}"#,
                "runtime foo: options cannot be used with a path runtime",
            ),
            (
                r#"{"foo":{"runtimeType":"io.containerd.runc.v2","runtimeArgs":["x"]}}"#,
                "runtime foo: args cannot be used with a runtimeType runtime",
            ),
            (
                r#"{"foo":{"runtimeType":"io.containerd.kata.v2"}}"#,
                "runtime foo: runtimeType io.containerd.kata.v2 is not supported: gantryd runs no shims of containerd, only programs with the command line of runc (give their path)",
            ),
            (
                r#"{"foo":{"runtimeType":"io.containerd.runc.v2","options":{"SystemdCgroup":true}}}"#,
                "runtime foo: option SystemdCgroup of io.containerd.runc.v2 is not supported by this version of gantryd",
            ),
            (
                r#"{"gantry":{"path":"/a"}}"#,
                "runtime name 'gantry' is reserved",
            ),
            (
                r#"{"../x":{"path":"/a"}}"#,
                "runtime ../x: the name cannot be that of a directory",
            ),
        ] {
            assert_eq!(of_file(text).unwrap_err(), want, "{text}");
        }
        let shim = of_file(
            r#"{"foo":{"runtimeType":"io.containerd.runc.v2","options":{"BinaryName":"/x"}}}"#,
        );
        assert_eq!(shim.unwrap().external["foo"].path, "/x");
        assert!(of_file(r#"{"foo":{"path":"/a","bogus":1}}"#).is_ok());
    }
}
