//! Paths of archive entries, cleaned without the file system.

use crate::ImageError;

/// Most components of a path.
pub const MAX_COMPONENTS: usize = 512;

/// The components below the root. `..` above the root is a break-out and refused.
pub(super) fn clean(path: &[u8]) -> Result<Vec<&[u8]>, ImageError> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() {
                    let path = String::from_utf8_lossy(path);
                    return Err(ImageError::archive(format_args!(
                        "{path:?} is outside of the layer's root"
                    )));
                }
            }
            part => parts.push(part),
        }
    }
    if parts.len() > MAX_COMPONENTS {
        return Err(ImageError::archive(format_args!(
            "a path has more than {MAX_COMPONENTS} components"
        )));
    }
    Ok(parts)
}
