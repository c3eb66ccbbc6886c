//! YAML to the values of JSON, as far as specifications use it: one document, no anchors.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Nesting of lists and maps.
const MAX_DEPTH: usize = 32;

/// A list or map that is not finished, and the key it will be under.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Reads one document. Numbers that are whole become numbers, everything else that is not null or a truth value a text.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut open: Vec<Open> = Vec::new();
    let mut whole = None;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|e| format!("yaml: {e}"))?;
        let value = match event {
            Event::Scalar(text, style, 0, tag) => match tag {
                None => scalar(&text, style),
                Some(tag) => return Err(format!("yaml: tag {tag} is not supported")),
            },
            Event::SequenceStart(0, None) => {
                push(&mut open, Open::List(Vec::new()))?;
                continue;
            }
            Event::MappingStart(0, None) => {
                push(&mut open, Open::Map(Map::new(), None))?;
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Map(map, _)) => Value::Object(map),
                None => return Err("yaml: unbalanced".to_owned()),
            },
            Event::Alias(_)
            | Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::MappingStart(..) => {
                return Err("yaml: anchors and tags are not supported".to_owned());
            }
            Event::DocumentStart(_) if whole.is_some() => {
                return Err("yaml: more than one document".to_owned());
            }
            _ => continue,
        };
        match open.last_mut() {
            None => whole = Some(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(map, key)) => match key.take() {
                None => *key = Some(key_of(value)?),
                Some(name) => {
                    if map.insert(name.clone(), value).is_some() {
                        return Err(format!("yaml: key {name:?} already set in map"));
                    }
                }
            },
        }
    }
    Ok(whole.unwrap_or(Value::Null))
}

fn push(open: &mut Vec<Open>, one: Open) -> Result<(), String> {
    if open.len() >= MAX_DEPTH {
        return Err(format!("yaml: nested more than {MAX_DEPTH} deep"));
    }
    if let Some(Open::Map(_, None)) = open.last() {
        return Err("yaml: a key is not a text".to_owned());
    }
    open.push(one);
    Ok(())
}

fn key_of(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        _ => Err("yaml: a key is not a text".to_owned()),
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => integer(text).map_or_else(|| Value::String(text.to_owned()), Value::from),
    }
}

/// Decimal, `0x`, `0o`, and as older YAML has it a leading zero for octal.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let starts_with_digit = digits.bytes().next().is_some_and(|b| b.is_ascii_digit());
    let parsed = match digits {
        _ if !starts_with_digit => None,
        _ if digits.starts_with("0x") => i64::from_str_radix(&digits[2..], 16).ok(),
        _ if digits.starts_with("0o") => i64::from_str_radix(&digits[2..], 8).ok(),
        _ if digits.len() > 1 && digits.starts_with('0') => {
            i64::from_str_radix(&digits[1..], 8).ok()
        }
        _ => digits.parse().ok(),
    };
    parsed.and_then(|n: i64| n.checked_mul(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documents() {
        let text = "---\n# c\na: 1\nb:\n- x y # z\n- 'it''s'\n- \"q\\n\"\nc: {d: [0666, 0x10, -3, 1.5, ~, true]}\n";
        let expected = serde_json::json!({
            "a": 1, "b": ["x y", "it's", "q\n"], "c": {"d": [438, 16, -3, "1.5", null, true]},
        });
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), Value::Null);
        let too_small = "-0x-8000000000000000";
        assert_eq!(parse(too_small).unwrap(), too_small);
        assert_eq!(
            parse("{\"j\": [1, \"2\"]}").unwrap(),
            serde_json::json!({"j": [1, "2"]})
        );
    }

    #[test]
    fn refused() {
        for (text, part) in [
            ("a: 1\na: 2\n", "already set"),
            ("a: &x 1\nb: *x\n", "anchors"),
            ("a: 1\n---\nb: 2\n", "more than one"),
            ("? [a]\n: b\n", "not a text"),
            ("a: !!binary x\n", "tag"),
            ("a: [", "yaml"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        assert!(parse(&"[".repeat(1000)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-a-z0-9:\\[\\]{},&*!|>'\"#%@ \n\t\\\\]{0,80}") {
            let _ = parse(&text);
        }
    }
}
