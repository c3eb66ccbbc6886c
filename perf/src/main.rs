//! `gantry-perf`: drives several Docker sockets side by side in one run, interleaved, and prints
//! medians, ratios and raw samples.
//!
//! ```text
//! gantry-perf --engine gantry=/run/g.sock,cgroup=/sys/fs/cgroup/cpuacct/g \
//!             --engine dockerd=/run/d.sock,cgroup=/sys/fs/cgroup/cpuacct/d [--rounds 5] [--cases ping,lifecycle]
//! ```
//! Every engine must have the image `busybox`. Cases of images need `--images DIR`, what `perf/images.py` made, and for each
//! engine a registry with it. The first engine is compared with each other one.

use std::process::ExitCode;

mod burst;
mod cases;
mod engine;
mod http;
mod logs;
mod oci;
mod report;

use cases::images::IMAGE_CASES;
use cases::{Better, CASES, Case, Size};
use engine::Engine;
use oci::Runtime;
use report::Row;

const USAGE: &str = "usage: gantry-perf --engine NAME=SOCKET[,cgroup=DIR][,registry=HOST:PORT][,pid=N]... [--rounds N] [--cases A,B] \
                     [--lives N] [--lives-per-client N] [--idle N] [--burst N] [--attach-mib N] [--log-driver NAME] \
                     [--runtime NAME=PROGRAM,BUNDLE]... [--images DIR]";

/// Most rounds of a case of images: each takes seconds.
const MAX_IMAGE_ROUNDS: usize = 3;

struct Options {
    engines: Vec<Engine>,
    rounds: usize,
    cases: Vec<String>,
    size: Size,
    runtimes: Vec<Runtime>,
}

fn parse(args: impl Iterator<Item = String>) -> Result<Options, String> {
    let size = Size {
        lives: 10,
        lives_per_client: 5,
        idle: 100,
        burst: 400,
        attach_mib: 256,
        images: None,
        log_driver: "json-file".to_owned(),
    };
    let mut options = Options {
        engines: Vec::new(),
        rounds: 5,
        cases: Vec::new(),
        size,
        runtimes: Vec::new(),
    };
    let mut args = args;
    while let Some(flag) = args.next() {
        let value = args
            .next()
            .ok_or(format!("{flag} needs a value\n{USAGE}"))?;
        let number = || {
            value
                .parse::<usize>()
                .map_err(|_| format!("{flag}: {value} is no number"))
        };
        match flag.as_str() {
            "--engine" => options.engines.push(Engine::parse(&value)?),
            "--rounds" => options.rounds = number()?,
            "--cases" => options.cases = value.split(',').map(str::to_owned).collect(),
            "--lives" => options.size.lives = number()?,
            "--lives-per-client" => options.size.lives_per_client = number()?,
            "--runtime" => options.runtimes.push(Runtime::parse(&value)?),
            "--burst" => options.size.burst = number()?.max(1),
            "--idle" => options.size.idle = number()?,
            "--attach-mib" => options.size.attach_mib = number()?,
            "--images" => options.size.images = Some(value.into()),
            "--log-driver" => options.size.log_driver = value,
            _ => return Err(format!("unknown flag {flag}\n{USAGE}")),
        }
    }
    if options.engines.is_empty() {
        return Err(USAGE.to_owned());
    }
    if let Some(name) = options
        .cases
        .iter()
        .find(|n| !CASES.iter().chain(IMAGE_CASES).any(|c| c.name == **n))
    {
        return Err(format!("unknown case {name}"));
    }
    Ok(options)
}

/// All rounds of one case: in each round every engine once, the first one rotating.
fn measure(case: &Case, options: &Options) -> Result<Vec<Row>, String> {
    let engines = &options.engines;
    let mut rows: Vec<Row> = case
        .metrics
        .iter()
        .map(|(metric, unit, better)| Row {
            metric,
            unit,
            better: *better,
            samples: vec![Vec::new(); engines.len()],
        })
        .collect();
    for round in 0..rounds(case, options) {
        for turn in 0..engines.len() {
            let index = (round + turn) % engines.len();
            let samples = (case.run)(&engines[index], &options.size)
                .map_err(|e| format!("{} on {}: {e}", case.name, engines[index].name))?;
            for (row, list) in rows.iter_mut().zip(samples) {
                row.samples[index].extend(list);
            }
        }
    }
    Ok(rows)
}

fn rounds(case: &Case, options: &Options) -> usize {
    match () {
        () if case.once => 1,
        () if case.name.starts_with("image-") => options.rounds.min(MAX_IMAGE_ROUNDS),
        () => options.rounds,
    }
}

/// The table of launchers: the first engine against each OCI runtime, in turns.
fn launchers(options: &Options) -> Result<(), String> {
    let engine = &options.engines[0];
    let mut names = vec![engine.name.clone()];
    names.extend(options.runtimes.iter().map(|r| r.name.clone()));
    eprintln!("launcher alone: {}", names.join(", "));
    let mut row = Row {
        metric: "launcher alone, `true`: start to exit",
        unit: "ms",
        better: Better::Less,
        samples: vec![Vec::new(); names.len()],
    };
    for _ in 0..options.rounds {
        let failed = |name: &str, e: std::io::Error| format!("launcher alone, {name}: {e}");
        let times = oci::starts(engine, &options.size).map_err(|e| failed(&engine.name, e))?;
        row.samples[0].extend(times);
        for (samples, runtime) in row.samples[1..].iter_mut().zip(&options.runtimes) {
            samples.extend(
                runtime
                    .runs(&options.size)
                    .map_err(|e| failed(&runtime.name, e))?,
            );
        }
    }
    let rows = [row];
    println!(
        "{}\nRaw samples:\n\n```\n{}```\n",
        report::table(&names, &rows),
        report::raw(&names, &rows)
    );
    Ok(())
}

fn run() -> Result<(), String> {
    let options = parse(std::env::args().skip(1))?;
    let names: Vec<String> = options.engines.iter().map(|e| e.name.clone()).collect();
    let mut rows = Vec::new();
    for case in CASES.iter().chain(IMAGE_CASES) {
        // Without the images their cases are left out, but not if they are asked for.
        let all = options.cases.is_empty()
            && (options.size.images.is_some() || CASES.iter().any(|c| c.name == case.name));
        if all || options.cases.iter().any(|n| n == case.name) {
            eprintln!(
                "{}: {} rounds on {}",
                case.name,
                rounds(case, &options),
                names.join(", ")
            );
            rows.extend(measure(case, &options)?);
        }
    }
    if !options.runtimes.is_empty() {
        launchers(&options)?;
    }
    println!("Log driver of the streams: {}.\n", options.size.log_driver);
    println!(
        "{}\nRaw samples:\n\n```\n{}```",
        report::table(&names, &rows),
        report::raw(&names, &rows)
    );
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("gantry-perf: {text}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(list: &[&str]) -> Result<Options, String> {
        parse(list.iter().map(|s| (*s).to_owned()))
    }

    #[test]
    fn options() {
        assert!(args(&[]).is_err());
        assert!(args(&["--engine"]).is_err());
        assert!(args(&["--engine", "a=/s", "--cases", "nosuch"]).is_err());
        assert!(args(&["--engine", "a=/s", "--rounds", "x"]).is_err());
        let o = args(&[
            "--engine", "a=/s", "--engine", "b=/t", "--rounds", "2", "--cases", "ping",
        ])
        .unwrap();
        assert_eq!((o.engines.len(), o.rounds, o.cases.len()), (2, 2, 1));
    }
}
