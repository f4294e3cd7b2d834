//! Whether a measurement may be reported.

use crate::{
    mode::Mode,
    program::Passed,
    worker::{Outcome, Task},
};

/// With fewer answers than this, shares of backends say nothing.
const ENOUGH_FOR_SHARES: u64 = 500;
/// A backend that gets less than one in so many answers is left out by the balancing.
const FAIR_SHARE: u64 = 5;

/// So many connections more than were opened are never suspicious.
const LATE: u64 = 16;

/// An error says why the numbers must not be shown.
pub(crate) fn check(mode: Mode, task: Task, outcome: &Outcome, passed: Passed) -> Result<(), String> {
    answers(task, outcome)?;
    shares(task, outcome)?;
    path(mode, task, outcome.opened, passed)
}

/// Everybody was answered, and by the right one.
pub(crate) fn answers(task: Task, outcome: &Outcome) -> Result<(), String> {
    if outcome.errors > 0 || outcome.wrong > 0 {
        let first = outcome.first_error.as_deref().unwrap_or("no reason given");
        return Err(format!(
            "{} requests failed, {} were answered by a wrong backend; the first: {first}",
            outcome.errors, outcome.wrong
        ));
    }
    if outcome.done == 0 || (task == Task::Stream && outcome.bytes == 0) {
        return Err("nothing was answered".to_owned());
    }
    Ok(())
}

/// All backends take part.
fn shares(task: Task, outcome: &Outcome) -> Result<(), String> {
    let many = matches!(task, Task::Connect | Task::Churn | Task::Connections | Task::Udp)
        && outcome.done >= ENOUGH_FOR_SHARES;
    let least = (1..=super::BACKENDS as u8)
        .map(|server| outcome.by_server.get(&server).copied().unwrap_or_default())
        .min();
    match least {
        Some(least) if many && least < outcome.done / FAIR_SHARE => Err(format!(
            "the backends' shares are not alike: {:?} of {} answers",
            outcome.by_server, outcome.done
        )),
        _ => Ok(()),
    }
}

/// Counters prove which way the packets took.
pub(crate) fn path(mode: Mode, task: Task, opened: u64, passed: Passed) -> Result<(), String> {
    let Passed {
        connections,
        packets,
        early,
    } = passed;
    let says = |problem: &str| {
        Err(format!(
            "{problem}: {opened} opened, counters of the service say {connections} connections, {packets} packets; XDP \
             sent {early}"
        ))
    };
    if mode.is_direct() {
        // Of a measurement before this one, a last packet may arrive late.
        return if connections <= LATE && packets <= LATE {
            Ok(())
        } else {
            says("packets to a pod's own address were balanced")
        };
    }
    if mode == Mode::CausewayXdpDirect && task == Task::Udp {
        // Nothing is written down of such flows, so nothing tells which of them are new.
        return if packets < opened || early < opened {
            says("the service or XDP was bypassed")
        } else {
            Ok(())
        };
    }
    // A UDP socket that gets the port of an earlier one continues the earlier one's flow.
    let least = if task == Task::Udp {
        opened / 2
    } else {
        opened - opened / 50
    };
    if connections < least.max(1) {
        return says("the service was bypassed");
    }
    // So may they as connections here.
    if connections > opened + opened / 2 + LATE {
        return says("others used the service");
    }
    match mode {
        Mode::CausewaySocket if packets > 0 => says("packets were translated one by one"),
        Mode::CausewayTc | Mode::CausewayXdp | Mode::CausewayXdpDirect if packets < opened => {
            says("packets were not translated one by one")
        }
        Mode::CausewayTc if early > 0 => says("XDP took packets"),
        // A UDP request is a flow of its own, of which XDP takes at most the answer.
        Mode::CausewayXdp | Mode::CausewayXdpDirect if task != Task::Udp && early < opened => {
            says("packets went past XDP")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            done: 1_000,
            opened: 1_000,
            by_server: BTreeMap::from([(1, 480), (2, 520)]),
            ..Outcome::default()
        }
    }

    fn counted(connections: u64, packets: u64) -> Passed {
        Passed {
            connections,
            packets,
            early: 0,
        }
    }

    #[test]
    fn what_is_as_it_should_be_passes() {
        for (mode, passed) in [
            (Mode::Direct, counted(0, 0)),
            (Mode::CausewaySocket, counted(1_000, 0)),
            (Mode::CausewayTc, counted(1_000, 9_000)),
            (Mode::Iptables, counted(1_000, 0)),
            (Mode::Nftables, counted(995, 0)),
        ] {
            assert_eq!(check(mode, Task::Connections, &outcome(), passed), Ok(()), "{mode:?}");
        }
    }

    #[test]
    fn one_failed_or_wrong_request_is_enough_to_refuse() {
        let failed = Outcome { errors: 1, ..outcome() };
        let wrong = Outcome { wrong: 1, ..outcome() };
        for outcome in [failed, wrong] {
            assert!(check(Mode::Iptables, Task::Connect, &outcome, counted(1_000, 0)).is_err());
        }
    }

    #[test]
    fn a_mode_that_was_bypassed_is_refused() {
        let refused = |mode, passed| check(mode, Task::Connect, &outcome(), passed).unwrap_err();
        assert!(refused(Mode::Iptables, counted(0, 0)).contains("bypassed"));
        assert!(refused(Mode::Nftables, counted(900, 0)).contains("bypassed"));
        assert!(refused(Mode::CausewaySocket, counted(1_000, 4)).contains("one by one"));
        assert!(refused(Mode::CausewayTc, counted(1_000, 0)).contains("not translated"));
        assert!(refused(Mode::Direct, counted(900, 0)).contains("balanced"));
        assert!(refused(Mode::Iptables, counted(2_000, 0)).contains("others"));
    }

    #[test]
    fn what_went_past_xdp_is_not_shown_as_xdp() {
        let past = check(Mode::CausewayXdp, Task::Connect, &outcome(), counted(1_000, 9_000));
        assert!(past.unwrap_err().contains("past XDP"));
        let early = Passed {
            early: 8_000,
            ..counted(1_000, 9_000)
        };
        assert_eq!(check(Mode::CausewayXdp, Task::Connect, &outcome(), early), Ok(()));
        assert!(check(Mode::CausewayTc, Task::Connect, &outcome(), early).is_err());
    }

    #[test]
    fn a_backend_that_gets_nothing_is_refused() {
        let lopsided = Outcome {
            by_server: BTreeMap::from([(1, 1_000)]),
            ..outcome()
        };
        assert!(check(Mode::Nftables, Task::Connect, &lopsided, counted(1_000, 0)).is_err());
        assert!(check(Mode::Nftables, Task::KeepAlive, &lopsided, counted(1_000, 0)).is_ok());
    }
}
