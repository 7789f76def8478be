//! What a kept recording is called: a template of the operator's, filled with what is known of the
//! call.

use std::fmt::Write as _;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::proto::{Call, Voice};
use crate::push::EventId;

/// How the names of kept recordings are made, without what every name ends with: a part of the
/// push's id, which keeps two recordings of a call apart, and the ending of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Field),
}

/// What can stand in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Account,
    Date,
    TaskId,
    TaskDataId,
    CallRelationId,
    RobotId,
    CallUuid,
    TagMax,
    TagMin,
}

/// Stands for what is not known.
const NONE: &str = "none";
/// No value takes up more bytes.
const LONGEST: usize = 64;
/// No part between slashes has more bytes, the end of the last one aside. File systems take 255; a
/// copy under way has a few more than it will have.
const LONGEST_PART: usize = 200;
/// No text of a template is longer.
const LONGEST_TEMPLATE: usize = 256;

impl Field {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "account" => Self::Account,
            "date" => Self::Date,
            "task_id" => Self::TaskId,
            "task_data_id" => Self::TaskDataId,
            "call_relation_id" => Self::CallRelationId,
            "robot_id" => Self::RobotId,
            "call_uuid" => Self::CallUuid,
            "tag_max" => Self::TagMax,
            "tag_min" => Self::TagMin,
            _ => return None,
        })
    }
}

/// What a name is made of.
pub(super) struct Facts<'a> {
    pub account: &'a str,
    pub received_at: SystemTime,
    pub event_id: EventId,
    pub voice: &'a Voice,
    /// The call, as far as it is known.
    pub call: &'a Call,
}

impl Template {
    /// Reads `{account}/{date}/…`; `None` if it is no template: an unknown field, braces that do not
    /// match, a part that is empty or begins with a dot, a character that has a meaning somewhere.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}')?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Value(Field::named(name)?));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let shown: String = pieces.iter().map(Piece::shown).collect();
        let is_plain = |part: &str| {
            !part.is_empty() && !part.starts_with('.') && part.chars().all(is_harmless)
        };
        let is_template = text.len() <= LONGEST_TEMPLATE && shown.split('/').all(is_plain);
        is_template.then_some(Self(pieces))
    }

    /// The name of a recording, in parts between slashes. Whatever the facts hold, no part of it
    /// climbs, hides or separates.
    pub(super) fn fill(&self, facts: &Facts<'_>) -> String {
        let mut name = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Value(field) => name.push_str(&facts.value(*field)),
            }
        }
        let parts: Vec<_> = name
            .split('/')
            .map(|part| shortened(part, LONGEST_PART))
            .collect();
        let mut name = parts.join("/");
        let id = facts.event_id.to_string();
        let ending = ending(&facts.voice.url);
        // A String takes whatever is written into it.
        let _ = write!(name, "-{}.{ending}", id.get(..8).unwrap_or(&id));
        name
    }
}

impl Piece {
    /// Its text, or one that stands for any value.
    fn shown(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Value(_) => NONE,
        }
    }
}

impl Default for Template {
    fn default() -> Self {
        let text = "{account}/{date}/{task_id}/{call_uuid}-{tag_max}";
        Self::parse(text).unwrap_or(Self(Vec::new()))
    }
}

impl Facts<'_> {
    fn value(&self, field: Field) -> String {
        let (voice, call) = (self.voice, self.call);
        let either =
            |voice: &str, call: &str| harmless(if voice.is_empty() { call } else { voice });
        match field {
            Field::Account => harmless(self.account),
            Field::Date => date(self.received_at),
            Field::TaskId => harmless(&call.task_id),
            Field::TaskDataId => either(&voice.task_data_id, &call.task_data_id),
            Field::CallRelationId => either(&voice.call_relation_id, &call.call_relation_id),
            Field::RobotId => either(&voice.robot_id, &call.robot_id),
            Field::CallUuid => harmless(&voice.call_uuid),
            Field::TagMax => harmless(&call.tag_max),
            Field::TagMin => harmless(&call.tag_min),
        }
    }
}

/// The day, as year, month and day between slashes; by UTC, so that it is the same on every machine.
fn date(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or_default();
    at.to_zoned(TimeZone::UTC).strftime("%Y/%m/%d").to_string()
}

