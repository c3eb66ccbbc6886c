//! Container ids: 64 hexadecimal digits from the kernel's random source.

use crate::EngineError;

/// Length of a full id.
pub const ID_LEN: usize = 64;
/// Length of a short id, as Docker shows it.
pub const SHORT_ID_LEN: usize = 12;

/// A new random id whose short form is not a plain number (it would be taken for one as a host name).
pub fn generate() -> Result<String, EngineError> {
    loop {
        let mut raw = [0u8; ID_LEN / 2];
        getrandom::fill(&mut raw)
            .map_err(|e| EngineError::System(format!("no random bytes from the kernel: {e}")))?;
        let id = to_hex(&raw);
        if !id[..SHORT_ID_LEN].bytes().all(|b| b.is_ascii_digit()) {
            return Ok(id);
        }
    }
}

fn to_hex(raw: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    raw.iter()
        .flat_map(|b| {
            [
                DIGITS[usize::from(b >> 4)] as char,
                DIGITS[usize::from(b & 15)] as char,
            ]
        })
        .collect()
}

/// The first 12 digits of an id (all of it if it is shorter).
pub fn short(id: &str) -> &str {
    id.get(..SHORT_ID_LEN).unwrap_or(id)
}

/// Whether `s` may be the beginning of an id.
pub fn is_id_prefix(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= ID_LEN
        && s.bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_are_full_and_distinct() {
        let (a, b) = (generate().unwrap(), generate().unwrap());
        assert_eq!(a.len(), ID_LEN);
        assert!(is_id_prefix(&a));
        assert_ne!(a, b);
    }

    #[test]
    fn short_is_total() {
        assert_eq!(short("abc"), "abc");
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
    }

    #[test]
    fn prefixes() {
        assert!(is_id_prefix("deadbeef"));
        assert!(!is_id_prefix("DEADBEEF"));
        assert!(!is_id_prefix("web"));
        assert!(!is_id_prefix(""));
    }
}
