//! Lines of progress of a registry's work.

use bytes::Bytes;
use gantry_registry::{Event, Step};
use serde::Serialize;
use serde_json::{Value, json};

use super::image::progress_bar;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_detail: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aux: Option<Aux<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Aux<'a> {
    tag: &'a str,
    digest: &'a str,
    size: u64,
}

const EMPTY: Line<'static> = Line {
    status: None,
    progress_detail: None,
    progress: None,
    id: None,
    aux: None,
};

/// With its line end.
fn text<T: Serialize>(document: &T) -> Bytes {
    // Strings, numbers and nothing else: it can be written.
    let mut text = serde_json::to_vec(document).unwrap_or_default();
    text.extend_from_slice(b"\r\n");
    text.into()
}

/// An event as its line, and whether it may be left out.
pub fn line(event: &Event) -> (Bytes, bool) {
    let (line, lossy) = match event {
        Event::Line { id, text } => (
            Line {
                status: Some(text),
                id: id.as_deref(),
                ..EMPTY
            },
            false,
        ),
        Event::Layer { id, step } => {
            let (status, detail, progress, lossy) = match step {
                Step::Now(status) => (status.as_str(), json!({}), None, false),
                Step::Bytes {
                    name,
                    current,
                    total,
                } => (
                    *name,
                    json!({ "current": current, "total": total }),
                    Some(progress_bar(*current, *total)),
                    true,
                ),
            };
            (
                Line {
                    status: Some(status),
                    progress_detail: Some(detail),
                    progress,
                    id: Some(id),
                    ..EMPTY
                },
                lossy,
            )
        }
        Event::Pushed {
            tag,
            digest,
            size_bytes,
        } => (
            Line {
                progress_detail: Some(json!({})),
                aux: Some(Aux {
                    tag,
                    digest,
                    size: *size_bytes,
                }),
                ..EMPTY
            },
            false,
        ),
    };
    (text(&line), lossy)
}

/// The last line of a stream that failed.
pub fn failure(message: &str) -> Bytes {
    text(&json!({ "errorDetail": { "message": message }, "error": message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_dockers() {
        let layer = |step| {
            let event = Event::Layer {
                id: "daf9a0a94c12".into(),
                step,
            };
            String::from_utf8(line(&event).0.to_vec()).unwrap()
        };
        assert_eq!(
            layer(Step::Now("Pulling fs layer".into())),
            "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"daf9a0a94c12\"}\r\n"
        );
        let bytes = |current, total| {
            layer(Step::Bytes {
                name: "Pushing",
                current,
                total,
            })
        };
        assert!(bytes(39424, 1982496).contains(
            "\"progressDetail\":{\"current\":39424,\"total\":1982496},\"progress\":\"[>                                                  ]  39.42kB/1.982MB\""
        ));
        assert!(
            bytes(512, 10)
                .contains("[==================================================>]     512B\"")
        );
        let aux = Event::Pushed {
            tag: "v1".into(),
            digest: "sha256:1".into(),
            size_bytes: 9,
        };
        assert_eq!(
            &line(&aux).0[..],
            b"{\"progressDetail\":{},\"aux\":{\"Tag\":\"v1\",\"Digest\":\"sha256:1\",\"Size\":9}}\r\n"
        );
    }
}
