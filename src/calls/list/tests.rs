use proptest::prelude::*;

use super::*;
use crate::fuzz::bent;
use crate::proto::{CallOutcome, CallState};

/// A token of a search with the fingerprint 7.
fn real() -> String {
    let order = Order {
        first_ms: 1,
        position: 2,
    };
    token(order, 7)
}

proptest! {
    #[test]
    fn a_token_reads_back_and_one_with_a_character_changed_is_refused(
        first_ms: u64,
        position: u64,
        fingerprint: u32,
        at in 0_usize..28,
        with in "[A-Za-z0-9_-]",
    ) {
        let order = Order { first_ms, position };
        let text = token(order, fingerprint);
        prop_assert_eq!(parse_token(&text, fingerprint), Some(order));
        prop_assert_eq!(parse_token(&text, fingerprint ^ 1), None);
        let mut changed = text.clone();
        changed.replace_range(at..=at, &with);
        prop_assert!(changed == text || parse_token(&changed, fingerprint).is_none());
    }

    #[test]
    fn fuzz_a_bent_token_is_refused(text in bent(vec![real().into_bytes()])) {
        let text = String::from_utf8_lossy(&text);
        prop_assert!(text == real() || parse_token(&text, 7).is_none());
    }

    #[test]
    fn any_other_text_is_no_token(text: String, fingerprint: u32) {
        prop_assert!(parse_token(&text, fingerprint).is_none());
    }
}

#[test]
fn lists_are_told_apart_by_what_is_wanted_and_not_by_its_order_or_the_pages_size() {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let fingerprint = |query| Search::new(query).unwrap().fingerprint;
    let time = |seconds| Some(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
    let none = CallQuery::default;
    let different = [
        none(),
        CallQuery {
            task_ids: texts(&["1"]),
            ..none()
        },
        CallQuery {
            task_ids: texts(&["1", "2"]),
            ..none()
        },
        CallQuery {
            task_ids: texts(&["12"]),
            ..none()
        },
        CallQuery {
            task_data_ids: texts(&["1"]),
            ..none()
        },
        CallQuery {
            row_keys: texts(&["1"]),
            ..none()
        },
        CallQuery {
            call_relation_ids: texts(&["1"]),
            ..none()
        },
        CallQuery {
            callees: texts(&["1"]),
            ..none()
        },
        CallQuery {
            since: time(1),
            ..none()
        },
        CallQuery {
            until: time(1),
            ..none()
        },
        CallQuery {
            until: time(2),
            ..none()
        },
        CallQuery {
            outcomes: vec![CallOutcome::Busy],
            ..none()
        },
        CallQuery {
            states: vec![CallState::Partial],
            ..none()
        },
        CallQuery {
            answered: Some(true),
            ..none()
        },
        CallQuery {
            answered: Some(false),
            ..none()
        },
    ];
    let fingerprints: BTreeSet<_> = different.iter().cloned().map(fingerprint).collect();
    assert_eq!(fingerprints.len(), different.len());
    let turned = CallQuery {
        task_ids: texts(&["2", "1", "2"]),
        size: 7,
        ..none()
    };
    assert_eq!(fingerprint(turned), fingerprint(different[2].clone()));
}
