//! `Binds`, `Mounts` and `VolumesFrom`, read as dockerd reads them.

use gantry_engine::clean_path;
use gantry_engine::model::{
    ANONYMOUS_LABEL, LOCAL_DRIVER, MountKind, MountPoint, MountRequest, VolumesFrom,
};

use crate::error::ApiError;
use crate::wire::create::HostConfig;
use crate::wire::mount::{Mount, TmpfsOptions};

const ACCESS: &[&str] = &["rw", "ro"];
const LABELS: &[&str] = &["z", "Z"];
const PROPAGATIONS: &[&str] = &[
    "private", "rprivate", "slave", "rslave", "shared", "rshared",
];
const COPY: &[&str] = &["nocopy"];
const CONSISTENCY: &[&str] = &["consistent", "cached", "delegated"];

/// The modes behind a mount's last colon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Modes<'a> {
    readonly: bool,
    no_copy: bool,
    propagation: &'a str,
}

/// Of every kind of mode one may be given.
fn modes(text: &str) -> Option<Modes<'_>> {
    let mut modes = Modes::default();
    let mut seen = [false; 5];
    for word in text.split(',').filter(|_| !text.is_empty()) {
        let kinds = [ACCESS, LABELS, PROPAGATIONS, COPY, CONSISTENCY];
        let kind = kinds.iter().position(|kind| kind.contains(&word))?;
        if std::mem::replace(&mut seen[kind], true) {
            return None;
        }
        match kind {
            0 => modes.readonly = word == "ro",
            2 => modes.propagation = word,
            3 => modes.no_copy = true,
            _ => {}
        }
    }
    Some(modes)
}

fn invalid_mode(mode: &str) -> String {
    format!("invalid mode: {mode}")
}

/// One of `Binds`: `destination`, `source:destination` or `source:destination:modes`. What is wrong with it is no
/// client's mistake to dockerd (500).
fn bind(raw: &str, volume_driver: &str) -> Result<MountRequest, ApiError> {
    let invalid = || ApiError::system(format!("invalid volume specification: '{raw}'"));
    let parts: Vec<&str> = raw.splitn(4, ':').collect();
    if parts.first().is_none_or(|first| first.is_empty()) {
        return Err(invalid());
    }
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        [_, mode] if modes(mode).is_some() => return Err(invalid()),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(invalid()),
    };
    let parsed = modes(mode).ok_or_else(|| ApiError::system(invalid_mode(mode)))?;
    let is_bind = source.starts_with('/');
    let kind = if is_bind { "bind" } else { "volume" };
    let wrong = |text: String| {
        let inner = format!("invalid mount config for type \"{kind}\": {text}");
        ApiError::system(format!("invalid volume specification: '{raw}': {inner}"))
    };
    check_target(target).map_err(wrong)?;
    if is_bind && parsed.no_copy {
        return Err(wrong(
            "field VolumeOptions must not be specified".to_owned(),
        ));
    }
    if !is_bind && !parsed.propagation.is_empty() {
        return Err(wrong("field BindOptions must not be specified".to_owned()));
    }
    let point = MountPoint {
        target: clean_path(target),
        mode: mode.to_owned(),
        readonly: parsed.readonly,
        ..MountPoint::default()
    };
    Ok(if is_bind {
        MountRequest {
            point: MountPoint {
                source: clean_path(source),
                propagation: or_private(parsed.propagation),
                create_source: true,
                ..point
            },
            ..MountRequest::default()
        }
    } else {
        MountRequest {
            point: of_volume(source, !parsed.no_copy, point),
            driver: volume_driver.to_owned(),
            ..MountRequest::default()
        }
    })
}

fn or_private(propagation: &str) -> String {
    match propagation {
        "" => "rprivate".to_owned(),
        given => given.to_owned(),
    }
}

fn of_volume(name: &str, copy_up: bool, point: MountPoint) -> MountPoint {
    MountPoint {
        kind: MountKind::Volume,
        volume: name.to_owned(),
        anonymous: name.is_empty(),
        copy_up,
        // As dockerd shows it: shared among containers.
        mode: if point.mode.is_empty() {
            "z".to_owned()
        } else {
            point.mode.clone()
        },
        ..point
    }
}

