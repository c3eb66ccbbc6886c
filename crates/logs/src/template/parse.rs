//! From a template's words to its nodes.

use std::collections::BTreeMap;

use super::ast::{Branch, Call, Command, Node, Number, Operand, Pipe, What};
use super::escape::{character, quoted, unquote};
use super::lex::{Kind, Token, tokens};
use super::{BadTemplate, NAME, functions, number};

/// Actions in one another at most; so is what is in parentheses.
const MAX_DEPTH: usize = 32;

/// Templates by their names; the one that was given is [`NAME`].
pub(super) type Templates = BTreeMap<String, Vec<Node>>;

/// The nodes of a template.
pub(super) fn parse(text: &str) -> Result<Templates, BadTemplate> {
    let mut parser = Parser {
        tokens: tokens(text),
        next: 0,
        variables: vec!["$".to_owned()],
        ranges: 0,
        depth: 0,
        templates: Templates::new(),
    };
    let main = parser.main()?;
    parser.add(NAME.to_owned(), main)?;
    Ok(parser.templates)
}

struct Parser {
    /// Ends with `End` or `Wrong`.
    tokens: Vec<Token>,
    next: usize,
    /// Names that are known here.
    variables: Vec<String>,
    /// Loops around what is read.
    ranges: usize,
    depth: usize,
    templates: Templates,
}

/// What a list of nodes ends with.
#[derive(PartialEq, Eq)]
enum Ending {
    End,
    Else,
}

impl Ending {
    fn shown(&self) -> &'static str {
        match self {
            Ending::End => "{{end}}",
            Ending::Else => "{{else}}",
        }
    }
}

/// A node, or the end of the list that it would be in.
enum Item {
    Node(Node),
    Ending(Ending),
}

impl Parser {
    fn peek(&self) -> &Token {
        let last = self.tokens.len() - 1;
        &self.tokens[self.next.min(last)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn skip_blanks(&mut self) {
        while self.peek().kind == Kind::Space {
            self.next += 1;
        }
    }

    fn peek_word(&mut self) -> &Token {
        self.skip_blanks();
        self.peek()
    }

    fn take_word(&mut self) -> Token {
        self.skip_blanks();
        self.take()
    }

    /// An error at the last word that was looked at.
    fn error(&self, text: impl std::fmt::Display) -> BadTemplate {
        BadTemplate::Refused(format!("{}: {text}", self.peek().line))
    }

    fn unexpected(&self, token: &Token, context: &str) -> BadTemplate {
        let line = token.line;
        let shown = match token.kind {
            Kind::Wrong => return BadTemplate::Refused(format!("{line}: {}", token.text)),
            Kind::End => "EOF".to_owned(),
            Kind::Keyword | Kind::Dot | Kind::Nil => format!("<{}>", token.text),
            _ => match token.text.char_indices().nth(10) {
                Some((end, _)) => format!("{}...", quoted(&token.text[..end])),
                None => quoted(&token.text),
            },
        };
        BadTemplate::Refused(format!("{line}: unexpected {shown} in {context}"))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Result<Token, BadTemplate> {
        let token = self.take_word();
        match token.kind == kind {
            true => Ok(token),
            false => Err(self.unexpected(&token, context)),
        }
    }

    fn keyword_follows(&mut self, word: &str) -> bool {
        let token = self.peek_word();
        token.kind == Kind::Keyword && token.text == word
    }

    fn add(&mut self, name: String, nodes: Vec<Node>) -> Result<(), BadTemplate> {
        let empty = |nodes: &[Node]| {
            let blank = |node: &Node| matches!(node, Node::Text(text) if text.trim().is_empty());
            nodes.iter().all(blank)
        };
        match self.templates.get(&name) {
            Some(old) if !empty(old) && empty(&nodes) => Ok(()),
            Some(old) if !empty(old) => {
                let name = quoted(&name);
                let text = format!("template: multiple definition of template {name}");
                Err(self.error(text))
            }
            _ => {
                self.templates.insert(name, nodes);
                Ok(())
            }
        }
    }

    fn main(&mut self) -> Result<Vec<Node>, BadTemplate> {
        let mut nodes = Vec::new();
        while self.peek().kind != Kind::End {
            let begin = self.next;
            if self.peek().kind == Kind::Open {
                self.next += 1;
                if self.keyword_follows("define") {
                    self.next += 1;
                    self.definition()?;
                    continue;
                }
                self.next = begin;
            }
            match self.item()? {
                Item::Node(node) => nodes.push(node),
                Item::Ending(ending) => {
                    return Err(self.error(format!("unexpected {}", ending.shown())));
                }
            }
        }
        Ok(nodes)
    }

    fn definition(&mut self) -> Result<(), BadTemplate> {
        let context = "define clause";
        let name = self.expect(Kind::Quoted, context)?;
        let name = self.unquoted(&name)?;
        self.expect(Kind::Close, context)?;
        let nodes = self.body(context)?;
        self.add(name, nodes)
    }

    /// The list of a template of its own.
    fn body(&mut self, context: &str) -> Result<Vec<Node>, BadTemplate> {
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (nodes, ending) = self.list()?;
        if ending != Ending::End {
            let text = format!("unexpected {} in {context}", ending.shown());
            return Err(self.error(text));
        }
        (self.variables, self.ranges) = (outer, ranges);
        Ok(nodes)
    }

    fn list(&mut self) -> Result<(Vec<Node>, Ending), BadTemplate> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("too deep"));
        }
        let mut nodes = Vec::new();
        while self.peek_word().kind != Kind::End {
            match self.item()? {
                Item::Node(node) => nodes.push(node),
                Item::Ending(ending) => {
                    self.depth -= 1;
                    return Ok((nodes, ending));
                }
            }
        }
        Err(self.error("unexpected EOF"))
    }

