//! What daemon and keeper share: messages, launch plans and shared memory.

pub mod fault;
pub mod msg;
pub mod plan;
pub mod process;
pub mod runtime;
pub mod scm;
pub mod shm;
pub mod wire;
