//! Detach keys.

/// Docker's default: ctrl-p, ctrl-q.
pub const DEFAULT_DETACH_KEYS: &[u8] = &[16, 17];

/// Unknown character
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unknown character: '{0}'")]
pub struct BadKeys(pub String);

/// Parses "ctrl-p,ctrl-q", "a,b", "DEL". An empty specification is the default.
pub fn parse(spec: &str) -> Result<Vec<u8>, BadKeys> {
    if spec.is_empty() {
        return Ok(DEFAULT_DETACH_KEYS.to_vec());
    }
    spec.split(',')
        .map(|key| parse_key(key).ok_or_else(|| BadKeys(key.to_owned())))
        .collect()
}

fn parse_key(key: &str) -> Option<u8> {
    if let [one] = key.as_bytes() {
        return Some(*one);
    }
    let control = key.strip_prefix("ctrl-");
    match (control, control.map(str::as_bytes)) {
        (_, Some([c @ b'a'..=b'z'])) => Some(c - b'a' + 1),
        (Some("@"), _) => Some(0),
        (Some("["), _) => Some(27),
        (Some("\\"), _) => Some(28),
        (Some("]"), _) => Some(29),
        (Some("^"), _) => Some(30),
        (Some("_"), _) => Some(31),
        _ => (key == "DEL").then_some(127),
    }
}

/// Looks for the detach sequence in a client's input.
#[derive(Debug)]
pub struct Detector {
    keys: Vec<u8>,
    matched: usize,
}

impl Detector {
    /// No keys: nothing is ever found.
    pub fn new(keys: Vec<u8>) -> Detector {
        Detector { keys, matched: 0 }
    }

    /// Whether there are no keys to be found.
    pub fn finds_nothing(&self) -> bool {
        self.keys.is_empty()
    }

    /// Passes input on to `out`; keys that may begin the sequence are held back until that is decided. True if the
    /// sequence was completed (what follows it is dropped).
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(input);
            return false;
        }
        for &byte in input {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            // As Docker, the key that breaks a sequence does not begin the next one.
            out.push(byte);
        }
        false
    }

    /// What is held back, at the end of input.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.keys[..self.matched]);
        self.matched = 0;
    }
}
