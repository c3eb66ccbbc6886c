//! The log of a running container that cannot be opened when the daemon comes back: a read-only or damaged file system, a
//! full disk. The container runs on; what it prints meanwhile is lost, counted, and said in the log as soon as that opens.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gantry_logs::LostLog;
use gantry_stream::{ContainerIo, IoConfig};

use super::{Container, logs, ship};
use crate::EngineError;

/// Pause between attempts to open such a log.
pub const LOG_RETRY: Duration = Duration::from_secs(1);
/// How often it is told that they fail.
const REPEAT_ERROR: Duration = Duration::from_secs(60);

/// A container's streams, and its log.
pub(crate) struct Streams {
    pub(crate) io: Rc<ContainerIo>,
    pub(crate) log: Option<logs::LogHandle>,
    /// Why there is a log that only counts; [`open_later`] is next.
    pub(crate) late: Option<EngineError>,
}

/// Makes the streams of a running container with its log, or with one that counts what is lost.
pub(crate) fn streams(
    container: &Container,
    make: impl Fn(IoConfig) -> io::Result<Rc<ContainerIo>>,
) -> Result<Streams, EngineError> {
    let tty = container.fixed.config.tty;
    let make = |sink| {
        let (buffer, long_lines) = (logs::buffer(container), logs::long_lines(container));
        make(IoConfig {
            tty,
            sink,
            buffer,
            long_lines,
        })
        .map_err(|e| EngineError::io("take over a container's streams", e))
    };
    let error = match logs::open_sink(container) {
        Ok(Some((sink, log))) => match make(Some(sink)) {
            Ok(io) => {
                return Ok(Streams {
                    io,
                    log: Some(log),
                    late: None,
                });
            }
            Err(error) => error,
        },
        Ok(None) => {
            return Ok(Streams {
                io: make(None)?,
                log: None,
                late: None,
            });
        }
        Err(error) => error,
    };
    let lost = match &error {
        EngineError::Io { source, .. } => LostLog::new(source),
        _ => LostLog::new(&io::ErrorKind::Other.into()),
    };
    Ok(Streams {
        io: make(Some(Box::new(lost)))?,
        log: None,
        late: Some(error),
    })
}

/// Opens the log of the present run as soon as that is possible.
pub(crate) fn open_later(container: &Rc<Container>, error: EngineError) {
    tracing::error!(id = %container.id, %error, "the log of a running container can't be opened; what it prints is lost until it can");
    container.inner.borrow_mut().late_log = Some(error.to_string());
    let container = container.clone();
    gantry_rt::spawn("logs.open", async move {
        let mut said = Instant::now();
        loop {
            gantry_rt::sleep(LOG_RETRY).await;
            // The end of the run is the last attempt.
            let Some(run) = container.run().filter(|_| is_late(&container)) else {
                return;
            };
            if let Err(error) = open_now(&container, &run.io).await
                && said.elapsed() >= REPEAT_ERROR
            {
                said = Instant::now();
                tracing::error!(id = %container.id, %error, "the log of a running container still can't be opened");
            }
        }
    });
}

fn is_late(container: &Container) -> bool {
    container.inner.borrow().late_log.is_some()
}

/// One attempt, if it is needed: the log goes on where it was, and what was lost is said.
pub(crate) async fn open_now(
    container: &Rc<Container>,
    io: &Rc<ContainerIo>,
) -> Result<(), EngineError> {
    if !is_late(container) {
        return Ok(());
    }
    let opened = logs::open_sink(container).and_then(|opened| {
        let Some((sink, log)) = opened else {
            return Ok(None);
        };
        let replaced = io.replace_log(sink);
        replaced.map_err(|e| EngineError::io("go on with a container's log", e))?;
        Ok(Some(log))
    });
    let log = match opened {
        Ok(log) => log,
        Err(error) => {
            container.inner.borrow_mut().late_log = Some(error.to_string());
            return Err(error);
        }
    };
    {
        let mut inner = container.inner.borrow_mut();
        inner.late_log = None;
        inner.last_log.clone_from(&log);
    }
    tracing::warn!(id = %container.id, "the log of a running container is open again");
    let sender = ship::resumed(container).await;
    if !container.gone.get() {
        ship::begin(container, sender, log.as_ref());
    }
    Ok(())
}
