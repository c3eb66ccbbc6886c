//! What expressions of a template give.

use std::collections::BTreeMap;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The container itself.
    Info,
    Text(String),
    Int(i64),
    Bool(bool),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
    /// `nil`, or a key that a map has not.
    Nothing,
}

impl Value {
    /// Go's idea of what is empty.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Info => true,
            Value::Text(text) => !text.is_empty(),
            Value::Int(n) => *n != 0,
            Value::Bool(b) => *b,
            Value::List(list) => !list.is_empty(),
            Value::Map(map) => !map.is_empty(),
            Value::Nothing => false,
        }
    }

    /// Go's name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Info => "*logger.Info",
            Value::Text(_) => "string",
            Value::Int(_) => "int",
            Value::Bool(_) => "bool",
            Value::List(_) => "[]string",
            Value::Map(_) => "map[string]string",
            Value::Nothing => "nil",
        }
    }

    pub(super) fn json(&self) -> String {
        match self {
            Value::Info | Value::Nothing => "null".to_owned(),
            Value::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Value::Int(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::List(list) => serde_json::Value::from(list.clone()).to_string(),
            Value::Map(map) => serde_json::json!(map).to_string(),
        }
    }
}

/// As Go prints it.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Info => f.write_str("{}"),
            Value::Text(text) => f.write_str(text),
            Value::Int(n) => n.fmt(f),
            Value::Bool(b) => b.fmt(f),
            Value::List(list) => write!(f, "[{}]", list.join(" ")),
            Value::Map(map) => {
                let pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                write!(f, "map[{}]", pairs.join(" "))
            }
            Value::Nothing => f.write_str("<no value>"),
        }
    }
}
