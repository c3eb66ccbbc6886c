#![no_main]
//! Manifests, indexes and configs as registries send them.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::registry_manifest(data));
