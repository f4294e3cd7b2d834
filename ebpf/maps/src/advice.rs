//! What each drop reason means and what to do about it: the one place, for the command line, the agent and the manual.

use causeway_abi::DropReason;

/// A drop reason in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advice {
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

/// One for each reason.
const ADVICE: &[(DropReason, Advice)] = &[
    (
        DropReason::NoReadyBackend,
        Advice {
            meaning: "the service has no backend that takes connections",
            remedy: "see which pods stand behind it (causeway get endpoints) and why they are not ready (causeway \
                     describe pod); check the service's selector and target port",
        },
    ),
    (
        DropReason::SourceAddressNotPods,
        Advice {
            meaning: "a pod sent with an address that is not its own",
            remedy: "the pod forges addresses or forwards for others; its own address is in causeway bpf pods",
        },
    ),
    (
        DropReason::MalformedPacket,
        Advice {
            meaning: "headers end before they should, or contradict each other",
            remedy: "look at what the sender sends (tcpdump on its interface)",
        },
    ),
    (
        DropReason::ConntrackFull,
        Advice {
            meaning: "the connection table has no room",
            remedy: "see what fills it (causeway bpf conntrack, causeway bpf maps); start the agent with a larger \
                     --map-conntrack",
        },
    ),
    (
        DropReason::BackendGone,
        Advice {
            meaning: "the flow's backend is gone",
            remedy: "nothing: the client was reset and reaches another backend when it connects again; many of them mean \
                     that pods end before their connections do",
        },
    ),
    (
        DropReason::RewriteFailed,
        Advice {
            meaning: "the kernel refused to rewrite the packet",
            remedy: "look into the kernel log for the interface; out of memory is the usual cause",
        },
    ),
    (
        DropReason::TunnelFailed,
        Advice {
            meaning: "the kernel refused the tunnel header, or there is no tunnel device",
            remedy: "check that cw-vxlan0 is there and up on the node (ip -d link show cw-vxlan0); restarting the agent \
                     makes it anew",
        },
    ),
    (
        DropReason::NoSuchPod,
        Advice {
            meaning: "the address is in a pod range, but no pod has it",
            remedy: "the pod ended or was never there; whoever sends still uses its address (causeway bpf pods on the \
                     node of that range)",
        },
    ),
    (
        DropReason::SourceNotAllowed,
        Advice {
            meaning: "the client is in none of the service's loadBalancerSourceRanges",
            remedy: "add the client's range to the service, or reach it from inside the cluster",
        },
    ),
    (
        DropReason::NotMasqueradable,
        Advice {
            meaning: "a protocol without ports cannot leave the cluster behind the node's address",
            remedy: "use TCP, UDP or ICMP echo to reach the world, or give the destination a native route",
        },
    ),
    (
        DropReason::FragmentNotHeld,
        Advice {
            meaning: "a fragment came before the first of its datagram, and could not be kept until then",
            remedy: "it is larger than 2 KiB, or its datagram has more than 64 fragments: send smaller datagrams, or find out \
                     what changes the order of packets on the way",
        },
    ),
    (
        DropReason::HopLimitExceeded,
        Advice {
            meaning: "the packet has been through too many routers; its sender is told",
            remedy: "nothing, if somebody traces a route; else look for a loop in the routes",
        },
    ),
    (
        DropReason::TooLargeForTunnel,
        Advice {
            meaning: "the packet does not fit into the tunnel and may not be divided; its sender is told what would",
            remedy: "nothing, if the sender heeds path MTU discovery; else let ICMP through on the way back to it, or lower \
                     its MTU",
        },
    ),
    (
        DropReason::IcmpErrorSuppressed,
        Advice {
            meaning: "a packet was dropped for another reason, and its sender was not told: more than 1,000 ICMP errors in a \
                      second",
            remedy: "look at the other reasons for who sends so much in vain (causeway monitor); the messages themselves are \
                     limited on purpose",
        },
    ),
    (
        DropReason::FragmentExpired,
        Advice {
            meaning: "a fragment was kept, but the first of its datagram did not come within 30 seconds",
            remedy: "find out what loses packets on the way; or somebody sends later fragments only",
        },
    ),
    (
        DropReason::FragmentEvicted,
        Advice {
            meaning: "a fragment was kept, and another one needed its place before the first of its datagram came",
            remedy: "find out what changes the order of packets on the way, or who sends later fragments only; start the \
                     agent with a larger --map-held-fragments",
        },
    ),
    (
        DropReason::SocketsFull,
        Advice {
            meaning: "a connect or sendmsg to a virtual address failed (ENOBUFS): no room to write down what the socket asked for",
            remedy: "see which sockets are open (causeway bpf sockets, causeway bpf maps); start the agent with a larger \
                     --map-sockets",
        },
    ),
];

/// What a reason means and what to do about it.
pub fn advice(reason: DropReason) -> Advice {
    let known = ADVICE.iter().find(|(known, _)| *known == reason);
    known.map_or(
        Advice {
            meaning: "see the manual of the data path",
            remedy: "",
        },
        |(_, advice)| *advice,
    )
}

/// The same by the reason's name.
pub fn advice_by_name(name: &str) -> Option<Advice> {
    reason_by_name(name).map(advice)
}

/// The reason of that name.
pub fn reason_by_name(name: &str) -> Option<DropReason> {
    DropReason::ALL.into_iter().find(|reason| reason.name() == name)
}

/// The reason of that number.
pub fn reason_by_number(number: u32) -> Option<DropReason> {
    DropReason::ALL.into_iter().find(|reason| *reason as u32 == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_advice() {
        for reason in DropReason::ALL {
            assert!(!advice(reason).remedy.is_empty(), "{}", reason.name());
            assert_eq!(advice_by_name(reason.name()), Some(advice(reason)));
        }
        assert_eq!(advice_by_name("NO_SUCH_REASON"), None);
    }

    #[test]
    fn the_manual_says_the_same() {
        let manual = include_str!("../../../docs/data-path.md");
        let rows: Vec<&str> = manual.lines().filter(|line| line.starts_with("| `")).collect();
        let rows: Vec<&str> = rows.into_iter().filter(|row| is_reason(row)).collect();
        let expected: Vec<String> = DropReason::ALL
            .into_iter()
            .map(|reason| {
                let Advice { meaning, remedy } = advice(reason);
                format!("| `{}` | {meaning} | {remedy} |", reason.name())
            })
            .collect();
        assert_eq!(rows, expected, "the table should be:\n{}", expected.join("\n"));
    }

    /// Reasons are in capitals, which nothing else in the manual's tables is.
    fn is_reason(row: &str) -> bool {
        let name = row.trim_start_matches("| `").split('`').next().unwrap_or_default();
        !name.is_empty() && name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
    }
}
