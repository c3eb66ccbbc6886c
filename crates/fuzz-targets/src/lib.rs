//! What the fuzz targets do with their bytes. Each function must neither panic nor break what it asserts, whatever it
//! is given; `tests/corpus.rs` runs each of them over its corpus and mutations of it, on stable Rust.

use std::cell::OnceCell;
use std::io::Read;
use std::sync::Arc;

use gantry_api::wire::create::CreateRequest;
use gantry_api::{json, version};
use gantry_engine::user::{self, Accounts};
use gantry_image::{ImageStore, ImportOptions, Platform};
use gantry_keeper_proto::msg::{FromKeeper, Request};
use gantry_keeper_proto::plan::Plan;
use gantry_keeper_proto::runtime::RuntimePlan;
use gantry_logs::{FileLog, FileOptions, Format, LogInfo, LogQuery};
use gantry_stream::{LogSink, Stream};

/// Something that takes bytes from outside.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("auth_challenge", auth_challenge),
    ("create_body", create_body),
    ("detach_keys", detach_keys),
    ("dns_message", dns_message),
    ("fluentd_ack", fluentd_ack),
    ("http_request", http_request),
    ("image_import", image_import),
    ("image_load", image_load),
    ("json_log", json_log),
    ("layer_index", layer_index),
    ("keeper_message", keeper_message),
    ("local_segment", local_segment),
    ("log_options", log_options),
    ("log_time", log_time),
    ("mux_frames", mux_frames),
    ("netlink_attributes", netlink_attributes),
    ("passwd", passwd),
    ("reference", reference),
    ("registry_manifest", registry_manifest),
    ("tar_reader", tar_reader),
    ("websocket_frames", websocket_frames),
];

/// What a container asks the name server, and what another server answers.
pub fn dns_message(data: &[u8]) {
    use gantry_net::dns::{self, Query, Rcode, Record};
    let Ok(query) = Query::parse(data) else {
        return;
    };
    let records = [
        Record::A([10, 0, 0, 2].into()),
        Record::Ptr(query.name.clone()),
    ];
    let out = dns::answer(data, &query, &records, 600, query.udp_bytes);
    assert!(out.len() <= query.udp_bytes);
    assert_eq!(dns::header_of(&out, query.id, &query), Some(Rcode::NoError));
    let failure = dns::failure(data, &query, Rcode::ServerFailure);
    assert_eq!(
        dns::header_of(&failure, query.id, &query),
        Some(Rcode::ServerFailure)
    );
    dns::header_of(data, query.id, &query);
    if let Some(name) = query.name.to_key() {
        dns::reverse(&name);
        if let Ok(network) = name.parse::<gantry_net::ipam::Network>() {
            assert!(network.contains(network.first()) && network.contains(network.last()));
        }
    }
}

/// Attributes within attributes, as deep as they go.
pub fn netlink_attributes(data: &[u8]) {
    fn walk(attributes: gantry_net::Attributes<'_>, depth: usize) {
        for (kind, value) in attributes {
            assert!(attributes.find(kind).is_some());
            attributes.text(kind);
            attributes.u32(kind);
            if depth < 16 {
                walk(gantry_net::Attributes::new(value), depth + 1);
            }
        }
    }
    walk(gantry_net::Attributes::new(data), 0);
}

/// The index of a layer, read again. Headers get the checksums that a mutation took from them.
pub fn layer_index(data: &[u8]) {
    let mut tar = data.to_vec();
    for block in tar.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    let Ok(Some(tree)) = gantry_image::layer::read_tree(&tar[..]) else {
        return;
    };
    let geometry = gantry_erofs::Geometry::Index {
        tar_bytes: tar.len() as u64,
        data_bytes: 0,
    };
    let mut out = std::io::Cursor::new(Vec::new());
    let summary = tree
        .write(geometry, &mut out)
        .expect("a small tree fits into an image");
    let mut image = out.into_inner();
    image.resize(summary.image_bytes as usize, 0);
    let image = gantry_erofs::Image::open(&image).expect("an image");
    let entries = image.entries().expect("what was written can be read");
    let end = tar.len() as u64;
    for extent in entries.iter().flat_map(|e| &e.extents) {
        let gantry_erofs::Place::Tar(at) = extent.place else {
            panic!("content of nowhere");
        };
        assert!(at + extent.len_bytes <= end, "content lies in the tar");
    }
}

