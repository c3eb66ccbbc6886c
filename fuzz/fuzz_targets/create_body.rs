#![no_main]
//! The JSON of a create request.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = serde_json::from_slice::<gantry_api::wire::create::CreateRequest>(data);
});
