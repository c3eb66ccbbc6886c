//! Images: from archives and registries, their disk, files in and out of a container, lists. What they work on is made by
//! `perf/images.py`.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{Better, Case, Size, ms, text_field};
use crate::engine::Engine;
use crate::http::Client;

const MIB: f64 = 1048576.0;
/// The image of `image.tar`.
const IMAGE: &str = "bench:latest";
/// Images in `list.tar`.
const LISTED: usize = 1000;
/// Calls for their list.
const LISTS: usize = 10;
/// Bytes of the big file, at least; and of the 20,000 small ones.
const BIG_BYTES: u64 = 160 << 20;
const MANY_BYTES: u64 = 70 << 20;
/// An engine is quiet when it used less than this share of a processor for so long.
const QUIET_SHARE: f64 = 0.05;
const QUIET_TIME: Duration = Duration::from_millis(300);
/// It is not waited longer for.
const MAX_QUIET_WAIT: Duration = Duration::from_secs(15);

/// Less is not waited for until it is given back.
const FORGOTTEN_MIB: f64 = 4.0;

/// All cases of images, in the order in which they run.
pub const IMAGE_CASES: &[Case] = &[
    Case {
        name: "image-load",
        once: false,
        metrics: &[
            ("load, 612 MiB in 31,000 files", "s", Better::Less),
            ("load: engine CPU", "s", Better::Less),
            ("disk of the loaded image", "MiB", Better::Less),
            ("inodes of the loaded image", "", Better::Less),
            ("save", "s", Better::Less),
            ("save: engine CPU", "s", Better::Less),
            ("delete of the image", "s", Better::Less),
            ("delete: engine CPU", "s", Better::Less),
            (
                "disk that the deleted image still takes",
                "MiB",
                Better::Less,
            ),
        ],
        run: load_save_delete,
    },
    Case {
        name: "image-push",
        once: true,
        metrics: &[
            ("push to an empty repository", "s", Better::Less),
            ("push: engine CPU", "s", Better::Less),
        ],
        run: push,
    },
    Case {
        name: "image-pull-gzip",
        once: false,
        metrics: &[
            ("pull, gzip", "s", Better::Less),
            ("pull, gzip: engine CPU", "s", Better::Less),
            ("disk of the image pulled as gzip", "MiB", Better::Less),
            ("inodes of the image pulled as gzip", "", Better::Less),
            (
                "first container after the pull: create+start+wait+remove `true`",
                "ms",
                Better::Less,
            ),
            (
                "disk kept when a container ran and it and the image are deleted",
                "MiB",
                Better::Less,
            ),
        ],
        run: pull_gzip,
    },
    Case {
        name: "image-pull-zstd",
        once: false,
        metrics: &[
            ("pull, zstd", "s", Better::Less),
            ("pull, zstd: engine CPU", "s", Better::Less),
            ("disk of the image pulled as zstd", "MiB", Better::Less),
            ("inodes of the image pulled as zstd", "", Better::Less),
            (
                "first container after the pull: create+start+wait+remove `true`",
                "ms",
                Better::Less,
            ),
            (
                "disk kept when a container ran and it and the image are deleted",
                "MiB",
                Better::Less,
            ),
        ],
        run: pull_zstd,
    },
    Case {
        name: "image-files",
        once: false,
        metrics: &[
            (
                "commit of a container with 2,500 new files, 84 MiB",
                "s",
                Better::Less,
            ),
            ("commit: engine CPU", "s", Better::Less),
            (
                "cp of a file of 160 MiB out of a container",
                "s",
                Better::Less,
            ),
            ("cp of it: engine CPU", "s", Better::Less),
            (
                "cp of a file of 160 MiB into a container",
                "s",
                Better::Less,
            ),
            ("cp of it: engine CPU", "s", Better::Less),
            ("cp of 20,000 files out of a container", "s", Better::Less),
            ("cp of them: engine CPU", "s", Better::Less),
            ("cp of 20,000 files into a container", "s", Better::Less),
            ("cp of them: engine CPU", "s", Better::Less),
        ],
        run: files,
    },
    Case {
        name: "image-list",
        once: true,
        metrics: &[
            ("list of 1,000 images", "ms", Better::Less),
            ("list of 1,000 images: engine CPU", "ms", Better::Less),
        ],
        run: list,
    },
];

