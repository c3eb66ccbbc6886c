//! `logs`: reading a container's log, from any shard.
//!
//! The reader lives on the owner shard (it shares state with the writer); the client's shard pulls
//! chunk by chunk, which bounds what is in flight. A client that leaves closes its reader.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use gantry_logs::{
    BadOption, BadTemplate, FileLog, FileOptions, Format, LogDriver, LogInfo, LogQuery, LogState,
};
use gantry_rt::sync::Notify;
use gantry_rt::{Either, ShardId, mailbox, race};
use gantry_stream::LogSink;
use rustc_hash::FxHashMap;

use super::{Container, ship};
use crate::EngineError;
use crate::model::{ContainerConfig, LogConfig, LogsOptions};
use crate::shard::{ShardEngine, call_error};

/// Log readers open on one shard.
pub const MAX_OPEN_LOGS: usize = 4096;
/// Log readers open on one container.
pub const MAX_LOG_CLIENTS: usize = 1024;

/// What readers of a log need of its writer.
pub(crate) type LogHandle = Rc<LogState>;

/// A log open for writing, and what its readers need.
pub(crate) type OpenSink = (Box<dyn LogSink>, LogHandle);

/// Checks a container's log configuration; `driver` none of ours is an error.
pub(crate) fn check_config(
    container: &ContainerConfig,
    log: &LogConfig,
) -> Result<(), EngineError> {
    match driver(log)? {
        LogDriver::None => gantry_logs::check_delivery(&pairs(log).collect()).map_err(bad_option),
        LogDriver::JsonFile | LogDriver::Local => {
            parse_options(log)?;
            let info = LogInfo {
                options: log.options.clone(),
                image_name: container.image.clone(),
                ..LogInfo::default()
            };
            attributes(&info).map(drop)
        }
        LogDriver::Remote(remote) => gantry_logship::check(remote, &log.options)
            .map_err(|e| EngineError::InvalidParameter(e.to_string())),
    }
}

/// Checks the log configuration of containers that name none.
pub fn check_default(log: &LogConfig) -> Result<(), EngineError> {
    check_config(&ContainerConfig::default(), log)
}

fn driver(log: &LogConfig) -> Result<LogDriver, EngineError> {
    LogDriver::named(&log.driver).ok_or_else(|| no_driver(&log.driver))
}

fn no_driver(name: &str) -> EngineError {
    EngineError::InvalidParameter(format!(
        "logger: no log driver named '{name}' is registered"
    ))
}

fn pairs(log: &LogConfig) -> impl Iterator<Item = (&str, &str)> {
    log.options.iter().map(|(k, v)| (k.as_str(), v.as_str()))
}

fn parse_options(log: &LogConfig) -> Result<FileOptions, EngineError> {
    let parsed = match driver(log)? {
        LogDriver::Local => FileOptions::parse_local(pairs(log)),
        LogDriver::Remote(_) => {
            let cache = gantry_logship::cache_options(&log.options);
            let cache = cache.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            let parsed = FileOptions::parse_local(cache);
            return parsed.map_err(|e| {
                ship::failed(&format!("error initializing local log cache driver: {e}"))
            });
        }
        _ => FileOptions::parse(pairs(log)),
    };
    parsed.map_err(bad_option)
}

fn bad_option(error: BadOption) -> EngineError {
    match error {
        BadOption::Tag(BadTemplate::NotBuilt(_)) => EngineError::NotImplemented(error.to_string()),
        _ => EngineError::InvalidParameter(error.to_string()),
    }
}

/// What drivers are told of a container.
pub(crate) fn info(container: &Container) -> LogInfo {
    let fixed = &container.fixed;
    LogInfo {
        options: fixed.host.log.options.clone(),
        id: container.id.to_string(),
        name: container.name().to_string(),
        image_id: fixed.image_id.clone(),
        image_name: fixed.config.image.clone(),
        entrypoint: fixed.path.clone(),
        arguments: fixed.args.clone(),
        created_unix_ns: fixed.created_unix_ns,
        env: fixed.config.env.clone(),
        labels: fixed.config.labels.clone(),
    }
}

