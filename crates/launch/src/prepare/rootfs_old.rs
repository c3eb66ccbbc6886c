//! The overlay of a kernel before 6.7: mount(2), which attaches it somewhere. So that this is nowhere anyone looks, a thread
//! takes a mount namespace of its own for the call and keeps a detached copy of the mount. A part of a union is found so
//! on every kernel.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use crate::lower::Lower;
use crate::spec::RootfsSpec;

/// The option string of mount(2) is cut off there, silently.
const MAX_OPTION_BYTES: usize = 4096 - 1;

type Step = (&'static str, io::Error);

/// The step of [`part_of_union`] that is about the part itself.
pub(crate) const FIND: &str = "find the part";

fn at(step: &'static str) -> impl Fn(io::Error) -> Step {
    move |e| (step, e)
}

/// What is laid over each other.
struct Layers<'a> {
    /// Top first.
    lowers: &'a [Lower],
    /// The directory that takes changes, and overlay's own; read-only without.
    upper: Option<(&'a Path, &'a Path)>,
    volatile: bool,
}

/// The root file system of a container; nothing is attached anywhere that anybody else sees.
pub(crate) fn overlay(spec: &RootfsSpec) -> Result<OwnedFd, Step> {
    detached(&Layers {
        lowers: &spec.lowers,
        upper: Some((&spec.upper, &spec.work)),
        volatile: spec.volatile,
    })
}

/// The union of layers, read-only.
pub(crate) fn union(layers: &[Lower]) -> Result<OwnedFd, Step> {
    detached(&Layers {
        lowers: layers,
        upper: None,
        volatile: false,
    })
}

/// What `find` finds in the union of layers, read-only: before 6.15 only a mount that is attached can be copied in part.
pub(crate) fn part_of_union(
    layers: &[Lower],
    find: impl Fn(&OwnedFd) -> io::Result<OwnedFd> + Sync,
) -> Result<OwnedFd, Step> {
    let layers = Layers {
        lowers: layers,
        upper: None,
        volatile: false,
    };
    apart(|| {
        let target = attach(&layers)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(&target, flags, Mode::empty())
            .map_err(|e| at("open the overlay")(e.into()))?;
        let part = find(&top).map_err(at(FIND))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(&part, "", flags | OpenTreeFlags::AT_EMPTY_PATH)
            .map_err(|e| at("detach a part of the overlay")(e.into()))
    })
}

fn detached(layers: &Layers<'_>) -> Result<OwnedFd, Step> {
    apart(|| {
        let target = attach(layers)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(rustix::fs::CWD, &target, flags)
            .map_err(|e| at("detach the overlay")(e.into()))
    })
}

/// Runs it in a thread of its own: a mount namespace cannot be left again by a thread that others have work for.
pub(super) fn apart<T: Send>(make: impl FnOnce() -> Result<T, Step> + Send) -> Result<T, Step> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("overlay".to_owned())
            .spawn_scoped(scope, make)
            .map_err(at("start a thread for the overlay"))?;
        thread.join().unwrap_or_else(|_| {
            Err(at("mount the overlay")(io::Error::other(
                "the thread panicked",
            )))
        })
    })
}

