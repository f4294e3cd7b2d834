//! Ends the sockets that were balanced to a backend that is no more.
//!
//! A socket is translated once, when it connects. When its backend is gone, nothing would tell a client that only waits, and a
//! connected UDP client would send into the void for ever. So such sockets are destroyed (`SOCK_DESTROY` of `sock_diag`): a TCP
//! connection is reset, a connected UDP socket reads `ECONNABORTED` and is disconnected, so that it cannot send; the client connects again, to the VIP, and
//! gets a backend that lives.
//!
//! Only sockets that were translated are touched, those with an entry in `SOCKET_ORIGINS` by their cookie. One that was connected
//! straight to a pod's address asked for that pod, and goes down with it in its own time.

mod diag;
mod netlink;
mod reset;

pub use netlink::SocketsError;
pub use reset::{Found, Gone, Resetter, reset_in};
