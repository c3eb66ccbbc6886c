#![no_main]
//! The JSON of a create request.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = gantry_api::json::parse::<gantry_api::wire::create::CreateRequest>(data);
});
