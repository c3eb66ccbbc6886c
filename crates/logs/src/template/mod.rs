//! Tag templates: Go's text templates, with the functions that Docker adds.
//!
//! Complex numbers, and what nobody asks of a tag (hexadecimal floats, `Format` of a time), are refused by name. What a
//! template may do is bounded: [`MAX_TAG_BYTES`], [`MAX_STEPS`], [`MAX_EXEC_DEPTH`].

mod ast;
mod compare;
mod escape;
mod eval;
mod fields;
mod format;
mod functions;
mod lex;
mod number;
mod parse;
mod value;

use crate::info::LogInfo;

/// Longest text that a template may give.
pub const MAX_TAG_BYTES: usize = 64 * 1024;
/// Nodes, commands, arguments and turns of loops of one run.
pub const MAX_STEPS: usize = 100_000;
/// Lists of nodes, templates and pipelines in one another in one run.
pub const MAX_EXEC_DEPTH: usize = 128;

/// What Docker calls the template of a tag.
const NAME: &str = "log-tag";

/// A template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// Go's words.
    #[error("template: log-tag:{0}")]
    Refused(String),
    /// Docker has it, this daemon has not.
    #[error("{0} in a log tag is not implemented yet")]
    NotBuilt(String),
    /// A result past [`MAX_TAG_BYTES`].
    #[error("a log tag is longer than {MAX_TAG_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_STEPS`].
    #[error("a log tag takes more than {MAX_STEPS} steps")]
    TooMuch,
}

/// Whether a template has the form of one. What else is wrong with it is found when it is filled in.
pub(crate) fn check(template: &str) -> Result<(), BadTemplate> {
    match template.contains("{{") {
        true => parse::parse(template).map(drop),
        false => Ok(()),
    }
}

/// The template with its fields filled in.
pub(crate) fn expand(template: &str, info: &LogInfo) -> Result<String, BadTemplate> {
    if !template.contains("{{") {
        return Ok(template.to_owned());
    }
    eval::run(template, &parse::parse(template)?, info)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info() -> LogInfo {
        let pairs = |list: &[(&str, &str)]| {
            let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            list.iter().map(own).collect()
        };
        LogInfo {
            options: pairs(&[("labels", "l1,l2"), ("env", "E")]),
            id: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".to_owned(),
            name: "box".to_owned(),
            image_id: "sha256:fedcba98765432100123456789abcdef0123456789abcdef0123456789abcdef"
                .to_owned(),
            image_name: "busybox:latest".to_owned(),
            entrypoint: "sh".to_owned(),
            arguments: vec!["-c".to_owned(), "echo a".to_owned()],
            created_unix_ns: 1_700_000_000_000_000_000,
            env: vec!["E=x y".to_owned()],
            labels: pairs(&[("l1", "v1"), ("other", "<o>")]),
            log_path: "/log".to_owned(),
        }
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (template, what) in [
            ("{{1+2i}}", "a complex number"),
            (
                "{{.ContainerCreated.Format \"2006\"}}",
                "the method Format of .ContainerCreated",
            ),
            (
                "{{printf \"%x\" 1.5}}",
                "%x of printf for a float64 in this form",
            ),
        ] {
            let error = expand(template, &info()).expect_err(template);
            let text = format!("{what} in a log tag is not implemented yet");
            assert_eq!(error.to_string(), text, "{template}");
        }
    }

    #[test]
    fn what_a_template_may_do_is_bounded() {
        use BadTemplate::{TooLong, TooMuch};
        for (template, want) in [
            ("{{pad \"x\" 100000 0}}", TooLong),
            ("{{printf \"%2000000d\" 1}}", TooLong),
            ("{{range 100000}}{{end}}", TooMuch),
            ("{{range 99999999999}}xxxx{{end}}", TooLong),
            (
                "{{$x := \"ab\"}}{{range 99}}{{$x = print $x $x}}{{end}}",
                TooLong,
            ),
            (
                "{{$x := split (printf \"%5000d\" 1) \"\"}}{{range $x}}{{range $x}}{{end}}{{end}}",
                TooMuch,
            ),
            (
                "{{join (split (printf \"%60000d\" 1) \"\") (printf \"%60000d\" 1)}}",
                TooLong,
            ),
        ] {
            assert_eq!(expand(template, &info()), Err(want), "{template}");
        }
        let endless = "{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}";
        let error = expand(endless, &info()).expect_err("endless").to_string();
        assert!(
            error.ends_with("exceeded maximum template depth (128)"),
            "{error}"
        );
        let deep = format!("{{{{{}1{}}}}}", "(".repeat(500), ")".repeat(500));
        let error = expand(&deep, &info()).expect_err("deep").to_string();
        assert_eq!(error, "template: log-tag:1: too deep");
        let deep = "{{if 1}}".repeat(500) + &"{{end}}".repeat(500);
        assert!(expand(&deep, &info()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\{\\{|\\}\\}|[-.|() \"a`1']|if|end|else|with|range|define \"a\"|template \"a\"|block|break|\\$x|:=|=|,|pad|slice|printf|index|\\.ID|nil|%|\\*|\\[1\\]|/\\*){0,25}") {
            let _ = expand(&text, &info());
        }
    }
}
