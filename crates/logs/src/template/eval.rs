//! A template's nodes to text.

use crate::info::LogInfo;

use super::parse::{Command, Node, Operand, Pipe, What};
use super::value::Value;
use super::{BadTemplate, MAX_TAG_BYTES, functions};

/// Appends what the nodes give.
pub(super) fn run(nodes: &[Node], info: &LogInfo, out: &mut String) -> Result<(), BadTemplate> {
    let run = Run { info };
    run.nodes(nodes, &Value::Info, out)
}

struct Run<'a> {
    info: &'a LogInfo,
}

impl Run<'_> {
    fn nodes(&self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), BadTemplate> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipe) => out.push_str(&self.pipe(pipe, dot)?.to_string()),
                Node::Choice {
                    with,
                    pipe,
                    then,
                    otherwise,
                } => {
                    let value = self.pipe(pipe, dot)?;
                    match value.is_true() {
                        true if *with => self.nodes(then, &value, out)?,
                        true => self.nodes(then, dot, out)?,
                        false => self.nodes(otherwise, dot, out)?,
                    }
                }
            }
            if out.len() > MAX_TAG_BYTES {
                return Err(BadTemplate::TooLong);
            }
        }
        Ok(())
    }

    fn pipe(&self, pipe: &Pipe, dot: &Value) -> Result<Value, BadTemplate> {
        let mut last = None;
        for command in pipe {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Value::Nothing))
    }

    fn command(
        &self,
        command: &Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Result<Value, BadTemplate> {
        let Some((first, arguments)) = command.split_first() else {
            return Ok(Value::Nothing);
        };
        let mut values = Vec::new();
        for argument in arguments {
            values.push(self.operand(argument, dot, Vec::new())?);
        }
        values.extend(last);
        self.operand(first, dot, values)
    }

    /// The value of a word; `arguments` are for a function or a method.
    fn operand(
        &self,
        operand: &Operand,
        dot: &Value,
        mut arguments: Vec<Value>,
    ) -> Result<Value, BadTemplate> {
        let mut value = match &operand.what {
            What::Function(name) => {
                let arguments = std::mem::take(&mut arguments);
                functions::call(name, arguments).map_err(|text| match text {
                    functions::Failed::Words(text) => {
                        at(operand, name, format!("error calling {name}: {text}"))
                    }
                    functions::Failed::Template(error) => error,
                })?
            }
            What::Dot => dot.clone(),
            What::Constant(value) => value.clone(),
            What::Parentheses(pipe) => self.pipe(pipe, dot)?,
        };
        for name in &operand.fields {
            value = self.field(operand, &value, name, &mut arguments)?;
        }
        match arguments.is_empty() {
            true => Ok(value),
            false => Err(at(
                operand,
                &words(operand),
                format!("can't give argument to non-function {}", words(operand)),
            )),
        }
    }

    fn field(
        &self,
        operand: &Operand,
        value: &Value,
        name: &str,
        arguments: &mut Vec<Value>,
    ) -> Result<Value, BadTemplate> {
        let found = match value {
            Value::Map(map) => Some(map.get(name).map_or(Value::Nothing, text)),
            Value::Info => self.info_field(operand, name, arguments)?,
            _ => None,
        };
        found.ok_or_else(|| {
            let what = format!("can't evaluate field {name} in type {}", value.type_name());
            at(operand, &words(operand), what)
        })
    }

    fn info_field(
        &self,
        operand: &Operand,
        name: &str,
        arguments: &mut Vec<Value>,
    ) -> Result<Option<Value>, BadTemplate> {
        let info = self.info;
        Ok(Some(match name {
            "ID" => text(info.short_id()),
            "FullID" | "ContainerID" => text(&info.id),
            "Name" => text(&info.name),
            "ContainerName" => Value::Text(format!("/{}", info.name)),
            "ImageID" => text(info.short_image_id()),
            "ImageFullID" | "ContainerImageID" => text(&info.image_id),
            "ImageName" | "ContainerImageName" => text(&info.image_name),
            "DaemonName" => text("docker"),
            "Command" => Value::Text(info.command()),
            "ContainerEntrypoint" => text(&info.entrypoint),
            "ContainerArgs" => Value::List(info.arguments.clone()),
            "ContainerEnv" => Value::List(info.env.clone()),
            "ContainerLabels" => Value::Map(info.labels.clone()),
            "Config" => Value::Map(info.options.clone()),
            "ExtraAttributes" => {
                if std::mem::take(arguments) != [Value::Nothing] {
                    let what = "wrong number of args for ExtraAttributes: want 1 got 0";
                    return Err(at(operand, &words(operand), what.to_owned()));
                }
                let found = info.attributes(str::to_owned);
                Value::Map(found.map_err(|e| at(operand, &words(operand), e.to_string()))?)
            }
            "Hostname" | "ContainerCreated" | "LogPath" => {
                return Err(BadTemplate::NotBuilt(format!("the field .{name}")));
            }
            _ => return Ok(None),
        }))
    }
}

fn text(text: impl AsRef<str>) -> Value {
    Value::Text(text.as_ref().to_owned())
}

/// The word as the template has it.
fn words(operand: &Operand) -> String {
    let first = match &operand.what {
        What::Function(name) => name.as_str(),
        _ => "",
    };
    let fields: String = operand.fields.iter().map(|f| format!(".{f}")).collect();
    format!("{first}{fields}")
}

/// An error while the template was run, in Go's form.
fn at(operand: &Operand, what: &str, text: String) -> BadTemplate {
    let place = operand.at;
    BadTemplate::Refused(format!(
        "1:{place}: executing \"log-tag\" at <{what}>: {text}"
    ))
}