/// What a registry wants to know of who asks; the credentials of a client in a header.
pub fn auth_challenge(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let found = gantry_registry::challenge::parse(&text);
    assert!(found.len() <= gantry_registry::challenge::MAX_CHALLENGES);
    let _ = gantry_registry::AuthConfig::from_header(&text);
}

/// A manifest, an index and a config as a registry sends them.
pub fn registry_manifest(data: &[u8]) {
    use gantry_image::registry::{Index, Manifest, PulledImage};
    if let Ok(index) = Index::parse(data) {
        let _ = index.choose(&Platform::host());
    }
    if let Ok(manifest) = Manifest::parse(data) {
        assert!(manifest.layers.iter().all(|l| l.digest.len() == 71));
    }
    let _ = PulledImage::parse(data.to_vec(), 1);
}

/// The JSON of a create request, up to what the engine is given.
pub fn create_body(data: &[u8]) {
    let Ok(request) = json::parse(data).and_then(json::decode::<CreateRequest>) else {
        return;
    };
    let version = version::check("1.48").expect("a known version");
    let machine = gantry_api::convert::Machine {
        cpus: 4,
        ..Default::default()
    };
    let _ = gantry_api::convert::create_spec(None, request, version, &machine);
}

/// What a service answers to the forward protocol. A complete answer is the same whatever follows it.
pub fn fluentd_ack(data: &[u8]) {
    use gantry_logship::msgpack::{Ack, read_ack};
    if let Ack::Chunk(chunk, len) = read_ack(data) {
        assert_eq!(read_ack(&data[..len]), Ack::Chunk(chunk, len));
    }
}

/// A key specification and what is typed; without a match nothing is lost.
pub fn detach_keys(data: &[u8]) {
    let (spec, typed) = data.split_at(data.len().min(8));
    let Ok(spec) = std::str::from_utf8(spec) else {
        return;
    };
    let Ok(keys) = gantry_stream::keys::parse(spec) else {
        return;
    };
    let mut detector = gantry_stream::keys::Detector::new(keys);
    let mut out = Vec::new();
    if !detector.feed(typed, &mut out) {
        detector.flush(&mut out);
        assert_eq!(out, typed);
    }
}

/// Method, path and query of a request.
pub fn http_request(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let _ = gantry_api::router::route(method, path);
    let _ = gantry_api::query::Query::parse(query);
    let _ = gantry_api::filters::parse(query);
    let _ = gantry_api::version::check(text);
}

/// Change instructions and platforms of an import; the layer is empty. Runs as root.
pub fn image_import(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (platform, changes) = text.split_once('\0').unwrap_or(("", &text));
    let root = tempfile::tempdir().expect("a directory");
    let store = gantry_store::Store::open(root.path().join("meta.redb")).expect("a database");
    let images = ImageStore::open(root.path(), store).expect("images");
    let options = ImportOptions {
        changes: changes.split('\u{1}').map(str::to_owned).collect(),
        platform: Platform::parse(platform).ok(),
        ..ImportOptions::default()
    };
    let _ = images.import(&[0u8; 1024][..], &options);
}

thread_local! {
    static STORE: OnceCell<(tempfile::TempDir, Arc<ImageStore>)> = const { OnceCell::new() };
}

fn open() -> (tempfile::TempDir, Arc<ImageStore>) {
    let root = tempfile::tempdir().expect("a directory");
    let store = gantry_store::Store::open(root.path().join("meta.redb")).expect("a database");
    let images = ImageStore::open(root.path(), store).expect("images");
    (root, images)
}

