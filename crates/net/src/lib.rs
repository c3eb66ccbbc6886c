//! Links, addresses, routes and packet filters, by the kernel's own messages (netlink(7), rtnetlink(7), nfnetlink).
//!
//! **Architecture invariants**
//! - Everything here blocks, for the length of one request to the kernel, and runs on a worker.
//! - Nothing is executed, and nothing is asked twice: what belongs together is one send.
//! - What the kernel answers is checked before it is believed: lengths, sequence numbers, who sent it.
//! - A thread that enters another namespace is back in its own when the call returns, or the process ends.
//! - Only what is named is touched: no table is flushed that is not ours, no link removed by a pattern.

pub mod address;
pub mod dns;
mod error;
pub mod firewall;
pub mod ipam;
pub mod link;
mod message;
pub mod namespace;
pub mod neighbour;
pub mod nft;
pub mod route;
mod socket;

pub use error::NetError;
pub use message::{Attributes, Batch, Request};
pub use socket::{Protocol, Socket};
