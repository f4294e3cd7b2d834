//! What the socket hooks share: reading and writing the address a system call was given.

use core::ptr;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use causeway_abi::{
    Address, DropReason,
    affinity::AffinityKey,
    backend::Backend,
    conntrack::{SocketOrigin, SocketReplyKey},
    event::{Hook, Verdict},
    service::{NO_BACKEND, SCOPE_CLUSTER, Service, ServiceKey},
};
use causeway_ebpf::{flow::Translation, parse::Headers};

use crate::{
    count,
    maps::{SERVICES, SOCKET_ORIGINS},
    trace::{self, Told},
};

/// The system call goes on.
pub const PROCEED: i32 = 1;
/// The system call fails.
pub const REFUSE: i32 = 0;

const ENOBUFS: i32 = 105;
const ECONNREFUSED: i32 = 111;

/// IPv4 or IPv6: which fields of the context hold the address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`, v4-mapped addresses included.
    V6,
}

/// A socket address hook's context.
pub struct Socket<'a> {
    context: &'a SockAddrContext,
    family: Family,
}

impl<'a> Socket<'a> {
    /// Wraps a context.
    #[inline(always)]
    pub const fn new(context: &'a SockAddrContext, family: Family) -> Self {
        Self { context, family }
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.context.sock_addr
    }

    /// The address of the system call.
    #[inline(always)]
    pub fn address(&self) -> Address {
        // SAFETY: the kernel passes a valid context. Volatile, because the verifier takes each field's access as written
        // and none that the compiler merged from several.
        unsafe {
            match self.family {
                Family::V4 => Address::from_v4(ptr::read_volatile(&raw const (*self.raw()).user_ip4).to_ne_bytes()),
                Family::V6 => Address::from_words([
                    ptr::read_volatile(&raw const (*self.raw()).user_ip6[0]),
                    ptr::read_volatile(&raw const (*self.raw()).user_ip6[1]),
                    ptr::read_volatile(&raw const (*self.raw()).user_ip6[2]),
                    ptr::read_volatile(&raw const (*self.raw()).user_ip6[3]),
                ]),
            }
        }
    }

    /// The port of the system call, network byte order.
    #[inline(always)]
    pub fn port_be(&self) -> u16 {
        // SAFETY: as in `address`.
        unsafe { ptr::read_volatile(&raw const (*self.raw()).user_port) as u16 }
    }

