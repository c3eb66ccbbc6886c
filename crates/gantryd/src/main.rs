//! gantryd: flags, daemon.json, boot, signals.

mod boot;
mod config;
mod features;
mod files;
mod flags;
mod known;
mod listen;
mod notify;
mod probe;
mod registries;
mod remap;
mod runtimes;
mod signals;

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use flags::Flags;
use signals::{Asked, Signals};

fn main() -> ExitCode {
    let flags = match flags::parse(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("{error}\nSee 'gantryd --help'.\n\nUsage:\tgantryd [OPTIONS]");
            return ExitCode::FAILURE;
        }
    };
    if flags.help {
        print!("{}", flags::HELP);
        return ExitCode::SUCCESS;
    }
    if flags.version {
        let build = option_env!("GANTRY_GIT_COMMIT").unwrap_or("unknown");
        println!(
            "Gantry version {}, build {build}",
            env!("CARGO_PKG_VERSION")
        );
        return ExitCode::SUCCESS;
    }
    let config = match config::resolve(&flags) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if flags.validate {
        println!("configuration OK");
        return ExitCode::SUCCESS;
    }
    let level = log(&config);
    match run(&flags, &config, &level) {
        Ok(()) => {
            // Shards are never torn down; the process ends here, whatever they do.
            std::process::exit(0)
        }
        Err(text) => {
            eprintln!("failed to start daemon: {text}");
            std::process::exit(1)
        }
    }
}

fn run(flags: &Flags, config: &config::Config, level: &Level) -> Result<(), String> {
    gantry_engine::arm_faults().map_err(|e| format!("the directory of faults: {e}"))?;
    let signals = Signals::block().map_err(|e| format!("signals: {e}"))?;
    let daemon = boot::boot(config).map_err(|e| e.to_string())?;
    notify::tell("READY=1");
    loop {
        match signals.next() {
            Ok(Asked::Reload) => reload_settings(flags, &daemon, level),
            Ok(Asked::End) => break,
            Err(error) => {
                tracing::error!(%error, "signals can't be read; ending");
                break;
            }
        }
    }
    notify::tell("STOPPING=1");
    tracing::info!("ending; running containers go on");
    daemon.shutdown();
    Ok(())
}

/// Reads daemon.json again. What can change at runtime is put in place; a file that is wrong changes nothing.
fn reload_settings(flags: &Flags, daemon: &boot::Daemon, level: &Level) {
    notify::tell("RELOADING=1");
    match config::resolve(flags) {
        Ok(config) => {
            if let Err(error) = level.modify(|filter| *filter = level_of(&config)) {
                tracing::error!(%error, "the log level could not be changed");
            }
            daemon.reload(&config);
            tracing::info!(
                debugging = config.debug,
                labels = ?config.labels,
                level = config.log_level,
                "the configuration is reloaded"
            );
        }
        Err(error) => tracing::error!(
            file = %config::file_of(flags).display(),
            %error,
            "the configuration is not reloaded; nothing was changed"
        ),
    }
    notify::tell("READY=1");
}

/// The log level, to be changed while the daemon runs.
type Level = reload::Handle<LevelFilter, Registry>;

fn level_of(config: &config::Config) -> LevelFilter {
    match config.log_level.as_str() {
        _ if config.debug => LevelFilter::DEBUG,
        "debug" => LevelFilter::DEBUG,
        "warn" => LevelFilter::WARN,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    }
}

fn log(config: &config::Config) -> Level {
    let (filter, level) = reload::Layer::new(level_of(config));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    level
}
