//! What becomes of a packet: decided by the hooks, counted and told here.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT};
use causeway_abi::{
    DropReason,
    event::{Hook, MARK_DRY_RUN, Verdict},
};
use causeway_ebpf::{flow::Translation, packet::Packet, parse::Headers};

use crate::{
    count,
    skb::Skb,
    trace::{self, Told},
};

/// What a hook decided.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// `TC_ACT_*`.
    pub action: i32,
    /// In words.
    pub verdict: Verdict,
    /// Why a packet was dropped or refused, or 0.
    pub reason: u32,
    /// Whether the packet began a flow.
    pub is_new: bool,
}

impl Outcome {
    /// Left to the node's own network stack.
    pub const TO_STACK: Self = Self::sent(TC_ACT_OK, Verdict::ToStack);

    /// Sent on.
    #[inline(always)]
    pub const fn sent(action: i32, verdict: Verdict) -> Self {
        Self {
            action,
            verdict,
            reason: 0,
            is_new: false,
        }
    }

    /// Dropped.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self {
            action: TC_ACT_SHOT,
            verdict: Verdict::Drop,
            reason: reason as u32,
            is_new: false,
        }
    }

    /// Answered in place of the backend that is not there.
    #[inline(always)]
    pub const fn refuse(action: i32, reason: DropReason) -> Self {
        Self {
            action,
            verdict: Verdict::Refuse,
            reason: reason as u32,
            is_new: false,
        }
    }

    /// The same, for a packet that began a flow.
    #[inline(always)]
    pub const fn beginning(self, is_new: bool) -> Self {
        Self { is_new, ..self }
    }

    /// As one number, for the return value of a global function; see [`unpack`](Self::unpack).
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.action as u32 as u64) << 32 | (self.reason as u64) << 8 | self.verdict as u64
    }

    /// The inverse of [`pack`](Self::pack).
    #[inline(always)]
    pub const fn unpack(packed: u64) -> Self {
        let verdict = match Verdict::from_number(packed as u8) {
            Some(verdict) => verdict,
            None => Verdict::ToStack,
        };
        Self {
            action: (packed >> 32) as i32,
            verdict,
            reason: (packed >> 8) as u32 & 0xff_ffff,
            is_new: false,
        }
    }
}

/// Whether a packet is only tried out. To be asked first: on its way the packet may get another mark.
#[inline(always)]
pub fn is_dry_run(skb: Skb) -> bool {
    skb.mark() == MARK_DRY_RUN
}

/// Counts and tells what became of a packet; the action for the kernel. `translation` holds the addresses the packet was given,
/// and [`Translation::NONE`] where it kept its own.
#[inline(always)]
pub fn finish(
    skb: Skb,
    (hook, dry_run): (Hook, bool),
    headers: &Headers,
    translation: &Translation,
    outcome: Outcome,
) -> i32 {
    if dry_run {
        trace::explain(|explanation| {
            explanation.service_id = translation.service_id;
            explanation.reason = outcome.reason;
            explanation.verdict = outcome.verdict as u32;
        });
        return outcome.action;
    }
    // The packet may have been made its own answer by now.
    let length = if headers.end == 0 { skb.length() } else { headers.end };
    if outcome.reason != 0 {
        count::dropped(outcome.reason, length.into());
        if translation.service_id != 0 {
            count::refused(translation.service_id);
        }
    } else if translation.service_id != 0 {
        count::packet(translation.service_id, headers.packet_length(), outcome.is_new);
    }
    let is_told = if outcome.reason != 0 || outcome.is_new {
        trace::is_on()
    } else {
        trace::is_on_for_packets()
    };
    if is_told {
        trace::tell(
            headers,
            translation,
            Told {
                hook,
                verdict: outcome.verdict,
                reason: outcome.reason,
                length,
                ifindex: skb.ifindex(),
            },
        );
    }
    outcome.action
}
