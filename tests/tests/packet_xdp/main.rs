//! XDP on the uplink, and direct server return before and behind it.

mod direct_return;
mod ipv6;
mod stateless;
mod support;
mod translated;
