//! Layers on their way: each blob is downloaded and unpacked once, by a task that all who want it follow.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_image::registry::{Descriptor, Partial, PulledLayer};
use gantry_image::{ImageError, ImageStore};
use gantry_rt::{Either, race};
use http::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};

use crate::error::RegistryError;
use crate::event::{Event, Report, Step, layer};
use crate::session::Session;
use crate::{Registry, jobs, short};

/// Pieces of a blob between the network and the disk.
const PIECES: usize = 16;
/// Layers unpacked at once.
const MAX_UNPACKING: usize = 4;
/// Shortest time between two reports of one layer, as Docker's.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Between two looks at a file that another works on.
const BUSY_WAIT: Duration = Duration::from_millis(50);
/// Each failure in a row waits this much longer, as Docker does.
const RETRY_STEP_S: u64 = 5;
/// A download that brings fewer bytes than this in [`SLOW_WINDOW`] is begun again.
const SLOW_BYTES: u64 = 4096;
/// See [`SLOW_BYTES`].
const SLOW_WINDOW: Duration = Duration::from_secs(60);

/// Where a layer is.
#[derive(Clone, Debug)]
enum State {
    Waiting,
    Downloading(u64, u64),
    Retrying(u64),
    Downloaded,
    Unpacking(u64, u64),
    Done(PulledLayer),
    Failed(RegistryError),
}

struct Transfer {
    diff_id: String,
    state: watch::Sender<State>,
}

type Running = HashMap<String, Arc<Transfer>>;

/// What the downloads of the daemon share.
pub(crate) struct Downloads {
    /// By the digest of the blob.
    running: Mutex<Running>,
    slots: Semaphore,
    unpacking: Semaphore,
}

impl Downloads {
    pub(crate) fn new(at_once: usize) -> Self {
        Self {
            running: Mutex::default(),
            slots: Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS)),
            unpacking: Semaphore::new(MAX_UNPACKING),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn slot(of: &Semaphore) -> Result<SemaphorePermit<'_>, RegistryError> {
    let closed = |_| RegistryError::Protocol("downloads have ended".into());
    of.acquire().await.map_err(closed)
}

impl Registry {
    /// The layer of a blob: fetched now, or already on its way for somebody else.
    pub(crate) async fn layer(
        self: &Arc<Self>,
        session: &Rc<Session>,
        blob: &Descriptor,
        diff_id: &str,
        report: Report<'_>,
    ) -> Result<PulledLayer, RegistryError> {
        loop {
            let (mut state, same) = self.join(session, blob, diff_id);
            if same {
                return follow(state, &short(&blob.digest), report).await;
            }
            // The same blob, said to be another layer: one of the two is wrong, and ours is tried after it.
            while state.changed().await.is_ok() {}
        }
    }

    fn join(
        self: &Arc<Self>,
        session: &Rc<Session>,
        blob: &Descriptor,
        diff_id: &str,
    ) -> (watch::Receiver<State>, bool) {
        let mut running = self.downloads.lock();
        if let Some(transfer) = running.get(&blob.digest) {
            return (transfer.state.subscribe(), transfer.diff_id == diff_id);
        }
        let (state, receiver) = watch::channel(State::Waiting);
        let transfer = Arc::new(Transfer {
            diff_id: diff_id.to_owned(),
            state,
        });
        running.insert(blob.digest.clone(), transfer.clone());
        tokio::task::spawn_local(run(self.clone(), session.clone(), blob.clone(), transfer));
        (receiver, true)
    }
}

/// Takes a transfer off the list, whatever ended it.
struct Listed {
    registry: Arc<Registry>,
    digest: String,
    transfer: Arc<Transfer>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut running = self.registry.downloads.lock();
        let found = running.get(&self.digest);
        if found.is_some_and(|t| Arc::ptr_eq(t, &self.transfer)) {
            running.remove(&self.digest);
        }
    }
}

