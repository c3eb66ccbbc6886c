#![no_main]
//! Multiplexed frames cut at any place.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (first, rest) = data.split_at(data.len() / 2);
    let mut reader = gantry_stream::mux::FrameReader::default();
    for part in [first, rest] {
        reader.push(part);
        while let Ok(Some((_stream, bytes))) = reader.next_frame() {
            assert!(bytes.len() <= gantry_stream::mux::MAX_FRAME_BYTES);
        }
    }
});
