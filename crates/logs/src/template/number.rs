//! Numbers as Go reads and writes them.

use super::ast::Number;
use super::escape::quoted;

/// The number that a word is; the error is Go's.
pub(super) fn parse(text: &str) -> Result<Number, String> {
    let int = parse_int(text);
    let mut number = Number {
        text: text.to_owned(),
        int: int.and_then(|n| i64::try_from(n).ok()),
        float: None,
    };
    if let Some(int) = int {
        number.float = Some(int as f64);
        return Ok(number);
    }
    let Some(float) = parse_float(text) else {
        return Err(format!("illegal number syntax: {}", quoted(text)));
    };
    if !text.contains(['.', 'e', 'E', 'p', 'P']) {
        return Err(format!("integer overflow: {}", quoted(text)));
    }
    number.float = Some(float);
    // A float that is a whole number can stand for that.
    if float.trunc() == float && float.abs() < 9.2e18 {
        number.int = Some(float as i64);
    }
    Ok(number)
}

/// Whether a number is one with a point or an exponent.
pub(super) fn is_float(text: &str) -> bool {
    let hex = text.len() > 2 && text.starts_with("0x") || text.starts_with("0X");
    let special = hex && !text.contains(['p', 'P']) || text.starts_with('\'');
    !special && text.contains(['.', 'e', 'E', 'p', 'P'])
}

/// `ParseInt` and `ParseUint` of base 0.
fn parse_int(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let plain = digits.replace('_', "");
    let fine = !plain.is_empty()
        && plain.bytes().all(|b| char::from(b).is_digit(radix))
        && !digits.ends_with('_')
        && !digits.contains("__")
        && !lower.starts_with('_');
    let number = fine.then(|| i128::from_str_radix(&plain, radix).ok())??;
    let number = if negative { -number } else { number };
    let range = if negative {
        i128::from(i64::MIN)..=0
    } else {
        0..=i128::from(u64::MAX)
    };
    range.contains(&number).then_some(number)
}

fn parse_float(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    let unsigned = lower.trim_start_matches(['-', '+']);
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let between_digits = |(n, _): (usize, char)| {
        digit(unsigned[..n].chars().next_back()) && digit(unsigned[n + 1..].chars().next())
    };
    // Hexadecimal floats are nobody's tags.
    if unsigned.starts_with("0x")
        || !unsigned
            .char_indices()
            .filter(|(_, c)| *c == '_')
            .all(between_digits)
    {
        return None;
    }
    let plain = lower.replace('_', "");
    let digits = plain.bytes().any(|b| b.is_ascii_digit());
    let float = digits.then(|| plain.parse::<f64>().ok())??;
    float.is_finite().then_some(float)
}

/// As Go's `%g` with the shortest digits.
pub(super) fn shortest(float: f64) -> String {
    if !float.is_finite() {
        return special(float).to_owned();
    }
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return float.to_string();
    }
    format!("{digits}e{}", two_digits(exponent))
}

/// What is no number.
pub(super) fn special(float: f64) -> &'static str {
    match float {
        f if f.is_nan() => "NaN",
        f if f < 0.0 => "-Inf",
        _ => "+Inf",
    }
}

/// An exponent has a sign and two digits at least.
pub(super) fn two_digits(exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let int = |text| parse(text).unwrap().int;
        assert_eq!(int("0x1F"), Some(31));
        assert_eq!(int("-0b11"), Some(-3));
        assert_eq!(int("017"), Some(15));
        assert_eq!(int("1_000"), Some(1000));
        assert_eq!(int("1e3"), Some(1000));
        assert_eq!(int("1.5"), None);
        assert_eq!(int("9223372036854775808"), None);
        for (text, why) in [
            ("08", "integer overflow: \"08\""),
            (
                "99999999999999999999",
                "integer overflow: \"99999999999999999999\"",
            ),
            ("+", "illegal number syntax: \"+\""),
            ("1__0", "illegal number syntax: \"1__0\""),
        ] {
            assert_eq!(parse(text).unwrap_err(), why);
        }
        assert!(is_float("1.0") && is_float("1e3") && !is_float("0x1e") && !is_float("'e'"));
    }
}
