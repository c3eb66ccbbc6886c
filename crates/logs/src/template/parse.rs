//! From a template's text to its nodes.

use super::value::Value;
use super::{BadTemplate, functions};

/// Actions in one another at most; so is what is in parentheses.
const MAX_DEPTH: usize = 32;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Text(String),
    Print(Pipe),
    /// `if` and `with` (which sets the dot).
    Choice {
        with: bool,
        pipe: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Commands; each gets what the one before gave as its last argument.
pub(super) type Pipe = Vec<Command>;

/// A function or a value, with arguments.
pub(super) type Command = Vec<Operand>;

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operand {
    pub(super) what: What,
    /// Fields of it: `.A.B`.
    pub(super) fields: Vec<String>,
    /// Where it begins in the template.
    pub(super) at: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Dot,
    Function(String),
    Constant(Value),
    Parentheses(Pipe),
}

/// A part of the text between actions, or the inside of an action.
enum Piece<'a> {
    Text(&'a str),
    Action(&'a str, usize),
}

/// Cuts a template at its actions; text is trimmed where they ask for it, comments are left out.
fn pieces(template: &str) -> Result<Vec<Piece<'_>>, BadTemplate> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim = false;
    loop {
        let rest = &template[at..];
        let open = rest.find("{{");
        let mut text = &rest[..open.unwrap_or(rest.len())];
        if trim {
            text = text.trim_start();
        }
        let Some(open) = open else {
            pieces.push(Piece::Text(text));
            return Ok(pieces);
        };
        let mut start = at + open + 2;
        let begins_trimming = |s: &str| s.starts_with('-') && s[1..].starts_with([' ', '\t', '\n']);
        if begins_trimming(&template[start..]) {
            text = text.trim_end();
            start += 1;
        }
        pieces.push(Piece::Text(text));
        let inside = &template[start..];
        let (len, comment) = action_end(inside)?;
        let mut body = &inside[..len];
        trim = body.ends_with('-') && body[..len - 1].ends_with([' ', '\t', '\n']);
        if trim {
            body = &body[..len - 1];
        }
        at = start + len + 2;
        if !comment {
            pieces.push(Piece::Action(body, start));
        }
    }
}

/// Where the `}}` of an action is that is not in a string, and whether it is a comment.
fn action_end(inside: &str) -> Result<(usize, bool), BadTemplate> {
    if let Some(comment) = inside.trim_start().strip_prefix("/*") {
        let end = comment
            .find("*/")
            .ok_or_else(|| BadTemplate::syntax("unclosed comment"))?;
        let from = inside.len() - comment.len() + end + 2;
        let close = inside[from..].find("}}").map(|n| from + n);
        return match close {
            Some(close) if matches!(inside[from..close].trim(), "" | "-") => Ok((close, true)),
            _ => Err(BadTemplate::syntax("comment ends before closing delimiter")),
        };
    }
    let bytes = inside.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Ok((at, false)),
            quote @ (b'"' | b'`' | b'\'') => at = string_end(bytes, at, quote)?,
            _ => at += 1,
        }
    }
    Err(BadTemplate::syntax("unclosed action"))
}

/// Past the end of the string that begins at `at`.
fn string_end(bytes: &[u8], at: usize, quote: u8) -> Result<usize, BadTemplate> {
    let mut n = at + 1;
    while let Some(byte) = bytes.get(n) {
        match byte {
            b if *b == quote => return Ok(n + 1),
            b'\\' if quote != b'`' => n += 2,
            b'\n' if quote != b'`' => break,
            _ => n += 1,
        }
    }
    Err(BadTemplate::syntax(match quote {
        b'`' => "unterminated raw quoted string",
        b'"' => "unterminated quoted string",
        _ => "unterminated character constant",
    }))
}

/// The nodes of a template.
pub(super) fn parse(template: &str) -> Result<Vec<Node>, BadTemplate> {
    let pieces = pieces(template)?;
    let mut pieces = pieces.iter();
    let (nodes, end) = block(&mut pieces, 0)?;
    match end {
        Ending::Template => Ok(nodes),
        Ending::Closed => Err(BadTemplate::syntax("unexpected {{end}}")),
        Ending::Else(_) => Err(BadTemplate::syntax("unexpected {{else}}")),
    }
}

/// What a block ends with.
enum Ending<'a> {
    Template,
    Closed,
    /// With what stands behind `else`.
    Else(Option<(&'a str, usize)>),
}

fn block<'a>(
    pieces: &mut std::slice::Iter<'_, Piece<'a>>,
    depth: usize,
) -> Result<(Vec<Node>, Ending<'a>), BadTemplate> {
    if depth > MAX_DEPTH {
        return Err(BadTemplate::syntax("too deep"));
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let (body, at) = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text((*text).to_owned()));
                continue;
            }
            Piece::Action(body, at) => (*body, *at),
        };
        let (word, rest) = keyword(body);
        let rest_at = at + (body.len() - rest.len());
        match word {
            "if" | "with" => nodes.push(choice(word == "with", rest, rest_at, pieces, depth)?),
            "end" => return Ok((nodes, Ending::Closed)),
            "else" => {
                let more = (!rest.trim().is_empty()).then_some((rest, rest_at));
                return Ok((nodes, Ending::Else(more)));
            }
            "range" | "define" | "template" | "block" | "break" | "continue" => {
                return Err(BadTemplate::NotBuilt(word.to_owned()));
            }
            _ => nodes.push(Node::Print(pipe(body, at)?)),
        }
    }
    Ok((nodes, Ending::Template))
}

/// The word that an action begins with, and the rest.
fn keyword(body: &str) -> (&str, &str) {
    let start = body.trim_start();
    let end = start
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(start.len());
    start.split_at(end)
}

