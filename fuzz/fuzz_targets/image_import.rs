#![no_main]
//! Change instructions and platforms of an import; the layer is empty. Runs as root.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::image_import(data));