fn check_target(target: &str) -> Result<(), String> {
    if target.is_empty() {
        return Err("field Target must not be empty".to_owned());
    }
    if target.starts_with('/') && clean_path(target) == "/" {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    check_absolute(target)
}

fn check_absolute(path: &str) -> Result<(), String> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(format!(
        "invalid mount path: '{path}' mount path must be absolute"
    ))
}

/// One of `Mounts`.
fn mount(wanted: &Mount) -> Result<MountRequest, ApiError> {
    let kind = wanted.kind.as_str();
    for (name, given, of) in [
        ("BindOptions", wanted.bind.is_some(), "bind"),
        ("VolumeOptions", wanted.volume.is_some(), "volume"),
        ("TmpfsOptions", wanted.tmpfs.is_some(), "tmpfs"),
    ] {
        if given && kind != of {
            return Err(ApiError::invalid(format!(
                "{name} must not be specified on mount type \"{kind}\""
            )));
        }
    }
    let wrong = |text: String| {
        ApiError::invalid(format!("invalid mount config for type \"{kind}\": {text}"))
    };
    check_target(&wanted.target).map_err(wrong)?;
    let point = MountPoint {
        target: clean_path(&wanted.target),
        readonly: wanted.read_only,
        ..MountPoint::default()
    };
    if kind != "image" && wanted.image.is_some() {
        return Err(wrong("field ImageOptions must not be specified".to_owned()));
    }
    let mut request = match kind {
        "bind" => of_bind(wanted, point).map_err(wrong)?,
        "volume" => of_named(wanted, point).map_err(wrong)?,
        "tmpfs" => of_tmpfs(wanted, point).map_err(wrong)?,
        "image" => of_image(wanted, point).map_err(wrong)?,
        _ => return Err(wrong("mount type unknown".to_owned())),
    };
    request.detailed = true;
    Ok(request)
}

fn of_bind(wanted: &Mount, point: MountPoint) -> Result<MountRequest, String> {
    if wanted.source.is_empty() {
        return Err("field Source must not be empty".to_owned());
    }
    let options = wanted.bind.clone().unwrap_or_default();
    let propagation = options.propagation.as_str();
    if !propagation.is_empty() && !PROPAGATIONS.contains(&propagation) {
        return Err(format!("invalid propagation mode: {propagation}"));
    }
    check_absolute(&wanted.source)?;
    Ok(MountRequest {
        point: MountPoint {
            source: clean_path(&wanted.source),
            propagation: or_private(propagation),
            create_source: options.create_mountpoint,
            non_recursive: options.non_recursive,
            readonly_non_recursive: options.read_only_non_recursive,
            readonly_force_recursive: options.read_only_force_recursive,
            ..point
        },
        ..MountRequest::default()
    })
}

fn of_named(wanted: &Mount, point: MountPoint) -> Result<MountRequest, String> {
    let options = wanted.volume.clone().unwrap_or_default();
    let anonymous = wanted.source.is_empty();
    if !options.subpath.is_empty() {
        if anonymous {
            return Err("must not set Subpath when using anonymous volumes".to_owned());
        }
        if !is_local(&options.subpath) {
            return Err("subpath must be a relative path within the volume".to_owned());
        }
    }
    if wanted.read_only && anonymous {
        return Err("must not set ReadOnly mode when using anonymous volumes".to_owned());
    }
    let driver = options.driver.unwrap_or_default();
    let point = of_volume(&wanted.source, !options.no_copy, point);
    Ok(MountRequest {
        point: MountPoint {
            // A part of a volume is not filled.
            copy_up: point.copy_up && options.subpath.is_empty(),
            subpath: options.subpath,
            ..point
        },
        driver: driver.name,
        labels: options.labels,
        options: driver.options,
        detailed: true,
    })
}

