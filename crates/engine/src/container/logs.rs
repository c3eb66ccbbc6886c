//! `logs`: reading a container's log, from any shard.
//!
//! The reader lives on the owner shard (it shares state with the writer); the client's shard pulls
//! chunk by chunk, which bounds what is in flight. A client that leaves closes its reader.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use gantry_logs::{JsonFile, JsonFileOptions, LogQuery, LogState};
use gantry_rt::sync::Notify;
use gantry_rt::{Either, ShardId, mailbox, race};
use gantry_stream::LogSink;
use rustc_hash::FxHashMap;

use super::Container;
use crate::EngineError;
use crate::model::{LogConfig, LogsOptions};
use crate::shard::{ShardEngine, call_error};

/// Log readers open on one shard.
pub const MAX_OPEN_LOGS: usize = 4096;

/// What readers of a log need of its writer.
pub(crate) type LogHandle = Rc<LogState>;

/// A log open for writing, and what its readers need.
pub(crate) type OpenSink = (Box<dyn LogSink>, LogHandle);

/// Checks options of the json-file driver.
pub(crate) fn check_options(options: &BTreeMap<String, String>) -> Result<(), EngineError> {
    parse_options(options).map(drop)
}

fn parse_options(options: &BTreeMap<String, String>) -> Result<JsonFileOptions, EngineError> {
    JsonFileOptions::parse(options.iter().map(|(k, v)| (k.as_str(), v.as_str())))
        .map_err(|e| EngineError::InvalidParameter(e.to_string()))
}

/// The attributes of every record that the options `labels`, `env` ask for.
fn attributes(container: &Container, log: &LogConfig) -> BTreeMap<String, String> {
    let config = &container.fixed.config;
    let wanted = |key: &str| -> Vec<String> {
        log.options
            .get(key)
            .map(|v| v.split(',').map(str::to_owned).collect())
            .unwrap_or_default()
    };
    let mut found = BTreeMap::new();
    for name in wanted("labels") {
        if let Some(value) = config.labels.get(&name) {
            found.insert(name, value.clone());
        }
    }
    let environment = wanted("env");
    for (name, value) in config.env.iter().filter_map(|e| e.split_once('=')) {
        if environment.iter().any(|w| w == name) {
            found.insert(name.to_owned(), value.to_owned());
        }
    }
    found
}

/// Opens the log of a container for writing; `None` with driver `none`.
pub(crate) fn open_sink(container: &Container) -> Result<Option<OpenSink>, EngineError> {
    let log = &container.fixed.host.log;
    if log.driver == "none" {
        return Ok(None);
    }
    let mut options = parse_options(&log.options)?;
    options.attrs = attributes(container, log);
    let path = container.fixed.log_path(&container.id);
    let file = JsonFile::open(&path, options)
        .map_err(|e| EngineError::io(format!("open log {}", path.display()), e))?;
    let state = file.state();
    Ok(Some((Box::new(file), state)))
}

/// Readers open on this shard.
#[derive(Default)]
pub(crate) struct OpenLogs {
    next: Cell<u64>,
    open: RefCell<FxHashMap<u64, Rc<OpenLog>>>,
}

struct OpenLog {
    /// Taken while a pull is under way.
    reader: RefCell<Option<gantry_logs::LogStream>>,
    closed: Notify,
    is_closed: Cell<bool>,
}

fn query(container: &Container, options: &LogsOptions) -> Result<LogQuery, EngineError> {
    // dockerd answers a moment that is no number with status 500; the CLI turns dates and spans into numbers itself.
    let time = |text: &str| -> Result<Option<u64>, EngineError> {
        if text.is_empty() || text == "0" {
            return Ok(None);
        }
        gantry_logs::time::parse_timestamp(text)
            .map(Some)
            .map_err(|e| EngineError::System(e.to_string()))
    };
    let tail = match options.tail.as_str() {
        "" | "all" => None,
        // As Docker: what is not a number is every line.
        text => text.parse::<u64>().ok(),
    };
    Ok(LogQuery {
        stdout: options.stdout,
        stderr: options.stderr,
        since_ns: time(&options.since)?,
        until_ns: time(&options.until)?,
        timestamps: options.timestamps,
        tail,
        follow: options.follow && container.status().is_alive(),
        details: options.details,
        tty: container.fixed.config.tty,
    })
}

