//! What every engine of the store must do, sentence by sentence of the contracts of `PushLog` and
//! `Notes`.
//!
//! An engine joins by implementing [`Engine`] and by a line in [`every_engine!`]. A sentence joins
//! by a line in [`suite!`]; one that is left out is reported as dead code.

pub mod engines;
mod log;
mod notes;

use self::engines::{Engine, at};
pub use self::log::{append, contents};

/// Makes one test of each sentence, for one engine.
macro_rules! suite {
    ($engine:ty) => {
        suite! { $engine, log:
            what_was_appended_is_read_in_order_also_after_reopening
            what_was_appended_survives_kill
            the_same_content_is_held_once_whoever_offers_it_also_after_reopening
            concurrent_appends_of_the_same_contents_store_each_once_without_a_gap
            an_append_is_visible_when_it_resolves_and_wakes_who_waits
            received_at_never_decreases_when_the_clock_jumps_back
            seeking_a_time_finds_the_first_entry_received_then_or_later
            retention_by_age_removes_the_old_end_and_says_where_the_log_begins
            retention_by_bytes_keeps_the_newest_within_the_bound
            positions_are_not_given_out_again_when_everything_has_been_retired
            retention_runs_beside_appends_and_reads
            a_cursor_is_good_in_its_own_log_alone
            reads_keep_to_their_bounds_and_return_at_least_one_entry
            a_closed_log_says_so
            entries_come_back_as_they_were
        }
        suite! { $engine, notes:
            a_change_survives_kill_and_reopening
            changes_of_one_key_take_effect_in_order
            concurrent_changes_are_all_made
            changes_that_race_with_close_are_made_whole_or_not_at_all
            a_failed_change_can_be_made_again
            values_come_back_as_they_were_in_the_order_of_the_keys
            a_list_holds_what_has_the_prefix_and_follows_the_key_up_to_the_limit
            a_list_is_read_to_its_end_page_by_page
            retention_leaves_notes_alone
            closed_notes_say_so
        }
    };
    ($engine:ty, $contract:ident: $($sentence:ident)*) => {
        mod $contract {
            $(
                #[tokio::test]
                async fn $sentence() {
                    crate::conformance::$contract::$sentence::<$engine>().await;
                }
            )*
        }
    };
}

/// Makes a module of tests for each engine.
macro_rules! every_engine {
    ($($name:ident: $engine:ty;)*) => {$(
        mod $name {
            suite! { $engine }
        }
    )*};
}

every_engine! {
    embedded: crate::conformance::engines::Embedded;
    memory: crate::conformance::engines::Memory;
}
