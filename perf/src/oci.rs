//! Launchers alone: `RUNTIME run` of a prepared bundle, beside start and wait of a created container.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cases::{Size, ms};
use crate::engine::Engine;

/// An OCI runtime and the bundle that it runs.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Name in the tables.
    pub name: String,
    /// Program.
    pub program: PathBuf,
    /// Bundle directory; its program ends at once.
    pub bundle: PathBuf,
}

impl Runtime {
    /// Parse `NAME=PROGRAM,BUNDLE`.
    pub fn parse(text: &str) -> Result<Runtime, String> {
        let parts = text
            .split_once('=')
            .and_then(|(name, rest)| Some((name, rest.split_once(',')?)));
        let (name, (program, bundle)) = parts.ok_or("a runtime is NAME=PROGRAM,BUNDLE")?;
        Ok(Runtime {
            name: name.to_owned(),
            program: program.into(),
            bundle: bundle.into(),
        })
    }

    /// Times of `run`, which returns when the container has ended.
    pub fn runs(&self, size: &Size) -> io::Result<Vec<f64>> {
        (0..size.lives)
            .map(|n| {
                let begin = Instant::now();
                let status = Command::new(&self.program)
                    .arg("run")
                    .arg("--bundle")
                    .arg(&self.bundle)
                    .arg(format!("perf-{}-{n}", std::process::id()))
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .status()?;
                match status.success() {
                    true => Ok(ms(begin.elapsed())),
                    false => Err(io::Error::other(format!("{}: {status}", self.name))),
                }
            })
            .collect()
    }
}

/// Start and wait of containers that were created before: what remains of a life is not the launcher's.
pub fn starts(engine: &Engine, size: &Size) -> io::Result<Vec<f64>> {
    let mut client = engine.client()?;
    let mut times = Vec::new();
    for _ in 0..size.lives {
        let id = engine.create(&mut client, &["true"], &size.log_driver)?;
        let begin = Instant::now();
        client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
        client.expect("POST", &format!("/v1.48/containers/{id}/wait"), None)?;
        times.push(ms(begin.elapsed()));
        client.expect("DELETE", &format!("/v1.48/containers/{id}"), None)?;
    }
    Ok(times)
}