/// A value as a part of a name: what is neither letter nor digit nor `-`, `_`, `.` becomes `_`.
fn harmless(value: &str) -> String {
    let clean: String = shortened(value, LONGEST)
        .chars()
        .map(|c| if is_harmless(c) { c } else { '_' })
        .collect();
    let clean = clean.trim_start_matches('.');
    if clean.is_empty() { NONE } else { clean }.to_owned()
}

/// The beginning of a text, whole characters of so many bytes at most.
fn shortened(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

fn is_harmless(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// The ending of a recording's address, if it looks like one.
fn ending(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    let ending = file.rsplit_once('.').map(|(_, ending)| ending);
    let is_ending = |ending: &&str| {
        (1..=5).contains(&ending.len()) && ending.chars().all(|c| c.is_ascii_alphanumeric())
    };
    ending
        .filter(is_ending)
        .unwrap_or("bin")
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use object_store::path::Path;
    use proptest::prelude::*;

    use super::*;

    fn fill(template: &str, voice: &Voice, call: &Call) -> String {
        let facts = Facts {
            account: "default",
            received_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_533_289_491),
            event_id: EventId::of_raw("default", "receiveVoice", b"x"),
            voice,
            call,
        };
        Template::parse(template).unwrap().fill(&facts)
    }

    #[test]
    fn a_name_is_the_template_filled_with_what_is_known() {
        let voice = Voice {
            call_uuid: "c-1".into(),
            url: "ant/4/a.WAV?x=.mp3".into(),
            ..Voice::default()
        };
        let call = Call {
            task_id: "129".into(),
            tag_max: "高意向".into(),
            ..Call::default()
        };
        let name = fill(
            "{account}/{date}/{task_id}/{call_uuid}-{tag_max}",
            &voice,
            &call,
        );
        let (name, rest) = name.rsplit_once('-').unwrap();
        assert_eq!(name, "default/2018/08/03/129/c-1-高意向");
        assert_eq!(
            rest.split_once('.').map(|(id, end)| (id.len(), end)),
            Some((8, "wav"))
        );
        let bare = fill("x/{task_id}", &Voice::default(), &Call::default());
        let parts = bare.split_once('.').unwrap();
        assert!(parts.0.starts_with("x/none-") && parts.1 == "bin", "{bare}");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "",
            "/a",
            "a/",
            "a//b",
            "{call_uuid",
            "call_uuid}",
            "{callee}",
            "../{call_uuid}",
            "a/.b",
            "a b",
            "a\\b",
            "{account}/{date}?",
        ] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_part_of_a_name_is_longer_than_file_systems_take(
            id in "\\PC{0,90}", tag in "[\u{4e00}-\u{4fff}\u{20000}-\u{20fff}.]{0,90}",
            url in "a\\.[a-z]{0,9}",
        ) {
            let voice = Voice { call_uuid: id.clone(), robot_id: id, url, ..Voice::default() };
            let call = Call { tag_max: tag.clone(), tag_min: tag, ..Call::default() };
            let values = "{call_uuid}{robot_id}{tag_max}{tag_min}";
            let name = fill(&format!("{}/{values}", "长".repeat(68)), &voice, &call);
            prop_assert_eq!(name.split('/').count(), 2, "{}", name);
            for part in name.split('/') {
                // A copy under way ends in "#1".
                prop_assert!(part.len() <= 253, "{} bytes: {}", part.len(), part);
            }
            let ending = name.rsplit_once('-').map(|(_, ending)| ending);
            prop_assert!(ending.is_some_and(|ending| ending.len() >= 10), "{}", name);
        }

        #[test]
        fn whatever_a_call_holds_its_recording_lies_where_the_template_says(
            call_uuid: String, task_id in r"(\.|/|\\|%2f|~|#|[a-z]|\PC){0,9}", tag: String, url: String,
        ) {
            let voice = Voice { call_uuid, url, ..Voice::default() };
            let call = Call { task_id, tag_max: tag, ..Call::default() };
            let name = fill("r/{task_id}/{call_uuid}-{tag_max}", &voice, &call);
            prop_assert_eq!(name.split('/').count(), 3, "{}", name);
            prop_assert!(!name.split('/').any(|part| part.starts_with('.')), "{}", name);
            let path = Path::parse(&name);
            prop_assert_eq!(path.map(String::from).ok(), Some(name));
        }
    }
}
