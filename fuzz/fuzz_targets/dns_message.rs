#![no_main]
//! Queries and answers of the domain name system.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::dns_message(data));
