//! Calls for people; phone numbers are masked.

use std::fmt::Write;

use comfy_table::{ContentArrangement, Table};
use yeta_gateway::proto::{Call, CallState, Dialog, DialogRole, DialogTurn, GetCallResponse};
use yeta_gateway::proto::{RowAttempt, Voice};

use crate::cli::print::{self, masked, or_dash};

/// Calls, one a row.
pub fn table(calls: &[Call]) -> Table {
    let head = [
        "row",
        "callee",
        "state",
        "outcome",
        "talked",
        "recording",
        "missing",
        "call",
    ];
    let rows = calls.iter().map(|call| {
        [
            or_dash(Some(&call.task_data_id).filter(|id| !id.is_empty())),
            masked(&call.callee),
            print::state(call.state()),
            print::outcome(call.outcome()),
            or_dash(talked(call)),
            or_dash(call.voice.as_ref().map(size)),
            or_dash(Some(missing(call)).filter(|missing| !missing.is_empty())),
            call.call_uuid.clone(),
        ]
    });
    print::table(head, rows)
}

/// A call that is waited for, as a line.
pub fn line(call: &Call) -> String {
    let mut line = format!(
        "row {} call {} {} {} {}",
        call.task_data_id,
        call.call_uuid,
        masked(&call.callee),
        print::state(call.state()),
        print::outcome(call.outcome()),
    );
    if call.attempt > 1 {
        write_to(&mut line, format_args!(", attempt {}", call.attempt));
    }
    if let Some(talked) = talked(call) {
        write_to(&mut line, format_args!(", talked {talked}"));
    }
    if !call.missing.is_empty() {
        write_to(&mut line, format_args!(", without {}", missing(call)));
    }
    if call.revision > 1 {
        write_to(&mut line, format_args!(" (revision {})", call.revision));
    }
    line
}

/// All that is known of a call: facts, what was said, and the other calls of its row.
pub fn whole(answer: &GetCallResponse) -> String {
    let Some(call) = &answer.call else {
        return String::new();
    };
    let known = facts(call, answer.row_attempts.len());
    let known = known.into_iter().filter(|[_, value]| !value.is_empty());
    let mut text = format!("{}\n", print::table(["call", &call.call_uuid], known));
    if let Some(dialog) = &call.dialog {
        write_to(&mut text, format_args!("{}\n", turns(dialog)));
    }
    if answer.row_attempts.len() > 1 {
        write_to(
            &mut text,
            format_args!("{}\n", attempts(&answer.row_attempts)),
        );
    }
    text
}

fn facts(call: &Call, attempts: usize) -> Vec<[String; 2]> {
    let record = call.call_record.as_ref();
    let time = |of: Option<i64>| of.filter(|ms| *ms > 0).map(|ms| print::time(Some(ms)));
    let fact = |name: &str, value: String| [name.to_owned(), value];
    let optional = |name: &str, value: Option<String>| fact(name, value.unwrap_or_default());
    let voice = call.voice.as_ref();
    vec![
        fact("state", state(call)),
        fact("outcome", outcome(call)),
        fact("from", masked(&call.caller)),
        fact("to", masked(&call.callee)),
        optional("dialled", time(record.and_then(|record| record.time_dial))),
        optional(
            "answered",
            time(record.and_then(|record| record.time_answer)),
        ),
        optional("ended", time(record.and_then(|record| record.time_hangup))),
        optional(
            "rang",
            call.duration_ring.map(|seconds| format!("{seconds} s")),
        ),
        optional("talked", talked(call)),
        fact("intentions", intentions(call)),
        optional("recording", voice.map(|voice| voice.absolute_url.clone())),
        optional("", voice.map(size)),
        optional("archived", voice.map(|voice| voice.archived_url.clone())),
        optional(
            "archive error",
            voice.map(|voice| voice.archive_error.clone()),
        ),
        fact("account", call.account.clone()),
        fact("robot", call.robot_id.clone()),
        fact("task", call.task_id.clone()),
        fact("row", call.task_data_id.clone()),
        fact("row key", call.row_key.clone()),
        fact("attempt", attempt(call.attempt, attempts)),
        fact("relation", call.call_relation_id.clone()),
    ]
}

fn state(call: &Call) -> String {
    let state = print::state(call.state());
    let missing = missing(call);
    match call.state() {
        CallState::Partial => format!("{state}, still to come: {missing}"),
        CallState::TimedOut => format!("{state}, never came: {missing}"),
        CallState::Complete | CallState::Unspecified => state,
    }
}

/// The outcome, and the platform's own words for it.
fn outcome(call: &Call) -> String {
    let Some(record) = &call.call_record else {
        return "not known yet".to_owned();
    };
    let outcome = print::outcome(call.outcome());
    if record.task_result_desc.is_empty() {
        return outcome;
    }
    format!("{outcome} ({})", record.task_result_desc)
}

