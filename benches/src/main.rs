//! Benchmarks with two sides in one run.
//!
//! `gantry-benches http [SECONDS] [ROUNDS]`: the same small answer by hyper on a shard of ours and by hyper on tokio
//! (current-thread), each in a process pinned to CPU 0, loaded from CPU 1 over 32 kept-alive unix connections, in turns.

mod http_load;
mod http_servers;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u32| {
        args.get(index)
            .and_then(|a| a.parse().ok())
            .unwrap_or(default)
    };
    let result = match args.first().map(String::as_str) {
        Some("http") => http_load::compare(number(1, 3), number(2, 5)),
        Some("serve-shard") => http_servers::on_shard(args.get(1)),
        Some("serve-tokio") => http_servers::on_tokio(args.get(1)),
        _ => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "usage: gantry-benches http [SECONDS] [ROUNDS]",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
