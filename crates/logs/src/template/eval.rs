//! A template's nodes to text.

use crate::info::LogInfo;

use super::ast::{Branch, Call, Command, Node, Operand, Pipe, What};
use super::functions::{self, Failed, Takes, Want};
use super::parse::Templates;
use super::value::{Value, text};
use super::{BadTemplate, MAX_EXEC_DEPTH, MAX_STEPS, MAX_TAG_BYTES, NAME, fields, number};

/// Runs the template that was given.
pub(super) fn run(
    template: &str,
    templates: &Templates,
    info: &LogInfo,
) -> Result<String, BadTemplate> {
    let mut run = Run {
        template,
        templates,
        info,
        name: NAME,
        at: At::Start,
        variables: vec![("$".to_owned(), Value::Info)],
        depth: 0,
        steps: 0,
        out: String::new(),
    };
    if let Some(nodes) = templates.get(NAME) {
        run.list(nodes, &Value::Info)?;
    }
    Ok(run.out)
}

/// What was looked at last: an error names it.
#[derive(Clone, Copy)]
enum At<'a> {
    Start,
    Pipe(&'a Pipe),
    Command(&'a Command),
    Operand(&'a Operand),
    Call(&'a Call),
}

/// How a list of nodes ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Through,
    Break,
    Continue,
}

struct Run<'a> {
    template: &'a str,
    templates: &'a Templates,
    info: &'a LogInfo,
    /// Of the template that is run.
    name: &'a str,
    at: At<'a>,
    variables: Vec<(String, Value)>,
    depth: usize,
    steps: usize,
    out: String,
}

type Done<T> = Result<T, BadTemplate>;

impl<'a> Run<'a> {
    /// An error in Go's form.
    fn error(&self, why: impl std::fmt::Display) -> BadTemplate {
        let (place, what) = match self.at {
            At::Start => (0, String::new()),
            At::Pipe(pipe) => (pipe.at, pipe.to_string()),
            At::Command(command) => (command.at, command.to_string()),
            At::Operand(operand) => (operand.at, operand.to_string()),
            At::Call(call) => (call.at, call.to_string()),
        };
        let before = self.template.get(..place).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        let column = place - before.rfind('\n').map_or(0, |n| n + 1);
        let name = self.name;
        BadTemplate::Refused(format!(
            "{line}:{column}: executing \"{name}\" at <{what}>: {why}"
        ))
    }

    fn step(&mut self) -> Done<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(BadTemplate::TooMuch);
        }
        match self.out.len() > MAX_TAG_BYTES {
            true => Err(BadTemplate::TooLong),
            false => Ok(()),
        }
    }

    /// One step deeper; [`Run::up`] undoes it.
    fn down(&mut self) -> Done<()> {
        self.depth += 1;
        if self.depth > MAX_EXEC_DEPTH {
            let text = format!("exceeded maximum template depth ({MAX_EXEC_DEPTH})");
            return Err(self.error(text));
        }
        Ok(())
    }

    fn up(&mut self) {
        self.depth -= 1;
    }

    fn list(&mut self, nodes: &'a [Node], dot: &Value) -> Done<Flow> {
        self.down()?;
        let mut flow = Flow::Through;
        for node in nodes {
            self.step()?;
            flow = self.node(node, dot)?;
            if flow != Flow::Through {
                break;
            }
        }
        self.step()?;
        self.up();
        Ok(flow)
    }

    fn node(&mut self, node: &'a Node, dot: &Value) -> Done<Flow> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                self.at = At::Pipe(pipe);
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.out.push_str(&value.printed(self.info));
                }
            }
            Node::If(branch) => return self.choice(branch, dot, false),
            Node::With(branch) => return self.choice(branch, dot, true),
            Node::Range(branch) => return self.range(branch, dot),
            Node::Template(call) => self.call(call, dot)?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Through)
    }

    fn choice(&mut self, branch: &'a Branch, dot: &Value, with: bool) -> Done<Flow> {
        let known = self.variables.len();
        let value = self.pipe(&branch.pipe, dot)?;
        let flow = match value.is_true() {
            true if with => self.list(&branch.then, &value),
            true => self.list(&branch.then, dot),
            false => self.list(&branch.otherwise, dot),
        };
        self.variables.truncate(known);
        flow
    }

    fn range(&mut self, branch: &'a Branch, dot: &Value) -> Done<Flow> {
        let known = self.variables.len();
        let value = self.pipe(&branch.pipe, dot)?;
        let some = match &value {
            Value::List(list) => {
                for (n, element) in list.iter().enumerate() {
                    let index = Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
                    if self.turn(branch, index, text(element))? == Flow::Break {
                        break;
                    }
                }
                !list.is_empty()
            }
            Value::Map(map) => {
                for (key, element) in map {
                    if self.turn(branch, text(key), text(element))? == Flow::Break {
                        break;
                    }
                }
                !map.is_empty()
            }
            Value::Int(_) if branch.pipe.variables.len() > 1 => {
                let shown = value.shown(self.info);
                let why = format!("can't use {shown} to iterate over more than one variable");
                return Err(self.error(why));
            }
            Value::Int(count) => {
                for n in 0..*count {
                    if self.turn(branch, Value::Int(n), Value::Int(n))? == Flow::Break {
                        break;
                    }
                }
                *count > 0
            }
            Value::Nothing => false,
            other => {
                let shown = other.printed(self.info);
                return Err(self.error(format!("range can't iterate over {shown}")));
            }
        };
        let flow = match some {
            true => Flow::Through,
            false => self.list(&branch.otherwise, dot)?,
        };
        self.variables.truncate(known);
        Ok(flow)
    }

    /// One turn of a loop.
    fn turn(&mut self, branch: &'a Branch, index: Value, element: Value) -> Done<Flow> {
        self.step()?;
        let values = match branch.pipe.variables.len() {
            0 => vec![],
            1 => vec![element.clone()],
            _ => vec![index, element.clone()],
        };
        let known = self.variables.len();
        for (n, (name, value)) in branch.pipe.variables.iter().zip(values).enumerate() {
            if branch.pipe.assigns {
                self.assign(name, value)?;
            } else {
                // They were made with the pipeline's value.
                let at = known - branch.pipe.variables.len() + n;
                self.variables[at].1 = value;
            }
        }
        let flow = self.list(&branch.then, &element);
        self.variables.truncate(known);
        flow
    }

    fn call(&mut self, call: &'a Call, dot: &Value) -> Done<()> {
        self.at = At::Call(call);
        let Some(nodes) = self.templates.get(&call.name) else {
            let name = super::escape::quoted(&call.name);
            return Err(self.error(format!("template {name} not defined")));
        };
        self.down()?;
        let dot = match &call.pipe {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Value::Nothing,
        };
        let own = vec![("$".to_owned(), dot.clone())];
        let outer = (std::mem::replace(&mut self.variables, own), self.name);
        self.name = &call.name;
        self.list(nodes, &dot)?;
        (self.variables, self.name) = outer;
        self.up();
        Ok(())
    }

    fn assign(&mut self, name: &str, value: Value) -> Done<()> {
        let found = self.variables.iter_mut().rev().find(|(n, _)| n == name);
        match found {
            Some((_, old)) => *old = value,
            None => return Err(self.error(format!("undefined variable: {name}"))),
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &'a Pipe, dot: &Value) -> Done<Value> {
        self.down()?;
        self.at = At::Pipe(pipe);
        let mut last = None;
        for command in &pipe.commands {
            self.step()?;
            last = Some(self.command(command, dot, last)?);
        }
        let value = last.unwrap_or(Value::Nothing);
        for name in &pipe.variables {
            match pipe.assigns {
                true => self.assign(name, value.clone())?,
                false => self.variables.push((name.clone(), value.clone())),
            }
        }
        self.up();
        Ok(value)
    }

    fn command(&mut self, command: &'a Command, dot: &Value, last: Option<Value>) -> Done<Value> {
        let Some((first, arguments)) = command.words.split_first() else {
            return Ok(Value::Nothing);
        };
        let call = Arguments {
            words: arguments,
            last,
        };
        match &first.what {
            What::Function(name) => {
                return self.function(name, first, At::Command(command), dot, call);
            }
            What::Field(_) | What::Variable(_) | What::Chain(..) => {
                return self.named(first, dot, call);
            }
            What::Pipe(pipe) => {
                self.only(first, &call)?;
                return self.pipe(pipe, dot);
            }
            _ => {}
        }
        self.at = At::Operand(first);
        self.only(first, &call)?;
        match &first.what {
            What::Nil => Err(self.error("nil is not a command")),
            _ => self.constant(first, dot),
        }
    }

    /// An error if there are arguments.
    fn only(&self, first: &Operand, call: &Arguments<'_>) -> Done<()> {
        match call.words.is_empty() && call.last.is_none() {
            true => Ok(()),
            false => Err(self.error(format!("can't give argument to non-function {first}"))),
        }
    }

    /// The value of a word that stands for itself.
    fn constant(&self, operand: &Operand, dot: &Value) -> Done<Value> {
        Ok(match &operand.what {
            What::Dot => dot.clone(),
            What::Bool(b) => Value::Bool(*b),
            What::Text { value, .. } => text(value),
            What::Number(n) => match (n.int, n.float) {
                (_, Some(float)) if number::is_float(&n.text) => Value::Float(float),
                (Some(int), _) => Value::Int(int),
                _ => return Err(self.error(format!("{} overflows int", n.text))),
            },
            _ => Value::Nothing,
        })
    }

    /// Fields of the dot, of a variable or of something in parentheses.
    fn named(&mut self, operand: &'a Operand, dot: &Value, call: Arguments<'a>) -> Done<Value> {
        self.at = At::Operand(operand);
        let (mut value, fields): (Value, &[String]) = match &operand.what {
            What::Field(names) => (dot.clone(), names),
            What::Variable(names) => {
                let name = names.first().map_or("", String::as_str);
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                let Some((_, value)) = found else {
                    return Err(self.error(format!("undefined variable: {name}")));
                };
                (value.clone(), names.get(1..).unwrap_or_default())
            }
            What::Chain(of, names) => (self.argument(of, Want::Any, dot)?, names),
            _ => (Value::Nothing, &[]),
        };
        let Some((last, others)) = fields.split_last() else {
            self.only(operand, &call)?;
            return Ok(value);
        };
        for name in others {
            value = self.field(operand, &value, name, dot, Arguments::none())?;
        }
        self.field(operand, &value, last, dot, call)
    }

    fn field(
        &mut self,
        operand: &'a Operand,
        value: &Value,
        name: &str,
        dot: &Value,
        call: Arguments<'a>,
    ) -> Done<Value> {
        let info = self.info;
        if let Some((takes, found)) = fields::method(info, value, name)? {
            self.arguments(name, takes, dot, call)?;
            if let Some(found) = found {
                return Ok(found);
            }
            let found = info.attributes(str::to_owned);
            return found.map(Value::Map).map_err(|e| {
                self.at = At::Operand(operand);
                self.error(format!("error calling {name}: {e}"))
            });
        }
        let has_arguments = !call.words.is_empty() || call.last.is_some();
        let found = match value {
            Value::Nothing => return Ok(Value::Nothing),
            Value::Map(_) if has_arguments => {
                return Err(self.error(format!("{name} is not a method but has arguments")));
            }
            Value::Map(map) => return Ok(map.get(name).map_or(Value::Nothing, text)),
            Value::Info => fields::of_info(info, name),
            _ => None,
        };
        match found {
            Some(_) if has_arguments => Err(self.error(format!(
                "{name} has arguments but cannot be invoked as function"
            ))),
            Some(value) => Ok(value),
            None => {
                let of = value.type_name();
                Err(self.error(format!("can't evaluate field {name} in type {of}")))
            }
        }
    }

    fn function(
        &mut self,
        name: &str,
        word: &'a Operand,
        whole: At<'a>,
        dot: &Value,
        call: Arguments<'a>,
    ) -> Done<Value> {
        self.at = At::Operand(word);
        let Some(takes) = functions::takes(name) else {
            return Err(self.error(format!("{name:?} is not a defined function")));
        };
        if matches!(name, "and" | "or") {
            self.count(name, takes, &call)?;
            return self.logic(name == "or", dot, call);
        }
        let words = call.words;
        let values = self.arguments(name, takes, dot, call)?;
        let called = match name {
            "call" => Err(match (&values[0], words.first()) {
                (Value::Nothing, _) => Failed::Words("call of nil".to_owned()),
                (value, word) => {
                    let word = word.map_or_else(String::new, Operand::to_string);
                    let of = value.type_name();
                    Failed::Words(format!("non-function {word} of type {of}"))
                }
            }),
            _ => functions::call(self.info, name, &values),
        };
        called.map_err(|failed| match failed {
            Failed::Template(error) => error,
            Failed::Words(why) => {
                self.at = whole;
                self.error(format!("error calling {name}: {why}"))
            }
        })
    }

    /// `and` and `or` look at no more than they need.
    fn logic(&mut self, stops_at: bool, dot: &Value, call: Arguments<'a>) -> Done<Value> {
        let mut value = Value::Nothing;
        for word in call.words {
            value = self.argument(word, Want::Any, dot)?;
            if value.is_true() == stops_at {
                return Ok(value);
            }
        }
        Ok(call.last.unwrap_or(value))
    }

    fn count(&self, name: &str, takes: Takes, call: &Arguments<'_>) -> Done<()> {
        let got = call.words.len() + usize::from(call.last.is_some());
        let want = takes.first.len();
        let words = call.words.len();
        match takes.more {
            true if got < want => Err(self.error(format!(
                "wrong number of args for {name}: want at least {want} got {words}"
            ))),
            false if got != want => Err(self.error(format!(
                "wrong number of args for {name}: want {want} got {got}"
            ))),
            _ => Ok(()),
        }
    }

    fn arguments(
        &mut self,
        name: &str,
        takes: Takes,
        dot: &Value,
        call: Arguments<'a>,
    ) -> Done<Vec<Value>> {
        self.count(name, takes, &call)?;
        let before = self.at;
        let want = |n: usize| takes.first.get(n).copied().unwrap_or(Want::Any);
        let mut values = Vec::new();
        for (n, word) in call.words.iter().enumerate() {
            values.push(self.argument(word, want(n), dot)?);
        }
        if let Some(last) = call.last {
            if call.words.is_empty() {
                self.at = before;
            }
            values.push(self.fits(last, want(values.len()))?);
        }
        Ok(values)
    }

    /// The value of an argument.
    fn argument(&mut self, operand: &'a Operand, want: Want, dot: &Value) -> Done<Value> {
        self.step()?;
        self.at = At::Operand(operand);
        let value = match &operand.what {
            What::Nil => {
                return match want {
                    Want::Text | Want::Int => {
                        Err(self.error(format!("cannot assign nil to {}", want.type_name())))
                    }
                    _ => Ok(Value::Nothing),
                };
            }
            What::Dot => dot.clone(),
            What::Pipe(pipe) => self.pipe(pipe, dot)?,
            What::Function(name) => {
                let none = Arguments::none();
                self.function(name, operand, At::Operand(operand), dot, none)?
            }
            What::Field(_) | What::Variable(_) | What::Chain(..) => {
                self.named(operand, dot, Arguments::none())?
            }
            What::Bool(_) | What::Number(_) | What::Text { .. } => {
                return self.constant_for(operand, want, dot);
            }
        };
        self.fits(value, want)
    }

    /// A constant where something of a type is wanted.
    fn constant_for(&self, operand: &Operand, want: Want, dot: &Value) -> Done<Value> {
        match (want, &operand.what) {
            (Want::Any, _) | (Want::Text, What::Text { .. }) => self.constant(operand, dot),
            (Want::Int, What::Number(n)) if n.int.is_some() => {
                Ok(Value::Int(n.int.unwrap_or_default()))
            }
            (Want::Text, _) => Err(self.error(format!("expected string; found {operand}"))),
            (Want::Int, _) => Err(self.error(format!("expected integer; found {operand}"))),
            (Want::List | Want::Function, _) => {
                let of = want.type_name();
                Err(self.error(format!("can't handle {operand} for arg of type {of}")))
            }
        }
    }

    fn fits(&self, value: Value, want: Want) -> Done<Value> {
        let fine = match (&value, want) {
            (_, Want::Any)
            | (Value::Text(_), Want::Text)
            | (Value::Int(_), Want::Int)
            | (Value::List(_) | Value::Nothing, Want::List)
            | (Value::Nothing, Want::Function) => true,
            (Value::Nothing, _) => {
                let of = want.type_name();
                return Err(self.error(format!("invalid value; expected {of}")));
            }
            _ => false,
        };
        match fine {
            true => Ok(value),
            false => {
                let (of, got) = (want.type_name(), value.type_name());
                Err(self.error(format!("wrong type for value; expected {of}; got {got}")))
            }
        }
    }
}

/// What a function or a method is called with.
struct Arguments<'a> {
    words: &'a [Operand],
    /// What the command before gave.
    last: Option<Value>,
}

impl Arguments<'_> {
    fn none() -> Self {
        Arguments {
            words: &[],
            last: None,
        }
    }
}
