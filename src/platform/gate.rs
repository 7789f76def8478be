//! Proof of whether a request went out.

use std::sync::atomic::{AtomicU32, Ordering};

const PHASE: u32 = 0b11;
const CLOSED: u32 = 0;
const ARMED: u32 = 1;
const SENT: u32 = 2;

/// Stands between an operation and the wire.
///
/// The HTTP client asks a request's body for its bytes in the very step that
/// buffers the request's head, before it writes anything. The body asks the
/// gate first. A gate that was closed before the body asked never opens for that
/// body, so a close that finds the gate unused proves that nothing of the
/// request was or will be acted on: at worst the platform sees a head without
/// its body.
///
/// Each try has a number, and its body opens the gate for that number alone, so
/// that a forgotten body of an earlier try cannot slip through a later one.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU32);

impl Gate {
    /// Readies the gate for a try and gives the try's number.
    pub(crate) fn arm(&self) -> u32 {
        let try_number = (self.0.load(Ordering::Acquire) >> 2).wrapping_add(1) & (u32::MAX >> 2);
        self.0.store(try_number << 2 | ARMED, Ordering::Release);
        try_number
    }

    /// Lets the body of try `try_number` through, once.
    pub(crate) fn open(&self, try_number: u32) -> bool {
        let (armed, sent) = (try_number << 2 | ARMED, try_number << 2 | SENT);
        self.0
            .compare_exchange(armed, sent, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Ends a try; says whether anything of it may have been sent.
    pub(crate) fn close(&self) -> bool {
        self.0.fetch_and(!PHASE, Ordering::AcqRel) & PHASE == SENT
    }

    /// Closes the gate unless the present try has been sent already; says
    /// whether it has, and is still without an answer.
    pub(super) fn abandon(&self) -> bool {
        let closed = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & PHASE != SENT).then_some(state & !PHASE | CLOSED)
            });
        closed.is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_never_opens_for_the_body_of_that_try() {
        let gate = Gate::default();
        let first = gate.arm();
        assert!(!gate.close());
        assert!(!gate.open(first));
        let second = gate.arm();
        assert!(!gate.open(first));
        assert!(gate.open(second));
        assert!(!gate.open(second), "a body goes out once");
        assert!(gate.close());
    }

    #[test]
    fn an_abandoned_gate_tells_what_is_in_flight() {
        let gate = Gate::default();
        assert!(!gate.abandon());
        let number = gate.arm();
        assert!(!gate.abandon());
        assert!(!gate.open(number));
        let number = gate.arm();
        assert!(gate.open(number));
        assert!(gate.abandon());
        assert!(gate.abandon());
        assert!(gate.close());
        assert!(!gate.abandon());
    }
}
