//! Content of files as chunks of one size, each a hole or in one place.

use crate::error::{BuildError, Errno};
use crate::format::CHUNK_BITS_MAX;
use crate::tree::{Extent, Place};

/// Chunks of one file: 8 bytes of the image each.
pub const MAX_CHUNKS_PER_FILE: u64 = 1 << 20;

/// Chunks of a file.
pub(crate) struct Plan {
    pub(crate) chunk_bits: u32,
    pub(crate) count: u64,
}

/// In order, apart, and inside the file.
pub(crate) fn check(size: u64, extents: &[Extent]) -> Result<(), BuildError> {
    let mut end = 0;
    for extent in extents {
        let next = extent.file_at.checked_add(extent.len_bytes);
        match next {
            Some(next) if extent.file_at >= end && next <= size => end = next,
            _ => return Err(Errno::Invalid.into()),
        }
    }
    match i64::try_from(size) {
        Ok(_) => Ok(()),
        Err(_) => Err(Errno::Invalid.into()),
    }
}

/// Whether chunks can refer to the content where it lies: else it has to be copied.
pub fn fits_chunks(size: u64, extents: &[Extent], block_bits: u32) -> bool {
    plan(size, extents, block_bits).is_some()
}

/// The largest chunks that do; `None` if none do.
pub(crate) fn plan(size: u64, extents: &[Extent], block_bits: u32) -> Option<Plan> {
    let mut chunk_bits = (block_bits + CHUNK_BITS_MAX).min(bits_over(size).max(block_bits));
    for extent in extents.iter().filter(|e| e.len_bytes > 0) {
        let end = extent.file_at + extent.len_bytes;
        let at = match extent.place {
            Place::Tar(at) | Place::Image(at) => at,
        };
        if at.trailing_zeros() < block_bits {
            return None;
        }
        if extent.file_at > 0 {
            chunk_bits = chunk_bits.min(extent.file_at.trailing_zeros());
        }
        if end < size {
            chunk_bits = chunk_bits.min(end.trailing_zeros());
        }
    }
    if chunk_bits < block_bits {
        return None;
    }
    let count = size.div_ceil(1 << chunk_bits);
    (count <= MAX_CHUNKS_PER_FILE).then_some(Plan { chunk_bits, count })
}

/// The least power of two that is not less.
fn bits_over(size: u64) -> u32 {
    u64::BITS - size.saturating_sub(1).leading_zeros()
}

/// The place of each chunk, `None` for a hole.
pub(crate) fn places<'a>(
    plan: &Plan,
    extents: &'a [Extent],
) -> impl Iterator<Item = Option<Place>> + use<'a> {
    let chunk_bits = plan.chunk_bits;
    let mut extents = extents.iter().filter(|e| e.len_bytes > 0).peekable();
    (0..plan.count).map(move |chunk| {
        let at = chunk << chunk_bits;
        while extents
            .peek()
            .is_some_and(|e| e.file_at + e.len_bytes <= at)
        {
            extents.next();
        }
        let extent = extents.peek().filter(|e| e.file_at <= at)?;
        let inside = at - extent.file_at;
        Some(match extent.place {
            Place::Tar(start) => Place::Tar(start + inside),
            Place::Image(start) => Place::Image(start + inside),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(file_at: u64, len_bytes: u64, at: u64) -> Extent {
        Extent {
            file_at,
            len_bytes,
            place: Place::Tar(at),
        }
    }

    #[test]
    fn a_file_in_one_piece_is_one_chunk() {
        for size in [1, 511, 512, 513, 100_000, 1 << 40] {
            let plan = plan(size, &[extent(0, size, 1024)], 9).expect("fits");
            assert_eq!(plan.count, 1, "{size}");
        }
    }

    #[test]
    fn holes_are_chunks_of_their_own() {
        let extents = [extent(4096, 4096, 512), extent(1 << 20, 100, 4608)];
        let plan = plan((1 << 20) + 100, &extents, 9).expect("fits");
        assert_eq!((plan.chunk_bits, plan.count), (12, 257));
        let found: Vec<_> = places(&plan, &extents)
            .enumerate()
            .filter_map(|(i, p)| p.map(|p| (i, p)))
            .collect();
        assert_eq!(found, [(1, Place::Tar(512)), (256, Place::Tar(4608))]);
    }

    #[test]
    fn what_is_not_on_blocks_does_not_fit() {
        assert!(!fits_chunks(1000, &[extent(0, 1000, 100)], 9));
        assert!(!fits_chunks(2000, &[extent(100, 1000, 512)], 9));
        assert!(!fits_chunks(1 << 41, &[extent(512, 512, 512)], 9));
        assert!(fits_chunks(1 << 41, &[], 9));
    }
}
