//! Pushes for people and for programs.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Serialize;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::{
    Call, CallOutcome, CallRecord, CallRecordVariant, CallState, Dialog, DialogRole,
    FILE_DESCRIPTOR_SET, PushEvent, PushKind, TaskResult, Voice,
};

use super::terminal::{clean, clean_json, clean_lines};

/// Standard output has no reader any more; nothing went wrong.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub struct OutputClosed;

/// Writes a line to standard output. What a terminal would obey in it is replaced.
///
/// # Errors
///
/// [`OutputClosed`] ends the command quietly; any other error is one to report.
pub fn out(line: impl Display) -> anyhow::Result<()> {
    styled(clean(&line.to_string()))
}

/// Writes lines to standard output as [`out`] writes one: a table, whose cells are cleaned.
pub fn lines(lines: impl Display) -> anyhow::Result<()> {
    styled(clean_lines(&lines.to_string()))
}

/// Writes text to standard output as it is, with this program's own styles. Text of others must
/// be cleaned in it, as [`line`] does.
pub fn styled(text: impl Display) -> anyhow::Result<()> {
    match writeln!(anstream::stdout(), "{text}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(error).context("standard output cannot be written"),
    }
}

/// Writes a line to standard error, behind the program's name.
pub fn note(line: impl Display) {
    error_line(format_args!("yeta-gateway: {line}"));
}

/// Writes lines to standard error, behind the program's name.
pub fn notes(lines: impl Display) {
    error_lines(&format!("yeta-gateway: {lines}"));
}

/// Writes a line to standard error. It is lost if it cannot be written; the command goes on.
pub fn error_line(line: impl Display) {
    error_lines(&clean(&line.to_string()));
}

fn error_lines(lines: &str) {
    let _ = writeln!(anstream::stderr(), "{}", clean_lines(lines));
}

/// Replaces the line of progress on standard error.
pub fn progress(line: impl Display) {
    let _ = write!(anstream::stderr(), "\r{line}\u{1b}[K");
}

/// A message of this name as a line of JSON, by protobuf's own rules.
pub fn json(name: &str, message: &impl Message) -> anyhow::Result<String> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET)?;
    let descriptor = pool
        .get_message_by_name(&format!("yeta.v1.{name}"))
        .with_context(|| format!("{name} is not described"))?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    json_of(&message)
}

/// A value as a line of JSON.
pub fn json_of(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(clean_json(&serde_json::to_string(value)?).into_owned())
}

/// Rows under their headings. Each cell is cleaned.
pub fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Table {
    let cleaned = |cells: [&str; N]| cells.map(|cell| clean(cell).into_owned());
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(cleaned(head));
    for row in rows {
        table.add_row(cleaned(row.each_ref().map(String::as_str)));
    }
    table
}

/// A value that may be missing.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

/// A time of the platform, in milliseconds since 1970, by the local clock.
pub fn time(ms: Option<i64>) -> String {
    let time = ms
        .filter(|ms| *ms > 0)
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    or_dash(time.map(|at| at.to_zoned(TimeZone::system()).strftime("%F %T")))
}

/// A moment by the local clock, if there is one.
pub fn moment(at: Option<prost_types::Timestamp>) -> String {
    let at = at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
    or_dash(at.map(|at| at.to_zoned(TimeZone::system()).strftime("%F %T")))
}

/// A duration to the millisecond, if there is one.
pub fn duration(duration: Option<prost_types::Duration>) -> String {
    let duration = duration.and_then(|it| Duration::try_from(it).ok());
    let exact =
        duration.map(|it| Duration::from_millis(it.as_millis().try_into().unwrap_or(u64::MAX)));
    or_dash(exact.map(humantime::format_duration))
}

/// An event as a styled line for people. Phone numbers are masked.
pub fn line(event: &PushEvent) -> String {
    let (colour, kind, text) = in_words(event);
    let style = Style::new().fg_color(Some(colour.into())).bold();
    let dim = Style::new().dimmed();
    format!(
        "{dim}{}{dim:#} {:<8} {style}{kind:<7}{style:#} {}",
        received(event),
        clean(&event.account),
        clean(&text),
    )
}

