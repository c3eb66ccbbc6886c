#![no_main]
//! Attributes of the kernel's messages.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::netlink_attributes(data));
