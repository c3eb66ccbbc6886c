#![no_main]
//! Records of a json-file log.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::json_log(data));