/// Whether a path stays below where it begins, by its text alone.
fn is_local(path: &str) -> bool {
    if path.starts_with('/') {
        return false;
    }
    let mut depth = 0usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

fn of_image(wanted: &Mount, point: MountPoint) -> Result<MountRequest, String> {
    if wanted.source.is_empty() {
        return Err("field Source must not be empty".to_owned());
    }
    let subpath = wanted.image.clone().unwrap_or_default().subpath;
    if !is_local(&subpath) {
        return Err("subpath must be a relative path within the volume".to_owned());
    }
    Ok(MountRequest {
        point: MountPoint {
            kind: MountKind::Image,
            volume: wanted.source.clone(),
            readonly: true,
            propagation: or_private(""),
            subpath,
            ..point
        },
        ..MountRequest::default()
    })
}

fn of_tmpfs(wanted: &Mount, point: MountPoint) -> Result<MountRequest, String> {
    if !wanted.source.is_empty() {
        return Err("field Source must not be specified".to_owned());
    }
    let options = wanted.tmpfs.clone().unwrap_or_default();
    Ok(MountRequest {
        point: MountPoint {
            kind: MountKind::Tmpfs,
            tmpfs_options: tmpfs_options(&options, wanted.read_only)?,
            ..point
        },
        ..MountRequest::default()
    })
}

fn tmpfs_options(options: &TmpfsOptions, readonly: bool) -> Result<String, String> {
    let mut words = Vec::new();
    if readonly {
        words.push("ro".to_owned());
    }
    if options.mode != 0 {
        words.push(format!("mode={:o}", options.mode));
    }
    // A negative one is for the kernel to refuse.
    if options.size_bytes != 0 {
        words.push(format!("size={}", options.size_bytes));
    }
    for option in options.options.iter().flatten() {
        match option.as_slice() {
            [name] | [name, _] if !matches!(name.as_str(), "exec" | "noexec") => {
                return Err(format!("invalid option: {name}"));
            }
            [name] => words.push(name.clone()),
            [name, value] => words.push(format!("{name}={value}")),
            _ => return Err("invalid option array length".to_owned()),
        }
    }
    Ok(words.join(","))
}

/// One of `VolumesFrom`: `container` or `container:modes`.
fn volumes_from(raw: &str) -> Result<VolumesFrom, ApiError> {
    if raw.is_empty() {
        return Err(ApiError::invalid(
            "volumes-from specification cannot be an empty string",
        ));
    }
    let (container, mode) = raw.split_once(':').unwrap_or((raw, ""));
    let parsed = modes(mode)
        .filter(|m| m.propagation.is_empty() && !m.no_copy)
        .ok_or_else(|| ApiError::invalid(invalid_mode(mode)))?;
    if container.is_empty() {
        return Err(ApiError::invalid("invalid name or ID supplied: \"\""));
    }
    Ok(VolumesFrom {
        container: container.to_owned(),
        readonly: parsed.readonly,
    })
}

/// What a client mounts.
pub(super) struct Mounts {
    pub(super) requests: Vec<MountRequest>,
    pub(super) from: Vec<VolumesFrom>,
}

/// Reads all of it.
pub(super) fn parse(host: &HostConfig) -> Result<Mounts, ApiError> {
    let from = host.volumes_from.iter().flatten();
    let from = from
        .map(|raw| volumes_from(raw))
        .collect::<Result<_, _>>()?;
    let binds = host.binds.iter().flatten();
    let mut requests = binds
        .map(|raw| bind(raw, &host.volume_driver))
        .collect::<Result<Vec<_>, _>>()?;
    for wanted in host.mounts.iter().flatten() {
        requests.push(mount(wanted)?);
    }
    Ok(Mounts { requests, from })
}

/// What inspect shows of `Mounts` beyond what was sent: among labels that were, the one of volumes that nobody named.
pub(super) fn label_anonymous(mounts: &mut [Mount]) {
    for mount in mounts.iter_mut().filter(|m| m.source.is_empty()) {
        let options = mount.volume.as_mut().filter(|_| mount.kind == "volume");
        if let Some(labels) = options.and_then(|o| o.labels.as_mut()) {
            labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
    }
}

/// The mount as inspect shows it.
pub fn shown(point: &MountPoint) -> crate::wire::mount::MountPoint {
    let is_volume = point.kind == MountKind::Volume;
    crate::wire::mount::MountPoint {
        kind: point.kind.as_str(),
        name: point.volume.clone(),
        source: point.source.clone(),
        destination: point.target.clone(),
        driver: if is_volume { LOCAL_DRIVER } else { "" },
        mode: point.mode.clone(),
        rw: !point.readonly,
        propagation: point.propagation.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(raw: &str) -> String {
        bind(raw, "").unwrap_err().message
    }

    #[test]
    fn short_forms() {
        let point = |raw: &str| bind(raw, "").unwrap().point;
        let p = point("/tmp/../etc/.:/y/../x/:ro,z,rslave");
        assert_eq!((p.source.as_str(), p.target.as_str()), ("/etc", "/x"));
        assert_eq!(
            (p.mode.as_str(), p.propagation.as_str()),
            ("ro,z,rslave", "rslave")
        );
        assert!(p.readonly && p.create_source && p.kind == MountKind::Bind);
        let p = point("data:/x:nocopy");
        assert_eq!((p.volume.as_str(), p.kind), ("data", MountKind::Volume));
        assert!(!p.copy_up && !p.readonly && !p.anonymous);
        let p = point("/x");
        assert!(p.anonymous && p.copy_up);
        assert_eq!(p.mode, "z");
        assert_eq!(point("/tmp:/x:").propagation, "rprivate");
    }

    #[test]
    fn short_forms_that_are_wrong() {
        for raw in ["", "/tmp:", ":/x", "a:b:c:d", "/tmp:/x:rw:ro", "/foo:rw"] {
            assert_eq!(text(raw), format!("invalid volume specification: '{raw}'"));
        }
        for mode in [
            "zz",
            "ro,rw",
            "ro,ro",
            "z,Z",
            "shared,private",
            "RO",
            "/c",
            "consistent,cached",
        ] {
            assert_eq!(
                text(&format!("/tmp:/x:{mode}")),
                format!("invalid mode: {mode}")
            );
        }
        assert_eq!(
            text("/tmp:/"),
            "invalid volume specification: '/tmp:/': invalid mount config for type \"bind\": invalid specification: destination can't be '/'"
        );
        assert_eq!(
            text("vol1"),
            "invalid volume specification: 'vol1': invalid mount config for type \"volume\": invalid mount path: 'vol1' mount path must be absolute"
        );
        assert!(text("/tmp:/x:nocopy").ends_with("field VolumeOptions must not be specified"));
        assert!(text("vol1:/x:shared").ends_with("field BindOptions must not be specified"));
    }

    #[test]
    fn taken_over() {
        assert!(volumes_from("web:ro,z").unwrap().readonly);
        assert_eq!(volumes_from("web:").unwrap().container, "web");
        for (raw, text) in [
            ("", "volumes-from specification cannot be an empty string"),
            ("web:zz", "invalid mode: zz"),
            ("web:ro:rw", "invalid mode: ro:rw"),
            ("web:rslave", "invalid mode: rslave"),
            ("web:nocopy", "invalid mode: nocopy"),
            (":ro", "invalid name or ID supplied: \"\""),
        ] {
            assert_eq!(volumes_from(raw).unwrap_err().message, text);
        }
    }

    #[test]
    fn paths_in_volumes() {
        for good in ["a", "a/b", "./a", "a/../b", ".."].iter().take(4) {
            assert!(is_local(good), "{good}");
        }
        for bad in ["/a", "..", "a/../..", "../a"] {
            assert!(!is_local(bad), "{bad}");
        }
    }

    proptest! {
        /// Whatever is accepted has an absolute, clean target that is not the root, and a source or a volume.
        #[test]
        fn accepted_specifications_are_sound(raw in "[/a-z.:,]{0,24}|(/[a-z./]{0,8}|[a-z]{2,5}):/[a-z./]{0,8}(:(ro|rw|z|Z|nocopy|rslave|cached|,){0,4})?") {
            if let Ok(request) = bind(&raw, "") {
                let point = request.point;
                prop_assert!(point.target.starts_with('/') && point.target != "/");
                prop_assert_eq!(clean_path(&point.target), point.target.clone());
                prop_assert_eq!(point.kind == MountKind::Bind, point.source.starts_with('/'));
                prop_assert_eq!(point.anonymous, point.kind == MountKind::Volume && point.volume.is_empty());
            }
        }
    }
}
