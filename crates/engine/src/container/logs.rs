//! `logs`: reading a container's log, from any shard.
//!
//! What a log has is read on the client's shard. A reader that follows lives on the owner shard (it shares state with the
//! writer), and the client's shard pulls chunk by chunk, which bounds what is in flight. A client that leaves closes its
//! reader.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use gantry_logs::{
    BadOption, BadTemplate, FileLog, FileOptions, Format, LogDriver, LogFiles, LogInfo, LogQuery,
    LogState,
};
use gantry_rt::sync::Notify;
use gantry_rt::{Either, ShardId, mailbox, race};
use gantry_stream::{LogBufferConfig, LogSink};
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
            // What a template gives depends on what the container will be: the start tells what is wrong with that.
            info.check_tag().map_err(bad_option)?;
            info.attributes(str::to_owned).map(drop).map_err(bad_option)
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
        log_path: match LogDriver::named(&fixed.host.log.driver) {
            Some(LogDriver::JsonFile) => fixed.log_path(&container.id).display().to_string(),
            _ => String::new(),
        },
    }
}

/// The attributes of every record that the options `labels`, `env`, `tag` ask for.
fn attributes(info: &LogInfo) -> Result<BTreeMap<String, String>, EngineError> {
    let failed = |e: BadOption| match bad_option(e) {
        EngineError::InvalidParameter(text) => ship::failed(&text),
        other => other,
    };
    let mut found = info.attributes(str::to_owned).map_err(failed)?;
    let tag = info.tag("").map_err(failed)?;
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

/// Where unfinished lines are kept of a log whose lines may be longer than the journal takes.
pub(crate) fn long_lines(container: &Container) -> Option<PathBuf> {
    let log = &container.fixed.host.log;
    log.options.get("max-line-size")?;
    let exec_root = &container.shard.shared.config.exec_root;
    Some(exec_root.join(format!("spill-{}.lines", container.id)))
}

/// Where output waits for the log of a container that must not wait for it.
pub(crate) fn buffer(container: &Container) -> Option<LogBufferConfig> {
    let max_bytes = gantry_logs::buffer_bytes(&pairs(&container.fixed.host.log).collect())?;
    let exec_root = &container.shard.shared.config.exec_root;
    Some(LogBufferConfig {
        path: exec_root.join(format!("spill-{}", container.id)),
        max_bytes,
    })
}

/// Readers open on this shard: of clients of its own, and followers of its containers' logs.
#[derive(Default)]
pub(crate) struct OpenLogs {
    next: Cell<u64>,
    followers: RefCell<FxHashMap<u64, Rc<OpenLog>>>,
    /// Each reader has a clone.
    readers: Rc<()>,
}

/// Counts a client while it reads.
struct OneMore {
    _clone: Rc<()>,
}

impl OpenLogs {
    fn one_more(&self) -> Result<OneMore, EngineError> {
        if Rc::strong_count(&self.readers) > MAX_OPEN_LOGS {
            return Err(EngineError::Unavailable(format!(
                "more than {MAX_OPEN_LOGS} clients read logs"
            )));
        }
        Ok(OneMore {
            _clone: self.readers.clone(),
        })
    }
}

struct OpenLog {
    /// Taken while a pull is under way.
    reader: RefCell<Option<gantry_logs::LogStream>>,
    closed: Notify,
    is_closed: Cell<bool>,
    _one: OneMore,
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
        // As Docker: what is not a number, or less than none, is every line.
        text => text.parse().ok().and_then(|n: i64| n.try_into().ok()),
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

/// A log that can be read, or why it cannot.
fn readable(container: &Container) -> Result<(), EngineError> {
    let log = &container.fixed.host.log;
    let kept = driver(log).is_ok_and(|d| match d {
        LogDriver::None => false,
        LogDriver::Remote(_) => !gantry_logship::reading_disabled(&log.options),
        LogDriver::JsonFile | LogDriver::Local => true,
    });
    kept.then_some(()).ok_or_else(|| {
        EngineError::NotImplemented("configured logging driver does not support reading".to_owned())
    })
}

/// What the log has now.
fn log_files(container: &Container, query: LogQuery) -> Result<LogFiles, EngineError> {
    let (path, format) = files(container);
    let late = container.inner.borrow().late_log.clone();
    let opened = match (last_log(container), late) {
        (Some(state), _) => LogFiles::of(&state, query),
        (None, Some(error)) if query.follow => {
            return Err(EngineError::System(format!(
                "the log of container {} can't be opened and is not followed; what it prints is lost until it can: {error}",
                container.id
            )));
        }
        (None, late) => {
            let files = LogFiles::of_path(&path, format, query);
            // What is not committed will be cut off.
            let end = late.and_then(|_| container.run()?.io.log_position());
            files.map(|files| files.up_to(end))
        }
    };
    opened.map_err(|e| EngineError::io(format!("open log {}", path.display()), e))
}

fn last_log(container: &Container) -> Option<LogHandle> {
    container.inner.borrow().last_log.clone()
}

/// Opens a log on the owner shard: files to be read where the client is, or a reader that follows.
pub(crate) fn open(
    container: &Rc<Container>,
    options: &LogsOptions,
) -> Result<Opening, EngineError> {
    if !options.stdout && !options.stderr {
        return Err(EngineError::InvalidParameter(
            "You must choose at least one stream".to_owned(),
        ));
    }
    if Arc::strong_count(&container.log_clients) > MAX_LOG_CLIENTS {
        return Err(EngineError::Unavailable(format!(
            "more than {MAX_LOG_CLIENTS} clients read the logs of this container"
        )));
    }
    readable(container)?;
    let query = query(container, options, container.fixed.config.tty)?;
    let from = match last_log(container) {
        Some(state) if query.follow => {
            let reader = gantry_logs::read(&state, query)
                .map_err(|e| EngineError::io(format!("open log {}", state.path().display()), e))?;
            Opened::Follower(follow(&container.shard, reader)?)
        }
        _ => Opened::Files(log_files(container, query)?),
    };
    Ok(Opening {
        tty: container.fixed.config.tty,
        from,
        of_container: container.log_clients.clone(),
    })
}

fn follow(shard: &ShardEngine, reader: gantry_logs::LogStream) -> Result<Follower, EngineError> {
    let logs = &shard.open_logs;
    let _one = logs.one_more()?;
    let open = OpenLog {
        reader: RefCell::new(Some(reader)),
        closed: Notify::new(),
        is_closed: Cell::new(false),
        _one,
    };
    let number = logs.next.get();
    logs.next.set(number + 1);
    logs.followers.borrow_mut().insert(number, Rc::new(open));
    Ok(Follower {
        shard: shard.id,
        number,
    })
}

/// A reader of the log as it is now, for an attach with `logs`; `raw` without frames.
pub(crate) fn snapshot(
    container: &Container,
    options: &LogsOptions,
    raw: bool,
) -> Result<gantry_logs::LogStream, EngineError> {
    readable(container)?;
    Ok(log_files(container, query(container, options, raw)?)?.read())
}

async fn pull(shard: Rc<ShardEngine>, number: u64) -> Option<Result<Bytes, EngineError>> {
    let open = shard.open_logs.followers.borrow().get(&number).cloned()?;
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
        shard.open_logs.followers.borrow_mut().remove(&number);
    } else {
        *open.reader.borrow_mut() = Some(reader);
    }
    chunk.map(|c| c.map_err(read_error))
}

fn close(shard: &ShardEngine, number: u64) {
    if let Some(open) = shard.open_logs.followers.borrow_mut().remove(&number) {
        open.is_closed.set(true);
        open.closed.notify_all();
    }
}

/// Log records, as multiplexed frames or (terminal) raw bytes.
pub struct LogStream {
    tty: bool,
    reader: Reader,
    _of_container: Arc<()>,
}

enum Reader {
    Files {
        reader: Box<gantry_logs::LogStream>,
        _one: OneMore,
    },
    Follower(Follower),
    /// The end, or an error, was given out.
    Ended,
}

/// A reader on its owner shard, which is closed with this.
struct Follower {
    shard: usize,
    number: u64,
}

/// What the owner shard answers; when nobody takes it, the log is closed.
pub(crate) struct Opening {
    tty: bool,
    from: Opened,
    /// Counts the container's clients.
    of_container: Arc<()>,
}

enum Opened {
    Files(LogFiles),
    Follower(Follower),
}

impl LogStream {
    /// On the client's shard.
    pub(crate) fn new(opening: Opening) -> Result<LogStream, EngineError> {
        let reader = match opening.from {
            Opened::Files(files) => Reader::Files {
                _one: ShardEngine::current()?.open_logs.one_more()?,
                reader: Box::new(files.read()),
            },
            Opened::Follower(follower) => Reader::Follower(follower),
        };
        Ok(LogStream {
            tty: opening.tty,
            reader,
            _of_container: opening.of_container,
        })
    }

    /// Whether the container has a terminal (raw stream) or not (multiplexed frames).
    pub fn tty(&self) -> bool {
        self.tty
    }

    /// The next chunk; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, EngineError>> {
        let chunk = match &mut self.reader {
            Reader::Files { reader, .. } => reader.next().await.map(|c| c.map_err(read_error)),
            Reader::Follower(follower) => follower.next().await,
            Reader::Ended => None,
        };
        if !matches!(chunk, Some(Ok(_))) {
            self.reader = Reader::Ended;
        }
        chunk
    }
}

impl Follower {
    async fn next(&self) -> Option<Result<Bytes, EngineError>> {
        let number = self.number;
        let call = mailbox::call(ShardId(self.shard), move || async move {
            match ShardEngine::current() {
                Ok(shard) => pull(shard, number).await,
                Err(e) => Some(Err(e)),
            }
        });
        call.await.unwrap_or_else(|e| Some(Err(call_error(e))))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let (shard, number) = (self.shard, self.number);
        post_surely(shard, move |engine| close(&engine, number));
    }
}

fn read_error(e: std::io::Error) -> EngineError {
    EngineError::io("read a container's log", e)
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
