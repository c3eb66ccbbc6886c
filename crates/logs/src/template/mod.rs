//! Tag templates: Go's text templates as far as tags need them, with the functions that Docker adds.
//!
//! Actions with fields, functions, pipelines, parentheses, `if`, `else`, `with`, comments and trimming. Loops, variables and
//! templates of their own are refused by name.

mod eval;
mod functions;
mod parse;
mod value;

use crate::info::LogInfo;

/// Longest text that a template may give.
pub const MAX_TAG_BYTES: usize = 64 * 1024;

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
}

impl BadTemplate {
    /// An error of the template's form.
    fn syntax(text: impl std::fmt::Display) -> BadTemplate {
        BadTemplate::Refused(format!("1: {text}"))
    }
}

/// The template with its fields filled in.
pub(crate) fn expand(template: &str, info: &LogInfo) -> Result<String, BadTemplate> {
    if !template.contains("{{") {
        return Ok(template.to_owned());
    }
    let nodes = parse::parse(template)?;
    let mut out = String::new();
    eval::run(&nodes, info, &mut out)?;
    Ok(out)
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
        }
    }

    #[test]
    fn templates_give_what_go_gives() {
        for (template, want) in [
            ("plain", "plain"),
            (
                "{{.ID}}|{{ .FullID }}",
                "0123456789ab|0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            ),
            ("{{.Name}}/{{.ImageName}}", "box/busybox:latest"),
            (
                "{{.ImageID}} {{.ImageFullID}}",
                "fedcba987654 sha256:fedcba98765432100123456789abcdef0123456789abcdef0123456789abcdef",
            ),
            ("{{.DaemonName}}", "docker"),
            ("{{.Command}}", "sh -c echo a"),
            ("{{(.ExtraAttributes nil).E}}", "x y"),
            ("{{.ExtraAttributes nil}}", "map[E:x y l1:v1]"),
            ("{{json .ContainerLabels}}", r#"{"l1":"v1","other":"<o>"}"#),
            (
                "{{.ContainerLabels.l1}},{{.ContainerLabels.no}}",
                "v1,<no value>",
            ),
            ("{{index .ContainerLabels \"other\"}}", "<o>"),
            ("{{.ContainerArgs}} {{len .ContainerArgs}}", "[-c echo a] 2"),
            (
                "{{upper .Name}} {{.Name | title}} {{lower `ABC`}}",
                "BOX Box abc",
            ),
            ("{{join (split .ImageName \":\") \"/\"}}", "busybox/latest"),
            ("{{index (split .ImageName \":\") 1}}", "latest"),
            ("{{pad .Name 1 2}}.{{pad \"\" 1 2}}.", " box  .."),
            ("{{truncate .Name 2}} {{truncate .Name 20}}", "bo box"),
            ("{{println .Name 1 true}}", "box 1 true\n"),
            ("{{print .Name 1 2 .Name}}", "box1 2box"),
            (
                "{{printf \"%s-%d-%q-%v%%\" .Name 3 .Name true}}",
                "box-3-\"box\"-true%",
            ),
            ("{{if eq .Name \"box\"}}yes{{else}}no{{end}}", "yes"),
            (
                "{{if .ContainerLabels.no}}a{{else if not .Name}}b{{else}}c{{end}}",
                "c",
            ),
            ("{{with .Name}}<{{.}}>{{else}}none{{end}}", "<box>"),
            ("a {{- /* nothing */ -}} b", "ab"),
            ("a {{- .Name -}} b {{ \"c\\\"\" }}", "aboxb c\""),
            ("{{and .Name \"x\"}} {{or \"\" \"y\"}}", "x y"),
            (
                "{{ne 1 2}} {{lt 1 2}} {{ge \"a\" \"b\"}}",
                "true true false",
            ),
            (
                "{{slice .Name 1 2}}{{html .ContainerLabels.other}}{{urlquery \"a b\"}}",
                "o&lt;o&gt;a+b",
            ),
        ] {
            assert_eq!(expand(template, &info()), Ok(want.to_owned()), "{template}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        for (template, want) in [
            ("{{.ID", "template: log-tag:1: unclosed action"),
            (
                "{{nosuch .ID}}",
                "template: log-tag:1: function \"nosuch\" not defined",
            ),
            ("{{}}", "template: log-tag:1: missing value for command"),
            ("{{if .ID}}", "template: log-tag:1: unexpected EOF"),
            ("{{end}}", "template: log-tag:1: unexpected {{end}}"),
            (
                "{{.Foo}}",
                "template: log-tag:1:2: executing \"log-tag\" at <.Foo>: can't evaluate field Foo in type *logger.Info",
            ),
            (
                "{{range .ContainerArgs}}{{end}}",
                "range in a log tag is not implemented yet",
            ),
            (
                "{{$x := 1}}",
                "a variable in a log tag is not implemented yet",
            ),
            ("{{\"a}}", "template: log-tag:1: unterminated quoted string"),
        ] {
            let error = expand(template, &info()).expect_err(template);
            assert_eq!(error.to_string(), want, "{template}");
        }
        let long = "{{pad \"x\" 100000 0}}";
        assert_eq!(expand(long, &info()), Err(BadTemplate::TooLong));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\{\\{|\\}\\}|[-.|() \"a`1]|if|end|else|with|pad|slice|printf|index|\\.ID|nil|%){0,25}") {
            let _ = expand(&text, &info());
        }
    }
}
