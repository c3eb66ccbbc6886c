//! Functions of templates: Go's own, and those that Docker adds.

use super::value::Value;
use super::{BadTemplate, MAX_TAG_BYTES};

const NAMES: &[&str] = &[
    "and", "eq", "ge", "gt", "html", "index", "join", "js", "json", "le", "len", "lower", "lt",
    "ne", "not", "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate",
    "upper", "urlquery",
];

/// Why a call failed.
pub(super) enum Failed {
    Words(String),
    Template(BadTemplate),
}

impl From<String> for Failed {
    fn from(text: String) -> Failed {
        Failed::Words(text)
    }
}

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

fn count(name: &str, want: usize, got: usize) -> Failed {
    Failed::Words(format!(
        "wrong number of args for {name}: want {want} got {got}"
    ))
}

fn wrong_type(want: &str, value: &Value) -> Failed {
    Failed::Words(format!(
        "wrong type for value; expected {want}; got {}",
        value.type_name()
    ))
}

fn text(value: &Value) -> Result<&str, Failed> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(wrong_type("string", other)),
    }
}

fn int(value: &Value) -> Result<i64, Failed> {
    match value {
        Value::Int(n) => Ok(*n),
        other => Err(wrong_type("int", other)),
    }
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: Vec<Value>) -> Result<Value, Failed> {
    let wrong = |want| count(name, want, arguments.len());
    match (name, arguments.as_slice()) {
        ("and", [_, ..]) => Ok(pick(arguments, |v| !v.is_true())),
        ("or", [_, ..]) => Ok(pick(arguments, Value::is_true)),
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("json", [value]) => Ok(Value::Text(value.json())),
        ("len", [value]) => length(value),
        ("index", [value, keys @ ..]) => index(value, keys),
        ("slice", [value, bounds @ ..]) => slice(text(value)?, bounds),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            Ok(Value::Bool(others.iter().any(|o| o == first)))
        }
        ("ne", [a, b]) => Ok(Value::Bool(a != b)),
        ("lt" | "le" | "gt" | "ge", [a, b]) => compare(name, a, b),
        ("lower", [value]) => Ok(Value::Text(text(value)?.to_lowercase())),
        ("upper", [value]) => Ok(Value::Text(text(value)?.to_uppercase())),
        ("title", [value]) => Ok(Value::Text(title(text(value)?))),
        ("split", [value, separator]) => split(text(value)?, text(separator)?),
        ("join", [Value::List(list), separator]) => Ok(Value::Text(list.join(text(separator)?))),
        ("join", [other, _]) => Err(wrong_type("[]string", other)),
        ("pad", [value, before, after]) => pad(text(value)?, int(before)?, int(after)?),
        ("truncate", [value, length]) => truncate(text(value)?, int(length)?),
        ("print", values) => Ok(Value::Text(print(values))),
        ("println", values) => Ok(Value::Text(spaced(values) + "\n")),
        ("printf", [format, values @ ..]) => printf(text(format)?, values),
        ("html", values) => Ok(Value::Text(html(&print(values)))),
        ("js", _) => Err(Failed::Template(BadTemplate::NotBuilt("js".to_owned()))),
        ("urlquery", values) => Ok(Value::Text(url_query(&print(values)))),
        ("lt" | "le" | "gt" | "ge" | "ne" | "eq" | "split" | "join" | "truncate", _) => {
            Err(wrong(2))
        }
        ("pad", _) => Err(wrong(3)),
        _ => Err(wrong(1)),
    }
}

/// The first value for which `stop` holds, or the last one.
fn pick(values: Vec<Value>, stop: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Nothing;
    for value in values {
        last = value;
        if stop(&last) {
            break;
        }
    }
    last
}

