//! Functions of templates: Go's own, and those that Docker adds.

use crate::info::LogInfo;

use super::value::{Value, text};
use super::{BadTemplate, MAX_TAG_BYTES, compare, escape, format};

/// What a function takes for an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Any,
    Text,
    Int,
    List,
    /// Of a method: a function, or `nil`.
    Function,
}

impl Want {
    /// Go's name of the type.
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Want::Any => "interface {}",
            Want::Text => "string",
            Want::Int => "int",
            Want::List => "[]string",
            Want::Function => "func(string) string",
        }
    }
}

/// What a function takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Takes {
    pub(super) first: &'static [Want],
    /// And any number of others.
    pub(super) more: bool,
}

/// A function's parameters; `None`: there is no such one.
pub(super) fn takes(name: &str) -> Option<Takes> {
    use Want::{Any, Int, List, Text};
    let (first, more): (&[Want], bool) = match name {
        "and" | "or" | "call" | "index" | "slice" | "eq" => (&[Any], true),
        "html" | "js" | "urlquery" | "print" | "println" => (&[], true),
        "printf" => (&[Text], true),
        "not" | "len" | "json" => (&[Any], false),
        "ne" | "lt" | "le" | "gt" | "ge" => (&[Any, Any], false),
        "lower" | "upper" | "title" => (&[Text], false),
        "split" => (&[Text, Text], false),
        "join" => (&[List, Text], false),
        "pad" => (&[Text, Int, Int], false),
        "truncate" => (&[Text, Int], false),
        _ => return None,
    };
    Some(Takes { first, more })
}

pub(super) fn exists(name: &str) -> bool {
    takes(name).is_some()
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failed {
    Words(String),
    Template(BadTemplate),
}

impl From<String> for Failed {
    fn from(text: String) -> Failed {
        Failed::Words(text)
    }
}

impl From<&str> for Failed {
    fn from(text: &str) -> Failed {
        Failed::Words(text.to_owned())
    }
}

/// Calls a function other than `and` and `or`, with arguments as [`takes`] has them.
pub(super) fn call(info: &LogInfo, name: &str, arguments: &[Value]) -> Result<Value, Failed> {
    let found = match (name, arguments) {
        ("not", [value]) => Value::Bool(!value.is_true()),
        ("json", [value]) => Value::Text(value.json(info)),
        ("len", [value]) => length(value)?,
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("slice", [value, bounds @ ..]) => slice(value, bounds)?,
        ("eq", [first, others @ ..]) => Value::Bool(compare::equals_one(info, first, others)?),
        ("ne", [a, b]) => {
            let equal = compare::equals_one(info, a, std::slice::from_ref(b))?;
            Value::Bool(!equal)
        }
        ("lt" | "le" | "gt" | "ge", [a, b]) => Value::Bool(compare::ordered(name, a, b)?),
        ("lower", [Value::Text(t)]) => Value::Text(t.chars().map(lower).collect()),
        ("upper", [Value::Text(t)]) => Value::Text(t.chars().map(upper).collect()),
        ("title", [Value::Text(t)]) => Value::Text(title(t)),
        ("split", [Value::Text(t), Value::Text(separator)]) => split(t, separator),
        ("join", [list, Value::Text(separator)]) => join(list, separator)?,
        ("pad", [Value::Text(t), Value::Int(before), Value::Int(after)]) => {
            pad(t, *before, *after)?
        }
        ("truncate", [Value::Text(t), Value::Int(length)]) => truncate(t, *length)?,
        ("print", values) => Value::Text(print(info, values)),
        ("println", values) => {
            let words: Vec<String> = values.iter().map(|v| v.shown(info)).collect();
            Value::Text(words.join(" ") + "\n")
        }
        ("printf", [Value::Text(form), values @ ..]) => {
            Value::Text(format::sprintf(info, form, values)?)
        }
        ("html", values) => Value::Text(escape::html(&printed(info, values))),
        ("js", values) => Value::Text(escape::js(&printed(info, values))),
        ("urlquery", values) => Value::Text(escape::url_query(&printed(info, values))),
        _ => return Err("wrong arguments".into()),
    };
    match &found {
        Value::Text(text) if text.len() > MAX_TAG_BYTES => {
            Err(Failed::Template(BadTemplate::TooLong))
        }
        _ => Ok(found),
    }
}

fn length(value: &Value) -> Result<Value, Failed> {
    let n = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        Value::Nothing => return Err("reflect: call of reflect.Value.Type on zero Value".into()),
        other => return Err(format!("len of type {}", other.plain_type()).into()),
    };
    Ok(Value::Int(i64::try_from(n).unwrap_or(i64::MAX)))
}

