//! Rotated files are compressed by a worker; names change on the log's shard, or, where that must not wait for a file
//! system, on the worker, with the files locked.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::{Compression, GzBuilder};

use crate::segment::with_suffix;
use crate::time;

use super::files::{Files, SharedFiles, ignore_missing};
use super::output::latest_json_time;

/// Logs of one shard that are compressed at a time: it takes a core for a while.
const MAX_COMPRESSING_PER_SHARD: usize = 1;
/// Read at once; whether to go on is asked after each.
const CHUNK_BYTES: usize = 256 * 1024;
/// Logs compress well, and it is the engine's time that it takes.
const LEVEL: u32 = 1;

thread_local! {
    static COMPRESSING: Cell<usize> = const { Cell::new(0) };
}

/// Compresses the rotated files of one log, one after the other.
#[derive(Debug)]
pub(super) struct Compressor {
    files: SharedFiles,
    temporary: PathBuf,
    /// There may be a file to compress.
    pending: Cell<bool>,
    running: Cell<bool>,
    stop: Arc<AtomicBool>,
    /// The shard must not wait for these files.
    detached: Cell<bool>,
}

/// A compression that an earlier life did not end.
pub(super) fn remove_left_over(path: &Path) -> io::Result<()> {
    ignore_missing(std::fs::remove_file(temporary(path)))
}

fn temporary(path: &Path) -> PathBuf {
    with_suffix(path, "gz.tmp")
}

impl Compressor {
    pub(super) fn new(path: &Path, files: SharedFiles) -> Rc<Compressor> {
        Rc::new(Compressor {
            files,
            temporary: temporary(path),
            pending: Cell::new(true),
            running: Cell::new(false),
            stop: Arc::default(),
            detached: Cell::new(false),
        })
    }

    /// A file was rotated.
    pub(super) fn rotated(&self) {
        self.pending.set(true);
    }

    /// From now on nothing of it is done on the shard.
    pub(super) fn detach(&self) {
        self.detached.set(true);
    }

    /// Gives up what is under way: the log is closed, and its directory may go.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Begins, if there is anything to do. To be called after commits: a file is compressed that no recovery needs.
    pub(super) fn start(self: &Rc<Self>) {
        let busy = COMPRESSING.get() >= MAX_COMPRESSING_PER_SHARD;
        if busy || !self.pending.get() || self.running.get() || self.stop.load(Ordering::Relaxed) {
            return;
        }
        if gantry_rt::try_current_shard().is_none() {
            return;
        }
        if self.detached.get() {
            self.pending.set(false);
            self.running.set(true);
            COMPRESSING.set(COMPRESSING.get() + 1);
            gantry_rt::spawn("logs.compress", self.clone().run_detached());
            return;
        }
        match next(&self.files, &self.temporary) {
            Ok(None) => self.pending.set(false),
            Ok(Some(job)) => {
                self.running.set(true);
                COMPRESSING.set(COMPRESSING.get() + 1);
                gantry_rt::spawn("logs.compress", self.clone().run(job));
            }
            Err(error) => self.give_up(&error),
        }
    }

    fn give_up(&self, error: &io::Error) {
        self.pending.set(false);
        tracing::warn!(path = %self.temporary.display(), %error, "a rotated log is not compressed");
    }

    /// All files that there are, one after the other, on a worker.
    async fn run_detached(self: Rc<Self>) {
        let (files, temporary) = (self.files.clone(), self.temporary.clone());
        let stop = self.stop.clone();
        let done = gantry_rt::workers::run(move || {
            while let Some(job) = next(&files, &temporary)? {
                let id = job.id;
                if !job.run(&stop)? {
                    return ignore_missing(std::fs::remove_file(&temporary));
                }
                files.lock().compressed(id, &temporary)?;
            }
            Ok(())
        });
        let done = done.await;
        COMPRESSING.set(COMPRESSING.get() - 1);
        self.running.set(false);
        if let Err(error) = done.map_err(io::Error::other).and_then(|done| done) {
            self.give_up(&error);
        }
    }

    async fn run(self: Rc<Self>, job: Job) {
        let (id, stop) = (job.id, self.stop.clone());
        let done = gantry_rt::workers::run(move || job.run(&stop)).await;
        COMPRESSING.set(COMPRESSING.get() - 1);
        self.running.set(false);
        let done = match done.map_err(io::Error::other) {
            Ok(Ok(true)) => self.files.lock().compressed(id, &self.temporary),
            Ok(Ok(false)) => ignore_missing(std::fs::remove_file(&self.temporary)),
            Ok(Err(e)) | Err(e) => Err(e),
        };
        match done {
            Ok(()) => self.start(),
            Err(error) => {
                self.give_up(&error);
                if let Err(error) = ignore_missing(std::fs::remove_file(&self.temporary)) {
                    tracing::warn!(%error, "a half compressed log is left");
                }
            }
        }
    }
}

/// Opens everything while the log is known to be there.
fn next(files: &SharedFiles, temporary: &Path) -> io::Result<Option<Job>> {
    let shared = files;
    let files = shared.lock();
    if shared.is_uncommitted() {
        // The commit begins this again.
        return Ok(None);
    }
    let Some((id, path)) = files.to_compress()? else {
        return Ok(None);
    };
    Ok(Some(Job {
        id,
        from: File::open(path)?,
        to: File::create(temporary)?,
        with_time: matches!(&*files, Files::Shifted(_)),
    }))
}

#[derive(Debug)]
struct Job {
    id: u64,
    from: File,
    to: File,
    /// Docker's json-file notes the time of the last record (ours: the latest), so that `since` can skip a file.
    with_time: bool,
}

impl Job {
    /// False: it was told to stop. Runs on a worker.
    fn run(mut self, stop: &AtomicBool) -> io::Result<bool> {
        let mut builder = GzBuilder::new();
        if self.with_time {
            let latest = latest_json_time(&self.from)?;
            if latest > 0 {
                let mut extra = b"{\"lastTime\":\"".to_vec();
                time::format_into(&mut extra, latest, false);
                extra.extend_from_slice(b"\"}");
                builder = builder.extra(extra);
            }
        }
        let mut encoder = builder.write(&self.to, Compression::new(LEVEL));
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            match self.from.read(&mut chunk)? {
                0 => break,
                n => encoder.write_all(&chunk[..n])?,
            }
        }
        encoder.finish()?;
        // The other copy is removed next.
        self.to.sync_data()?;
        Ok(true)
    }
}
