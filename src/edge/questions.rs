//! What the platform asks while somebody is on the line. These are no pushes: nothing is stored,
//! and there is always an answer.

use std::borrow::Cow;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::time::timeout_at;

use super::body;
use super::buffer::Buffer;
use super::payloads;
use super::readers::Readers;
use super::reading::{MAX_VALUES, unscoped};
use crate::lenient::{Fields, Json};
use crate::proto::analyze_semantics_request::Context;
use crate::proto::{AnalyzeSemanticsRequest, GetDialogContextRequest};
use crate::provider::{Asked, Providers};

/// More than any question: a long dialog is some 50 KiB.
const MAX_BODY: usize = 1 << 20;
/// The bytes of questions that are held at once. Pushes have a buffer of their own.
const BUFFER: usize = 32 << 20;

/// A question, by the name of its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// What should the robot know of the caller?
    DialogContext,
    /// What does the script make of what was said?
    Semantics,
}

impl Question {
    /// The question that a module is; scoped like any other: "getDialogContext|AppX".
    pub fn of(module: &str) -> Option<Self> {
        match unscoped(module) {
            "getDialogContext" => Some(Self::DialogContext),
            "analyzeSemantics" => Some(Self::Semantics),
            _ => None,
        }
    }
}

/// Reads questions and has them answered.
pub struct Questions {
    providers: Providers,
    buffer: Buffer,
    readers: Readers,
}

impl Questions {
    /// Questions of these accounts.
    pub fn new(providers: Providers, readers: Readers, accounts: &[&str]) -> Self {
        Self {
            providers,
            buffer: Buffer::new(BUFFER, MAX_BODY, accounts),
            readers,
        }
    }

    /// Reads a question and answers it, in time whatever comes.
    pub async fn answer(
        &self,
        question: Question,
        account: &str,
        body: axum::body::Body,
        asked: Asked,
    ) -> Response {
        let providers = &self.providers;
        let answer = match question {
            Question::DialogContext => {
                match self.read(account, body, asked, dialog_context).await {
                    Some(question) => providers.dialog_context(question, asked).await,
                    None => providers.dialog_context_unread(account, asked),
                }
            }
            Question::Semantics => match self.read(account, body, asked, semantics).await {
                Some(question) => providers.semantics(question, asked).await,
                None => providers.semantics_unread(account, asked),
            },
        };
        ([(header::CONTENT_TYPE, "application/json")], answer).into_response()
    }

    /// Reads a question; `None` if it did not arrive whole and in time.
    async fn read<Q: Send + 'static>(
        &self,
        account: &str,
        mut body: axum::body::Body,
        asked: Asked,
        read: fn(&str, &Bytes) -> Q,
    ) -> Option<Q> {
        let mut room = self.buffer.room(account);
        let whole = async {
            let body = body::read(&mut body, MAX_BODY, &mut room).await.ok()?;
            let account = account.to_owned();
            let len = body.len();
            self.readers.run(len, move || read(&account, &body)).await
        };
        let read_by = self.providers.read_by(account, asked);
        timeout_at(read_by, whole).await.ok().flatten()
    }
}

/// The members of a body that is an object; none of any other, nor of one beyond the bounds.
fn members(text: &str) -> Fields<'_> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if Json::count_values(text) > MAX_VALUES {
        return Fields::default();
    }
    Fields::parse(text).unwrap_or_default()
}

/// A body's text. Bytes that are none cost their own field its letters, and the others nothing.
fn text(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(body)
}

fn dialog_context(account: &str, body: &Bytes) -> GetDialogContextRequest {
    let text = text(body);
    let mut fields = members(&text);
    GetDialogContextRequest {
        account: account.to_owned(),
        business_id: fields.text("business_id"),
        app_id: fields.text("app_id"),
        robot_id: fields.text("robot_id"),
        call_relation_id: fields.text("call_relation_id"),
        extra_fields: fields.rest(),
    }
}

