use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::proto::{CallDirection, CallOutcome, DialogTurn, TaskResult};

/// A push that was received so many milliseconds after the first.
fn push(ms: u64, payload: Payload) -> PushEvent {
    let kind = match &payload {
        Payload::CallRecord(_) => PushKind::CallRecord,
        Payload::Voice(_) => PushKind::Voice,
        Payload::Dialog(_) => PushKind::Dialog,
        Payload::Call(_) => PushKind::Call,
        Payload::VoiceArchived(_) => PushKind::VoiceArchived,
        Payload::Unrecognized(_) => PushKind::Unrecognized,
    };
    PushEvent {
        event_id: EventId::of_raw("a", "m", format!("{ms}{payload:?}").as_bytes()).to_string(),
        account: "a".into(),
        kind: kind.into(),
        received_at: Some((UNIX_EPOCH + Duration::from_millis(1_000_000 + ms)).into()),
        payload: Some(payload),
        ..PushEvent::default()
    }
}

fn basic() -> CallRecord {
    CallRecord {
        variant: CallRecordVariant::Basic.into(),
        call_uuid: "c".into(),
        app_id: "app".into(),
        callee: "13000000001".into(),
        direction: CallDirection::Outbound.into(),
        direction_code: Some(2),
        time_answer: Some(1_527_737_763_429),
        duration_call: Some(28),
        ..CallRecord::default()
    }
}

fn outbound() -> CallRecord {
    CallRecord {
        variant: CallRecordVariant::Outbound.into(),
        task_id: "0".into(),
        task_data_id: "346252615123869699".into(),
        task_result: TaskResult::CallReminder.into(),
        task_result_code: "22".into(),
        task_result_desc: "来电提醒".into(),
        task_tries: Some(1),
        task_row_index: Some(0),
        task_row_value: vec!["13000000001".into()],
        ..basic()
    }
}

fn voice() -> Voice {
    Voice {
        call_uuid: "c".into(),
        task_data_id: "346252615123869699".into(),
        url: "a.wav".into(),
        absolute_url: "http://v/a.wav".into(),
        size: Some(9),
        ..Voice::default()
    }
}

fn turn(tag: &str) -> DialogTurn {
    DialogTurn {
        tag_name: tag.into(),
        ..DialogTurn::default()
    }
}

fn dialog() -> Dialog {
    Dialog {
        call_uuid: "c".into(),
        task_id: "77".into(),
        tag_max: "A".into(),
        tag_min: "C".into(),
        dialog: ["B", "", "A", "B", "C"].map(turn).to_vec(),
        ..Dialog::default()
    }
}

/// The pushes of an outbound call that was answered, and later ones that differ.
fn pushes() -> Vec<PushEvent> {
    vec![
        push(10, Payload::CallRecord(outbound())),
        push(20, Payload::CallRecord(basic())),
        push(30, Payload::Dialog(dialog())),
        push(40, Payload::Voice(voice())),
        push(
            50,
            Payload::Voice(Voice {
                duration: Some(3),
                size: None,
                ..voice()
            }),
        ),
        push(
            60,
            Payload::Dialog(Dialog {
                dialog: Vec::new(),
                tag_max: "B".into(),
                ..dialog()
            }),
        ),
    ]
}

fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    (0..items.len())
        .flat_map(|first| {
            let mut rest = items.to_vec();
            let item = rest.remove(first);
            permutations(&rest).into_iter().map(move |mut order| {
                order.push(item.clone());
                order
            })
        })
        .collect()
}

#[test]
fn every_order_and_duplication_of_a_calls_pushes_gives_the_same_bytes() {
    let expected = merge(&pushes()).encode_to_vec();
    for order in permutations(&pushes()) {
        assert_eq!(merge(&order).encode_to_vec(), expected);
        let doubled: Vec<_> = order.iter().chain(order.iter().rev()).cloned().collect();
        assert_eq!(merge(&doubled).encode_to_vec(), expected);
    }
}

