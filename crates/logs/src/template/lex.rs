//! From a template's text to its words. The rules, and the words for what is wrong, are those of Go's text/template.

/// What a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Between actions.
    Text,
    Open,
    Close,
    Space,
    /// `true`, `false`.
    Bool,
    /// Quoted by `'`.
    Char,
    Number,
    /// With an imaginary part.
    Complex,
    Dot,
    /// `.Name`.
    Field,
    Function,
    Keyword,
    Nil,
    /// Quoted by `"` or `` ` ``.
    Quoted,
    /// `$name`.
    Variable,
    Pipe,
    Declare,
    Assign,
    OpenParen,
    CloseParen,
    /// Another sign.
    Sign,
    End,
    /// The text says what is wrong; it is the last one.
    Wrong,
}

/// A word of a template.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) text: String,
    /// Where it begins.
    pub(super) at: usize,
    /// Counts from 1.
    pub(super) line: usize,
}

const KEYWORDS: &[&str] = &[
    "block", "break", "continue", "define", "else", "end", "if", "range", "template", "with",
];
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// All words of a template.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        text,
        at: 0,
        parens: 0,
        found: Vec::new(),
    };
    if let Err(why) = lexer.run() {
        lexer.push(Kind::Wrong, lexer.at, why);
    }
    lexer.found
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Parentheses that are open.
    parens: usize,
    found: Vec<Token>,
}

