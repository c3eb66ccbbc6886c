//! JSON bodies of requests, with the errors of Go's decoder as dockerd words them.

use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Checks the content type of a request whose body is JSON. An absent header is fine without a body.
pub fn check_content_type(header: Option<&str>, has_body: bool) -> Result<(), ApiError> {
    let text = match header {
        None | Some("") if !has_body => return Ok(()),
        None => "",
        Some(text) => text,
    };
    let essence = text.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "unsupported Content-Type header ({text}): must be 'application/json'"
    )))
}

/// Parses a body that must be there.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::invalid(
            "invalid JSON: got EOF while reading request body",
        ));
    }
    let mut stream = serde_json::Deserializer::from_slice(body).into_iter::<T>();
    let value = match stream.next() {
        Some(Ok(value)) => value,
        Some(Err(error)) => {
            return Err(ApiError::invalid(format!(
                "invalid JSON: {}",
                reason(body, &error)
            )));
        }
        None => {
            return Err(ApiError::invalid(
                "invalid JSON: got EOF while reading request body",
            ));
        }
    };
    let rest = &body[stream.byte_offset().min(body.len())..];
    if !rest.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::invalid("unexpected content after JSON"));
    }
    Ok(value)
}

/// Go's text for what serde found.
fn reason(body: &[u8], error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => "unexpected EOF".to_owned(),
        Category::Syntax => match first_significant(body) {
            Some(c) if !b"{[\"-0123456789tfn".contains(&c) => {
                format!(
                    "invalid character {} looking for beginning of value",
                    quoted_char(c)
                )
            }
            _ => without_position(error),
        },
        Category::Data | Category::Io => {
            format!("json: cannot unmarshal: {}", without_position(error))
        }
    }
}

fn first_significant(body: &[u8]) -> Option<u8> {
    body.iter().copied().find(|b| !b.is_ascii_whitespace())
}

fn quoted_char(c: u8) -> String {
    match c {
        b'\'' => "'\\''".to_owned(),
        0x20..=0x7e => format!("'{}'", c as char),
        _ => format!("'\\x{c:02x}'"),
    }
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Doc {
        #[serde(rename = "Image")]
        image: Option<String>,
    }

    #[test]
    fn texts() {
        let message = |body: &str| parse::<Option<Doc>>(body.as_bytes()).unwrap_err().message;
        assert_eq!(
            message("x"),
            "invalid JSON: invalid character 'x' looking for beginning of value"
        );
        assert_eq!(
            message(""),
            "invalid JSON: got EOF while reading request body"
        );
        assert_eq!(message("{\"Image\":\"a\""), "invalid JSON: unexpected EOF");
        assert_eq!(message("{}{}"), "unexpected content after JSON");
        assert!(message("{\"Image\":3}").starts_with("invalid JSON: json: cannot unmarshal"));
        assert!(parse::<Option<Doc>>(b" null ").unwrap().is_none());
        assert_eq!(
            parse::<Doc>(b"{\"Image\":\"a\",\"New\":1}\n")
                .unwrap()
                .image
                .as_deref(),
            Some("a")
        );
    }

    #[test]
    fn content_types() {
        assert!(check_content_type(Some("application/json; charset=utf-8"), true).is_ok());
        assert!(check_content_type(None, false).is_ok());
        assert_eq!(
            check_content_type(Some("text/plain"), true)
                .unwrap_err()
                .message,
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
        assert!(check_content_type(None, true).is_err());
    }
}
