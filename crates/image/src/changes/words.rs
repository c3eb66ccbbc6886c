//! Words of an instruction, and the shell's quotes and variables in them.

use std::iter::Peekable;
use std::str::Chars;

use super::invalid;
use crate::ImageError;

/// Defaults inside defaults (`${A:-${B:-c}}`).
const MAX_NESTING: usize = 16;

/// Words as they were written, with their quotes; blanks inside quotes or after a backslash do not split.
pub(super) fn split(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if quote.is_none() && !escaped && c.is_whitespace() {
            found.extend(start.take().map(|from: usize| &text[from..at]));
            continue;
        }
        start.get_or_insert(at);
        if escaped {
            escaped = false;
        } else if c == '\\' && quote != Some('\'') {
            escaped = true;
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && matches!(c, '"' | '\'') {
            quote = Some(c);
        }
    }
    found.extend(start.map(|from| &text[from..]));
    found
}

/// The text with quotes and backslashes removed and `$NAME` and `${NAME}` replaced by the values of `env`.
pub(super) fn expand(text: &str, env: &[String]) -> Result<String, ImageError> {
    let mut expander = Expander {
        chars: text.chars().peekable(),
        env,
    };
    expander.until(None, 0)
}

struct Expander<'a> {
    chars: Peekable<Chars<'a>>,
    env: &'a [String],
}

impl Expander<'_> {
    /// Up to `end` (which is taken), or to the end of the text.
    fn until(&mut self, end: Option<char>, depth: usize) -> Result<String, ImageError> {
        let mut out = String::new();
        loop {
            match self.chars.next() {
                None if end.is_some() => return Err(unexpected_end()),
                None => return Ok(out),
                c if c == end => return Ok(out),
                Some('\\') => out.extend(self.chars.next().or(Some('\\'))),
                Some('\'') => loop {
                    match self.chars.next().ok_or_else(missing_quote)? {
                        '\'' => break,
                        c => out.push(c),
                    }
                },
                Some('"') => self.double_quoted(&mut out, depth)?,
                Some('$') => self.variable(&mut out, depth)?,
                Some(c) => out.push(c),
            }
        }
    }

    fn double_quoted(&mut self, out: &mut String, depth: usize) -> Result<(), ImageError> {
        loop {
            match self.chars.next().ok_or_else(missing_quote)? {
                '"' => return Ok(()),
                '$' => self.variable(out, depth)?,
                '\\' => match self.chars.next().ok_or_else(missing_quote)? {
                    c @ ('"' | '$' | '\\') => out.push(c),
                    c => out.extend(['\\', c]),
                },
                c => out.push(c),
            }
        }
    }

    fn variable(&mut self, out: &mut String, depth: usize) -> Result<(), ImageError> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                out.push('$');
            }
            out.push_str(self.value(&name).unwrap_or_default());
            return Ok(());
        }
        if depth >= MAX_NESTING {
            return Err(invalid("variables are nested too deep"));
        }
        let name = self.name();
        if name.is_empty() {
            return Err(invalid("bad substitution"));
        }
        let value = self.value(&name).map(str::to_owned);
        let empty_is_unset = match self.chars.next().ok_or_else(unexpected_end)? {
            '}' => {
                out.push_str(&value.unwrap_or_default());
                return Ok(());
            }
            ':' => true,
            c => return self.modified(out, (&name, value), c, depth),
        };
        let modifier = self.chars.next().ok_or_else(unexpected_end)?;
        let value = value.filter(|v| !(empty_is_unset && v.is_empty()));
        self.modified(out, (&name, value), modifier, depth)
    }

    /// `${NAME-word}`, `${NAME+word}`, `${NAME?word}` after the modifier.
    fn modified(
        &mut self,
        out: &mut String,
        (name, value): (&str, Option<String>),
        modifier: char,
        depth: usize,
    ) -> Result<(), ImageError> {
        let word = self.until(Some('}'), depth + 1)?;
        match (modifier, value) {
            ('-', Some(value)) | ('?', Some(value)) => out.push_str(&value),
            ('-', None) | ('+', Some(_)) => out.push_str(&word),
            ('+', None) => {}
            ('?', None) => {
                let why = if word.is_empty() {
                    "is not allowed to be unset"
                } else {
                    &word
                };
                return Err(invalid(format!("{name}: {why}")));
            }
            (c, _) => {
                return Err(invalid(format!(
                    "unsupported modifier ({c}) in substitution"
                )));
            }
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self
            .chars
            .next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            name.push(c);
        }
        name
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .find_map(|item| item.split_once('=').filter(|(n, _)| *n == name))
            .map(|(_, value)| value)
    }
}

fn unexpected_end() -> ImageError {
    invalid("syntax error: missing '}'")
}

fn missing_quote() -> ImageError {
    invalid("unexpected end of statement while looking for matching quote")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_variables() {
        let env = ["A=1".to_owned(), "E=".to_owned()];
        for (text, want) in [
            ("$A", "1"),
            ("${A}b$Z.", "1b."),
            ("\"a $A\\\"\\n\"", "a 1\"\\n"),
            ("'a $A'", "a $A"),
            ("\\$A", "$A"),
            ("${Z:-x$A}", "x1"),
            ("${E:-x}${E-y}", "x"),
            ("${A:+set}${Z:+set}", "set"),
            ("$", "$"),
            ("${Z:-${Y:-deep}}", "deep"),
        ] {
            assert_eq!(expand(text, &env).unwrap(), want, "{text}");
        }
        for bad in ["\"a", "'a", "${A", "${}", "${Z:?gone}", "${A/x/y}", "${A:"] {
            assert!(expand(bad, &env).is_err(), "{bad}");
        }
        assert!(expand(&"${A:-".repeat(100), &env).is_err());
        assert_eq!(split("a 'b c'=d e\\ f"), ["a", "'b c'=d", "e\\ f"]);
    }
}