/// Works until the layer is there, or nobody wants it.
async fn run(
    registry: Arc<Registry>,
    session: Rc<Session>,
    blob: Descriptor,
    transfer: Arc<Transfer>,
) {
    let listed = Listed {
        registry: registry.clone(),
        digest: blob.digest.clone(),
        transfer: transfer.clone(),
    };
    let work = bring(&registry, &session, &blob, &transfer);
    let unwanted = async {
        loop {
            transfer.state.closed().await;
            let mut running = registry.downloads.lock();
            // Nobody can join while the lock is held.
            if transfer.state.receiver_count() == 0 {
                running.remove(&blob.digest);
                return;
            }
        }
    };
    let end = match race(work, unwanted).await {
        Either::Left(Ok(layer)) => State::Done(layer),
        Either::Left(Err(error)) => State::Failed(error),
        Either::Right(()) => {
            tracing::debug!(digest = %blob.digest, "nobody waits for a download any more");
            return;
        }
    };
    drop(listed);
    transfer.state.send_replace(end);
}

async fn bring(
    registry: &Arc<Registry>,
    session: &Session,
    blob: &Descriptor,
    transfer: &Transfer,
) -> Result<PulledLayer, RegistryError> {
    let partial = {
        let _slot = slot(&registry.downloads.slots).await?;
        let partial = open(&registry.images, blob).await?;
        // Whoever had it before us may have come to its end since it was looked for. While the file is ours it stays.
        let (images, diff_id, digest) = (
            registry.images.clone(),
            transfer.diff_id.clone(),
            blob.digest.clone(),
        );
        let known = jobs::short(move || images.known_layer(&diff_id, &digest)).await?;
        if let Some(known) = known {
            let (images, digests) = (registry.images.clone(), vec![blob.digest.clone()]);
            drop(partial);
            jobs::short(move || images.forget_partials(&digests)).await??;
            return Ok(known);
        }
        download(registry, session, blob, partial, transfer).await?
    };
    transfer.state.send_replace(State::Downloaded);
    let _slot = slot(&registry.downloads.unpacking).await?;
    let (images, diff_id) = (registry.images.clone(), transfer.diff_id.clone());
    let read_bytes = Arc::new(AtomicU64::new(0));
    let counted = read_bytes.clone();
    let mut job = jobs::start_long("image-unpack", move || {
        images.ingest_layer(&partial, &diff_id, &counted)
    })?;
    loop {
        match race(&mut job, tokio::time::sleep(REPORT_EVERY)).await {
            Either::Left(done) => {
                let gone = |_| RegistryError::from(gantry_rt::workers::WorkerGone::Panicked);
                return Ok(done.map_err(gone)??);
            }
            Either::Right(()) => {
                let current = read_bytes.load(Ordering::Relaxed);
                let state = State::Unpacking(current, blob.size_bytes);
                transfer.state.send_replace(state);
            }
        }
    }
}

