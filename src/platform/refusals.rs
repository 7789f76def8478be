//! Whether a refusal of the token (10001) is the token's fault or the operation's own.
//!
//! An operation that the platform always answers with 10001 must not cost the account's other
//! operations their token. So the token stays where the same operation was refused before, and
//! the token is fresh or has served another operation a moment ago.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// A token of this age or older may have died since it was issued.
pub(super) const YOUNG: Duration = Duration::from_secs(10);
/// A token that served another operation within this time is taken to be good.
const RECENT: Duration = Duration::from_secs(60);

/// The last answer to each of an account's operations, by the operation's name.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<&'static str, Last>);

#[derive(Clone, Copy, Debug)]
struct Last {
    generation: u64,
    at: Instant,
    was_refused: bool,
}

impl Refusals {
    /// Records that the platform took the token for this operation.
    pub(super) fn served(&mut self, operation: &'static str, generation: u64, now: Instant) {
        self.record(operation, generation, now, false);
    }

    /// Records a refusal. Returns whether the token is to be replaced.
    pub(super) fn refused(
        &mut self,
        operation: &'static str,
        generation: u64,
        issued: Instant,
        now: Instant,
    ) -> bool {
        let was_refused = self.0.get(operation).is_some_and(|last| last.was_refused);
        let is_young = now < issued + YOUNG;
        let serves_others = self.0.iter().any(|(other, last)| {
            *other != operation
                && !last.was_refused
                && last.generation == generation
                && now < last.at + RECENT
        });
        self.record(operation, generation, now, true);
        !(was_refused && (is_young || serves_others))
    }

    /// Ignores answers that were under way while a newer token was used.
    fn record(&mut self, operation: &'static str, generation: u64, at: Instant, was_refused: bool) {
        let last = Last {
            generation,
            at,
            was_refused,
        };
        let newest = self.0.entry(operation).or_insert(last);
        if newest.generation <= generation {
            *newest = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_unless_the_refusal_is_the_operations_own() {
        enum Step {
            Served(&'static str, u64),
            /// An operation, the token's generation and age, and whether it is replaced.
            Refused(&'static str, u64, u64, bool),
            Pass(u64),
        }
        use Step::{Pass, Refused, Served};
        let table: [&[Step]; 8] = [
            // The first refusal is the token's fault, also of a young one.
            &[Refused("x", 1, 0, true)],
            &[Served("x", 1), Refused("x", 1, 100, true)],
            // The refusal of a fresh token after that of another is the operation's own.
            &[
                Refused("x", 1, 100, true),
                Refused("x", 2, 0, false),
                Refused("x", 2, 9, false),
            ],
            // With no other operation served, it may have died once it is older.
            &[
                Refused("x", 1, 100, true),
                Refused("x", 2, 0, false),
                Refused("x", 2, 10, true),
            ],
            // Another operation's success speaks for the token, for a while.
            &[
                Refused("x", 1, 100, true),
                Refused("x", 2, 0, false),
                Served("y", 2),
                Pass(59),
                Refused("x", 2, 59, false),
                Pass(1),
                Refused("x", 2, 60, true),
            ],
            // An operation that was served again starts from the beginning.
            &[
                Refused("x", 1, 100, true),
                Served("y", 2),
                Served("x", 2),
                Refused("x", 2, 5, true),
            ],
            // Others are refused as well: it is the token.
            &[
                Refused("x", 1, 100, true),
                Served("y", 2),
                Refused("x", 2, 20, false),
                Refused("y", 2, 20, true),
                Refused("x", 2, 20, true),
            ],
            // Late answers to an older token count for nothing.
            &[
                Served("x", 2),
                Refused("x", 1, 100, true),
                Refused("x", 2, 5, true),
            ],
        ];
        for (row, steps) in table.iter().enumerate() {
            let (mut refusals, mut now) = (Refusals::default(), Instant::now() + RECENT * 10);
            for (step, what) in steps.iter().enumerate() {
                match *what {
                    Served(operation, generation) => refusals.served(operation, generation, now),
                    Refused(operation, generation, age, replaced) => {
                        let issued = now - Duration::from_secs(age);
                        let found = refusals.refused(operation, generation, issued, now);
                        assert_eq!(found, replaced, "row {row}, step {step}");
                    }
                    Pass(seconds) => now += Duration::from_secs(seconds),
                }
            }
        }
    }
}