/// A recording that was pushed with one address and then with another, and what became of both.
fn recordings() -> Vec<PushEvent> {
    let at = |url: &str| Voice {
        url: url.into(),
        ..voice()
    };
    let archived = |url: &str| Voice {
        archived_url: format!("file:///kept/{url}"),
        ..at(url)
    };
    let lost = |url: &str| Voice {
        archive_error: "VOICE_NOT_FOUND: it never came".into(),
        ..at(url)
    };
    vec![
        push(10, Payload::Voice(at("a.wav"))),
        push(20, Payload::VoiceArchived(archived("a.wav"))),
        push(30, Payload::Voice(at("b.wav"))),
        push(40, Payload::VoiceArchived(archived("b.wav"))),
        push(50, Payload::VoiceArchived(lost("b.wav"))),
        push(60, Payload::CallRecord(outbound())),
    ]
}

#[test]
fn a_call_says_where_its_recording_is_kept_in_every_order_of_its_events() {
    let expected = merge(&recordings());
    let voice = expected.voice.as_ref().unwrap();
    assert_eq!(
        (&*voice.url, &*voice.archived_url, &*voice.archive_error),
        ("b.wav", "file:///kept/b.wav", "")
    );
    for order in permutations(&recordings()) {
        assert_eq!(merge(&order).encode_to_vec(), expected.encode_to_vec());
    }
    // The call stands for all of them; another recording is not kept yet.
    let adopted = push(70, Payload::Call(expected.clone()));
    assert_eq!(merge(std::slice::from_ref(&adopted)).voice, expected.voice);
    let other = Voice {
        url: "c.wav".into(),
        ..voice.clone()
    };
    let other = Payload::Voice(Voice {
        archived_url: String::new(),
        ..other
    });
    let call = merge(&[adopted, push(80, other)]);
    assert_eq!(call.voice.unwrap().archived_url, "");
}

#[test]
fn a_call_says_that_its_recording_never_came_until_it_has_come() {
    let events = recordings();
    let lost = merge(&[events[2].clone(), events[4].clone()])
        .voice
        .unwrap();
    assert_eq!(
        (&*lost.archived_url, &*lost.archive_error),
        ("", "VOICE_NOT_FOUND: it never came")
    );
    let kept = merge(&[events[2].clone(), events[4].clone(), events[3].clone()]);
    assert_eq!(kept.voice.unwrap().archive_error, "");
}

proptest! {
    #[test]
    fn any_multiset_of_a_calls_pushes_gives_what_the_set_gives(
        chosen in proptest::collection::vec(0_usize..6, 1..24),
    ) {
        let all = pushes();
        let set: std::collections::BTreeSet<_> = chosen.iter().copied().collect();
        let once: Vec<_> = set.iter().map(|index| all[*index].clone()).collect();
        let often: Vec<_> = chosen.iter().map(|index| all[*index].clone()).collect();
        prop_assert_eq!(merge(&often).encode_to_vec(), merge(&once).encode_to_vec());
    }

    #[test]
    fn a_call_adopted_in_place_of_some_pushes_gives_what_they_give(
        gone in proptest::collection::vec(any::<bool>(), 6),
    ) {
        let call = merge(&pushes());
        let adopted = push(70, Payload::Call(call.clone()));
        let rest = pushes().into_iter().zip(gone).filter(|(_, gone)| !gone);
        let held: Vec<_> = rest.map(|(push, _)| push).chain([adopted]).collect();
        // What of the others is gone may have stood behind what is left; only pushes of one kind
        // that differ could tell.
        let again = merge(&held);
        prop_assert_eq!(&again.pushes, &call.pushes);
        prop_assert_eq!(&again.call_record, &call.call_record);
        prop_assert_eq!(again.task_data_id, call.task_data_id);
    }
}

