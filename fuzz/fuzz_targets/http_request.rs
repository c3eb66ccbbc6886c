#![no_main]
//! Method, path and query of a request.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let _ = gantry_api::router::route(method, path);
    let _ = gantry_api::query::Query::parse(query);
    let _ = gantry_api::filters::parse(query);
    let _ = gantry_api::version::check(text);
});