/// A place in a list or a text of so many.
fn place(key: &Value, len: usize) -> Result<usize, Failed> {
    match key {
        Value::Int(n) => {
            let place = usize::try_from(*n).ok().filter(|place| *place <= len);
            Ok(place.ok_or_else(|| format!("index out of range: {n}"))?)
        }
        Value::Nothing => Err("cannot index slice/array with nil".into()),
        other => Err(format!("cannot index slice/array with type {}", other.type_name()).into()),
    }
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, Failed> {
    if matches!(value, Value::Nothing) {
        return Err("index of untyped nil".into());
    }
    let Some((key, others)) = keys.split_first() else {
        return Ok(value.clone());
    };
    let found = match value {
        Value::Map(map) => match key {
            Value::Text(key) => text(map.get(key).map_or("", String::as_str)),
            Value::Nothing => return Err("value is nil; should be of type string".into()),
            other => {
                let got = other.type_name();
                return Err(format!("value has type {got}; should be string").into());
            }
        },
        Value::List(list) => {
            let found = list.get(place(key, list.len())?);
            text(found.ok_or("reflect: slice index out of range")?)
        }
        Value::Text(text) => {
            let found = text.as_bytes().get(place(key, text.len())?);
            Value::Int(i64::from(
                *found.ok_or("reflect: string index out of range")?,
            ))
        }
        other => return Err(format!("can't index item of type {}", other.plain_type()).into()),
    };
    index(&found, others)
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, Failed> {
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()).into());
    }
    let len = match value {
        Value::Text(_) if bounds.len() == 3 => return Err("cannot 3-index slice a string".into()),
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Nothing => return Err("slice of untyped nil".into()),
        other => return Err(format!("can't slice item of type {}", other.plain_type()).into()),
    };
    let mut places = [0, len, len];
    for (at, bound) in places.iter_mut().zip(bounds) {
        *at = place(bound, len)?;
    }
    let [from, to, max] = places;
    for (a, b) in [(from, to), (to, max)] {
        if a > b {
            return Err(format!("invalid slice index: {a} > {b}").into());
        }
    }
    Ok(match value {
        Value::List(list) => Value::List(list[from..to].to_vec()),
        Value::Text(text) => {
            Value::Text(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned())
        }
        other => other.clone(),
    })
}

/// Go changes one sign into one.
fn upper(c: char) -> char {
    one(c, c.to_uppercase())
}

fn lower(c: char) -> char {
    one(c, c.to_lowercase())
}

fn one(c: char, mut changed: impl Iterator<Item = char>) -> char {
    match (changed.next(), changed.next()) {
        (Some(only), None) => only,
        _ => c,
    }
}

/// Go's `strings.Title`.
fn title(text: &str) -> String {
    let mut in_word = false;
    let changed = text.chars().map(|c| {
        let out = if in_word { c } else { upper(c) };
        in_word = match c.is_ascii() {
            true => c.is_ascii_alphanumeric() || c == '_',
            false => c.is_alphanumeric() || !c.is_whitespace(),
        };
        out
    });
    changed.collect()
}

fn split(text: &str, separator: &str) -> Value {
    let parts = match separator {
        "" => text.chars().map(String::from).collect(),
        _ => text.split(separator).map(str::to_owned).collect(),
    };
    Value::List(parts)
}

fn join(list: &Value, separator: &str) -> Result<Value, Failed> {
    let list = match list {
        Value::List(list) => list.as_slice(),
        _ => &[],
    };
    let between = separator.len().saturating_mul(list.len());
    let len = list.iter().map(String::len).sum::<usize>();
    match len.saturating_add(between) > 2 * MAX_TAG_BYTES {
        true => Err(Failed::Template(BadTemplate::TooLong)),
        false => Ok(Value::Text(list.join(separator))),
    }
}

/// Docker's: blanks around what is not empty.
fn pad(text: &str, before: i64, after: i64) -> Result<Value, Failed> {
    if text.is_empty() {
        return Ok(Value::Text(String::new()));
    }
    let blanks = |n: i64| {
        let n = usize::try_from(n)
            .map_err(|_| Failed::Words("strings: negative Repeat count".to_owned()))?;
        match n > MAX_TAG_BYTES {
            true => Err(Failed::Template(BadTemplate::TooLong)),
            false => Ok(" ".repeat(n)),
        }
    };
    let (before, after) = (blanks(before)?, blanks(after)?);
    Ok(Value::Text(format!("{before}{text}{after}")))
}

/// Docker's: bytes. What is left of a character is U+FFFD.
fn truncate(text: &str, length: i64) -> Result<Value, Failed> {
    let length = usize::try_from(length)
        .map_err(|_| format!("runtime error: slice bounds out of range [:{length}]"))?;
    let cut = &text.as_bytes()[..length.min(text.len())];
    Ok(Value::Text(String::from_utf8_lossy(cut).into_owned()))
}

/// Go's `fmt.Sprint`: a blank between two values of which none is text.
fn print(info: &LogInfo, values: &[Value]) -> String {
    spaced(values, |value| value.shown(info))
}

/// What actions would print of the values, put together by [`print`].
fn printed(info: &LogInfo, values: &[Value]) -> String {
    let values: Vec<Value> = values
        .iter()
        .map(|value| match value {
            Value::Nothing => text(value.printed(info)),
            value => value.clone(),
        })
        .collect();
    spaced(&values, |value| value.printed(info))
}

fn spaced(values: &[Value], shown: impl Fn(&Value) -> String) -> String {
    let is_text = |value: &Value| matches!(value, Value::Text(_));
    let mut out = String::new();
    for (n, value) in values.iter().enumerate() {
        if n > 0 && !is_text(value) && !is_text(&values[n - 1]) {
            out.push(' ');
        }
        out.push_str(&shown(value));
    }
    out
}
