//! Lines of a Dockerfile: comments, continuations, the first word and the rest.

use super::invalid;
use crate::ImageError;

/// Longest text of all changes, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;

pub(super) struct Instruction {
    /// As it was written.
    pub(super) word: String,
    /// Without blanks at both ends.
    pub(super) rest: String,
}

/// The instructions of a text; empty lines and comments are left out.
pub(super) fn split(text: &str) -> Result<Vec<Instruction>, ImageError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(invalid(format!(
            "changes are longer than {MAX_TEXT_BYTES} bytes"
        )));
    }
    let mut found = Vec::new();
    let mut pending = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            // Also between the parts of a continued line.
            continue;
        }
        let line = if pending.is_empty() {
            trimmed
        } else {
            line.trim_end()
        };
        match line.strip_suffix('\\') {
            Some(part) => pending.push_str(part),
            None => {
                pending.push_str(line);
                found.extend(instruction(&std::mem::take(&mut pending)));
            }
        }
    }
    found.extend(instruction(&pending));
    Ok(found)
}

fn instruction(line: &str) -> Option<Instruction> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (!word.is_empty()).then(|| Instruction {
        word: word.to_owned(),
        rest: rest.trim().to_owned(),
    })
}