/// Attaches the overlay in a mount namespace of the calling thread and says where.
fn attach(layers: &Layers<'_>) -> Result<CString, Step> {
    // SAFETY: the thread is ours alone and ends after this function: nobody else sees its directory or mounts change.
    // The file table stays shared.
    if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } < 0 {
        return Err(at("unshare mounts for the overlay")(
            io::Error::last_os_error(),
        ));
    }
    let private = libc::MS_REC | libc::MS_PRIVATE;
    mount(c"none", c"/", c"none", private, c"").map_err(at("make mounts private"))?;
    // Opened here: overlay takes directories of this namespace only. By descriptor their names are short, and no
    // character of a path means something in an option.
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(|e| at("open a layer")(e.into()))
    };
    let lowers = layers
        .lowers
        .iter()
        .map(|lower| open(lower.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    let upper = layers
        .upper
        .map(|(upper, work)| Ok::<_, Step>((open(upper)?, open(work)?)))
        .transpose()?;
    let options = options(&lowers, upper.as_ref(), layers.volatile)?;
    let flags = match upper {
        Some(_) => 0,
        None => libc::MS_RDONLY,
    };
    // Any directory of this namespace does.
    let target = layers.upper.map(|(upper, _)| upper);
    let target = target.or_else(|| layers.lowers.first().map(AsRef::as_ref));
    let target = target.unwrap_or(Path::new("/")).as_os_str().as_bytes();
    let target = CString::new(target).map_err(|e| at("mount the overlay")(e.into()))?;
    mount(c"overlay", &target, c"overlay", flags, &options).map_err(at("mount the overlay"))?;
    Ok(target)
}

fn options(
    lowers: &[OwnedFd],
    upper: Option<&(OwnedFd, OwnedFd)>,
    volatile: bool,
) -> Result<CString, Step> {
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = lowers.iter().map(name).collect();
    let mut text = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = upper {
        let (upper, work) = (name(upper), name(work));
        text.push_str(&format!(",upperdir={upper},workdir={work},index=off"));
    }
    if volatile {
        text.push_str(",volatile");
    }
    if text.len() > MAX_OPTION_BYTES {
        return Err(at("mount the overlay")(io::Error::other(format!(
            "{} layers are too many for this kernel",
            lowers.len()
        ))));
    }
    CString::new(text).map_err(|e| at("mount the overlay")(e.into()))
}

fn mount(
    source: &std::ffi::CStr,
    target: &std::ffi::CStr,
    kind: &std::ffi::CStr,
    flags: libc::c_ulong,
    options: &std::ffi::CStr,
) -> io::Result<()> {
    // SAFETY: all strings are NUL-terminated and live through the call.
    let done = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, as everything that mounts.
    #[test]
    fn an_overlay_of_many_layers_is_made_and_seen_by_nobody() {
        // SAFETY: a plain system call.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: not root");
            return;
        }
        // On a file system of its own: the temporary directory may be an overlay, which cannot be the upper one.
        let dir = tempfile::tempdir_in("/dev/shm").expect("directory");
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("mkdir");
            path
        };
        let lowers: Vec<_> = (0..120).map(|i| make(&format!("layer,{i}:x"))).collect();
        std::fs::write(lowers[119].join("lowest"), "1").expect("write");
        let spec = RootfsSpec {
            lowers: lowers.into_iter().map(Lower::from).collect(),
            upper: make("upper"),
            work: make("work"),
            volatile: true,
            remap: None,
        };
        let before = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let tree = overlay(&spec).expect("overlay");
        let inside = |name: &str| format!("/proc/self/fd/{}/{name}", tree.as_raw_fd());
        assert_eq!(std::fs::read(inside("lowest")).expect("read"), b"1");
        std::fs::write(inside("new"), "2").expect("write");
        assert!(spec.upper.join("new").exists(), "it is in the upper one");
        let both = union(&spec.lowers[118..]).expect("union");
        let inside = |name: &str| format!("/proc/self/fd/{}/{name}", both.as_raw_fd());
        assert_eq!(std::fs::read(inside("lowest")).expect("read"), b"1");
        assert!(std::fs::write(inside("new"), "2").is_err(), "read-only");
        let lowest = |top: &OwnedFd| {
            let found = rustix::fs::openat(top, "lowest", OFlags::PATH, Mode::empty());
            found.map_err(io::Error::from)
        };
        let part = part_of_union(&spec.lowers[118..], lowest).expect("part");
        let path = format!("/proc/self/fd/{}", part.as_raw_fd());
        assert_eq!(std::fs::read(path).expect("read"), b"1");
        let after = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(
            !after.contains("layer,") && after.lines().count() <= before.lines().count() + 1,
            "attached: {after}"
        );
    }
}
