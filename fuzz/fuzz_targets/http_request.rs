#![no_main]
//! Method, path and query of a request.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::http_request(data));
