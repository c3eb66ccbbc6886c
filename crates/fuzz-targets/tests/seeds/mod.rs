//! Corpus entries in binary formats, made by writers of their own.

use std::io::Write;

use gantry_keeper_proto::msg::{Event, Exit, Reply, Request};
use sha2::{Digest, Sha256};

/// Entries of a target that are made instead of stored.
pub fn made(target: &str) -> Vec<Vec<u8>> {
    match target {
        "layer_index" => vec![layer()],
        "tar_reader" => vec![layer(), archive(&layer())],
        "image_load" => vec![archive(&layer()), archive(&gzip(&layer()))],
        "mux_frames" => vec![frames()],
        "keeper_message" => messages(),
        "dns_message" => vec![
            dns_query("web.example", 1),
            dns_query("2.0.0.10.in-addr.arpa", 12),
            dns_query("10.0.0.0/8", 28),
        ],
        "netlink_attributes" => vec![attributes()],
        _ => Vec::new(),
    }
}

/// A query with an OPT record.
fn dns_query(name: &str, kind: u16) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1, 0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
    query
}

/// A name, a number, and a text within another attribute.
fn attributes() -> Vec<u8> {
    let attribute = |kind: u16, value: &[u8]| {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let inside = attribute(0x8012, &attribute(1, b"veth\0"));
    [
        attribute(3, b"eth0\0"),
        attribute(4, &1500u32.to_ne_bytes()),
        inside,
    ]
    .concat()
}

fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, name: &str, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(data.len() as u64);
        if link.is_empty() {
            tar.append_data(&mut header, name, data)
        } else {
            tar.append_link(&mut header, name, link)
        }
        .expect("an entry");
    };
    add(tar::EntryType::Directory, "etc/", "", b"");
    add(
        tar::EntryType::Regular,
        "etc/passwd",
        "",
        b"root:x:0:0::/:/bin/sh\n",
    );
    add(tar::EntryType::Symlink, "etc/link", "passwd", b"");
    add(tar::EntryType::Link, "etc/hard", "etc/passwd", b"");
    add(tar::EntryType::Regular, "etc/.wh.gone", "", b"");
    add(tar::EntryType::Regular, &"long/".repeat(40), "", b"");
    add(
        tar::EntryType::Regular,
        &format!("{}x", "d/".repeat(80)),
        "",
        b"deep",
    );
    tar.into_inner().expect("an archive")
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("compress");
    encoder.finish().expect("compress")
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// An archive as `docker save` makes it.
fn archive(layer_file: &[u8]) -> Vec<u8> {
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        hex(Sha256::digest(layer())),
    );
    let name = format!("{}.json", hex(Sha256::digest(&config)));
    let manifest =
        format!(r#"[{{"Config":"{name}","RepoTags":["seed:1"],"Layers":["l/layer.tar"]}}]"#);
    let mut tar = tar::Builder::new(Vec::new());
    for (path, data) in [
        (name.as_str(), config.as_bytes()),
        ("l/layer.tar", layer_file),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, path, data).expect("an entry");
    }
    tar.into_inner().expect("an archive")
}

fn frames() -> Vec<u8> {
    let mut out = Vec::new();
    for (stream, text) in [(1u8, &b"out"[..]), (2, b"error"), (1, b"")] {
        out.extend([stream, 0, 0, 0]);
        out.extend((text.len() as u32).to_be_bytes());
        out.extend(text);
    }
    out
}

fn messages() -> Vec<Vec<u8>> {
    let id = "0123456789abcdef".repeat(4);
    vec![
        Request::Hello {
            version: 1,
            epoch: 7,
        }
        .encode(1),
        Request::Signal {
            id: id.clone(),
            signo: 15,
        }
        .encode(2),
        Request::Resize {
            id: id.clone(),
            rows: 24,
            columns: 80,
        }
        .encode(3),
        Reply::Done.encode(4),
        Event::Exited {
            id,
            exit: Exit::default(),
        }
        .encode(),
    ]
}
