//! The init process of `--init`: a tiny static program that runs as process 1 of a container, passes
//! signals on to the container's program, collects orphans, and ends with the program's exit code.
//! It takes the place of docker-init (tini), with its command line (`docker-init -- PROGRAM ARG...`)
//! and its exit codes. The program itself is `program/main.rs`.

/// The executable, for the machine this was compiled for.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gantry-init"));

/// Where Docker has it in the container.
pub const PATH_IN_CONTAINER: &str = "/sbin/docker-init";
