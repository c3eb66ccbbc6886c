#![no_main]
//! Users and groups of an image.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data).into_owned();
    let (spec, files) = text.split_once('\n').unwrap_or(("root", &text));
    let (passwd, group) = files.split_once('\0').unwrap_or((files, ""));
    let accounts = gantry_engine::user::Accounts {
        passwd: passwd.to_owned(),
        group: group.to_owned(),
    };
    let _ = gantry_engine::user::resolve(spec, &[], &accounts);
});
