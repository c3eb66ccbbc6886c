//! The `filters` parameter: `{"key":["value"]}` or, from old clients, `{"key":{"value":true}}`.

use std::collections::BTreeMap;

use crate::error::ApiError;

/// Key to values.
pub type Filters = BTreeMap<String, Vec<String>>;

/// Parses the parameter; empty means no filters. As Docker, only the keys of old-style values count.
pub fn parse(raw: &str) -> Result<Filters, ApiError> {
    if raw.is_empty() {
        return Ok(Filters::new());
    }
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Values {
        List(Vec<String>),
        Set(BTreeMap<String, bool>),
        Null(()),
    }
    let parsed: Option<BTreeMap<String, Values>> =
        serde_json::from_str(raw).map_err(|_| ApiError::invalid("invalid filter"))?;
    let values = |v| match v {
        Values::List(list) => list,
        Values::Set(set) => set.into_keys().collect(),
        Values::Null(()) => Vec::new(),
    };
    Ok(parsed
        .unwrap_or_default()
        .into_iter()
        .map(|(key, v)| (key, values(v)))
        .collect())
}

/// Refuses keys that the operation does not know.
pub fn check_keys(filters: &Filters, allowed: &[&str]) -> Result<(), ApiError> {
    match filters.keys().find(|k| !allowed.contains(&k.as_str())) {
        Some(key) => Err(ApiError::invalid(format!("invalid filter '{key}'"))),
        None => Ok(()),
    }
}

/// A boolean filter, as Docker reads it: absent is `None`, several or strange values are errors.
pub fn boolean(filters: &Filters, key: &str) -> Result<Option<bool>, ApiError> {
    let Some(values) = filters.get(key).filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let bad = || ApiError::invalid(format!("invalid filter '{key}=[{}]'", values.join(" ")));
    let mut truths = values.iter().map(|v| match v.as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(bad()),
    });
    let first = truths.next().unwrap_or_else(|| Err(bad()))?;
    for other in truths {
        if other? != first {
            return Err(bad());
        }
    }
    Ok(Some(first))
}

/// Whether labels satisfy every `label` value (`key` or `key=value`).
pub fn labels_match(wanted: &[String], labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|w| match w.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(w),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        let new = parse(r#"{"status":["a","b"],"x":null}"#).unwrap();
        assert_eq!(new["status"], ["a", "b"]);
        assert!(new["x"].is_empty());
        let old = parse(r#"{"status":{"a":true,"b":false}}"#).unwrap();
        assert_eq!(old["status"], ["a", "b"]);
        assert!(parse("").unwrap().is_empty());
        assert!(parse("null").unwrap().is_empty());
        for bad in ["x", "[]", r#"{"a":"b"}"#, r#"{"a":[1]}"#] {
            assert_eq!(parse(bad).unwrap_err().message, "invalid filter");
        }
    }

    #[test]
    fn labels_and_booleans() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        assert!(labels_match(&["a".into(), "a=1".into()], &labels));
        assert!(!labels_match(&["a=2".into()], &labels));
        let f = parse(r#"{"dangling":["true"],"z":["maybe"]}"#).unwrap();
        assert_eq!(boolean(&f, "dangling").unwrap(), Some(true));
        assert!(boolean(&f, "z").is_err());
        assert_eq!(boolean(&f, "nope").unwrap(), None);
        assert!(check_keys(&f, &["dangling"]).is_err());
    }
}
