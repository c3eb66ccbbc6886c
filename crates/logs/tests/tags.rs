//! Tag templates give what dockerd 28.5.2 gave, and are refused in its words.

use std::collections::BTreeMap;

use gantry_logs::LogInfo;

/// A template, and what came of it: a text or an error. Recorded; ids, times and paths are in place of what they were.
type Recorded = (String, Option<String>, Option<String>);

fn info(tag: &str) -> LogInfo {
    let pairs = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        list.iter().map(own).collect()
    };
    LogInfo {
        options: pairs(&[("labels", "l1,l2"), ("env", "E"), ("tag", tag)]),
        id: "0123456789abcdef".repeat(4),
        name: "box".to_owned(),
        image_id: format!("sha256:{}", "fedcba9876543210".repeat(4)),
        image_name: "busybox".to_owned(),
        entrypoint: "echo".to_owned(),
        arguments: vec!["hi".to_owned()],
        created_unix_ns: 1_795_626_219_364_249_446,
        env: vec![
            "E=x y".to_owned(),
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ],
        labels: pairs(&[("l1", "v1"), ("other", "<o>")]),
        log_path: "/log".to_owned(),
    }
}

#[test]
fn templates_give_what_dockerd_gave() {
    let recorded: Vec<Recorded> =
        serde_json::from_str(include_str!("data/tags.json")).expect("the recording");
    assert!(recorded.len() > 300);
    let mut wrong = Vec::new();
    for (template, text, error) in &recorded {
        let want = match (text, error) {
            (Some(text), _) => Ok(text.clone()),
            (None, error) => Err(format!(
                "template: log-tag:{}",
                error.as_deref().unwrap_or_default()
            )),
        };
        let got = info(template).tag("").map_err(|e| e.to_string());
        if got != want {
            wrong.push(format!("{template}\n  got  {got:?}\n  want {want:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