fn reader(
    container: &Container,
    options: &LogsOptions,
) -> Result<gantry_logs::LogStream, EngineError> {
    if container.fixed.host.log.driver == "none" {
        return Err(EngineError::NotImplemented(
            "configured logging driver does not support reading".to_owned(),
        ));
    }
    let query = query(container, options)?;
    let state = container.inner.borrow().last_log.clone();
    let path = container.fixed.log_path(&container.id);
    let opened = match state {
        Some(state) => gantry_logs::read(&state, query),
        None => gantry_logs::read_path(&path, query),
    };
    opened.map_err(|e| EngineError::io(format!("open log {}", path.display()), e))
}

/// Opens a reader on the owner shard and gives its number.
pub(crate) fn open(container: &Rc<Container>, options: &LogsOptions) -> Result<u64, EngineError> {
    if !options.stdout && !options.stderr {
        return Err(EngineError::InvalidParameter(
            "You must choose at least one stream".to_owned(),
        ));
    }
    let logs = &container.shard.open_logs;
    if logs.open.borrow().len() >= MAX_OPEN_LOGS {
        return Err(EngineError::Unavailable(format!(
            "more than {MAX_OPEN_LOGS} clients read logs"
        )));
    }
    let reader = reader(container, options)?;
    let number = logs.next.get();
    logs.next.set(number + 1);
    let open = OpenLog {
        reader: RefCell::new(Some(reader)),
        closed: Notify::new(),
        is_closed: Cell::new(false),
    };
    logs.open.borrow_mut().insert(number, Rc::new(open));
    Ok(number)
}

/// A reader of the log as it is now, for an attach with `logs`.
pub(crate) fn snapshot(
    container: &Container,
    options: &LogsOptions,
) -> Result<gantry_logs::LogStream, EngineError> {
    reader(container, options)
}

async fn pull(shard: Rc<ShardEngine>, number: u64) -> Option<Result<Bytes, EngineError>> {
    let open = shard.open_logs.open.borrow().get(&number).cloned()?;
    let mut reader = open.reader.borrow_mut().take()?;
    let closed = open.closed.notified();
    if open.is_closed.get() {
        return None;
    }
    let chunk = match race(reader.next(), closed).await {
        Either::Left(chunk) => chunk,
        Either::Right(()) => None,
    };
    if chunk.is_none() {
        shard.open_logs.open.borrow_mut().remove(&number);
    } else {
        *open.reader.borrow_mut() = Some(reader);
    }
    chunk.map(|c| c.map_err(|e| EngineError::io("read a container's log", e)))
}

fn close(shard: &ShardEngine, number: u64) {
    if let Some(open) = shard.open_logs.open.borrow_mut().remove(&number) {
        open.is_closed.set(true);
        open.closed.notify_all();
    }
}

/// Log records, as multiplexed frames or (terminal) raw bytes.
pub struct LogStream {
    tty: bool,
    shard: usize,
    number: u64,
    ended: bool,
}

impl LogStream {
    pub(crate) fn new(shard: usize, number: u64, tty: bool) -> Self {
        Self {
            tty,
            shard,
            number,
            ended: false,
        }
    }

    /// Whether the container has a terminal (raw stream) or not (multiplexed frames).
    pub fn tty(&self) -> bool {
        self.tty
    }

    /// The next chunk; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, EngineError>> {
        if self.ended {
            return None;
        }
        let number = self.number;
        let call = mailbox::call(ShardId(self.shard), move || async move {
            match ShardEngine::current() {
                Ok(shard) => pull(shard, number).await,
                Err(e) => Some(Err(e)),
            }
        });
        let chunk = call.await.unwrap_or_else(|e| Some(Err(call_error(e))));
        self.ended = !matches!(chunk, Some(Ok(_)));
        chunk
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        let (shard, number) = (self.shard, self.number);
        post_surely(shard, move |engine| close(&engine, number));
    }
}

/// Posts a small job; when the mailbox is full it is tried again from this shard.
fn post_surely(shard: usize, job: impl FnOnce(Rc<ShardEngine>) + Send + Clone + 'static) {
    let run = {
        let job = job.clone();
        move || {
            if let Ok(engine) = ShardEngine::current() {
                job(engine);
            }
        }
    };
    if mailbox::post(ShardId(shard), run).is_err() && gantry_rt::try_current_shard().is_some() {
        gantry_rt::spawn("logs.close", async move {
            gantry_rt::sleep(std::time::Duration::from_millis(10)).await;
            post_surely(shard, job);
        });
    }
}