fn load_save_delete(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    absent(engine, IMAGE)?;
    let before = Disk::of(engine)?;
    let load = timed(engine, |client| {
        load(client, &source(size)?.join("image.tar"))
    })?;
    let full = Disk::of(engine)?;
    let save = timed(engine, |client| {
        let bytes = client.count(&format!("/v1.48/images/{IMAGE}/get"))?;
        at_least(bytes, 590 << 20, "the saved image")
    })?;
    let delete = timed(engine, |client| remove(client, IMAGE))?;
    let empty = Disk::of(engine)?;
    let mut found = columns(&[load]);
    found.push(vec![full.mib_since(&before)]);
    found.push(vec![full.inodes_since(&before)]);
    found.extend(columns(&[save, delete]));
    found.push(vec![empty.mib_since(&before)]);
    Ok(found)
}

fn push(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    present(engine, size)?;
    let repository = format!("{}/pushed-{}", registry(engine)?, engine.name);
    let mut client = engine.client()?;
    let tag = format!("/v1.48/images/{IMAGE}/tag?repo={repository}&tag=latest");
    client.expect("POST", &tag, None)?;
    let push = timed(engine, |client| {
        let path = format!("/v1.48/images/{repository}/push?tag=latest");
        done(
            &client.expect_with("POST", &path, "X-Registry-Auth: e30=\r\n")?,
            &path,
        )
    })?;
    remove(&mut client, &format!("{repository}:latest"))?;
    absent(engine, IMAGE)?;
    Ok(columns(&[push]))
}

fn pull_gzip(engine: &Engine, _size: &Size) -> io::Result<Vec<Vec<f64>>> {
    pull(engine, "gzip")
}

fn pull_zstd(engine: &Engine, _size: &Size) -> io::Result<Vec<Vec<f64>>> {
    pull(engine, "zstd")
}

