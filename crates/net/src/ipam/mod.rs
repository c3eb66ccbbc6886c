//! Which addresses are whose: networks out of pools, addresses out of networks.
//!
//! Nothing here knows the host; the caller says which networks are taken by somebody else (routes, other engines).

mod addresses;
mod network;
mod pools;

pub use addresses::{Addresses, Taken};
pub use network::{BadNetwork, Network};
pub use pools::{Pool, Pools};