    fn item(&mut self) -> Result<Item, BadTemplate> {
        let token = self.take_word();
        match token.kind {
            Kind::Text => Ok(Item::Node(Node::Text(token.text))),
            Kind::Open => self.action(),
            _ => Err(self.unexpected(&token, "input")),
        }
    }

    fn action(&mut self) -> Result<Item, BadTemplate> {
        let begin = self.peek_word().clone();
        let word = match begin.kind {
            Kind::Keyword => begin.text.as_str(),
            _ => "",
        };
        if !matches!(word, "" | "define") {
            self.next += 1;
        }
        Ok(Item::Node(match word {
            "if" => Node::If(self.branch("if")?),
            "with" => Node::With(self.branch("with")?),
            "range" => Node::Range(self.branch("range")?),
            "template" => Node::Template(self.call()?),
            "block" => Node::Template(self.block()?),
            "break" => self.leave(Node::Break, "{{break}}")?,
            "continue" => self.leave(Node::Continue, "{{continue}}")?,
            "end" => {
                self.expect(Kind::Close, "end")?;
                return Ok(Item::Ending(Ending::End));
            }
            "else" => {
                // What `else if` begins is read as if it stood behind an `else` of its own.
                if !self.keyword_follows("if") && !self.keyword_follows("with") {
                    self.expect(Kind::Close, "else")?;
                }
                return Ok(Item::Ending(Ending::Else));
            }
            _ => Node::Action(self.pipe("command", Kind::Close)?),
        }))
    }

    fn leave(&mut self, node: Node, what: &str) -> Result<Node, BadTemplate> {
        self.expect(Kind::Close, what)?;
        match self.ranges {
            0 => Err(self.error(format!("{what} outside {{{{range}}}}"))),
            _ => Ok(node),
        }
    }

