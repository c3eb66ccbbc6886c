//! Compiles the init program for the target machine: without the standard library, static, without
//! relocations, so that it runs in any root file system. It is a program of its own and not a binary
//! target because every binary target of a workspace is built with the same flags.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let source = "program/main.rs";
    println!("cargo:rerun-if-changed=program");
    let out = PathBuf::from(variable("OUT_DIR")).join("gantry-init");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-name", "gantry_init_program"])
        .args(["--crate-type", "bin", "--target", &variable("TARGET")])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "relocation-model=static", "-C", "lto=fat"])
        .args([
            "-C",
            "link-args=-nostartfiles -nostdlib -static -Wl,--build-id=none",
        ])
        .args(["-D", "warnings", source, "-o"])
        .arg(&out);
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.status().expect("run rustc");
    assert!(status.success(), "the init program does not compile");
}
