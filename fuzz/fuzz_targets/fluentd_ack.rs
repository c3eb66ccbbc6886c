#![no_main]
//! Answers of the forward protocol.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::fluentd_ack(data));
