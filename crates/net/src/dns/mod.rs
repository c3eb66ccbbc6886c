//! Messages of the domain name system (RFC 1035, RFC 6891), as far as a resolver needs them that knows some names itself and
//! asks others for the rest.
//!
//! Untrusted bytes come from both sides: a container's queries, and what servers answer.

mod message;
mod name;

pub use message::{
    Class, Kind, MAX_UDP_BYTES, MIN_UDP_BYTES, Malformed, Query, Rcode, Record, answer, failure,
    fits, header_of, set_id, truncated,
};
pub use name::{Name, reverse};