/// Whole image archives: docker's and OCI's, their JSON documents and layers. Nothing may be left of what is refused.
/// Runs as root, in a directory of its own.
pub fn image_load(data: &[u8]) {
    STORE.with(|store| {
        let (root, images) = store.get_or_init(open);
        let loaded = images.load(data, None, &mut |_| {}).unwrap_or_default();
        let names: Vec<String> = loaded.iter().map(|l| l.id.clone()).collect();
        if let Ok(plan) = images.plan_save(&names, None) {
            plan.write(&mut std::io::sink())
                .expect("what is loaded can be saved");
        }
        for image in images.snapshot().list() {
            images
                .remove(&image.id, true, &|_| None)
                .expect("what is loaded can be removed");
        }
        for dir in ["tmp", "layers/sha256", "content/blobs/sha256"] {
            let left = std::fs::read_dir(root.path().join(dir)).expect(dir).count();
            assert_eq!(left, 0, "{dir}");
        }
    });
}

/// Records of a json-file log: taken apart or decoded, they say the same.
pub fn json_log(data: &[u8]) {
    let mut clock = gantry_logs::json::Clock::default();
    for line in data.split_inclusive(|b| *b == b'\n') {
        let decoded = gantry_logs::json::decode(line);
        let raw = gantry_logs::json::split(line, &mut clock);
        let (Some((record, time_ns)), Some(raw)) = (decoded, raw) else {
            continue;
        };
        let mut text = Vec::new();
        if gantry_logs::json::unescape_into(&mut text, raw.log) {
            assert_eq!(record.log.as_bytes(), text);
            assert_eq!((record.stream(), time_ns), (raw.stream, raw.time_ns));
        }
    }
    with_log_dir(|dir| {
        let path = dir.join("log");
        std::fs::write(&path, data).expect("write");
        queries(&path, Format::Json);
    });
}

/// A segment of driver local and its index: one byte says how much is index.
pub fn local_segment(data: &[u8]) {
    let Some((cut, rest)) = data.split_first() else {
        return;
    };
    let (index, segment) = rest.split_at(rest.len().min(usize::from(*cut) * 8));
    with_log_dir(|dir| {
        let base = dir.join("log");
        std::fs::write(dir.join("log.00000001"), segment).expect("write");
        std::fs::write(dir.join("log.00000001.idx"), index).expect("write");
        queries(&base, Format::Frames);
        // A writer goes on behind what is whole, and that can be read.
        let options = FileOptions::parse_local([("compress", "false")]).expect("options");
        let mut log = FileLog::open_local(&base, options).expect("a writer");
        log.append(Stream::Stdout, b"more\n", 1);
        log.write().expect("write");
        drop(log);
        let both = LogQuery {
            stdout: true,
            stderr: true,
            ..LogQuery::default()
        };
        let (out, _) = gantry_logs::read_at_once(&base, Format::Frames, &both).expect("read");
        assert!(out.ends_with(b"more\n"));
    });
}

fn with_log_dir(f: impl FnOnce(&std::path::Path)) {
    let dir = tempfile::tempdir().expect("a directory");
    f(dir.path());
}

fn queries(path: &std::path::Path, format: Format) {
    let whole = LogQuery {
        stdout: true,
        stderr: true,
        ..LogQuery::default()
    };
    let odd = LogQuery {
        timestamps: true,
        details: true,
        tty: true,
        ..whole.clone()
    };
    let late = LogQuery {
        since_ns: Some(1_700_000_000_000_000_000),
        until_ns: Some(u64::MAX),
        ..odd.clone()
    };
    let tail = LogQuery {
        tail: Some(2),
        ..whole.clone()
    };
    for query in [whole, odd, late, tail] {
        gantry_logs::read_at_once(path, format, &query).expect("damage is no error");
    }
}

/// Options of log drivers: `name=value` lines, of which `tag` is a template.
pub fn log_options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let pairs = || text.lines().filter_map(|line| line.split_once('='));
    let _ = FileOptions::parse(pairs());
    let _ = FileOptions::parse_local(pairs());
    let info = LogInfo {
        options: pairs().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        env: vec!["A=1".to_owned()],
        ..LogInfo::default()
    };
    let _ = info.attributes(str::to_owned);
    let _ = info.tag("");
}

