//! The documented pushes, field by field: push document and API document, the union of both, and
//! what the platform sends besides.

use url::Url;

use crate::lenient::Fields;
use crate::proto::{
    CallDirection, CallRecord, CallRecordVariant, Dialog, DialogHit, DialogNodeType, DialogRole,
    DialogTurn, TaskResult, Voice,
};

/// Reads a call record (话单推送); `None` if the object has none of its fields.
pub fn call_record(fields: &mut Fields<'_>) -> Option<CallRecord> {
    let is_outbound = fields.has("task_row_index");
    let direction_code = fields.int32("direction");
    let task_result_code = fields.text("task_result");
    let task_result_desc = fields.text("task_result_desc");
    let record = CallRecord {
        business_id: fields.text("business_id"),
        app_id: fields.text("app_id"),
        robot_id: fields.text("robot_id"),
        call_uuid: fields.text("call_uuid"),
        caller: fields.text("caller"),
        callee: fields.text("callee"),
        direction: direction(direction_code).into(),
        direction_code,
        time_answer: fields.int64("time_answer"),
        time_hangup: fields.int64("time_hangup"),
        duration_ring: fields.int32("duration_ring"),
        duration_call: fields.int32("duration_call"),
        call_relation_id: fields.text("call_relation_id"),
        task_id: fields.text("task_id"),
        task_data_id: fields.text("task_data_id"),
        time_dial: fields.int64("time_dial"),
        time_ring: fields.int64("time_ring"),
        task_result: task_result(&task_result_code, &task_result_desc).into(),
        task_result_code,
        task_result_desc,
        task_tries: fields.int32("task_tries"),
        task_row_index: fields.int64("task_row_index"),
        task_row_head: fields.texts("task_row_head"),
        task_row_value: fields.texts("task_row_value"),
        variant: CallRecordVariant::Unspecified.into(),
    };
    if record == CallRecord::default() {
        return None;
    }
    let variant = if is_outbound {
        CallRecordVariant::Outbound
    } else {
        CallRecordVariant::Basic
    };
    Some(CallRecord {
        variant: variant.into(),
        ..record
    })
}

/// Reads a recording (录音推送); `None` if the object has none of its fields.
pub fn voice(fields: &mut Fields<'_>, base_url: &str) -> Option<Voice> {
    let voice = Voice {
        business_id: fields.text("business_id"),
        app_id: fields.text("app_id"),
        robot_id: fields.text("robot_id"),
        task_data_id: fields.text("task_data_id"),
        call_relation_id: fields.text("call_relation_id"),
        call_uuid: fields.text("call_uuid"),
        url: fields.text("url"),
        size: fields.int64("size"),
        duration: fields.int32("duration"),
        ..Voice::default()
    };
    if voice == Voice::default() {
        return None;
    }
    Some(Voice {
        absolute_url: absolute_url(base_url, &voice.url),
        ..voice
    })
}

/// Reads a dialog (会话推送); `None` if the object has none of its fields.
pub fn dialog(fields: &mut Fields<'_>) -> Option<Dialog> {
    let dialog = Dialog {
        business_id: fields.text("business_id"),
        app_id: fields.text("app_id"),
        robot_id: fields.text("robot_id"),
        task_id: fields.text("task_id"),
        task_data_id: fields.text("task_data_id"),
        call_relation_id: fields.text("call_relation_id"),
        call_uuid: fields.text("call_uuid"),
        time_begin: fields.int64("time_begin"),
        time_end: fields.int64("time_end"),
        tag_max: fields.text("tag_max"),
        tag_min: fields.text("tag_min"),
        dialog: turns(fields),
    };
    (dialog != Dialog::default()).then_some(dialog)
}

/// Reads what was said, turn by turn.
pub fn turns(fields: &mut Fields<'_>) -> Vec<DialogTurn> {
    fields.objects("dialog").into_iter().map(turn).collect()
}

fn turn(mut fields: Fields<'_>) -> DialogTurn {
    let role_code = fields.text("role");
    let node_type_code = fields.text("node_type");
    let mut hits = fields.objects("hits");
    // The platform's later shape carries one object `hit` in place of the list.
    hits.append(&mut fields.objects("hit"));
    DialogTurn {
        seq: fields.int32("seq"),
        role: role(&role_code).into(),
        role_code,
        node_id: fields.text("node_id"),
        node_name: fields.text("node_name"),
        node_type: node_type(&node_type_code).into(),
        node_type_code,
        content_id: fields.text("content_id"),
        label: fields.text("label"),
        tag_name: fields.text("tag_name"),
        tag_desc: fields.text("tag_desc"),
        text_robot: fields.text("text_robot"),
        text_man: fields.text("text_man"),
        question_id: fields.text("question_id"),
        time_start: fields.int64("time_start"),
        time_speaking: fields.int64("time_speaking"),
        hits: hits.into_iter().map(hit).collect(),
        extra_fields: fields.rest(),
    }
}

