#![no_main]
//! Whole image archives: docker's and OCI's, their JSON documents and layers. Nothing may be left of what is refused.
//! Runs as root, in a directory of its own.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::image_load(data));