    fn branch(&mut self, context: &str) -> Result<Branch, BadTemplate> {
        let known = self.variables.len();
        let pipe = self.pipe(context, Kind::Close)?;
        let loops = usize::from(context == "range");
        self.ranges += loops;
        let (then, ending) = self.list()?;
        self.ranges -= loops;
        let mut otherwise = Vec::new();
        if ending == Ending::Else {
            otherwise = match context {
                "if" | "with" if self.keyword_follows(context) => {
                    self.next += 1;
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(self.error("too deep"));
                    }
                    let branch = self.branch(context)?;
                    self.depth -= 1;
                    vec![match context {
                        "if" => Node::If(branch),
                        _ => Node::With(branch),
                    }]
                }
                _ => match self.list()? {
                    (nodes, Ending::End) => nodes,
                    (_, other) => {
                        let text = format!("expected end; found {}", other.shown());
                        return Err(self.error(text));
                    }
                },
            };
        }
        self.variables.truncate(known);
        Ok(Branch {
            pipe,
            then,
            otherwise,
        })
    }

    fn unquoted(&self, token: &Token) -> Result<String, BadTemplate> {
        unquote(&token.text)
            .ok_or_else(|| BadTemplate::Refused(format!("{}: invalid syntax", token.line)))
    }

    fn call(&mut self) -> Result<Call, BadTemplate> {
        let context = "template clause";
        let name = self.expect(Kind::Quoted, context)?;
        let pipe = match self.peek_word().kind {
            Kind::Close => {
                self.next += 1;
                None
            }
            _ => Some(self.pipe(context, Kind::Close)?),
        };
        Ok(Call {
            name: self.unquoted(&name)?,
            pipe,
            at: name.at,
        })
    }

    fn block(&mut self) -> Result<Call, BadTemplate> {
        let context = "block clause";
        let token = self.expect(Kind::Quoted, context)?;
        let name = self.unquoted(&token)?;
        let pipe = self.pipe(context, Kind::Close)?;
        let nodes = self.body(context)?;
        self.add(name.clone(), nodes)?;
        Ok(Call {
            name,
            pipe: Some(pipe),
            at: token.at,
        })
    }

    /// The variables that a pipeline begins with, and whether they are there already.
    fn declarations(&mut self, context: &str) -> Result<(Vec<String>, bool), BadTemplate> {
        let mut found = Vec::new();
        loop {
            let begin = self.next;
            if self.peek_word().kind != Kind::Variable {
                return Ok((found, false));
            }
            let name = self.take().text;
            let sign = self.peek_word().clone();
            let declares = matches!(sign.kind, Kind::Declare | Kind::Assign);
            let more = sign.kind == Kind::Sign && sign.text == ",";
            if !declares && !more {
                self.next = begin;
                return Ok((found, false));
            }
            self.next += 1;
            found.push(name.clone());
            self.variables.push(name);
            if declares {
                return Ok((found, sign.kind == Kind::Assign));
            }
            if context != "range" || found.len() > 1 {
                return Err(self.error(format!("too many declarations in {context}")));
            }
            if !matches!(
                self.peek_word().kind,
                Kind::Variable | Kind::Close | Kind::CloseParen
            ) {
                return Err(self.error("range can only initialize variables"));
            }
        }
    }

    fn pipe(&mut self, context: &str, end: Kind) -> Result<Pipe, BadTemplate> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("too deep"));
        }
        let at = self.peek_word().at;
        let (variables, assigns) = self.declarations(context)?;
        let mut commands: Vec<Command> = Vec::new();
        loop {
            let token = self.peek_word().clone();
            match token.kind {
                kind if kind == end => break,
                Kind::Bool
                | Kind::Char
                | Kind::Complex
                | Kind::Dot
                | Kind::Field
                | Kind::Function
                | Kind::Number
                | Kind::Nil
                | Kind::Quoted
                | Kind::Variable
                | Kind::OpenParen => commands.push(self.command()?),
                _ => return Err(self.unexpected(&token, context)),
            }
        }
        self.next += 1;
        self.depth -= 1;
        if commands.is_empty() {
            return Err(self.error_before(format!("missing value for {context}")));
        }
        let constant = |c: &Command| c.words.first().is_some_and(Operand::is_constant);
        if let Some(n) = commands.iter().skip(1).position(constant) {
            let text = format!("non executable command in pipeline stage {}", n + 2);
            return Err(self.error_before(text));
        }
        Ok(Pipe {
            variables,
            assigns,
            commands,
            at,
        })
    }

    /// An error at the word that was taken last.
    fn error_before(&self, text: impl std::fmt::Display) -> BadTemplate {
        let line = self.tokens[self.next - 1].line;
        BadTemplate::Refused(format!("{line}: {text}"))
    }

    fn command(&mut self) -> Result<Command, BadTemplate> {
        let at = self.peek_word().at;
        let mut words = Vec::new();
        loop {
            self.skip_blanks();
            words.extend(self.operand()?);
            match self.peek().kind {
                Kind::Space => {}
                Kind::Close | Kind::CloseParen => break,
                Kind::Pipe => {
                    self.next += 1;
                    break;
                }
                _ => {
                    let token = self.peek().clone();
                    return Err(self.unexpected(&token, "operand"));
                }
            }
        }
        match words.is_empty() {
            true => Err(self.error("empty command")),
            false => Ok(Command { words, at }),
        }
    }

    /// A word with its fields; none if there is none.
    fn operand(&mut self) -> Result<Option<Operand>, BadTemplate> {
        let Some(mut operand) = self.term()? else {
            return Ok(None);
        };
        if self.peek().kind != Kind::Field {
            return Ok(Some(operand));
        }
        let at = self.peek().at;
        if operand.is_constant() {
            let term = quoted(&operand.to_string());
            return Err(self.error(format!("unexpected . after term {term}")));
        }
        let mut fields = Vec::new();
        while self.peek().kind == Kind::Field {
            fields.push(self.take().text[1..].to_owned());
        }
        match &mut operand.what {
            What::Field(names) | What::Variable(names) => {
                names.append(&mut fields);
                operand.at = at;
            }
            _ => {
                let what = What::Chain(Box::new(operand), fields);
                operand = Operand { what, at };
            }
        }
        Ok(Some(operand))
    }

    fn term(&mut self) -> Result<Option<Operand>, BadTemplate> {
        let token = self.peek_word().clone();
        let wrong = |text: String| BadTemplate::Refused(format!("{}: {text}", token.line));
        self.next += 1;
        let what = match token.kind {
            Kind::Dot => What::Dot,
            Kind::Nil => What::Nil,
            Kind::Bool => What::Bool(token.text == "true"),
            Kind::Field => What::Field(vec![token.text[1..].to_owned()]),
            Kind::Function if functions::exists(&token.text) => What::Function(token.text.clone()),
            Kind::Function => {
                let name = quoted(&token.text);
                return Err(wrong(format!("function {name} not defined")));
            }
            Kind::Variable if self.variables.contains(&token.text) => {
                What::Variable(vec![token.text.clone()])
            }
            Kind::Variable => {
                let name = quoted(&token.text);
                return Err(wrong(format!("undefined variable {name}")));
            }
            Kind::Char => {
                let int = character(&token.text).map_err(wrong)?;
                What::Number(Number {
                    text: token.text.clone(),
                    int: Some(int),
                    float: Some(int as f64),
                })
            }
            Kind::Number => What::Number(number::parse(&token.text).map_err(wrong)?),
            Kind::Complex => return Err(BadTemplate::NotBuilt("a complex number".to_owned())),
            Kind::Quoted => What::Text {
                value: self.unquoted(&token)?,
                quoted: token.text.clone(),
            },
            Kind::OpenParen => What::Pipe(self.pipe("parenthesized pipeline", Kind::CloseParen)?),
            _ => {
                self.next -= 1;
                return Ok(None);
            }
        };
        Ok(Some(Operand { what, at: token.at }))
    }
}