/// How long the call lasted, if somebody answered.
fn talked(call: &Call) -> Option<String> {
    let seconds = call.duration_call.filter(|_| call.answered)?;
    Some(format!("{seconds} s"))
}

fn missing(call: &Call) -> String {
    let kinds: Vec<_> = call.missing().map(print::kind).collect();
    kinds.join(", ")
}

fn size(voice: &Voice) -> String {
    let seconds = voice.duration.map(|seconds| format!("{seconds} s"));
    let bytes = voice.size.map(|bytes| format!("{} KiB", bytes / 1024));
    let known: Vec<_> = [seconds, bytes].into_iter().flatten().collect();
    known.join(", ")
}

fn intentions(call: &Call) -> String {
    let mut known = call.tags.join(", ");
    if !call.tag_max.is_empty() {
        write_to(&mut known, format_args!(" (highest {})", call.tag_max));
    }
    if !call.tag_min.is_empty() {
        write_to(&mut known, format_args!(" (lowest {})", call.tag_min));
    }
    known.trim_start().to_owned()
}

fn attempt(number: u32, of: usize) -> String {
    match number {
        0 => String::new(),
        _ if of > 1 => format!("{number}; {of} calls of this row are known"),
        _ => number.to_string(),
    }
}

fn turns(dialog: &Dialog) -> Table {
    let rows = dialog.dialog.iter().map(|turn| {
        let (who, said) = said(turn);
        [
            or_dash(turn.seq),
            who.to_owned(),
            said.to_owned(),
            turn.tag_name.clone(),
        ]
    });
    let mut table = print::table(["turn", "who", "said", "intention"], rows);
    // What was said is long.
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn said(turn: &DialogTurn) -> (&str, &str) {
    match turn.role() {
        DialogRole::Robot => ("robot", &turn.text_robot),
        DialogRole::Customer => ("customer", &turn.text_man),
        DialogRole::Unspecified => (&turn.role_code, &turn.text_man),
    }
}

fn attempts(attempts: &[RowAttempt]) -> Table {
    let rows = attempts.iter().map(|call| {
        [
            or_dash(Some(call.attempt).filter(|attempt| *attempt > 0)),
            call.call_uuid.clone(),
            print::state(call.state()),
            print::outcome(call.outcome()),
            print::time(call.time_dial),
        ]
    });
    print::table(["attempt", "call", "state", "outcome", "dialled"], rows)
}

fn write_to(text: &mut String, more: std::fmt::Arguments<'_>) {
    // A String takes whatever is written.
    let _ = text.write_fmt(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use yeta_gateway::proto::{CallOutcome, CallRecord, PushKind};

    fn call() -> Call {
        let record = CallRecord {
            task_result_desc: "客户接听后并主动挂机".into(),
            ..CallRecord::default()
        };
        let turn = DialogTurn {
            seq: Some(2),
            role: DialogRole::Customer.into(),
            text_man: "好的".into(),
            tag_name: "A".into(),
            ..DialogTurn::default()
        };
        Call {
            call_uuid: "6f1c".into(),
            state: CallState::TimedOut.into(),
            revision: 2,
            attempt: 2,
            answered: true,
            outcome: CallOutcome::CustomerHungUp.into(),
            caller: "055169101407".into(),
            callee: "13000000001".into(),
            task_data_id: "346252615123869699".into(),
            duration_call: Some(33),
            missing: vec![PushKind::Voice.into()],
            tags: vec!["A".into()],
            call_record: Some(record),
            voice: Some(Voice {
                archived_url: "s3://bucket/6f1c.wav".into(),
                archive_error: "SIZE_MISMATCH: why".into(),
                ..Voice::default()
            }),
            dialog: Some(Dialog {
                dialog: vec![turn],
                ..Dialog::default()
            }),
            ..Call::default()
        }
    }

    #[test]
    fn a_call_is_told_in_words_and_its_numbers_in_part() {
        let attempts = [1, 2].map(|attempt| RowAttempt {
            attempt,
            ..RowAttempt::default()
        });
        let answer = GetCallResponse {
            call: Some(call()),
            row_attempts: attempts.to_vec(),
        };
        let whole = whole(&answer);
        for told in [
            "6f1c",
            "timed_out, never came: voice",
            "customer_hung_up (客户接听后并主动挂机)",
            "130****0001",
            "33 s",
            "好的",
            "2; 2 calls of this row are known",
            "s3://bucket/6f1c.wav",
            "SIZE_MISMATCH: why",
        ] {
            assert!(whole.contains(told), "{told} is not in {whole}");
        }
        let table = table(&[call()]).to_string();
        let line = line(&call());
        assert_eq!(
            line,
            "row 346252615123869699 call 6f1c 130****0001 timed_out customer_hung_up, attempt 2, \
             talked 33 s, without voice (revision 2)"
        );
        for shown in [whole, table, line] {
            assert!(!shown.contains("13000000001"), "{shown}");
            assert!(!shown.contains("055169101407"), "{shown}");
        }
    }
}
