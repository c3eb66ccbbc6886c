//! Comparisons of values.

use crate::info::LogInfo;

use super::functions::Failed;
use super::value::Value;

/// Whether a value can be compared by its kind.
fn basic(value: &Value) -> bool {
    use Value::{Bool, Float, Int, Text};
    matches!(value, Bool(_) | Int(_) | Float(_) | Text(_))
}

/// Whether the first value is one of the others.
pub(super) fn equals_one(info: &LogInfo, first: &Value, others: &[Value]) -> Result<bool, Failed> {
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for other in others {
        if equal(info, first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(info: &LogInfo, a: &Value, b: &Value) -> Result<bool, Failed> {
    if matches!(a, Value::Nothing) || matches!(b, Value::Nothing) {
        return Ok(a == b);
    }
    let same = a.type_name() == b.type_name();
    if (basic(a) || basic(b)) && !same {
        return Err(incompatible(a, b));
    }
    if !same {
        let (ta, tb) = (a.type_name(), b.type_name());
        let (a, b) = (a.shown(info), b.shown(info));
        return Err(format!("non-comparable types {a}: {ta}, {tb}: {b}").into());
    }
    if matches!(b, Value::List(_) | Value::Map(_)) {
        let shown = b.shown(info);
        return Err(format!("non-comparable type {shown}: {}", b.type_name()).into());
    }
    Ok(a == b)
}

fn incompatible(a: &Value, b: &Value) -> Failed {
    let (a, b) = (a.type_name(), b.type_name());
    format!("incompatible types for comparison: {a} and {b}").into()
}

pub(super) fn ordered(name: &str, a: &Value, b: &Value) -> Result<bool, Failed> {
    let order = match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ if basic(a) && basic(b) && a.type_name() != b.type_name() => {
            return Err(incompatible(a, b));
        }
        _ => return Err("invalid type for comparison".into()),
    };
    Ok(order.is_some_and(|order| match name {
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    }))
}