fn hit(mut fields: Fields<'_>) -> DialogHit {
    // `name` is what the later shape calls it; beside a `hit` it stays among the rest.
    let name = if fields.has("hit") { "hit" } else { "name" };
    DialogHit {
        hit: fields.text(name),
        pick: fields.bool("pick"),
        answer_id: fields.text("answer_id"),
        id: fields.text("id"),
        extra_fields: fields.rest(),
    }
}

fn direction(code: Option<i32>) -> CallDirection {
    code.and_then(|code| CallDirection::try_from(code).ok())
        .unwrap_or_default()
}

fn role(code: &str) -> DialogRole {
    match code {
        "robot" => DialogRole::Robot,
        "customer" => DialogRole::Customer,
        _ => DialogRole::Unspecified,
    }
}

fn node_type(code: &str) -> DialogNodeType {
    match code {
        "AnyNode" => DialogNodeType::Any,
        "CollectInputNode" => DialogNodeType::CollectInput,
        "ConditionNode" => DialogNodeType::Condition,
        "EndNode" => DialogNodeType::End,
        "HookInfoNode" => DialogNodeType::HookInfo,
        "KeyNavigationNode" => DialogNodeType::KeyNavigation,
        "NoNeedAnswerNode" => DialogNodeType::NoNeedAnswer,
        "NormalNode" => DialogNodeType::Normal,
        _ => DialogNodeType::Unspecified,
    }
}

/// The two documents give code 22 different meanings: its words decide.
fn task_result(code: &str, words: &str) -> TaskResult {
    match code.trim().parse::<i32>() {
        Ok(0) => TaskResult::Success,
        Ok(-1) => TaskResult::TimedOut,
        Ok(22) if words.contains("转移") => TaskResult::CallForwarding,
        Ok(22) if words.contains("提醒") => TaskResult::CallReminder,
        Ok(22 | 100 | 101) | Err(_) => TaskResult::Unspecified,
        Ok(code) => TaskResult::try_from(code).unwrap_or_default(),
    }
}

/// Joins a recording's address to the base that it is relative to, as a valid URL; empty where it
/// makes none. Whatever a relative address holds, the result stays on the base's host.
fn absolute_url(base_url: &str, url: &str) -> String {
    let scheme = url
        .split_once("://")
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    let absolute = match scheme.as_deref() {
        Some("http" | "https") => Url::parse(url),
        Some(_) => return String::new(),
        None if url.is_empty() => return String::new(),
        None => Url::parse(&format!(
            "{}/{}",
            base_url.trim_end_matches('/'),
            // A fragment would not be sent, and with it the rest of a file's name.
            url.trim_start_matches('/').replace('#', "%23")
        )),
    };
    absolute.map(String::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_address_is_joined_to_the_base_and_stays_on_its_host() {
        let base = "http://voice.example:9000/";
        for (url, absolute) in [
            ("ant/4/a.wav", "http://voice.example:9000/ant/4/a.wav"),
            ("/ant/4/a.wav", "http://voice.example:9000/ant/4/a.wav"),
            (
                "//elsewhere/a.wav",
                "http://voice.example:9000/elsewhere/a.wav",
            ),
            ("HTTPS://elsewhere/a.wav", "https://elsewhere/a.wav"),
            (
                "录音/a b#1.wav",
                "http://voice.example:9000/%E5%BD%95%E9%9F%B3/a%20b%231.wav",
            ),
            ("a%20b.wav?t=1", "http://voice.example:9000/a%20b.wav?t=1"),
            (
                "@elsewhere/a.wav",
                "http://voice.example:9000/@elsewhere/a.wav",
            ),
            ("..\\..\\a.wav", "http://voice.example:9000/a.wav"),
            ("http://", ""),
            ("file:///etc/passwd", ""),
            ("", ""),
        ] {
            assert_eq!(absolute_url(base, url), absolute, "{url}");
        }
    }

    #[test]
    fn words_decide_what_result_22_means() {
        assert_eq!(task_result("22", "来电提醒"), TaskResult::CallReminder);
        assert_eq!(task_result("22", "呼叫转移"), TaskResult::CallForwarding);
        assert_eq!(task_result("22", ""), TaskResult::Unspecified);
        assert_eq!(task_result("25", "呼叫转移"), TaskResult::CallForwarding);
        assert_eq!(task_result("-1", "超时"), TaskResult::TimedOut);
        assert_eq!(task_result("100", ""), TaskResult::Unspecified);
        assert_eq!(task_result("77", "?"), TaskResult::Unspecified);
    }
}
