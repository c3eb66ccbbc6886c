//! From JSON values to documents, as Go's decoder does it: keys in any case, unknown ones ignored, `null` as absent,
//! and its text for a value of the wrong kind.

use std::collections::BTreeMap;

use serde_json::Value;

/// A value of the wrong kind somewhere in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Keys and indexes that lead to it, outermost last.
    path: Vec<String>,
    found: String,
    wanted: String,
}

impl Mismatch {
    fn new<T: FromJson>(value: &Value) -> Self {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        Self {
            path: Vec::new(),
            found,
            wanted: T::go_type(),
        }
    }

    /// The same, seen from one level further out.
    #[must_use]
    pub fn below(mut self, key: impl Into<String>) -> Self {
        self.path.push(key.into());
        self
    }

    /// The same of a type that Go has another name for.
    #[must_use]
    pub fn of_type(mut self, go_type: String) -> Self {
        self.wanted = go_type;
        self
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "json: cannot unmarshal {} into Go ", self.found)?;
        if self.path.is_empty() {
            write!(f, "value")?;
        } else {
            write!(f, "struct field ")?;
            for key in self.path.iter().rev() {
                write!(f, ".{key}")?;
            }
        }
        write!(f, " of type {}", self.wanted)
    }
}

/// What can be read from JSON. `null` gives the default.
pub trait FromJson: Sized + Default {
    /// Name of the type in Go, for error texts.
    fn go_type() -> String;
    /// Reads a value that is not `null`.
    fn from_value(value: Value) -> Result<Self, Mismatch>;
    /// Reads a value.
    fn from_json(value: Value) -> Result<Self, Mismatch> {
        match value {
            Value::Null => Ok(Self::default()),
            other => Self::from_value(other),
        }
    }
}

impl FromJson for bool {
    fn go_type() -> String {
        "bool".to_owned()
    }
    fn from_value(value: Value) -> Result<Self, Mismatch> {
        value.as_bool().ok_or_else(|| Mismatch::new::<Self>(&value))
    }
}

impl FromJson for String {
    fn go_type() -> String {
        "string".to_owned()
    }
    fn from_value(value: Value) -> Result<Self, Mismatch> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(Mismatch::new::<Self>(&other)),
        }
    }
}

/// Any value, unread.
impl FromJson for Value {
    fn go_type() -> String {
        "interface {}".to_owned()
    }
    fn from_value(value: Value) -> Result<Self, Mismatch> {
        Ok(value)
    }
}

macro_rules! integers {
    ($($type:ty => $name:literal),*) => { $(
        impl FromJson for $type {
            fn go_type() -> String {
                $name.to_owned()
            }
            fn from_value(value: Value) -> Result<Self, Mismatch> {
                let Value::Number(number) = &value else {
                    return Err(Mismatch::new::<Self>(&value));
                };
                let fits = match number.as_i64() {
                    Some(n) => <$type>::try_from(n).ok(),
                    None => number.as_u64().and_then(|n| <$type>::try_from(n).ok()),
                };
                // Not a whole number, or too large: Go says which.
                fits.ok_or_else(|| Mismatch {
                    found: format!("number {number}"),
                    ..Mismatch::new::<Self>(&value)
                })
            }
        }
    )* };
}
integers!(i64 => "int64", u16 => "uint16", u32 => "uint", u64 => "uint64");

impl<T: FromJson> FromJson for Option<T> {
    fn go_type() -> String {
        T::go_type()
    }
    fn from_value(value: Value) -> Result<Self, Mismatch> {
        T::from_value(value).map(Some)
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    fn go_type() -> String {
        format!("[]{}", T::go_type())
    }
    fn from_value(value: Value) -> Result<Self, Mismatch> {
        let Value::Array(items) = value else {
            return Err(Mismatch::new::<Self>(&value));
        };
        let read = |(n, item)| T::from_json(item).map_err(|e| e.below(format!("{n}")));
        items.into_iter().enumerate().map(read).collect()
    }
}

impl<T: FromJson> FromJson for BTreeMap<String, T> {
    fn go_type() -> String {
        format!("map[string]{}", T::go_type())
    }
    fn from_value(value: Value) -> Result<Self, Mismatch> {
        let Value::Object(entries) = value else {
            return Err(Mismatch::new::<Self>(&value));
        };
        let read = |(key, item): (String, Value)| match T::from_json(item) {
            Ok(item) => Ok((key, item)),
            Err(e) => Err(e.below(key)),
        };
        entries.into_iter().map(read).collect()
    }
}

/// An array of fixed length: what is missing is zero, what is too much is ignored.
impl FromJson for [u32; 2] {
    fn go_type() -> String {
        "[2]uint".to_owned()
    }
    fn from_value(value: Value) -> Result<Self, Mismatch> {
        let Value::Array(_) = value else {
            return Err(Mismatch::new::<Self>(&value));
        };
        let mut items = Vec::<u32>::from_value(value)?.into_iter();
        Ok([items.next().unwrap_or(0), items.next().unwrap_or(0)])
    }
}

/// The entries of an object, for a document.
pub fn entries<T: FromJson>(value: Value) -> Result<serde_json::Map<String, Value>, Mismatch> {
    match value {
        Value::Object(entries) => Ok(entries),
        other => Err(Mismatch::new::<T>(&other)),
    }
}
