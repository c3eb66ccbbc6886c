//! `Content-Type` of JSON requests, parsed and refused as Go's `mime.ParseMediaType` does.

use crate::error::ApiError;

/// Checks the content type of a request whose body is JSON. An absent header is fine without a body.
pub fn check_content_type(header: Option<&str>, has_body: bool) -> Result<(), ApiError> {
    let text = header.unwrap_or("");
    if text.is_empty() && !has_body {
        return Ok(());
    }
    let media_type = parse(text).map_err(|reason| {
        ApiError::invalid(format!(
            "malformed Content-Type header ({text}): mime: {reason}"
        ))
    })?;
    if media_type == "application/json" {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "unsupported Content-Type header ({text}): must be 'application/json'"
    )))
}

/// The media type in lower case, without its parameters, which must be well-formed.
fn parse(text: &str) -> Result<String, &'static str> {
    let (base, parameters) = match text.find(';') {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let media_type = base.trim().to_ascii_lowercase();
    check_type(&media_type)?;
    let mut seen: Vec<(String, String)> = Vec::new();
    let mut rest = parameters;
    while !rest.trim_start().is_empty() {
        let Some((name, value, after)) = parameter(rest.trim_start()) else {
            // A semicolon at the end is forgiven.
            if rest.trim() == ";" {
                break;
            }
            return Err("invalid media parameter");
        };
        if seen.iter().any(|(n, v)| *n == name && *v != value) {
            return Err("duplicate parameter name");
        }
        seen.push((name, value));
        rest = after;
    }
    Ok(media_type)
}

fn check_type(media_type: &str) -> Result<(), &'static str> {
    let (kind, rest) = token(media_type);
    if kind.is_empty() {
        return Err("no media type");
    }
    if rest.is_empty() {
        return Ok(());
    }
    let Some(rest) = rest.strip_prefix('/') else {
        return Err("expected slash after first token");
    };
    let (subtype, rest) = token(rest);
    match () {
        () if subtype.is_empty() => Err("expected token after slash"),
        () if !rest.is_empty() => Err("unexpected content after media subtype"),
        () => Ok(()),
    }
}

/// `; name=value`: name, value and what follows.
fn parameter(text: &str) -> Option<(String, String, &str)> {
    let (name, rest) = token(text.strip_prefix(';')?.trim_start());
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => quoted_value(quoted)?,
        None => {
            let (value, rest) = token(rest);
            (value.to_owned(), rest)
        }
    };
    (!value.is_empty()).then(|| (name.to_ascii_lowercase(), value, rest))
}

/// What is between the quotes, and what follows them.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            '\r' | '\n' => return None,
            other => value.push(other),
        }
    }
    None
}

/// The longest token of RFC 9110 at the beginning, and the rest.
fn token(text: &str) -> (&str, &str) {
    let of_token = |c: char| c.is_ascii_graphic() && !r#"()<>@,;:\"/[]?="#.contains(c);
    let end = text.find(|c| !of_token(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted() {
        for text in [
            "application/json",
            "APPLICATION/JSON",
            "application/json; charset=utf-8",
            "application/json;",
            "application/json ; a=\"b;c\\\"\" ; d=e",
            "application/json; a=b; a=b",
        ] {
            assert_eq!(check_content_type(Some(text), true), Ok(()), "{text}");
        }
        assert_eq!(check_content_type(None, false), Ok(()));
        assert_eq!(check_content_type(Some(""), false), Ok(()));
    }

    #[test]
    fn refused_with_the_texts_of_go() {
        for (text, want) in [
            ("", "malformed Content-Type header (): mime: no media type"),
            (
                ";;;",
                "malformed Content-Type header (;;;): mime: no media type",
            ),
            (
                "text/plain",
                "unsupported Content-Type header (text/plain): must be 'application/json'",
            ),
            (
                "json",
                "unsupported Content-Type header (json): must be 'application/json'",
            ),
            (
                "application/",
                "malformed Content-Type header (application/): mime: expected token after slash",
            ),
            (
                "application /json",
                "malformed Content-Type header (application /json): mime: expected slash after first token",
            ),
            (
                "application/json x",
                "malformed Content-Type header (application/json x): mime: unexpected content after media subtype",
            ),
            (
                "application/json; charset",
                "malformed Content-Type header (application/json; charset): mime: invalid media parameter",
            ),
            (
                "application/json; a=b; a=c",
                "malformed Content-Type header (application/json; a=b; a=c): mime: duplicate parameter name",
            ),
        ] {
            assert_eq!(
                check_content_type(Some(text), true).unwrap_err().message,
                want
            );
        }
    }
}
