//! What a field holds, by its name.

use super::text;

/// What a field can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// An id or a token, which must come back as it was given.
    Id,
    /// The submitter's own key of a row, which may be a phone number as a whole.
    Key,
    /// A phone number.
    Number,
    /// Anything, in which numbers are looked for.
    Text,
}

/// Masks a value by what its field holds.
pub fn mask(holds: Holds, value: &str) -> String {
    match holds {
        Holds::Number => text::number(value),
        Holds::Key if text::is_number(value) => text::number(value),
        Holds::Id | Holds::Key => value.to_owned(),
        Holds::Text => text::text(value).into_owned(),
    }
}

/// Lists of column names, and the values that they name.
pub const COLUMNS: [(&str, &str); 2] = [
    ("call_column", "call_list"),
    ("task_row_head", "task_row_value"),
];

/// What a field of `yeta.v1` holds.
pub fn of_proto(message: &str, name: &str) -> Holds {
    const IDS: [&str; 10] = [
        "_id", "_ids", "_uuid", "_uuids", "_key", "_keys", "_cursor", "_token", "_code", "_codes",
    ];
    match (message, name) {
        ("yeta.v1.PushEvent" | "yeta.v1.Call" | "yeta.v1.OverdueRow", "row_key") => Holds::Key,
        (_, "caller" | "callee" | "callees") => Holds::Number,
        (_, "id" | "cursor" | "account" | "accounts" | "line_num" | "subscription")
        | ("yeta.v1.Subscription", "name") => Holds::Id,
        _ if IDS.iter().any(|end| name.ends_with(end)) => Holds::Id,
        _ => Holds::Text,
    }
}

/// What a member of the platform's JSON holds. Only documented ids are taken for ids.
pub fn of_json(name: &str) -> Holds {
    const IDS: [&str; 15] = [
        "business_id",
        "app_id",
        "robot_id",
        "task_id",
        "task_data_id",
        "task_data_ids",
        "call_relation_id",
        "call_uuid",
        "node_id",
        "content_id",
        "question_id",
        "answer_id",
        "id",
        "line_num",
        "voice_code",
    ];
    if IDS.contains(&name) {
        return Holds::Id;
    }
    if is_number_name(name) {
        Holds::Number
    } else {
        Holds::Text
    }
}

/// What a column of a row holds: the first one is the phone number.
pub fn of_column(index: usize, name: Option<&String>) -> Holds {
    if index == 0 || name.is_some_and(|name| is_number_name(name)) {
        Holds::Number
    } else {
        Holds::Text
    }
}

/// Whether a name says that the value is a phone number.
fn is_number_name(name: &str) -> bool {
    const WORDS: [&str; 9] = [
        "phone",
        "mobile",
        "callee",
        "caller",
        "msisdn",
        "telephone",
        "电话",
        "手机",
        "号码",
    ];
    let name = name.to_lowercase();
    name == "tel" || name.starts_with("tel_") || WORDS.iter().any(|word| name.contains(word))
}