    /// The socket's protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        // SAFETY: as in `address`. Protocol numbers above 255 (MPTCP) become one that no service has.
        unsafe { u8::try_from(ptr::read_volatile(&raw const (*self.raw()).protocol)).unwrap_or(u8::MAX) }
    }

    /// Gives the system call another address; false when the family cannot hold it.
    #[inline(always)]
    pub fn set(&self, address: &Address, port_be: u16) -> bool {
        // SAFETY: as in `address`; these fields may be written at the hooks that call this.
        unsafe {
            match self.family {
                Family::V4 => {
                    let Some(v4) = address.to_v4() else { return false };
                    ptr::write_volatile(&raw mut (*self.raw()).user_ip4, u32::from_ne_bytes(v4));
                }
                Family::V6 => {
                    let [a, b, c, d] = address.words();
                    ptr::write_volatile(&raw mut (*self.raw()).user_ip6[0], a);
                    ptr::write_volatile(&raw mut (*self.raw()).user_ip6[1], b);
                    ptr::write_volatile(&raw mut (*self.raw()).user_ip6[2], c);
                    ptr::write_volatile(&raw mut (*self.raw()).user_ip6[3], d);
                }
            }
            ptr::write_volatile(&raw mut (*self.raw()).user_port, port_be.into());
        }
        true
    }

    /// The kernel's socket.
    #[inline(always)]
    pub fn kernel_socket(&self) -> *mut bpf_sock {
        // SAFETY: as in `address`; every member of the union is this pointer.
        unsafe { (*self.raw()).__bindgen_anon_1.sk }
    }

    /// Whether the socket is connected to an address.
    #[inline(always)]
    pub fn is_connected_to(&self, address: &Address, port_be: u16) -> bool {
        let socket = self.kernel_socket();
        if socket.is_null() {
            return false;
        }
        // SAFETY: the pointer is not null, and the verifier knows it as a socket.
        unsafe {
            let peer = match self.family {
                Family::V4 => Address::from_v4(ptr::read_volatile(&raw const (*socket).dst_ip4).to_ne_bytes()),
                Family::V6 => Address::from_words([
                    ptr::read_volatile(&raw const (*socket).dst_ip6[0]),
                    ptr::read_volatile(&raw const (*socket).dst_ip6[1]),
                    ptr::read_volatile(&raw const (*socket).dst_ip6[2]),
                    ptr::read_volatile(&raw const (*socket).dst_ip6[3]),
                ]),
            };
            peer == *address && ptr::read_volatile(&raw const (*socket).dst_port) == port_be
        }
    }

    /// The number that tells this socket from all others.
    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { bpf_get_socket_cookie(self.raw().cast()) }
    }

    /// The network namespace it is in, which is a pod's, as a client that keeps its backends.
    #[inline(always)]
    pub fn client(&self, service: &Service) -> AffinityKey {
        // SAFETY: the context is valid.
        let cookie = unsafe { bpf_get_netns_cookie(self.raw().cast()) };
        AffinityKey {
            client: Address::from_words([cookie as u32, (cookie >> 32) as u32, 0, 0]),
            service_id: service.service_id,
            kind: AffinityKey::NAMESPACE,
        }
    }

    /// The service the system call is for.
    #[inline(always)]
    pub fn service(&self) -> Option<Service> {
        let key = ServiceKey {
            address: self.address(),
            port_be: self.port_be(),
            protocol: self.protocol(),
            scope: SCOPE_CLUSTER,
        };
        // SAFETY: the value is copied out at once.
        unsafe { SERVICES.get(key).copied() }
    }

    /// What is remembered of the system call, and of the backend it got.
    #[inline(always)]
    pub fn origin(&self, service: &Service, backend: u32, generation: u32) -> SocketOrigin {
        SocketOrigin {
            vip: self.address(),
            port_be: self.port_be(),
            protocol: self.protocol(),
            reserved: 0,
            service_id: service.service_id,
            backend,
            generation,
        }
    }

    /// Puts what the socket asked for when it connected in the place of what it is connected to.
    #[inline(always)]
    pub fn show_origin(&self) {
        // SAFETY: the value is copied out at once.
        if let Some(origin) = unsafe { SOCKET_ORIGINS.get(self.cookie()).copied() } {
            self.set(&origin.vip, origin.port_be);
        }
    }

    /// The key replies from an address are looked up by.
    #[inline(always)]
    pub fn reply_key(&self, address: &Address, port_be: u16) -> SocketReplyKey {
        SocketReplyKey {
            cookie: self.cookie(),
            address: *address,
            port_be,
            reserved: [0; 3],
        }
    }
}

/// Tells whoever watches that a socket was given a backend.
#[inline(always)]
pub fn tell(hook: Hook, origin: &SocketOrigin, service: &Service, backend: (u32, &Backend)) {
    if trace::is_on() {
        let to = (backend.1.address, backend.1.port_be, backend.0);
        tell_told(hook, origin, to, 0);
    }
}

/// Makes the system call fail at once, as a closed port would; or for want of room, if that is the reason.
#[inline(always)]
pub fn refuse(hook: Hook, socket: &Socket<'_>, service: &Service, reason: DropReason) -> i32 {
    count::refused(service.service_id);
    count::dropped(reason as u32, 0);
    if trace::is_on() {
        let to = (socket.address(), socket.port_be(), NO_BACKEND);
        tell_told(hook, &socket.origin(service, NO_BACKEND, 0), to, reason as u32);
    }
    let error = if matches!(reason, DropReason::SocketsFull) {
        ENOBUFS
    } else {
        ECONNREFUSED
    };
    // SAFETY: takes no pointer.
    unsafe { bpf_set_retval(-error) };
    REFUSE
}

#[inline(always)]
fn tell_told(hook: Hook, origin: &SocketOrigin, to: (Address, u16, u32), reason: u32) {
    let headers = Headers {
        protocol: origin.protocol,
        destination: origin.vip,
        destination_port_be: origin.port_be,
        ..Headers::NONE
    };
    let translation = Translation {
        destination: to.0,
        destination_port_be: to.1,
        service_id: origin.service_id,
        backend: to.2,
        ..Translation::none(&headers)
    };
    let told = Told {
        hook,
        verdict: if reason == 0 {
            Verdict::Balanced
        } else {
            Verdict::Refuse
        },
        reason,
        length: 0,
        ifindex: 0,
    };
    trace::tell(&headers, &translation, told);
}
