//! The `features` of daemon.json and `--feature`, and the directories of CDI specifications, which one of them rules.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gantry_api::query::go_bool;

/// Feature names with what is set for them.
pub type Features = BTreeMap<String, bool>;

const CDI: &str = "cdi";
/// On in dockerd too unless it is switched off.
const BUILDKIT: &str = "buildkit";

/// One value of `--feature`: `name=bool`, or the name alone for true.
pub fn parse_flag(value: &str) -> Result<(String, bool), String> {
    let (name, value) = value.split_once('=').unwrap_or((value, "true"));
    match go_bool(value) {
        Some(on) => Ok((name.to_owned(), on)),
        None => Err(format!(
            "strconv.ParseBool: parsing \"{value}\": invalid syntax"
        )),
    }
}

/// As Go prints a map.
pub fn shown(features: &Features) -> String {
    let items: Vec<String> = features.iter().map(|(k, v)| format!("{k}:{v}")).collect();
    format!("map[{}]", items.join(" "))
}

/// What is switched to something else than gantryd does is refused by name.
pub fn check(features: &Features) -> Result<(), String> {
    let other = |(name, on): &(&String, &bool)| match name.as_str() {
        CDI => false,
        BUILDKIT => !**on,
        _ => **on,
    };
    match features.iter().find(other) {
        Some((name, on)) => Err(format!(
            "the feature {name}={on} of dockerd is not supported by this version of gantryd"
        )),
        None => Ok(()),
    }
}

/// Directories of CDI specifications; none means that there is no such driver.
pub fn cdi_spec_dirs(given: &[String], features: &Features) -> Vec<PathBuf> {
    match given {
        _ if features.get(CDI) == Some(&false) => Vec::new(),
        [only] if only.is_empty() => Vec::new(),
        [] => gantry_engine::cdi::DEFAULT_SPEC_DIRS
            .iter()
            .map(PathBuf::from)
            .collect(),
        given => given.iter().map(PathBuf::from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories() {
        let features = |on| Features::from([(CDI.to_owned(), on)]);
        let none = Features::new();
        let given = |dirs: &[&str]| dirs.iter().map(|d| (*d).to_owned()).collect::<Vec<_>>();
        assert_eq!(cdi_spec_dirs(&[], &none).len(), 2);
        assert!(cdi_spec_dirs(&given(&[""]), &none).is_empty());
        assert_eq!(
            cdi_spec_dirs(&given(&["/a"]), &features(true)),
            [PathBuf::from("/a")]
        );
        assert!(cdi_spec_dirs(&given(&["/a"]), &features(false)).is_empty());
    }

    #[test]
    fn values() {
        assert_eq!(parse_flag("cdi").unwrap(), ("cdi".to_owned(), true));
        assert!(parse_flag("cdi=x").unwrap_err().contains("parsing \"x\""));
        let one = |name: &str, on| check(&Features::from([(name.to_owned(), on)]));
        assert!(one("cdi", false).is_ok() && one("buildkit", true).is_ok());
        assert!(one("containerd-snapshotter", false).is_ok());
        assert!(
            one("containerd-snapshotter", true)
                .unwrap_err()
                .contains("containerd-snapshotter=true")
        );
        assert!(one("buildkit", false).is_err());
    }
}