fn pull(engine: &Engine, tag: &str) -> io::Result<Vec<Vec<f64>>> {
    let image = format!("{}/bench:{tag}", registry(engine)?);
    absent(engine, IMAGE)?;
    absent(engine, &image)?;
    let before = Disk::of(engine)?;
    let pull = timed(engine, |client| {
        let path = format!("/v1.48/images/create?fromImage={image}");
        done(&client.expect("POST", &path, None)?, &path)
    })?;
    let full = Disk::of(engine)?;
    let mut client = engine.client()?;
    let begin = Instant::now();
    run_to_end(&mut client, &image, r#"["true"]"#)
        .and_then(|id| delete_container(&mut client, &id))?;
    let first = ms(begin.elapsed());
    absent(engine, &image)?;
    let empty = before.again(engine)?;
    let mut found = columns(&[pull]);
    found.push(vec![full.mib_since(&before)]);
    found.push(vec![full.inodes_since(&before)]);
    found.push(vec![first]);
    found.push(vec![empty.mib_since(&before)]);
    Ok(found)
}

/// Commit and cp: of a container that wrote, and of a running one.
fn files(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    present(engine, size)?;
    let sources = source(size)?;
    let mut client = engine.client()?;
    let id = run_to_end(&mut client, IMAGE, r#"["cp","-r","/rest/1","/copy"]"#)?;
    let commit = timed(engine, |client| {
        let path = format!("/v1.48/commit?container={id}&repo=committed&tag=latest");
        client.expect("POST", &path, Some("{}")).map(drop)
    })?;
    delete_container(&mut client, &id)?;
    absent(engine, "committed:latest")?;
    let id = create(&mut client, IMAGE, r#"["sleep","3600"]"#)?;
    client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
    let out = |path: &'static str, bytes: u64| {
        let url = format!("/v1.48/containers/{id}/archive?path={path}");
        timed(engine, move |client| {
            at_least(client.count(&url)?, bytes, path)
        })
    };
    let into = |name: &str| {
        let url = format!("/v1.48/containers/{id}/archive?path=/tmp");
        let file = sources.join(name);
        timed(engine, move |client| {
            client.upload("PUT", &url, &File::open(&file)?).map(drop)
        })
    };
    let times = [
        commit,
        out("/big", BIG_BYTES)?,
        into("big.tar")?,
        out("/many", MANY_BYTES)?,
        into("many.tar")?,
    ];
    delete_container(&mut client, &id)?;
    settle(engine);
    Ok(columns(&times))
}

fn list(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    absent(engine, IMAGE)?;
    let mut client = engine.client()?;
    load(&mut client, &source(size)?.join("list.tar"))?;
    let before = settle(engine);
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let begin = Instant::now();
        let answer = client.expect("GET", "/v1.48/images/json", None)?;
        times.push(ms(begin.elapsed()));
        let images = String::from_utf8_lossy(&answer)
            .matches("\"listed:")
            .count();
        at_least(images as u64, LISTED as u64, "the list of images")?;
    }
    let cpu_ms = (settle(engine) - before) as f64 / 1000.0 / LISTS as f64;
    Ok(vec![times, vec![cpu_ms]])
}

/// Seconds until the answer, and the engine's CPU seconds until it was quiet again.
struct Cost {
    wall_s: f64,
    cpu_s: f64,
}

/// Runs `work` on an engine that is quiet, with nothing left to write on its disk.
fn timed(engine: &Engine, work: impl FnOnce(&mut Client) -> io::Result<()>) -> io::Result<Cost> {
    let mut client = engine.client()?;
    let before = settle(engine);
    Disk::of(engine)?;
    let begin = Instant::now();
    work(&mut client)?;
    let wall_s = begin.elapsed().as_secs_f64();
    let cpu_s = (settle(engine) - before) as f64 / 1e6;
    Ok(Cost { wall_s, cpu_s })
}

/// Each cost as two metrics.
fn columns(costs: &[Cost]) -> Vec<Vec<f64>> {
    costs
        .iter()
        .flat_map(|c| [vec![c.wall_s], vec![c.cpu_s]])
        .collect()
}

/// Waits until the engine is quiet; its CPU time in microseconds.
fn settle(engine: &Engine) -> u64 {
    let begin = Instant::now();
    let mut last = engine.cpu_us();
    loop {
        thread::sleep(QUIET_TIME);
        let now = engine.cpu_us();
        if ((now - last) as f64) < QUIET_SHARE * QUIET_TIME.as_micros() as f64
            || begin.elapsed() > MAX_QUIET_WAIT
        {
            return now;
        }
        last = now;
    }
}

/// What the file system has of the engine's data, which must be the one that its socket is on.
struct Disk {
    bytes: u64,
    inodes: u64,
}

impl Disk {
    /// After everything is written.
    fn of(engine: &Engine) -> io::Result<Disk> {
        let path = engine.socket.parent().unwrap_or(Path::new("/"));
        let dir = File::open(path)?;
        // SAFETY: the descriptor is open.
        if unsafe { libc::syncfs(dir.as_raw_fd()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: the name ends with a zero, `stat` is room for the answer.
        if unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: filled by the call; all zero is a valid one too.
        let stat = unsafe { stat.assume_init() };
        Ok(Disk {
            bytes: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
            inodes: stat.f_files - stat.f_ffree,
        })
    }

    /// Waits until the engine has given back what it took since, which the next one would be said to take less; what is kept
    /// after [`MAX_QUIET_WAIT`].
    fn again(&self, engine: &Engine) -> io::Result<Disk> {
        let begin = Instant::now();
        loop {
            let now = Disk::of(engine)?;
            if now.mib_since(self) < FORGOTTEN_MIB || begin.elapsed() > MAX_QUIET_WAIT {
                return Ok(now);
            }
            thread::sleep(QUIET_TIME);
        }
    }

    fn mib_since(&self, before: &Disk) -> f64 {
        (self.bytes as f64 - before.bytes as f64) / MIB
    }

    fn inodes_since(&self, before: &Disk) -> f64 {
        self.inodes as f64 - before.inodes as f64
    }
}

fn source(size: &Size) -> io::Result<&Path> {
    let dir = size.images.as_deref();
    dir.ok_or_else(|| io::Error::other("no --images DIR"))
}

fn registry(engine: &Engine) -> io::Result<&str> {
    let host = engine.registry.as_deref();
    host.ok_or_else(|| io::Error::other("the engine has no registry=HOST:PORT"))
}

/// An answer of progress lines that ends well.
fn done(answer: &[u8], what: &str) -> io::Result<()> {
    let text = String::from_utf8_lossy(answer);
    match text.find("\"errorDetail\"") {
        Some(at) => Err(io::Error::other(format!("{what}: {}", &text[at..]))),
        None => Ok(()),
    }
}

fn at_least(found: u64, wanted: u64, what: &str) -> io::Result<()> {
    if found >= wanted {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{what}: {found} and not {wanted} at least"
    )))
}

fn load(client: &mut Client, archive: &Path) -> io::Result<()> {
    let answer = client.upload("POST", "/v1.48/images/load?quiet=1", &File::open(archive)?)?;
    done(&answer, "load")
}

fn remove(client: &mut Client, image: &str) -> io::Result<()> {
    client
        .expect("DELETE", &format!("/v1.48/images/{image}"), None)
        .map(drop)
}

/// The image is not there, and what it took is given back.
fn absent(engine: &Engine, image: &str) -> io::Result<()> {
    let mut client = engine.client()?;
    if client
        .call("GET", &format!("/v1.48/images/{image}/json"), None)?
        .status
        == 200
    {
        remove(&mut client, image)?;
        settle(engine);
    }
    Ok(())
}

fn present(engine: &Engine, size: &Size) -> io::Result<()> {
    let mut client = engine.client()?;
    if client
        .call("GET", &format!("/v1.48/images/{IMAGE}/json"), None)?
        .status
        != 200
    {
        load(&mut client, &source(size)?.join("image.tar"))?;
    }
    Ok(())
}

fn create(client: &mut Client, image: &str, cmd: &str) -> io::Result<String> {
    let body =
        format!(r#"{{"Image":"{image}","Cmd":{cmd},"HostConfig":{{"NetworkMode":"none"}}}}"#);
    text_field(
        &client.expect("POST", "/v1.48/containers/create", Some(&body))?,
        "Id",
    )
}

/// A container whose command ended with 0.
fn run_to_end(client: &mut Client, image: &str, cmd: &str) -> io::Result<String> {
    let id = create(client, image, cmd)?;
    client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
    let answer = client.expect("POST", &format!("/v1.48/containers/{id}/wait"), None)?;
    let text = String::from_utf8_lossy(&answer);
    if !text.contains("\"StatusCode\":0") {
        return Err(io::Error::other(format!("{cmd} ended with {text}")));
    }
    Ok(id)
}

fn delete_container(client: &mut Client, id: &str) -> io::Result<()> {
    client
        .expect("DELETE", &format!("/v1.48/containers/{id}?force=1"), None)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_within_progress_is_one() {
        assert!(done(b"{\"status\":\"Pull complete\"}\r\n", "pull").is_ok());
        assert!(
            done(
                b"{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}\r\n",
                "pull"
            )
            .is_err()
        );
    }
}