/// An event as a line without styles. Phone numbers are masked.
pub fn plain_line(event: &PushEvent) -> String {
    let (_, kind, text) = in_words(event);
    format!("{} {:<8} {kind:<7} {text}", received(event), event.account)
}

/// When an event was received, to the millisecond by the local clock.
fn received(event: &PushEvent) -> String {
    let time = event
        .received_at
        .and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
    let time = time.map(|at| {
        at.to_zoned(TimeZone::system())
            .strftime("%H:%M:%S%.3f")
            .to_string()
    });
    time.unwrap_or_default()
}

/// An event's colour, its kind and its content.
fn in_words(event: &PushEvent) -> (AnsiColor, &'static str, String) {
    match &event.payload {
        Some(Payload::CallRecord(record)) => (AnsiColor::Green, "record", of_record(record)),
        Some(Payload::Voice(voice)) => (AnsiColor::Cyan, "voice", of_voice(voice)),
        Some(Payload::VoiceArchived(voice)) => (AnsiColor::Cyan, "archived", of_archived(voice)),
        Some(Payload::Dialog(dialog)) => (AnsiColor::Magenta, "dialog", of_dialog(dialog)),
        Some(Payload::Call(whole)) => (AnsiColor::Blue, "call", of_call(whole)),
        Some(Payload::Unrecognized(push)) => {
            let text = format!("{} ({} bytes): {}", push.module, push.size, push.reason);
            (AnsiColor::Yellow, "unrecognized", text)
        }
        None => (AnsiColor::Yellow, "unknown", String::new()),
    }
}

fn of_record(record: &CallRecord) -> String {
    let variant = match record.variant() {
        CallRecordVariant::Outbound => "outbound",
        CallRecordVariant::Basic | CallRecordVariant::Unspecified => "basic",
    };
    let result = result(record);
    let seconds = record.duration_call.unwrap_or_default();
    format!(
        "{} {variant:<8} {} {result} {seconds} s",
        call(&record.call_uuid),
        masked(&record.callee)
    )
}

fn of_archived(voice: &Voice) -> String {
    format!(
        "{} {}{}",
        call(&voice.call_uuid),
        voice.archived_url,
        voice.archive_error
    )
}

fn of_voice(voice: &Voice) -> String {
    format!(
        "{} {} s, {} bytes at {}",
        call(&voice.call_uuid),
        voice.duration.unwrap_or_default(),
        voice.size.unwrap_or_default(),
        voice.absolute_url,
    )
}

fn of_dialog(dialog: &Dialog) -> String {
    let said = dialog
        .dialog
        .iter()
        .rev()
        .find(|turn| turn.role() == DialogRole::Customer);
    let said = said.map(|turn| format!(", the customer's last words: {}", turn.text_man));
    let turns = dialog.dialog.len();
    format!(
        "{} {turns} turns{}",
        call(&dialog.call_uuid),
        said.unwrap_or_default()
    )
}

fn of_call(whole: &Call) -> String {
    format!(
        "{} {:<9} {} {} {} s",
        call(&whole.call_uuid),
        state(whole.state()),
        masked(&whole.callee),
        outcome(whole.outcome()),
        whole.duration_call.unwrap_or_default(),
    )
}

/// How far a call has come, in a word.
pub fn state(state: CallState) -> String {
    word(state.as_str_name(), "CALL_STATE_")
}

/// How a call came out, in a word.
pub fn outcome(outcome: CallOutcome) -> String {
    let known = Some(outcome).filter(|outcome| *outcome != CallOutcome::Unspecified);
    or_dash(known.map(|outcome| word(outcome.as_str_name(), "CALL_OUTCOME_")))
}

/// What a push is, in a word.
pub fn kind(kind: PushKind) -> String {
    word(kind.as_str_name(), "PUSH_KIND_")
}

fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

/// The start of a call's id: enough to tell calls on a screen apart.
fn call(uuid: &str) -> String {
    let start: String = uuid.chars().take(8).collect();
    format!("call {start:<8}")
}