fn choice(
    with: bool,
    condition: &str,
    at: usize,
    pieces: &mut std::slice::Iter<'_, Piece<'_>>,
    depth: usize,
) -> Result<Node, BadTemplate> {
    let pipe = pipe(condition, at)?;
    let (then, end) = block(pieces, depth + 1)?;
    let otherwise = match end {
        Ending::Closed => Vec::new(),
        Ending::Template => return Err(BadTemplate::syntax("unexpected EOF")),
        Ending::Else(None) => match block(pieces, depth + 1)? {
            (nodes, Ending::Closed) => nodes,
            (_, Ending::Template) => return Err(BadTemplate::syntax("unexpected EOF")),
            (_, Ending::Else(_)) => return Err(BadTemplate::syntax("unexpected {{else}}")),
        },
        Ending::Else(Some((more, more_at))) => {
            let (word, rest) = keyword(more);
            let rest_at = more_at + (more.len() - rest.len());
            match word {
                "if" | "with" => vec![choice(word == "with", rest, rest_at, pieces, depth + 1)?],
                _ => return Err(BadTemplate::syntax(format!("unexpected <{word}> in else"))),
            }
        }
    };
    Ok(Node::Choice {
        with,
        pipe,
        then,
        otherwise,
    })
}

fn pipe(text: &str, at: usize) -> Result<Pipe, BadTemplate> {
    let mut words = Words {
        text,
        at: 0,
        base: at,
    };
    let pipe = words.pipe(0)?;
    match words.rest() {
        "" => Ok(pipe),
        _ => Err(BadTemplate::syntax("unexpected \")\"")),
    }
}

/// Reads the words of an action.
struct Words<'a> {
    text: &'a str,
    at: usize,
    base: usize,
}

impl<'a> Words<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Up to the end, or to a closing parenthesis.
    fn pipe(&mut self, depth: usize) -> Result<Pipe, BadTemplate> {
        if depth > MAX_DEPTH {
            return Err(BadTemplate::syntax("too deep"));
        }
        let mut pipe = vec![Command::new()];
        loop {
            self.skip_blanks();
            let Some(next) = self.rest().chars().next() else {
                break;
            };
            match next {
                ')' => break,
                '|' => {
                    self.at += 1;
                    check_command(&pipe)?;
                    pipe.push(Command::new());
                }
                _ => {
                    let operand = self.operand(next, depth)?;
                    if let Some(command) = pipe.last_mut() {
                        command.push(operand);
                    }
                }
            }
        }
        check_command(&pipe)?;
        Ok(pipe)
    }

    fn operand(&mut self, first: char, depth: usize) -> Result<Operand, BadTemplate> {
        let at = self.base + self.at;
        let what = match first {
            '.' => What::Dot,
            '(' => {
                self.at += 1;
                let pipe = self.pipe(depth + 1)?;
                if !self.rest().starts_with(')') {
                    return Err(BadTemplate::syntax("unclosed left paren"));
                }
                self.at += 1;
                What::Parentheses(pipe)
            }
            '"' | '`' => What::Constant(Value::Text(self.string(first)?)),
            '$' => return Err(BadTemplate::NotBuilt("a variable".to_owned())),
            '\'' => return Err(BadTemplate::NotBuilt("a character constant".to_owned())),
            c if c.is_ascii_digit() || c == '-' || c == '+' => self.number()?,
            c if c.is_alphabetic() || c == '_' => self.word()?,
            c => {
                return Err(BadTemplate::syntax(format!(
                    "unexpected {:?} in command",
                    c.to_string()
                )));
            }
        };
        Ok(Operand {
            what,
            fields: self.fields(),
            at,
        })
    }

    fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn fields(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while self.rest().starts_with('.') {
            self.at += 1;
            let name = self.name();
            if name.is_empty() {
                break;
            }
            fields.push(name.to_owned());
        }
        fields
    }

    fn word(&mut self) -> Result<What, BadTemplate> {
        Ok(match self.name() {
            "true" => What::Constant(Value::Bool(true)),
            "false" => What::Constant(Value::Bool(false)),
            "nil" => What::Constant(Value::Nothing),
            name if functions::exists(name) => What::Function(name.to_owned()),
            name => {
                return Err(BadTemplate::syntax(format!(
                    "function {name:?} not defined"
                )));
            }
        })
    }

    fn number(&mut self) -> Result<What, BadTemplate> {
        let rest = self.rest();
        let end = rest[1..]
            .find(|c: char| !c.is_alphanumeric() && c != '.' && c != '_')
            .map_or(rest.len(), |n| n + 1);
        self.at += end;
        let text = &rest[..end];
        let number = text.parse::<i64>();
        number
            .map(|n| What::Constant(Value::Int(n)))
            .map_err(|_| BadTemplate::syntax(format!("bad number syntax: {text:?}")))
    }

    fn string(&mut self, quote: char) -> Result<String, BadTemplate> {
        let rest = self.rest();
        let end = string_end(rest.as_bytes(), 0, quote as u8)?;
        let whole = rest
            .get(..end)
            .ok_or_else(|| BadTemplate::syntax("unterminated quoted string"))?;
        self.at += end;
        let inside = &whole[1..whole.len() - 1];
        if quote == '`' {
            return Ok(inside.to_owned());
        }
        // Escapes of Go that JSON has too.
        serde_json::from_str(whole).map_err(|_| BadTemplate::syntax("invalid syntax"))
    }
}

fn check_command(pipe: &Pipe) -> Result<(), BadTemplate> {
    match pipe.last() {
        Some(command) if command.is_empty() => Err(BadTemplate::syntax(if pipe.len() > 1 {
            "missing value for command in pipeline"
        } else {
            "missing value for command"
        })),
        _ => Ok(()),
    }
}