/// Downloads the blob, from where an earlier try stopped.
async fn download(
    registry: &Arc<Registry>,
    session: &Session,
    blob: &Descriptor,
    mut partial: Partial,
    transfer: &Transfer,
) -> Result<Partial, RegistryError> {
    let attempts = registry.settings().max_download_attempts.max(1);
    for attempt in 1.. {
        let before = partial.len_bytes();
        let (back, result) = fetch(session, blob, partial, transfer).await?;
        partial = back;
        let error = match result {
            Ok(()) => return Ok(partial),
            Err(error) => error,
        };
        if attempt >= attempts || !error.is_passing() {
            return Err(error);
        }
        tracing::info!(%error, digest = %blob.digest, attempt, "a download failed and is tried again");
        // One that got further is not that broken.
        let wait_s = if partial.len_bytes() > before {
            1
        } else {
            RETRY_STEP_S * u64::from(attempt)
        };
        for left_s in (1..=wait_s).rev() {
            transfer.state.send_replace(State::Retrying(left_s));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    Err(RegistryError::Protocol("no attempt was made".into()))
}

async fn open(images: &Arc<ImageStore>, blob: &Descriptor) -> Result<Partial, RegistryError> {
    loop {
        let (images, digest, size) = (images.clone(), blob.digest.clone(), blob.size_bytes);
        let opened = jobs::long("image-partial", move || images.partial(&digest, size)).await??;
        if let Some(partial) = opened {
            return Ok(partial);
        }
        tokio::time::sleep(BUSY_WAIT).await;
    }
}

type Fetched = (Partial, Result<(), RegistryError>);

/// One try. The file comes back with what it has by then.
async fn fetch(
    session: &Session,
    blob: &Descriptor,
    partial: Partial,
    transfer: &Transfer,
) -> Result<Fetched, RegistryError> {
    let from_bytes = partial.len_bytes();
    if partial.is_whole() {
        return finish(partial).await;
    }
    let mut answer = match session.open_blob(&blob.digest, from_bytes).await {
        Ok(answer) => answer,
        Err(error) => return Ok((partial, Err(error))),
    };
    let continues = answer.status == StatusCode::PARTIAL_CONTENT
        && starts_at(answer.header(http::header::CONTENT_RANGE)) == Some(from_bytes);
    let begins = answer.status == StatusCode::OK;
    if answer.status == StatusCode::RANGE_NOT_SATISFIABLE
        || (answer.status == StatusCode::PARTIAL_CONTENT && !continues)
    {
        // What is there is not what the registry has.
        let partial = jobs::long("image-partial", move || restarted(partial)).await??;
        let text = format!("blob {} cannot be continued", blob.digest);
        return Ok((partial, Err(RegistryError::Network(text))));
    }
    if !continues && !begins {
        return Ok((partial, Err(answer.into_error().await)));
    }
    let (pieces, queue) = mpsc::channel(PIECES);
    let writer = jobs::start_long("image-download", move || {
        write(partial, queue, begins && from_bytes > 0)
    })?;
    let mut current = if continues { from_bytes } else { 0 };
    let read = async {
        let mut slow = Slow::new(current);
        while let Some(piece) = answer.piece().await? {
            current += piece.len() as u64;
            slow.check(current)?;
            transfer
                .state
                .send_replace(State::Downloading(current, blob.size_bytes));
            // The writer is gone: it tells why.
            if current > blob.size_bytes || pieces.send(piece).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let read: Result<(), RegistryError> = read.await;
    let too_long = current > blob.size_bytes;
    drop(pieces);
    let gone = |_| RegistryError::from(gantry_rt::workers::WorkerGone::Panicked);
    let (partial, written) = writer.await.map_err(gone)?;
    if let Err(error) = written {
        return Ok((partial, Err(error.into())));
    }
    if too_long {
        let partial = jobs::long("image-partial", move || restarted(partial)).await??;
        let error = ImageError::Unverified(blob.digest.clone());
        return Ok((partial, Err(error.into())));
    }
    if let Err(error) = read {
        return Ok((partial, Err(error)));
    }
    if !partial.is_whole() {
        let text = "unexpected EOF".to_owned();
        return Ok((partial, Err(RegistryError::Network(text))));
    }
    finish(partial).await
}

fn restarted(mut partial: Partial) -> Result<Partial, ImageError> {
    partial.restart()?;
    Ok(partial)
}

async fn finish(mut partial: Partial) -> Result<Fetched, RegistryError> {
    jobs::long("image-verify", move || {
        let resumed_bytes = partial.resumed_bytes();
        let verified = match partial.verify() {
            // As likely its beginning is wrong, which a power cut left: tried again without it.
            Err(ImageError::Unverified(digest)) if resumed_bytes > 0 => {
                Err(RegistryError::Network(format!(
                    "filesystem layer verification failed for digest {digest}, which was continued"
                )))
            }
            other => other.map_err(RegistryError::from),
        };
        (partial, verified)
    })
    .await
}

fn write(
    mut partial: Partial,
    mut queue: mpsc::Receiver<Bytes>,
    restart: bool,
) -> (Partial, Result<(), ImageError>) {
    let mut all = || {
        if restart {
            partial.restart()?;
        }
        while let Some(piece) = queue.blocking_recv() {
            partial.append(&piece)?;
        }
        Ok(())
    };
    let result = all();
    (partial, result)
}

/// Where the bytes of `bytes 5-9/10` start.
fn starts_at(content_range: &str) -> Option<u64> {
    let range = content_range.trim().strip_prefix("bytes")?.trim_start();
    range.split_once('-')?.0.parse().ok()
}

/// Sees a registry that sends just enough to seem alive.
struct Slow {
    since: Instant,
    at_bytes: u64,
}

impl Slow {
    fn new(at_bytes: u64) -> Self {
        Self {
            since: Instant::now(),
            at_bytes,
        }
    }

    fn check(&mut self, current: u64) -> Result<(), RegistryError> {
        if self.since.elapsed() < SLOW_WINDOW {
            return Ok(());
        }
        if current - self.at_bytes < SLOW_BYTES {
            let seconds = SLOW_WINDOW.as_secs();
            return Err(RegistryError::Network(format!(
                "less than {SLOW_BYTES} bytes came in {seconds} seconds"
            )));
        }
        *self = Self::new(current);
        Ok(())
    }
}

/// Tells of a layer until it is there.
async fn follow(
    mut state: watch::Receiver<State>,
    id: &str,
    report: Report<'_>,
) -> Result<PulledLayer, RegistryError> {
    let mut teller = Teller {
        id,
        report,
        phase: 0,
        told: None,
    };
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            State::Failed(error) => return Err(error),
            State::Done(layer) => {
                teller.reach(3);
                return Ok(layer);
            }
            other => teller.tell(&other),
        }
        if state.changed().await.is_err() {
            return Err(RegistryError::Protocol("the download was given up".into()));
        }
    }
}

struct Teller<'a> {
    id: &'a str,
    report: Report<'a>,
    /// 0: downloading, 1: downloaded, 2: unpacking, 3: done. States in between that went by unseen are told too.
    phase: u8,
    told: Option<Instant>,
}

impl Teller<'_> {
    fn reach(&mut self, phase: u8) {
        while self.phase < phase {
            self.phase += 1;
            self.told = None;
            match self.phase {
                1 => {
                    (self.report)(layer(self.id, "Verifying Checksum"));
                    (self.report)(layer(self.id, "Download complete"));
                }
                3 => (self.report)(layer(self.id, "Pull complete")),
                _ => {}
            }
        }
    }

    fn bytes(&mut self, name: &'static str, current: u64, total: u64) {
        if self.told.is_some_and(|at| at.elapsed() < REPORT_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        (self.report)(Event::Layer {
            id: self.id.to_owned(),
            step: Step::Bytes {
                name,
                current,
                total,
            },
        });
    }

    fn tell(&mut self, state: &State) {
        match state {
            State::Downloading(current, total) => self.bytes("Downloading", *current, *total),
            State::Retrying(seconds) => {
                let s = if *seconds == 1 { "" } else { "s" };
                let text = format!("Retrying in {seconds} second{s}");
                (self.report)(layer(self.id, text));
            }
            State::Downloaded => self.reach(1),
            State::Unpacking(current, total) => {
                self.reach(2);
                self.bytes("Extracting", *current, *total);
            }
            State::Waiting | State::Done(_) | State::Failed(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(starts_at("bytes 5-9/10"), Some(5));
        assert_eq!(starts_at("bytes 0-9/*"), Some(0));
        for bad in ["", "bytes */10", "items 5-9/10", "bytes -5/10"] {
            assert_eq!(starts_at(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_between_two_states_is_left_out() {
        let told = std::cell::RefCell::new(Vec::new());
        let report = |event: Event| {
            if let Event::Layer {
                step: Step::Now(text),
                ..
            } = event
            {
                told.borrow_mut().push(text);
            }
        };
        let mut teller = Teller {
            id: "x",
            report: &report,
            phase: 0,
            told: None,
        };
        teller.tell(&State::Retrying(1));
        teller.reach(3);
        assert_eq!(
            *told.borrow(),
            [
                "Retrying in 1 second",
                "Verifying Checksum",
                "Download complete",
                "Pull complete"
            ]
        );
    }
}
