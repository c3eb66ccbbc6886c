//! A template's nodes. Shown as text they are what Go shows of its own.

use std::fmt;

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If(Branch),
    /// Sets the dot.
    With(Branch),
    Range(Branch),
    Template(Call),
    Break,
    Continue,
}

/// What is done depending on a pipeline's value.
#[derive(Clone, Debug)]
pub(super) struct Branch {
    pub(super) pipe: Pipe,
    pub(super) then: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

/// A template that is used by its name.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) pipe: Option<Pipe>,
    pub(super) at: usize,
}

/// Commands; each gets what the one before gave as its last argument.
#[derive(Clone, Debug)]
pub(super) struct Pipe {
    /// Variables that get the value.
    pub(super) variables: Vec<String>,
    /// They are there already.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
    pub(super) at: usize,
}

/// A function or a value, with arguments. There is at least one word.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) words: Vec<Operand>,
    pub(super) at: usize,
}

/// A word of a command.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) what: What,
    pub(super) at: usize,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Dot,
    Nil,
    Bool(bool),
    Number(Number),
    Text {
        quoted: String,
        value: String,
    },
    /// Fields of the dot.
    Field(Vec<String>),
    /// A variable's name, and fields of it.
    Variable(Vec<String>),
    Function(String),
    /// Fields of something else.
    Chain(Box<Operand>, Vec<String>),
    Pipe(Pipe),
}

/// A number, as what it can be taken.
#[derive(Clone, Debug)]
pub(super) struct Number {
    pub(super) text: String,
    pub(super) int: Option<i64>,
    pub(super) float: Option<f64>,
}

impl Operand {
    /// Only a function can follow a `|`.
    pub(super) fn is_constant(&self) -> bool {
        use What::{Bool, Dot, Nil, Number, Text};
        matches!(self.what, Bool(_) | Dot | Nil | Number(_) | Text { .. })
    }
}

fn fields(f: &mut fmt::Formatter<'_>, names: &[String]) -> fmt::Result {
    names.iter().try_for_each(|name| write!(f, ".{name}"))
}

/// A word among others.
fn inside(f: &mut fmt::Formatter<'_>, word: &Operand) -> fmt::Result {
    match word.what {
        What::Pipe(_) => write!(f, "({word})"),
        _ => write!(f, "{word}"),
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Dot => f.write_str("."),
            What::Nil => f.write_str("nil"),
            What::Bool(b) => b.fmt(f),
            What::Number(number) => f.write_str(&number.text),
            What::Text { quoted, .. } => f.write_str(quoted),
            What::Field(names) => fields(f, names),
            What::Variable(names) => f.write_str(&names.join(".")),
            What::Function(name) => f.write_str(name),
            What::Chain(of, names) => {
                inside(f, of)?;
                fields(f, names)
            }
            What::Pipe(pipe) => pipe.fmt(f),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, word) in self.words.iter().enumerate() {
            f.write_str(if n > 0 { " " } else { "" })?;
            inside(f, word)?;
        }
        Ok(())
    }
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            let sign = if self.assigns { "=" } else { ":=" };
            write!(f, "{} {sign} ", self.variables.join(", "))?;
        }
        for (n, command) in self.commands.iter().enumerate() {
            let between = if n > 0 { " | " } else { "" };
            write!(f, "{between}{command}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{{template {}", super::escape::quoted(&self.name))?;
        if let Some(pipe) = &self.pipe {
            write!(f, " {pipe}")?;
        }
        f.write_str("}}")
    }
}
