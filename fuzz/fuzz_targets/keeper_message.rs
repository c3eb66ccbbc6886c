#![no_main]
//! Packets between daemon and keeper; what decodes encodes to something that decodes to the same.
use gantry_keeper_proto::msg::{FromKeeper, Request};
use gantry_keeper_proto::plan::Plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok((number, request)) = Request::decode(data) {
        assert_eq!(
            Request::decode(&request.encode(number)),
            Ok((number, request))
        );
    }
    let _ = Request::number_of(data);
    let _ = FromKeeper::decode(data);
    let _ = Plan::decode(data, 16);
});
