//! The entry points, one file per hook. The kernel shows 15 characters of their names.

mod connect;
mod from_host;
mod from_pod;
mod from_tunnel;
mod from_uplink;
mod getpeername;
mod recvmsg;
mod release;
mod sendmsg;
mod socket;
mod to_tunnel;
mod to_uplink;
mod xdp;
mod xdp6;
