//! A sender in the guest lane: gets records in order, and answers when the service has them.

use std::time::Duration;

use gantry_logs::{LogInfo, Record, Remote};
use gantry_rt::reply::ReplySender;
use gantry_rt::{Either, guest, race};
use tokio::sync::mpsc;

use crate::awslogs::AwsLogs;
use crate::counters::COUNTERS;
use crate::error::{Refused, SinkError};
use crate::fluentd::Fluentd;
use crate::gcplogs::{self, GcpLogs};
use crate::gelf::Gelf;
use crate::journald::Journald;
use crate::splunk::{self, Splunk};
use crate::syslog::Syslog;

/// Encoded before it is written to a connection; the last record may make it more.
pub(crate) const WRITE_BYTES: usize = 256 * 1024;
/// The wait before the second try, for drivers without an option for it; the first follows at once.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The shortest and the longest wait between two tries.
const MIN_WAIT: Duration = Duration::from_millis(10);
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Whether a service that cannot be reached is an error of the one who opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// A container is being started: as with Docker, it is.
    Start,
    /// There is something to send already: it is tried until it goes.
    Resume,
}

/// Records on their way.
pub(crate) struct Job {
    pub(crate) records: Vec<Record>,
    /// Nothing is to be held back.
    pub(crate) flush: bool,
    pub(crate) answer: ReplySender<Outcome>,
}

/// What became of a job's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Not taken by the service, whatever was tried.
    pub(crate) dropped: u64,
    /// Something of so many of the last jobs, this one included, is held back because it may go on.
    pub(crate) held_jobs: u64,
}

/// A sender that was opened. Dropping it ends it.
#[derive(Debug)]
pub struct Sender {
    pub(crate) jobs: mpsc::Sender<Job>,
    /// How long records are gathered before they are sent.
    pub(crate) gather: Duration,
}

/// Records of a job, and how many of them need not be given again.
pub(crate) struct Todo<'a> {
    records: &'a [Record],
    done: usize,
    /// Nothing is to be held back.
    pub(crate) flush: bool,
}

impl<'a> Todo<'a> {
    pub(crate) fn new(records: &'a [Record], flush: bool) -> Todo<'a> {
        Todo {
            records,
            done: 0,
            flush,
        }
    }

    /// What is to be sent.
    pub(crate) fn left(&self) -> &'a [Record] {
        &self.records[self.done..]
    }

    /// So many more are sent, or never will be.
    pub(crate) fn took(&mut self, records: usize) {
        self.done = (self.done + records).min(self.records.len());
    }

    /// The last one that was thought to be sent is not.
    pub(crate) fn step_back(&mut self) {
        self.done = self.done.saturating_sub(1);
    }
}

/// Opens the driver of a container, on the current shard.
pub async fn open(remote: Remote, info: LogInfo, when: When) -> Result<Sender, Refused> {
    let opened = guest::call("logs.open", move || async move {
        let mut sink = Sink::new(remote, &info, when)?;
        if when == When::Start {
            sink.connect().await?;
        }
        let (jobs, queue) = mpsc::channel(1);
        let gather = sink.gather();
        tokio::task::spawn_local(serve(sink, queue, info.id));
        Ok(Sender { jobs, gather })
    });
    opened.await.map_err(|e| Refused(e.to_string()))?
}

enum Sink {
    Journald(Journald),
    Syslog(Syslog),
    Fluentd(Fluentd),
    Gelf(Gelf),
    Splunk(Box<Splunk>),
    AwsLogs(Box<AwsLogs>),
    GcpLogs(Box<GcpLogs>),
}

impl Sink {
    fn new(remote: Remote, info: &LogInfo, when: When) -> Result<Sink, Refused> {
        match (remote, when) {
            (Remote::Journald, When::Start) => Journald::new(info).map(Sink::Journald),
            (Remote::Journald, When::Resume) => Journald::lazy(info).map(Sink::Journald),
            (Remote::Syslog, _) => Syslog::new(info).map(Sink::Syslog),
            (Remote::Fluentd, _) => Fluentd::new(info).map(Sink::Fluentd),
            (Remote::Gelf, _) => Gelf::new(info).map(Sink::Gelf),
            (Remote::Splunk, _) => Splunk::new(info).map(|s| Sink::Splunk(Box::new(s))),
            (Remote::AwsLogs, _) => AwsLogs::new(info).map(|s| Sink::AwsLogs(Box::new(s))),
            (Remote::GcpLogs, _) => GcpLogs::new(info).map(|s| Sink::GcpLogs(Box::new(s))),
        }
    }

