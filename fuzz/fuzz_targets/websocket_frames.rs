#![no_main]
//! Frames of a WebSocket client cut at any place.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::websocket_frames(data));