/// A sign as Go's `%#U`.
fn shown(c: Option<char>) -> String {
    match c {
        Some(c) if c.is_control() => format!("U+{:04X}", u32::from(c)),
        Some(c) => format!("U+{:04X} '{c}'", u32::from(c)),
        None => "U+FFFFFFFFFFFFFFFF".to_owned(),
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// How an action ends here: not, or with how many bytes and whether what follows is trimmed.
fn close_at(rest: &str) -> Option<(usize, bool)> {
    let trimming = rest.starts_with(BLANKS) && rest[1..].starts_with("-}}");
    match trimming {
        true => Some((4, true)),
        false => rest.starts_with("}}").then_some((2, false)),
    }
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, wanted: &str) -> bool {
        let found = self.peek().is_some_and(|c| wanted.contains(c));
        if found {
            self.at += 1;
        }
        found
    }

    fn accept_run(&mut self, wanted: &str) {
        while self.accept(wanted) {}
    }

    fn push(&mut self, kind: Kind, from: usize, text: impl Into<String>) {
        let line = match self.found.last() {
            // Only what is new is looked through.
            Some(last) => last.line + newlines(&self.text[last.at..from]),
            None => 1 + newlines(&self.text[..from]),
        };
        self.found.push(Token {
            kind,
            text: text.into(),
            at: from,
            line,
        });
    }

    /// A word from `from` to here.
    fn word(&mut self, kind: Kind, from: usize) {
        self.push(kind, from, &self.text[from..self.at]);
    }

    fn run(&mut self) -> Result<(), String> {
        let mut trim = false;
        loop {
            if trim {
                self.at += self.rest().len() - self.rest().trim_start_matches(BLANKS).len();
            }
            let open = self.rest().find("{{");
            let mut text = &self.rest()[..open.unwrap_or(self.rest().len())];
            let from = self.at;
            self.at += text.len();
            let inside = self.rest().strip_prefix("{{");
            let trimming = inside.is_some_and(|r| r.starts_with('-') && r[1..].starts_with(BLANKS));
            if trimming {
                text = text.trim_end_matches(BLANKS);
            }
            if !text.is_empty() {
                self.push(Kind::Text, from, text);
            }
            if inside.is_none() {
                self.push(Kind::End, self.at, "");
                return Ok(());
            }
            let begin = self.at;
            self.at += if trimming { 4 } else { 2 };
            trim = match self.rest().starts_with("/*") {
                true => self.comment()?,
                false => {
                    self.push(Kind::Open, begin, "{{");
                    self.parens = 0;
                    self.action()?
                }
            };
        }
    }

    /// Whether what follows is trimmed.
    fn comment(&mut self) -> Result<bool, String> {
        let end = self.rest().find("*/").ok_or("unclosed comment")?;
        self.at += end + 2;
        let (len, trim) = close_at(self.rest()).ok_or("comment ends before closing delimiter")?;
        self.at += len;
        Ok(trim)
    }

    /// Up to the end of an action. Whether what follows is trimmed.
    fn action(&mut self) -> Result<bool, String> {
        loop {
            if let Some((len, trim)) = close_at(self.rest()) {
                if self.parens > 0 {
                    return Err("unclosed left paren".to_owned());
                }
                let from = self.at;
                self.at += len;
                self.push(Kind::Close, from, "}}");
                return Ok(trim);
            }
            let from = self.at;
            let c = self.next().ok_or("unclosed action")?;
            match c {
                c if BLANKS.contains(&c) => {
                    // A blank before a trimming end belongs to that.
                    while close_at(self.rest()).is_none() && self.accept(" \t\r\n") {}
                    self.word(Kind::Space, from);
                }
                '=' => self.word(Kind::Assign, from),
                ':' if self.next() != Some('=') => return Err("expected :=".to_owned()),
                ':' => self.word(Kind::Declare, from),
                '|' => self.word(Kind::Pipe, from),
                '"' | '\'' | '`' => self.quoted(c, from)?,
                '$' => self.name(Kind::Variable, Kind::Variable, from)?,
                '.' if !self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                    self.name(Kind::Field, Kind::Dot, from)?;
                }
                '.' | '+' | '-' | '0'..='9' => {
                    self.at = from;
                    self.number(from)?;
                }
                c if is_word(c) => self.identifier(from)?,
                '(' => {
                    self.parens += 1;
                    self.word(Kind::OpenParen, from);
                }
                ')' => {
                    let left = self.parens.checked_sub(1);
                    self.parens = left.ok_or("unexpected right paren")?;
                    self.word(Kind::CloseParen, from);
                }
                ' '..='~' => self.word(Kind::Sign, from),
                c => {
                    return Err(format!(
                        "unrecognized character in action: {}",
                        shown(Some(c))
                    ));
                }
            }
        }
    }

    /// Whether a word may end here.
    fn at_end_of_word(&self) -> bool {
        match self.peek() {
            None | Some('.' | ',' | '|' | ':' | ')' | '(') => true,
            Some(c) => BLANKS.contains(&c) || self.rest().starts_with("}}"),
        }
    }

    fn rest_of_word(&mut self) -> Result<(), String> {
        while self.peek().is_some_and(is_word) {
            self.next();
        }
        match self.at_end_of_word() {
            true => Ok(()),
            false => Err(format!("bad character {}", shown(self.peek()))),
        }
    }

    /// A field or a variable, or only its first sign.
    fn name(&mut self, kind: Kind, alone: Kind, from: usize) -> Result<(), String> {
        if self.at_end_of_word() {
            self.word(alone, from);
            return Ok(());
        }
        self.rest_of_word()?;
        self.word(kind, from);
        Ok(())
    }

    fn identifier(&mut self, from: usize) -> Result<(), String> {
        self.rest_of_word()?;
        let kind = match &self.text[from..self.at] {
            "true" | "false" => Kind::Bool,
            "nil" => Kind::Nil,
            word if KEYWORDS.contains(&word) => Kind::Keyword,
            _ => Kind::Function,
        };
        self.word(kind, from);
        Ok(())
    }

    fn quoted(&mut self, quote: char, from: usize) -> Result<(), String> {
        let (kind, what) = match quote {
            '`' => (Kind::Quoted, "unterminated raw quoted string"),
            '"' => (Kind::Quoted, "unterminated quoted string"),
            _ => (Kind::Char, "unterminated character constant"),
        };
        loop {
            match self.next().ok_or(what)? {
                c if c == quote => break,
                '\n' if quote != '`' => return Err(what.to_owned()),
                '\\' if quote != '`' && matches!(self.next(), None | Some('\n')) => {
                    return Err(what.to_owned());
                }
                _ => {}
            }
        }
        self.word(kind, from);
        Ok(())
    }

    fn number(&mut self, from: usize) -> Result<(), String> {
        let first = self.digits();
        let complex = first && matches!(self.peek(), Some('+' | '-'));
        let fine = match complex {
            true => self.digits() && self.text[..self.at].ends_with('i'),
            false => first,
        };
        if !fine {
            let text = super::escape::quoted(&self.text[from..self.at]);
            return Err(format!("bad number syntax: {text}"));
        }
        let imaginary = self.text[..self.at].ends_with('i');
        self.word(
            if imaginary {
                Kind::Complex
            } else {
                Kind::Number
            },
            from,
        );
        Ok(())
    }

    fn digits(&mut self) -> bool {
        const DECIMAL: &str = "0123456789_";
        self.accept("+-");
        let (mut digits, mut exponent) = (DECIMAL, "eE");
        if self.accept("0") {
            if self.accept("xX") {
                (digits, exponent) = ("0123456789abcdefABCDEF_", "pP");
            } else if self.accept("oO") {
                (digits, exponent) = ("01234567_", "");
            } else if self.accept("bB") {
                (digits, exponent) = ("01_", "");
            }
        }
        self.accept_run(digits);
        if self.accept(".") {
            self.accept_run(digits);
        }
        if self.accept(exponent) {
            self.accept("+-");
            self.accept_run(DECIMAL);
        }
        self.accept("i");
        if self.peek().is_some_and(is_word) {
            self.next();
            return false;
        }
        true
    }
}

fn newlines(text: &str) -> usize {
    memchr::memchr_iter(b'\n', text.as_bytes()).count()
}