    /// What Docker does before a container starts.
    async fn connect(&mut self) -> Result<(), Refused> {
        let connected = match self {
            Sink::Journald(_) => Ok(()),
            Sink::Syslog(sink) => sink.connect().await,
            Sink::Fluentd(sink) if sink.connects_at_start() => sink.connect().await,
            Sink::Fluentd(_) => Ok(()),
            Sink::Gelf(sink) => sink.connect().await,
            Sink::Splunk(sink) => sink.connect().await,
            Sink::AwsLogs(sink) => sink.connect().await,
            Sink::GcpLogs(sink) => sink.connect().await,
        };
        connected.map_err(|e| Refused(e.text))
    }

    /// Hands records over, and says how many need not be given again.
    async fn deliver(&mut self, todo: &mut Todo<'_>) -> Result<(), SinkError> {
        match self {
            Sink::Journald(sink) => sink.deliver(todo).await,
            Sink::Syslog(sink) => sink.deliver(todo).await,
            Sink::Fluentd(sink) => sink.deliver(todo).await,
            Sink::Gelf(sink) => sink.deliver(todo).await,
            Sink::Splunk(sink) => sink.deliver(todo).await,
            Sink::AwsLogs(sink) => sink.deliver(todo).await,
            Sink::GcpLogs(sink) => sink.deliver(todo).await,
        }
    }

    /// Whether what it takes says that the service is there: an answer. What the kernel takes does not.
    fn is_heard(&self) -> bool {
        match self {
            Sink::Fluentd(sink) => sink.is_acknowledged(),
            Sink::Splunk(_) | Sink::AwsLogs(_) | Sink::GcpLogs(_) => true,
            Sink::Journald(_) | Sink::Syslog(_) | Sink::Gelf(_) => false,
        }
    }

    fn first_wait(&self) -> Duration {
        match self {
            Sink::Fluentd(sink) => sink.first_wait(),
            Sink::Gelf(sink) => sink.first_wait(),
            _ => FIRST_WAIT,
        }
    }

    fn gather(&self) -> Duration {
        match self {
            Sink::Splunk(_) => splunk::GATHER,
            Sink::AwsLogs(sink) => sink.gather(),
            Sink::GcpLogs(_) => gcplogs::GATHER,
            _ => Duration::ZERO,
        }
    }

    fn held_jobs(&self) -> u64 {
        match self {
            Sink::AwsLogs(sink) => sink.held_jobs(),
            _ => 0,
        }
    }
}

async fn serve(mut sink: Sink, mut queue: mpsc::Receiver<Job>, container: String) {
    while let Some(job) = queue.recv().await {
        // No second job comes before the first is answered: what comes is the end.
        let todo = Todo::new(&job.records, job.flush);
        let delivered = race(deliver(&mut sink, todo, &container), queue.recv()).await;
        match delivered {
            Either::Left(outcome) => job.answer.send(outcome),
            Either::Right(_) => return,
        }
    }
}

/// Tries until the service has all of it, or will never take the rest.
async fn deliver(sink: &mut Sink, mut todo: Todo<'_>, container: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut wait: Option<Duration> = None;
    let mut failed_at = 0;
    while let Err(e) = sink.deliver(&mut todo).await {
        if e.skip > 0 {
            todo.took(e.skip);
            outcome.dropped += e.skip as u64;
            tracing::warn!(id = %container, error = %e, records = e.skip, "a log driver's service refuses records; they are dropped");
            continue;
        }
        COUNTERS.failures.add(1);
        if sink.is_heard() && todo.done > failed_at {
            // It was there since.
            wait = None;
        }
        failed_at = todo.done;
        wait = Some(match wait {
            None => {
                tracing::debug!(id = %container, error = %e, "a log driver is interrupted");
                Duration::ZERO
            }
            Some(Duration::ZERO) => {
                tracing::warn!(id = %container, error = %e, "a log driver can't deliver; the log is kept and it is tried again");
                sink.first_wait().clamp(MIN_WAIT, MAX_WAIT)
            }
            Some(last) => (last * 2).min(MAX_WAIT),
        });
        tokio::time::sleep(wait.unwrap_or_default()).await;
    }
    if wait.is_some_and(|w| !w.is_zero()) {
        tracing::info!(id = %container, "a log driver delivers again");
    }
    outcome.held_jobs = sink.held_jobs();
    outcome
}

/// The machine's name.
pub(crate) fn hostname() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// A time as Go's RFC3339Nano.
pub(crate) fn text_time(unix_ns: u64) -> String {
    let mut out = Vec::new();
    gantry_logs::time::format_into(&mut out, unix_ns, false);
    String::from_utf8_lossy(&out).into_owned()
}
