//! What a driver knows of the container whose output it gets.

use std::collections::BTreeMap;

use regex_lite::Regex;

use crate::options::BadOption;
use crate::template;

/// Docker's default of the option `tag`.
pub const DEFAULT_TAG: &str = "{{.ID}}";

/// A container, as its log driver sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogInfo {
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without a slash in front.
    pub name: String,
    /// `sha256:` and 64 digits.
    pub image_id: String,
    /// As the client wrote it.
    pub image_name: String,
    /// The program.
    pub entrypoint: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Unix time.
    pub created_unix_ns: i64,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The container's labels.
    pub labels: BTreeMap<String, String>,
    /// Where the log is, of a driver whose file is Docker's; empty otherwise.
    pub log_path: String,
}

/// The first twelve digits of an id.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl LogInfo {
    /// The id as people write it.
    pub fn short_id(&self) -> &str {
        short(&self.id)
    }

    /// The image's id as people write it.
    pub fn short_image_id(&self) -> &str {
        let id = &self.image_id;
        short(id.strip_prefix("sha256:").unwrap_or(id))
    }

    /// The command line.
    pub fn command(&self) -> String {
        let mut words = vec![self.entrypoint.as_str()];
        words.extend(self.arguments.iter().map(String::as_str));
        words.join(" ")
    }

    fn option(&self, name: &str) -> Option<&str> {
        let value = self.options.get(name).map(String::as_str);
        value.filter(|v| !v.is_empty())
    }

    /// What the options `labels`, `labels-regex`, `env` and `env-regex` ask for; `rename` is asked for the name of each
    /// attribute (awslogs and others have their own).
    pub fn attributes(
        &self,
        rename: impl Fn(&str) -> String,
    ) -> Result<BTreeMap<String, String>, BadOption> {
        let mut found = BTreeMap::new();
        let labels = Wanted::read(self.option("labels"), self.option("labels-regex"))?;
        for (name, value) in self.labels.iter().filter(|(name, _)| labels.has(name)) {
            found.insert(rename(name), value.clone());
        }
        let env = Wanted::read(self.option("env"), self.option("env-regex"))?;
        // The last of several values of one name is the one that counts.
        for (name, value) in self.env.iter().filter_map(|e| e.split_once('=')) {
            if env.has(name) {
                found.insert(rename(name), value.to_owned());
            }
        }
        Ok(found)
    }

    /// Whether the option `tag` has the form of a template.
    pub fn check_tag(&self) -> Result<(), BadOption> {
        let text = self.option("tag").unwrap_or_default();
        template::check(text).map_err(BadOption::Tag)
    }

    /// The option `tag`, or `default`, with its fields filled in.
    pub fn tag(&self, default: &str) -> Result<String, BadOption> {
        let text = self.option("tag").unwrap_or(default);
        template::expand(text, self).map_err(BadOption::Tag)
    }
}

/// Names that an option asks for.
struct Wanted<'a> {
    names: Vec<&'a str>,
    pattern: Option<Regex>,
}

impl<'a> Wanted<'a> {
    fn read(names: Option<&'a str>, pattern: Option<&str>) -> Result<Wanted<'a>, BadOption> {
        let pattern = pattern.map(|text| {
            Regex::new(text).map_err(|e| BadOption::Pattern(text.to_owned(), e.to_string()))
        });
        Ok(Wanted {
            names: names.map(|n| n.split(',').collect()).unwrap_or_default(),
            pattern: pattern.transpose()?,
        })
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(&name) || self.pattern.as_ref().is_some_and(|p| p.is_match(name))
    }
}
