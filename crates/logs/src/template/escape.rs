//! Text in quotes, and without them; text for HTML, JavaScript and queries.

/// As Go's `%q`; `ascii` as its `%+q`.
pub(super) fn quoted_with(text: &str, quote: char, ascii: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            c if c == quote || c == '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if u32::from(c) < 0x20 || c == '\x7f' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c if c.is_ascii() || (!ascii && is_printable(c)) => out.push(c),
            c if u32::from(c) < 0x10000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push(quote);
    out
}

/// As Go's `%q`.
pub(super) fn quoted(text: &str) -> String {
    quoted_with(text, '"', false)
}

/// Nearly what Go takes for printable: of what is neither a sign nor a blank the most common are left out.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && (c == ' ' || !c.is_whitespace())
        && !matches!(u32::from(c), 0xad | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f
            | 0xe000..=0xf8ff | 0xfeff | 0xfff0..=0xfffb | 0xe0000..)
}

/// What stands in quotes, as `strconv.Unquote` reads it. Bytes that are no UTF-8 become U+FFFD.
pub(super) fn unquote(whole: &str) -> Option<String> {
    let quote = whole.chars().next()?;
    let inside = whole[1..].strip_suffix(quote)?;
    if quote == '`' {
        return Some(inside.replace('\r', ""));
    }
    let mut out = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while !rest.is_empty() {
        rest = unquote_char(rest, quote, &mut out)?;
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// Appends the first sign of what is in quotes; the rest.
fn unquote_char<'a>(text: &'a str, quote: char, out: &mut Vec<u8>) -> Option<&'a str> {
    let mut put = |c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    let c = text.chars().next()?;
    let rest = &text[c.len_utf8()..];
    if c != '\\' {
        put(c);
        return Some(rest);
    }
    let escape = rest.chars().next()?;
    let rest = &rest[escape.len_utf8()..];
    let number = |digits: usize, radix: u32, rest: &'a str| {
        let text = rest.get(..digits)?;
        let fine = text.bytes().all(|b| char::from(b).is_digit(radix));
        let value = fine.then(|| u32::from_str_radix(text, radix).ok())??;
        Some((value, &rest[digits..]))
    };
    match escape {
        'a' => put('\x07'),
        'b' => put('\x08'),
        'f' => put('\x0c'),
        'n' => put('\n'),
        'r' => put('\r'),
        't' => put('\t'),
        'v' => put('\x0b'),
        '\\' => put('\\'),
        c @ ('\'' | '"') if c == quote => put(c),
        'x' => {
            let (byte, rest) = number(2, 16, rest)?;
            out.push(u8::try_from(byte).ok()?);
            return Some(rest);
        }
        'u' | 'U' => {
            let (value, rest) = number(if escape == 'u' { 4 } else { 8 }, 16, rest)?;
            put(char::from_u32(value)?);
            return Some(rest);
        }
        '0'..='7' => {
            let from = text.get(1..)?;
            let (byte, rest) = number(3, 8, from)?;
            out.push(u8::try_from(byte).ok()?);
            return Some(rest);
        }
        _ => return None,
    }
    Some(rest)
}

/// The number of a sign in `'`; the error is Go's.
pub(super) fn character(whole: &str) -> Result<i64, String> {
    let malformed = || format!("malformed character constant: {whole}");
    let inside = whole.get(1..whole.len() - 1).ok_or_else(malformed)?;
    let mut out = Vec::new();
    if inside.is_empty() {
        return Err("invalid syntax".to_owned());
    }
    let rest = unquote_char(inside, '\'', &mut out).ok_or("invalid syntax")?;
    if !rest.is_empty() {
        return Err(malformed());
    }
    match std::str::from_utf8(&out) {
        Ok(text) => Ok(text.chars().next().map_or(0, |c| i64::from(u32::from(c)))),
        Err(_) => Ok(out.first().map_or(0, |b| i64::from(*b))),
    }
}

pub(super) fn html(text: &str) -> String {
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

pub(super) fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if c.is_ascii() && !c.is_ascii_control() => out.push(c),
            c if !c.is_ascii() && is_printable(c) => out.push(c),
            c => out.push_str(&format!("\\u{:04X}", u32::from(c))),
        }
    }
    out
}

pub(super) fn url_query(text: &str) -> String {
    let mut out = bytes::BytesMut::new();
    crate::read::query_escape(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_come_and_go() {
        for text in ["", "a\"\\'`", "é\u{7f}\n\t\x01", "\u{feff}\u{10ffff}😀"] {
            assert_eq!(unquote(&quoted(text)).as_deref(), Some(text));
            assert_eq!(
                unquote(&quoted_with(text, '"', true)).as_deref(),
                Some(text)
            );
        }
        assert_eq!(unquote(r#""\x41\101\u00e9\'""#), None);
        assert_eq!(unquote(r#""\x41\101\u00e9""#).as_deref(), Some("AAé"));
        assert_eq!(unquote(r#""\xff""#).as_deref(), Some("\u{fffd}"));
        assert_eq!(unquote("\"\\"), None);
        assert_eq!(character("'é'"), Ok(233));
        assert_eq!(character(r"'\''"), Ok(39));
    }
}
