//! Query strings, with Go's rules for booleans and numbers.

use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// Parameters of a request's query, first occurrence first.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses the part after the question mark.
    pub fn parse(raw: &str) -> Result<Query, ApiError> {
        let mut pairs = Vec::new();
        for piece in raw.split('&').filter(|p| !p.is_empty()) {
            if piece.contains(';') {
                return Err(ApiError::invalid("invalid semicolon separator in query"));
            }
            let (key, value) = piece.split_once('=').unwrap_or((piece, ""));
            pairs.push((decode(key)?, decode(value)?));
        }
        Ok(Query { pairs })
    }

    /// The first value of `key`, empty when there is none.
    pub fn get(&self, key: &str) -> &str {
        self.find(key).unwrap_or("")
    }

    /// The first value of `key`.
    pub fn find(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Every value of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// A flag: everything but empty, `0`, `no`, `false` and `none` is true.
    pub fn flag(&self, key: &str) -> bool {
        truth(self.get(key))
    }

    /// A flag with a default for when it is absent.
    pub fn flag_or(&self, key: &str, default: bool) -> bool {
        self.find(key).map_or(default, truth)
    }

    /// A whole number, absent or empty is `None`.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, ApiError> {
        let text = self.get(key);
        if text.is_empty() {
            return Ok(None);
        }
        atoi(text).map(Some)
    }
}

/// Go's `strconv.ParseBool`.
pub fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Docker's truth of a query value.
fn truth(value: &str) -> bool {
    !matches!(
        value.trim().to_ascii_lowercase().as_str(),
        "" | "0" | "no" | "false" | "none"
    )
}

/// Go's `strconv.Atoi`, with its error text (which dockerd answers with status 500).
pub fn atoi(text: &str) -> Result<i64, ApiError> {
    text.parse::<i64>().map_err(|e| {
        let reason = match e.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                "value out of range"
            }
            _ => "invalid syntax",
        };
        ApiError::system(format!("strconv.Atoi: parsing {}: {reason}", quoted(text)))
    })
}

/// Text in quotes as Go's `%q` writes it (for plain text).
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn decode(piece: &str) -> Result<String, ApiError> {
    let plus = piece.replace('+', " ");
    let bytes = plus.as_bytes();
    let broken = (0..bytes.len()).find(|&i| {
        bytes[i] == b'%'
            && !(bytes.len() > i + 2
                && bytes[i + 1].is_ascii_hexdigit()
                && bytes[i + 2].is_ascii_hexdigit())
    });
    if let Some(at) = broken {
        let end = bytes.len().min(at + 3);
        let shown = String::from_utf8_lossy(&bytes[at..end]).into_owned();
        return Err(ApiError::invalid(format!(
            "invalid URL escape {}",
            quoted(&shown)
        )));
    }
    Ok(percent_decode_str(&plus).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let q = Query::parse("a=1&b=x%20y+z&a=2&c&t=-3").unwrap();
        assert_eq!(q.get("a"), "1");
        assert_eq!(q.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(q.get("b"), "x y z");
        assert!(!q.flag("c") && q.flag("a") && !q.flag("nothing"));
        assert_eq!(q.integer("t").unwrap(), Some(-3));
        assert_eq!(q.integer("nothing").unwrap(), None);
        assert!(q.flag_or("nothing", true));
    }

    #[test]
    fn booleans_as_docker_reads_them() {
        for (text, want) in [
            ("1", true),
            ("true", true),
            ("False", false),
            ("0", false),
            ("no", false),
            ("None", false),
            ("x", true),
        ] {
            assert_eq!(truth(text), want, "{text}");
        }
    }

    #[test]
    fn errors() {
        assert!(Query::parse("a=%zz").is_err());
        assert!(Query::parse("a=%").is_err());
        assert_eq!(
            atoi("x").unwrap_err().message,
            "strconv.Atoi: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            atoi("99999999999999999999").unwrap_err().message,
            "strconv.Atoi: parsing \"99999999999999999999\": value out of range"
        );
    }
}