/// The attributes of every record that the options `labels`, `env`, `tag` ask for.
fn attributes(info: &LogInfo) -> Result<BTreeMap<String, String>, EngineError> {
    let mut found = info.attributes(str::to_owned).map_err(bad_option)?;
    let tag = info.tag("").map_err(bad_option)?;
    if !tag.is_empty() {
        found.insert("tag".to_owned(), tag);
    }
    Ok(found)
}

/// The log of a container with a driver that writes one, and what its files hold.
fn files(container: &Container) -> (PathBuf, Format) {
    match LogDriver::named(&container.fixed.host.log.driver) {
        Some(LogDriver::Local | LogDriver::Remote(_)) => {
            (container.fixed.local_log_base(), Format::Frames)
        }
        _ => (container.fixed.log_path(&container.id), Format::Json),
    }
}

/// Opens the log of a container for writing; `None` with driver `none`.
pub(crate) fn open_sink(container: &Container) -> Result<Option<OpenSink>, EngineError> {
    let log = &container.fixed.host.log;
    let driver = driver(log)?;
    if driver == LogDriver::None {
        return Ok(None);
    }
    let mut options = parse_options(log)?;
    if !matches!(driver, LogDriver::Remote(_)) {
        options.attrs = attributes(&info(container))?;
    }
    let (path, format) = files(container);
    let io_error = |e| EngineError::io(format!("open log {}", path.display()), e);
    let file = match format {
        Format::Json => FileLog::open_json(&path, options),
        Format::Frames => {
            let dir = path.parent().unwrap_or(&path);
            std::fs::create_dir_all(dir).map_err(io_error)?;
            FileLog::open_local(&path, options)
        }
    };
    let file = file.map_err(io_error)?;
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
    _counted: CountedReader,
}

/// Counts a client while it reads.
struct CountedReader(Rc<Container>);

impl CountedReader {
    fn new(container: &Rc<Container>) -> Self {
        container.log_clients.set(container.log_clients.get() + 1);
        Self(container.clone())
    }
}

impl Drop for CountedReader {
    fn drop(&mut self) {
        self.0.log_clients.set(self.0.log_clients.get() - 1);
    }
}

fn query(container: &Container, options: &LogsOptions, raw: bool) -> Result<LogQuery, EngineError> {
    let now_ns = gantry_stream::unix_time_ns();
    let time = |text: &str| -> Result<Option<u64>, EngineError> {
        if text.is_empty() || text == "0" {
            return Ok(None);
        }
        gantry_logs::time::parse_bound(text, now_ns)
            .map(Some)
            .map_err(|e| EngineError::InvalidParameter(e.to_string()))
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
        tty: raw,
    })
}

fn reader(
    container: &Container,
    options: &LogsOptions,
    raw: bool,
) -> Result<gantry_logs::LogStream, EngineError> {
    let log = &container.fixed.host.log;
    let kept = driver(log).is_ok_and(|d| match d {
        LogDriver::None => false,
        LogDriver::Remote(_) => !gantry_logship::reading_disabled(&log.options),
        LogDriver::JsonFile | LogDriver::Local => true,
    });
    if !kept {
        return Err(EngineError::NotImplemented(
            "configured logging driver does not support reading".to_owned(),
        ));
    }
    let query = query(container, options, raw)?;
    let state = container.inner.borrow().last_log.clone();
    let (path, format) = files(container);
    let opened = match state {
        Some(state) => gantry_logs::read(&state, query),
        None => gantry_logs::read_path(&path, format, query),
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
    if container.log_clients.get() >= MAX_LOG_CLIENTS {
        return Err(EngineError::Unavailable(format!(
            "more than {MAX_LOG_CLIENTS} clients read the logs of this container"
        )));
    }
    let reader = reader(container, options, container.fixed.config.tty)?;
    let number = logs.next.get();
    logs.next.set(number + 1);
    let open = OpenLog {
        reader: RefCell::new(Some(reader)),
        closed: Notify::new(),
        is_closed: Cell::new(false),
        _counted: CountedReader::new(container),
    };
    logs.open.borrow_mut().insert(number, Rc::new(open));
    Ok(number)
}

/// A reader of the log as it is now, for an attach with `logs`; `raw` without frames.
pub(crate) fn snapshot(
    container: &Container,
    options: &LogsOptions,
    raw: bool,
) -> Result<gantry_logs::LogStream, EngineError> {
    reader(container, options, raw)
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