#[test]
fn a_call_holds_what_any_of_its_pushes_holds() {
    let call = merge(&pushes());
    let record = call.call_record.clone().unwrap();
    assert_eq!(record.variant(), CallRecordVariant::Outbound);
    assert_eq!((call.call_uuid.as_str(), call.account.as_str()), ("c", "a"));
    assert_eq!(call.task_id, "77", "\"0\" is no task");
    assert_eq!(call.task_data_id, "346252615123869699");
    assert_eq!(call.outcome(), CallOutcome::CallReminder);
    assert!(call.answered);
    assert_eq!(call.attempt, 2);
    assert_eq!(call.tags, ["B", "A", "C"]);
    assert_eq!((call.tag_max.as_str(), call.tag_min.as_str()), ("B", "C"));
    assert_eq!(call.dialog.clone().unwrap().dialog.len(), 5);
    let voice = call.voice.clone().unwrap();
    assert_eq!((voice.size, voice.duration), (Some(9), Some(3)));
    assert_eq!(call.pushes.len(), 6);
    assert_eq!(call.pushes[0].variant(), CallRecordVariant::Outbound);
}

#[test]
fn nothing_is_overwritten_by_less() {
    let less = CallRecord {
        variant: CallRecordVariant::Outbound.into(),
        call_uuid: "c".into(),
        time_answer: Some(0),
        task_row_index: Some(0),
        task_id: "0".into(),
        ..CallRecord::default()
    };
    let more = CallRecord {
        task_id: "7".into(),
        ..basic()
    };
    let call = merge(&[
        push(1, Payload::CallRecord(more.clone())),
        push(2, Payload::CallRecord(less)),
    ]);
    let expected = CallRecord {
        variant: CallRecordVariant::Outbound.into(),
        task_row_index: Some(0),
        ..more
    };
    assert_eq!(call.call_record, Some(expected));
}

#[test]
fn what_is_missing_follows_from_what_a_call_is() {
    use PushKind::{CallRecord as R, Dialog as D, Voice as V};
    let unanswered = |record: CallRecord| CallRecord {
        time_answer: Some(0),
        ..record
    };
    let inbound = CallRecord {
        direction: CallDirection::Inbound.into(),
        direction_code: Some(1),
        call_relation_id: "r".into(),
        ..basic()
    };
    let inbound_dialog = Dialog {
        call_uuid: "c".into(),
        call_relation_id: "r".into(),
        task_data_id: "r".into(),
        ..Dialog::default()
    };
    let record = Payload::CallRecord;
    let (voice, dialog) = (|| Payload::Voice(voice()), || Payload::Dialog(dialog()));
    let cases: Vec<(Vec<Payload>, &[PushKind], &[PushKind])> = vec![
        (vec![record(basic())], &[R, V, D], &[R, D]),
        (vec![record(outbound())], &[V, D], &[D]),
        (vec![record(outbound()), dialog()], &[V], &[]),
        (vec![record(outbound()), dialog(), voice()], &[], &[]),
        (vec![record(basic()), dialog(), voice()], &[R], &[R]),
        (vec![record(unanswered(basic()))], &[R], &[R]),
        (vec![record(unanswered(outbound()))], &[], &[]),
        (vec![record(inbound.clone())], &[V, D], &[D]),
        (vec![record(unanswered(inbound.clone()))], &[], &[]),
        (
            vec![record(inbound), Payload::Dialog(inbound_dialog)],
            &[V],
            &[],
        ),
        (vec![voice()], &[R, D], &[R, D]),
        (vec![dialog()], &[R, V], &[R]),
    ];
    for (payloads, expected, expected_of_turbo) in cases {
        let pushes: Vec<_> = (1..)
            .zip(payloads)
            .map(|(ms, payload)| push(ms, payload))
            .collect();
        let call = merge(&pushes);
        assert_eq!(missing(&call, false), expected, "{pushes:?}");
        assert_eq!(missing(&call, true), expected_of_turbo, "{pushes:?}");
    }
}

#[test]
fn the_content_id_tells_content_and_neither_revision_nor_pushes() {
    let call = merge(&pushes());
    let told = Call {
        revision: 4,
        pushes: Vec::new(),
        ..call.clone()
    };
    assert_eq!(content_id(&told), content_id(&call));
    let other = Call {
        account: "b".into(),
        ..call.clone()
    };
    assert_ne!(content_id(&other), content_id(&call));
    let more = Call {
        row_key: "k".into(),
        ..call.clone()
    };
    assert_ne!(content_id(&more), content_id(&call));
}
