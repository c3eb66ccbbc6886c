#![no_main]
//! Archives of layers and images: every entry, and what it holds.
use libfuzzer_sys::fuzz_target;
use std::io::Read;

fuzz_target!(|data: &[u8]| {
    let mut reader = gantry_image::tar::Reader::new(data);
    while let Ok(Some(_entry)) = reader.next_entry() {
        let mut payload = Vec::new();
        if reader
            .by_ref()
            .take(1 << 20)
            .read_to_end(&mut payload)
            .is_err()
        {
            break;
        }
        assert!(payload.len() <= data.len());
    }
});