/// How a record says that its call came out, in a word.
fn result(record: &CallRecord) -> String {
    if !record.task_result_desc.is_empty() {
        return record.task_result_desc.clone();
    }
    if record.task_result() == TaskResult::Unspecified {
        let answered = record.time_answer.is_some_and(|time| time > 0);
        return if answered { "answered" } else { "not answered" }.to_owned();
    }
    word(record.task_result().as_str_name(), "TASK_RESULT_")
}

/// A phone number without its middle.
pub fn masked(phone: &str) -> String {
    let digits: Vec<char> = phone.chars().collect();
    if digits.len() < 7 {
        return phone.to_owned();
    }
    let (head, tail) = (&digits[..3], &digits[digits.len() - 4..]);
    let stars = "*".repeat(digits.len() - 7);
    format!(
        "{}{stars}{}",
        head.iter().collect::<String>(),
        tail.iter().collect::<String>()
    )
}

/// A text in which runs of seven digits and more, which may be phone numbers, are masked.
pub fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, run) = rest.split_at(start);
        let end = run.find(|c: char| !c.is_ascii_digit());
        let (digits, after) = run.split_at(end.unwrap_or(run.len()));
        out.push_str(before);
        match digits.len() {
            // Its ends alone would be all of it.
            7 => out.push_str(&"*".repeat(7)),
            _ => out.push_str(&masked(digits)),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use yeta_gateway::proto::UnrecognizedPush;

    use super::super::terminal::hostile;
    use super::*;

    #[test]
    fn long_runs_of_digits_are_masked_in_any_text() {
        let told = without_numbers("号码13000000001不合规, code 200203, 8765432");
        assert_eq!(told, "号码130****0001不合规, code 200203, *******");
    }

    proptest! {
        #[test]
        fn an_event_is_one_line_with_no_escapes_but_its_styles(
            text in hostile(), account in hostile(), kind in 0..5,
        ) {
            let event = event(kind, &text, account);
            let styles = |line: &str| line.matches('\u{1b}').count();
            let styled = line(&event);
            prop_assert_eq!(styles(&styled), styles(&line(&PushEvent::default())));
            let without = styled.replace('\u{1b}', "");
            prop_assert_eq!(clean(&without).into_owned(), without);
        }

        #[test]
        fn a_table_has_no_escapes_and_a_row_of_others_text_adds_no_row(
            text in hostile(), account in hostile(), kind in 0..5,
        ) {
            let cell = plain_line(&event(kind, &text, account));
            let table = table(["event", "why"], [[cell, text]]).to_string();
            prop_assert_eq!(clean_lines(&table), table.clone());
            prop_assert_eq!(table.lines().count(), 5);
        }
    }

    fn event(kind: i32, text: &str, account: String) -> PushEvent {
        let text = || text.to_owned();
        let payload = match kind {
            0 => Payload::CallRecord(CallRecord {
                call_uuid: text(),
                callee: text(),
                task_result_desc: text(),
                ..CallRecord::default()
            }),
            1 => Payload::VoiceArchived(Voice {
                call_uuid: text(),
                archived_url: text(),
                archive_error: text(),
                ..Voice::default()
            }),
            2 => Payload::Voice(Voice {
                absolute_url: text(),
                ..Voice::default()
            }),
            3 => Payload::Call(Call {
                callee: text(),
                ..Call::default()
            }),
            _ => Payload::Unrecognized(UnrecognizedPush {
                module: text(),
                reason: text(),
                ..UnrecognizedPush::default()
            }),
        };
        PushEvent {
            account,
            payload: Some(payload),
            ..PushEvent::default()
        }
    }

    #[test]
    fn a_phone_number_keeps_its_ends_alone() {
        assert_eq!(masked("19900000001"), "199****0001");
        assert_eq!(masked("10086"), "10086");
    }

    #[test]
    fn an_event_is_json_with_its_fields_names() {
        let event = PushEvent {
            event_id: "e".into(),
            ..PushEvent::default()
        };
        assert_eq!(json("PushEvent", &event).unwrap(), r#"{"eventId":"e"}"#);
    }
}
