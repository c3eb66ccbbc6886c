//! Whether text is JSON, with the error texts of Go's scanner, which clients see and match.

/// Deepest nesting of arrays and objects. The parser behind this check recurses; Go's limit is 10,000.
pub const MAX_DEPTH: usize = 120;

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// A value, or the end of the array that has just begun.
    ValueOrEnd,
    Key,
    /// A key, or the end of the object that has just begun.
    KeyOrEnd,
    Colon,
    CommaOrEnd,
}

/// Where the first value of `text` ends. The error is Go's text.
pub fn first_value(text: &[u8]) -> Result<usize, String> {
    let mut scanner = Scanner { text, at: 0 };
    // Innermost last: true is an object.
    let mut open: Vec<bool> = Vec::new();
    let mut expect = Expect::Value;
    loop {
        scanner.skip_space();
        let byte = scanner.peek()?;
        expect = match expect {
            Expect::Value | Expect::ValueOrEnd => match byte {
                b']' if expect == Expect::ValueOrEnd => {
                    scanner.at += 1;
                    open.pop();
                    Expect::CommaOrEnd
                }
                b'{' | b'[' => {
                    if open.len() == MAX_DEPTH {
                        return Err("exceeded max depth".to_owned());
                    }
                    scanner.at += 1;
                    open.push(byte == b'{');
                    if byte == b'{' {
                        Expect::KeyOrEnd
                    } else {
                        Expect::ValueOrEnd
                    }
                }
                _ => {
                    scanner.scalar(byte)?;
                    Expect::CommaOrEnd
                }
            },
            Expect::KeyOrEnd if byte == b'}' => {
                scanner.at += 1;
                open.pop();
                Expect::CommaOrEnd
            }
            Expect::Key | Expect::KeyOrEnd => {
                if byte != b'"' {
                    return Err(
                        scanner.unexpected(byte, "looking for beginning of object key string")
                    );
                }
                scanner.string()?;
                Expect::Colon
            }
            Expect::Colon => {
                if byte != b':' {
                    return Err(scanner.unexpected(byte, "after object key"));
                }
                scanner.at += 1;
                Expect::Value
            }
            Expect::CommaOrEnd => match (open.last(), byte) {
                (Some(true), b',') => scanner.step(Expect::Key),
                (Some(false), b',') => scanner.step(Expect::Value),
                (Some(true), b'}') | (Some(false), b']') => {
                    open.pop();
                    scanner.step(Expect::CommaOrEnd)
                }
                (Some(true), _) => {
                    return Err(scanner.unexpected(byte, "after object key:value pair"));
                }
                _ => return Err(scanner.unexpected(byte, "after array element")),
            },
        };
        if expect == Expect::CommaOrEnd && open.is_empty() {
            return Ok(scanner.at);
        }
    }
}

struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Result<u8, String> {
        self.text
            .get(self.at)
            .copied()
            .ok_or_else(|| "unexpected EOF".to_owned())
    }

    fn step(&mut self, next: Expect) -> Expect {
        self.at += 1;
        next
    }

    fn skip_space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, byte: u8, place: &str) -> String {
        format!("invalid character {} {place}", quoted(byte))
    }

    fn scalar(&mut self, first: u8) -> Result<(), String> {
        match first {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            other => Err(self.unexpected(other, "looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for wanted in word.bytes() {
            let byte = self.peek()?;
            if byte != wanted {
                let place = format!("in literal {word} (expecting {})", quoted(wanted));
                return Err(self.unexpected(byte, &place));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                0..=0x1f => return Err(self.unexpected(byte, "in string literal")),
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => {
                for _ in 0..4 {
                    let digit = self.peek()?;
                    if !digit.is_ascii_hexdigit() {
                        return Err(self.unexpected(digit, "in \\u hexadecimal character escape"));
                    }
                    self.at += 1;
                }
                Ok(())
            }
            other => Err(self.unexpected(other, "in string escape code")),
        }
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            other => return Err(self.unexpected(other, "in numeric literal")),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.text.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn some_digits(&mut self, place: &str) -> Result<(), String> {
        let byte = self.peek()?;
        if !byte.is_ascii_digit() {
            return Err(self.unexpected(byte, place));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }
}

/// A byte as Go quotes a character.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        0x20..=0x7e => format!("'{}'", byte as char),
        // Go takes a byte for the code point of the same number.
        0x80..=0xff => format!("'{}'", char::from(byte)),
        _ => format!("'\\x{byte:02x}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_of_go() {
        for (text, reason) in [
            ("x", "invalid character 'x' looking for beginning of value"),
            (
                "{'a':1}",
                "invalid character '\\'' looking for beginning of object key string",
            ),
            (
                r#"{"a":1,}"#,
                "invalid character '}' looking for beginning of object key string",
            ),
            (r#"{"a" "b"}"#, "invalid character '\"' after object key"),
            (
                r#"{"a":01}"#,
                "invalid character '1' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            (
                "[1.]",
                "invalid character ']' after decimal point in numeric literal",
            ),
            (
                "[1e]",
                "invalid character ']' in exponent of numeric literal",
            ),
            ("-", "unexpected EOF"),
            ("-x", "invalid character 'x' in numeric literal"),
            (
                "nul]",
                "invalid character ']' in literal null (expecting 'l')",
            ),
            ("\"\u{1}\"", "invalid character '\\x01' in string literal"),
            (r#""\q""#, "invalid character 'q' in string escape code"),
            (
                r#""\u12g4""#,
                "invalid character 'g' in \\u hexadecimal character escape",
            ),
            (r#"{"a":{"b""#, "unexpected EOF"),
        ] {
            assert_eq!(first_value(text.as_bytes()).unwrap_err(), reason, "{text}");
        }
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert_eq!(
            first_value(deep.as_bytes()).unwrap_err(),
            "exceeded max depth"
        );
    }

    #[test]
    fn ends_of_values() {
        for (text, end) in [
            ("{} x", 2),
            (" [1,{\"a\":[]}]\n", 13),
            ("12 3", 2),
            ("null", 4),
            ("\"\\\"\"x", 4),
        ] {
            assert_eq!(first_value(text.as_bytes()).unwrap(), end, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_what_the_parser_takes(text in r#"[\[\]{}:,"\\ 0-9a-f.truefalsenull+-]{0,40}"#) {
            let ours = first_value(text.as_bytes());
            let parsed = serde_json::from_str::<serde_json::Value>(&text);
            // A second value behind the first, or a number or a surrogate that the parser can't hold.
            let excused = |end: usize| {
                !text[end..].trim().is_empty() || text.contains('e') || text.contains("\\u")
            };
            match (parsed, ours) {
                (Ok(_), ours) => prop_assert!(ours.is_ok()),
                (Err(_), Ok(end)) => prop_assert!(excused(end)),
                (Err(_), Err(_)) => {}
            }
        }
    }
}
