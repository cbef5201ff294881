//! Netlink: requests, replies and the socket between them.
//!
//! The wire beneath `nat` and `host`. It knows messages and attributes, and
//! nothing of what they mean.
//!
//! ```text
//! message    length:u32 kind:u16 flags:u16 sequence:u32 port:u32  family header  attributes…
//! attribute  length:u16 kind:u16  value  padding to 4 bytes; a value may be attributes again
//! ```
//!
//! Headers are in host byte order; what attributes hold is their subsystem's
//! affair (`nf_tables` and ctnetlink: network byte order).

mod message;
#[cfg(test)]
pub(crate) mod namespace;
mod socket;

pub use message::{Attribute, Attributes, Message, Request};
pub use socket::{End, Failed, Socket};

use std::net::IpAddr;

/// The number of an address's family in the headers of requests: `AF_INET` or
/// `AF_INET6`.
#[must_use]
pub fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}