fn length(value: &Value) -> Result<Value, Failed> {
    let n = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        other => return Err(format!("len of type {}", other.type_name()).into()),
    };
    Ok(Value::Int(i64::try_from(n).unwrap_or(i64::MAX)))
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, Failed> {
    let Some((key, others)) = keys.split_first() else {
        return Ok(value.clone());
    };
    let found = match value {
        Value::Map(map) => Value::Text(map.get(text(key)?).cloned().unwrap_or_default()),
        Value::List(list) => {
            let n = int(key)?;
            let found = usize::try_from(n).ok().and_then(|n| list.get(n));
            Value::Text(
                found
                    .cloned()
                    .ok_or_else(|| format!("index out of range: {n}"))?,
            )
        }
        other => return Err(format!("can't index item of type {}", other.type_name()).into()),
    };
    index(&found, others)
}

fn slice(text: &str, bounds: &[Value]) -> Result<Value, Failed> {
    let mut places = [0, i64::try_from(text.len()).unwrap_or(i64::MAX)];
    if bounds.len() > places.len() {
        return Err("cannot 3-index slice a string".to_owned().into());
    }
    for (place, bound) in places.iter_mut().zip(bounds) {
        *place = int(bound)?;
    }
    let [from, to] = places.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let found = text.get(from..to);
    let found = found.ok_or_else(|| format!("index out of range: {}", places[1]))?;
    Ok(Value::Text(found.to_owned()))
}

fn compare(name: &str, a: &Value, b: &Value) -> Result<Value, Failed> {
    let order = match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => {
            return Err("incompatible types for comparison".to_owned().into());
        }
    };
    Ok(Value::Bool(match name {
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    }))
}

/// Go's `strings.Title`.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        match in_word {
            true => out.push(c),
            false => out.extend(c.to_uppercase()),
        }
        in_word = c.is_alphanumeric() || c == '_' || c == '\'';
    }
    out
}

fn split(text: &str, separator: &str) -> Result<Value, Failed> {
    let parts: Vec<String> = match separator {
        "" => text.chars().map(String::from).collect(),
        _ => text.split(separator).map(str::to_owned).collect(),
    };
    Ok(Value::List(parts))
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

/// Docker's: bytes. Half a character at the end is left out.
fn truncate(text: &str, length: i64) -> Result<Value, Failed> {
    let length =
        usize::try_from(length).map_err(|_| format!("slice bounds out of range [:{length}]"))?;
    let mut end = length.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Ok(Value::Text(text[..end].to_owned()))
}

/// Go's `fmt.Sprint`: a blank between two values of which none is text.
fn print(values: &[Value]) -> String {
    let mut out = String::new();
    for (n, value) in values.iter().enumerate() {
        let is_text = |v: &Value| matches!(v, Value::Text(_));
        if n > 0 && !is_text(value) && !is_text(&values[n - 1]) {
            out.push(' ');
        }
        out.push_str(&value.to_string());
    }
    out
}

fn spaced(values: &[Value]) -> String {
    let words: Vec<String> = values.iter().map(Value::to_string).collect();
    words.join(" ")
}

fn printf(format: &str, values: &[Value]) -> Result<Value, Failed> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let verb = chars.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let Some(verb @ ('s' | 'v' | 'd' | 'q' | 't' | 'x')) = verb else {
            let what = format!("%{} of printf", verb.map(String::from).unwrap_or_default());
            return Err(Failed::Template(BadTemplate::NotBuilt(what)));
        };
        match (verb, values.next()) {
            (_, None) => out.push_str(&format!("%!{verb}(MISSING)")),
            ('s' | 'v', Some(value)) => out.push_str(&value.to_string()),
            ('d', Some(Value::Int(n))) => out.push_str(&n.to_string()),
            ('t', Some(Value::Bool(b))) => out.push_str(&b.to_string()),
            ('q', Some(Value::Text(text))) => {
                out.push_str(&serde_json::Value::from(text.as_str()).to_string());
            }
            ('x', Some(Value::Int(n))) => out.push_str(&format!("{n:x}")),
            ('x', Some(Value::Text(text))) => {
                out.extend(text.bytes().map(|b| format!("{b:02x}")));
            }
            (_, Some(value)) => {
                out.push_str(&format!("%!{verb}({}={value})", value.type_name()));
            }
        }
    }
    Ok(Value::Text(out))
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn url_query(text: &str) -> String {
    let mut out = bytes::BytesMut::new();
    crate::read::query_escape(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}