/// Packets between daemon and keeper; what decodes encodes to something that decodes to the same.
pub fn keeper_message(data: &[u8]) {
    if let Ok((number, request)) = Request::decode(data) {
        assert_eq!(
            Request::decode(&request.encode(number)),
            Ok((number, request))
        );
    }
    let _ = Request::number_of(data);
    let _ = FromKeeper::decode(data);
    let _ = Plan::decode(data, 16);
    let _ = RuntimePlan::decode(data, 16);
}

/// Times of since and until.
pub fn log_time(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = gantry_logs::time::parse(text, 1_700_000_000_000_000_000);
        let _ = gantry_logs::time::parse_go_duration(text);
        let _ = gantry_logs::time::parse_bound(text, 1_700_000_000_000_000_000);
    }
}

/// Multiplexed frames cut at any place.
pub fn mux_frames(data: &[u8]) {
    let (first, rest) = data.split_at(data.len() / 2);
    let mut reader = gantry_stream::mux::FrameReader::default();
    for part in [first, rest] {
        reader.push(part);
        while let Ok(Some((_stream, bytes))) = reader.next_frame() {
            assert!(bytes.len() <= gantry_stream::mux::MAX_FRAME_BYTES);
        }
    }
}

/// Users and groups of an image: a user specification, a line end, passwd, a zero byte, group.
pub fn passwd(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (spec, files) = text.split_once('\n').unwrap_or(("root", &text));
    let (passwd, group) = files.split_once('\0').unwrap_or((files, ""));
    let accounts = Accounts {
        passwd: passwd.to_owned(),
        group: group.to_owned(),
    };
    if let Ok(who) = user::resolve(spec, &[], &accounts) {
        assert!(who.groups.len() <= user::MAX_GROUPS);
    }
}

/// Image names; what parses prints to something that parses to the same.
pub fn reference(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = gantry_image::reference::parse_any(text);
    }
}

/// Archives of layers and images: every entry, and what it holds.
pub fn tar_reader(data: &[u8]) {
    let mut reader = gantry_image::tar::Reader::new(data);
    while let Ok(Some(_entry)) = reader.next_entry() {
        let mut payload = Vec::new();
        if reader
            .by_ref()
            .take(1 << 20)
            .read_to_end(&mut payload)
            .is_err()
        {
            break;
        }
        // Holes are zeros that nobody stored.
        assert!(payload.len() <= data.len() || reader.stretches().is_some());
    }
}

/// What a WebSocket client sends, in pieces as long as the first byte says. Nothing comes out that did not go in, and how it
/// is cut changes nothing.
pub fn websocket_frames(data: &[u8]) {
    use gantry_stream::websocket::{BadFrame, Event, MAX_CONTROL_BYTES, Reader};
    let read = |step: usize, data: &[u8]| -> (Vec<u8>, usize, Option<BadFrame>) {
        let (mut reader, mut bytes, mut controls) = (Reader::default(), Vec::new(), 0);
        for piece in data.chunks(step) {
            let mut piece = piece.to_vec();
            let mut input = &mut piece[..];
            loop {
                match reader.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(Event::Data(data))) => bytes.extend_from_slice(data),
                    Ok(Some(Event::Ping(payload))) => {
                        assert!(payload.bytes().len() <= MAX_CONTROL_BYTES);
                        controls += 1;
                    }
                    Ok(Some(Event::Pong | Event::Close)) => controls += 1,
                    Err(error) => return (bytes, controls, Some(error)),
                }
            }
            assert!(input.is_empty());
        }
        (bytes, controls, None)
    };
    let Some((&step, data)) = data.split_first() else {
        return;
    };
    let whole = read(data.len().max(1), data);
    assert!(whole.0.len() <= data.len());
    assert_eq!(read(usize::from(step).max(1), data), whole);
}
