//! gantryd: flags, daemon.json, boot, signals.

mod boot;
mod config;
mod files;
mod flags;
mod listen;
mod probe;
mod signals;

use std::process::ExitCode;

use signals::{Asked, Signals};

fn main() -> ExitCode {
    let flags = match flags::parse(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("{error}\n\nRun 'gantryd --help' for more information");
            return ExitCode::from(125);
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
    log(&config);
    match run(&config) {
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

fn run(config: &config::Config) -> Result<(), String> {
    let signals = Signals::block().map_err(|e| format!("signals: {e}"))?;
    let daemon = boot::boot(config).map_err(|e| e.to_string())?;
    loop {
        match signals.next() {
            Ok(Asked::Reload) => tracing::info!(
                "SIGHUP: reloading daemon.json is not built yet; nothing was changed"
            ),
            Ok(Asked::End) => break,
            Err(error) => {
                tracing::error!(%error, "signals can't be read; ending");
                break;
            }
        }
    }
    tracing::info!("ending; running containers go on");
    daemon.shutdown();
    Ok(())
}

fn log(config: &config::Config) {
    let level = match config.log_level.as_str() {
        _ if config.debug => tracing::Level::DEBUG,
        "debug" => tracing::Level::DEBUG,
        "warn" => tracing::Level::WARN,
        "error" | "fatal" => tracing::Level::ERROR,
        _ => tracing::Level::INFO,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