fn semantics(account: &str, body: &Bytes) -> AnalyzeSemanticsRequest {
    let text = text(body);
    let mut fields = members(&text);
    let context = match fields.structure("context") {
        Some(map) => Some(Context::ContextMap(map)),
        None => Some(fields.text("context"))
            .filter(|text| !text.is_empty())
            .map(Context::ContextText),
    };
    AnalyzeSemanticsRequest {
        account: account.to_owned(),
        business_id: fields.text("business_id"),
        app_id: fields.text("app_id"),
        robot_id: fields.text("robot_id"),
        call_relation_id: fields.text("call_relation_id"),
        call_uuid: fields.text("call_uuid"),
        task_id: fields.text("task_id"),
        task_data_id: fields.text("task_data_id"),
        caller: fields.text("caller"),
        callee: fields.text("callee"),
        code: fields.text("code"),
        reply: fields.text_or_json("reply"),
        context,
        dialog: payloads::turns(&mut fields),
        extra_fields: fields.rest(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_types::value::Kind;

    use super::*;

    #[test]
    fn a_question_is_read_whatever_form_its_fields_have() {
        let body =
            "\u{feff}{\"call_relation_id\":1111,\"robot_id\":null,\"app_id\":\"3\",\"vip\":true}";
        let question = dialog_context("acme", &Bytes::from(body));
        assert_eq!(question.account, "acme");
        assert_eq!(question.call_relation_id, "1111");
        assert_eq!((&*question.robot_id, &*question.app_id), ("", "3"));
        let extra = question.extra_fields.unwrap();
        assert_eq!(extra.fields["vip"].kind, Some(Kind::BoolValue(true)));
    }

    #[test]
    fn a_field_in_another_encoding_takes_no_other_with_it() {
        // 张三 in GBK, as an old telephone exchange sends it.
        let body = b"{\"call_relation_id\":\"1111\",\"name\":\"\xd5\xc5\xc8\xfd\"}";
        let question = dialog_context("a", &Bytes::from_static(body));
        assert_eq!(question.call_relation_id, "1111");
        let body = b"{\"code\":\"f\",\"reply\":\"\xd5\xc5\"}";
        assert_eq!(semantics("a", &Bytes::from_static(body)).code, "f");
    }

    #[test]
    fn the_context_of_a_call_is_kept_as_a_map_or_as_a_text() {
        let map = r#"{"context":{"id":346252615123869699,"姓名":"张三"}}"#;
        let Some(Context::ContextMap(map)) = semantics("a", &Bytes::from(map)).context else {
            panic!("no map");
        };
        let id = map.fields["id"].kind.clone();
        assert_eq!(id, Some(Kind::StringValue("346252615123869699".into())));
        let text = semantics("a", &Bytes::from(r#"{"context":"{\"a\":1}"}"#));
        assert_eq!(
            text.context,
            Some(Context::ContextText(r#"{"a":1}"#.into()))
        );
        let list = semantics("a", &Bytes::from(r#"{"context":[1]}"#));
        assert_eq!(list.context, None);
        assert!(list.extra_fields.unwrap().fields.contains_key("context"));
    }

    #[test]
    fn the_dialog_so_far_keeps_everything() {
        let body = r#"{"code":7,"reply":"好的","dialog":[{"seq":0,"role":"customer","node_id":12,
            "hit":{"pick":true,"name":"肯定","id":9},"reject":false,"un_hit":0,"has_reply":true}]}"#;
        let question = semantics("a", &Bytes::from(body));
        assert_eq!((&*question.code, &*question.reply), ("7", "好的"));
        let turn = &question.dialog[0];
        assert_eq!((turn.seq, &*turn.node_id), (Some(0), "12"));
        assert_eq!((&*turn.hits[0].hit, &*turn.hits[0].id), ("肯定", "9"));
        let extra = turn.extra_fields.as_ref().unwrap();
        let names: Vec<_> = extra.fields.keys().collect();
        assert_eq!(names, ["has_reply", "reject", "un_hit"]);
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_question(body: Vec<u8>) {
            let body = Bytes::from(body);
            prop_assert_eq!(dialog_context("a", &body).account, "a");
            prop_assert_eq!(semantics("a", &body).account, "a");
        }
    }
}
