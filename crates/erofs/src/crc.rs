//! CRC-32C (Castagnoli), as the super block has it: from all ones, without the last inversion.

const POLYNOMIAL: u32 = 0x82F6_3B78;

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_polynomial() {
        assert_eq!(!super::crc32c(b"123456789"), 0xE306_9283);
    }
}
