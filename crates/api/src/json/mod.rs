//! JSON bodies of requests, with the errors of Go's decoder as dockerd words them.

mod content_type;
pub mod decode;
pub mod syntax;

pub use content_type::check_content_type;

use serde_json::Value;

use crate::error::ApiError;
use decode::FromJson;

/// Parses a body that must be there.
pub fn parse(body: &[u8]) -> Result<Value, ApiError> {
    let blank = |text: &[u8]| text.iter().all(u8::is_ascii_whitespace);
    let invalid = |reason: &str| ApiError::invalid(format!("invalid JSON: {reason}"));
    if blank(body) {
        return Err(invalid("got EOF while reading request body"));
    }
    let end = syntax::first_value(body).map_err(|reason| invalid(&reason))?;
    // Go reads bytes that are not UTF-8 as replacement characters.
    let text = String::from_utf8_lossy(&body[..end]);
    let value = serde_json::from_str(&text).map_err(|e| invalid(&without_position(&e)))?;
    if !blank(&body[end..]) {
        return Err(ApiError::invalid("unexpected content after JSON"));
    }
    Ok(value)
}

/// Reads a document from a parsed body.
pub fn decode<T: FromJson>(value: Value) -> Result<T, ApiError> {
    T::from_json(value).map_err(|e| ApiError::invalid(format!("invalid JSON: {e}")))
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

    crate::wire::document! {
        /// A document.
        pub struct Doc = "container.Doc" {
            "Image" => image: String,
            "Count" => count: Option<i64>,
            "Labels" => labels: Option<std::collections::BTreeMap<String, String>>,
            "Env" => env: Option<Vec<String>>,
            "Size" => size: [u32; 2],
            "Inner" => inner: Vec<Doc>,
        }
    }

    fn read(body: &str) -> Result<Option<Doc>, String> {
        parse(body.as_bytes())
            .and_then(decode)
            .map_err(|e| e.message)
    }

    #[test]
    fn keys_have_any_case_and_unknown_ones_are_ignored() {
        let doc = read(
            r#"{"image":"a","COUNT":3,"New":[1],"inner":[{"IMAGE":"b"}],"Labels":{"a":null},"Size":[1,2,3]}"#,
        );
        let doc = doc.unwrap().unwrap();
        assert_eq!(
            (doc.image.as_str(), doc.count, doc.size),
            ("a", Some(3), [1, 2])
        );
        assert_eq!(doc.labels.unwrap()["a"], "");
        assert_eq!(doc.inner[0].image, "b");
        assert_eq!(read(" null \n").unwrap(), None);
        assert_eq!(read(r#"{"Image":null}"#).unwrap(), Some(Doc::default()));
        assert_eq!(
            read(r#"{"Image":"a","Image":"b"}"#).unwrap().unwrap().image,
            "b"
        );
    }

    #[test]
    fn texts() {
        for (body, text) in [
            ("", "invalid JSON: got EOF while reading request body"),
            ("{\"Image\":\"a\"", "invalid JSON: unexpected EOF"),
            ("{}{}", "unexpected content after JSON"),
            (
                "[]",
                "invalid JSON: json: cannot unmarshal array into Go value of type container.Doc",
            ),
            (
                r#"{"Image":3}"#,
                "invalid JSON: json: cannot unmarshal number into Go struct field .Image of type string",
            ),
            (
                r#"{"Count":"3"}"#,
                "invalid JSON: json: cannot unmarshal string into Go struct field .Count of type int64",
            ),
            (
                r#"{"Count":1.5}"#,
                "invalid JSON: json: cannot unmarshal number 1.5 into Go struct field .Count of type int64",
            ),
            (
                r#"{"Env":"a"}"#,
                "invalid JSON: json: cannot unmarshal string into Go struct field .Env of type []string",
            ),
            (
                r#"{"inner":[{"Labels":{"a":1}}]}"#,
                "invalid JSON: json: cannot unmarshal number into Go struct field .Inner.0.Labels.a of type string",
            ),
        ] {
            assert_eq!(read(body).unwrap_err(), text, "{body}");
        }
    }
}
