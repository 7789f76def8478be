//! Readers of others' bytes, tried with a corpus of real inputs that are bent at random.
//!
//! A run with the default number of cases takes seconds. `scripts/fuzz CASES` tries more.

use std::io::Write as _;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message as _;

use crate::backfill::file::{self, Limits};
use crate::backfill::lines::Line;
use crate::config::{Config, DEFAULT_FILE};
use crate::edge::reading::{self, Received};
use crate::lenient::Json;
use crate::proto::PushEvent;
use crate::push::{Cursor, Position, StoreId};

/// Bodies as the platform pushes them, and as it might.
const BODIES: [&str; 8] = [
    r#"{"call_uuid":"c","app_id":"a","direction":2,"task_data_id":346252615123869699,"callee":"13800138000","time_answer":"1761000000000","task_result":"0","tags":["A",null],"context":{"姓名":"张"}}"#,
    r#"[{"call_uuid":"c","url":"ant/4/a.wav","size":39,"duration":"3"},{"call_uuid":"d","url":null}]"#,
    r#"{"call_uuid":"c","tag_max":"A","dialog":[{"seq":"1","role":"robot","text_robot":"您好"},{"seq":2,"role":"customer","text_man":"好的\u0000","hit":[]}]}"#,
    r#"{"a":[[[[[[[[1]]]]]]]],"b":{"c":{"d":{"e":{}}}},"f":1e400,"g":-0.0,"h":"\ud800"}"#,
    r#"{"call_uuid":"c","call_uuid":"d","":"","\u0061":true}"#,
    "\u{feff} {\"call_uuid\" : \"c\"} \r\n",
    "[]",
    "12345678901234567890",
];

/// What a bent input is made longer with.
const TOKENS: [&[u8]; 14] = [
    b"{", b"}", b"[", b"]", b"\"", b"\\u", b":", b",", b"1e9", b"null", b"\0", b"\xff", b"\n",
    b"[[",
];

/// One change of an input.
#[derive(Clone, Debug)]
enum Bend {
    Byte(Index, u8),
    Insert(Index, &'static [u8], usize),
    Remove(Index, Index),
    Repeat(Index, Index, usize),
    Cut(Index),
}

impl Bend {
    fn apply(&self, bytes: &mut Vec<u8>) {
        /// No input grows beyond this.
        const MOST: usize = 64 << 10;
        let len = bytes.len().max(1);
        let range = |a: &Index, b: &Index| {
            let (a, b) = (a.index(len), b.index(len));
            a.min(b)..a.max(b)
        };
        match self {
            _ if bytes.is_empty() => bytes.push(b'{'),
            Self::Byte(at, byte) => bytes[at.index(len)] = *byte,
            Self::Insert(at, token, times) => {
                let at = at.index(len);
                bytes.splice(at..at, token.repeat(*times));
            }
            Self::Remove(from, to) => drop(bytes.drain(range(from, to))),
            Self::Repeat(from, to, times) => {
                let range = range(from, to);
                let repeated = bytes[range.clone()].repeat(*times);
                bytes.splice(range.start..range.start, repeated);
            }
            Self::Cut(at) => bytes.truncate(at.index(len)),
        }
        bytes.truncate(MOST);
    }
}

fn bend() -> impl Strategy<Value = Bend> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Bend::Byte(at, byte)),
        (at(), prop::sample::select(&TOKENS[..]), 1..80_usize)
            .prop_map(|(at, token, times)| Bend::Insert(at, token, times)),
        (at(), at()).prop_map(|(from, to)| Bend::Remove(from, to)),
        (at(), at(), 1..40_usize).prop_map(|(from, to, times)| Bend::Repeat(from, to, times)),
        at().prop_map(Bend::Cut),
    ]
}

/// Inputs of a corpus, each bent up to six times.
pub(crate) fn bent(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let bends = prop::collection::vec(bend(), 0..6);
    (prop::sample::select(corpus), bends).prop_map(|(mut bytes, bends)| {
        for bend in bends {
            bend.apply(&mut bytes);
        }
        bytes
    })
}

fn bodies() -> Vec<Vec<u8>> {
    BODIES.iter().map(|body| body.as_bytes().to_vec()).collect()
}

fn zips() -> Vec<Vec<u8>> {
    let zip = |files: &[(&str, &str)]| {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, content) in files {
            let options = zip::write::SimpleFileOptions::default();
            zip.start_file(*name, options).unwrap();
            zip.write_all(content.as_bytes()).unwrap();
        }
        zip.finish().unwrap().into_inner()
    };
    let line = format!("{}\n", BODIES[0]);
    vec![
        zip(&[]),
        zip(&[("20261120/receiveVoice/1.txt", &line)]),
        zip(&[("a", &line.repeat(40)), ("b/c", BODIES[1]), ("d", "")]),
        line.repeat(3).into_bytes(),
    ]
}

/// A configuration that sets what the default file leaves out.
const CONFIG: &str = r#"
[grpc]
listen = "0.0.0.0:50051"
[[accounts]]
name = "default"
app_key = "key"
app_secret = "secret"
push_secret = "a-push-secret-of-24-chars"
allow_push_from = ["10.0.0.0/8", "::1"]
[[clients]]
name = "crm"
token_sha256 = "abababababababababababababababababababababababababababababababab"
allow = ["outbound", "calls"]
accounts = ["*"]
[dialog_context.fallback]
"姓名" = "客户"
[[dialog_context.overrides]]
account = "default"
robot_id = "1"
timeout = "300ms"
"#;

proptest! {
    #[test]
    fn fuzz_every_body_becomes_pushes_that_keep_its_bytes(
        body in bent(bodies()),
        module in prop::sample::select(vec![
            "receiveCallRecord", "receiveVoice", "receiveDialog", "receiveDialog|App", "other", "",
        ]),
    ) {
        let received = Received {
            account: "default",
            module,
            content_type: Some("application/json"),
            voice_base_url: "http://voice.example/",
        };
        let body = Bytes::from(body);
        let pushes = reading::read(&received, &body);
        prop_assert!(!pushes.is_empty());
        let raw: usize = pushes.iter().map(|push| push.entry.raw.len()).sum();
        // An element of an array in another charset is kept in UTF-8.
        prop_assert!(raw <= 2 * body.len());
        let is_one = pushes.len() == 1 && pushes[0].entry.raw == body;
        let is_array = body.iter().any(|byte| matches!(byte, b'[' | b'%'));
        prop_assert!(is_one || is_array);
        for push in &pushes {
            prop_assert!(PushEvent::decode(push.entry.event.clone()).is_ok());
        }
        let again = reading::read(&received, &body);
        let ids = |pushes: &[reading::Push]| pushes.iter().map(|push| push.entry.id).collect::<Vec<_>>();
        prop_assert_eq!(ids(&pushes), ids(&again));
    }

    #[test]
    fn fuzz_json_that_is_read_has_one_canonical_form(text in bent(bodies())) {
        let text = String::from_utf8_lossy(&text);
        if let Some(json) = Json::parse(&text) {
            let canonical = json.canonical();
            let again = Json::parse(&canonical).map(|json| json.canonical());
            prop_assert_eq!(again, Some(canonical));
        }
    }

    #[test]
    fn fuzz_a_bent_cursor_is_refused(position: u64, text in bent(vec![cursor(7).into_bytes()])) {
        let text = String::from_utf8_lossy(&text).into_owned();
        let store = StoreId([1; 8]);
        let read = Cursor::parse(&text, store);
        prop_assert!(read.is_err() || text == cursor(7));
        prop_assert_eq!(Cursor::parse(&cursor(position), store), Ok(Position(position)));
    }

    #[test]
    fn fuzz_a_configuration_is_read_or_its_faults_have_keys(
        text in bent(vec![CONFIG.as_bytes().to_vec(), DEFAULT_FILE.as_bytes().to_vec()]),
    ) {
        let text = String::from_utf8_lossy(&text);
        if let Err(faults) = Config::parse(&text, std::iter::empty()) {
            prop_assert!(!faults.is_empty());
            prop_assert!(faults.iter().all(|fault| !fault.key.is_empty()));
        }
    }

    #[test]
    fn fuzz_a_file_of_failed_pushes_stays_within_its_limits(bytes in bent(zips())) {
        let limits = Limits {
            line_bytes: 500,
            unpacked_bytes: 100_000,
            entries: 4,
            ..Limits::default()
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let mut unpacked = 0;
        let _ = file::read(file, &limits, |line| {
            if let Line::Whole(line) = line {
                assert!(line.len() <= limits.line_bytes);
                unpacked += line.len() as u64;
            }
            true
        });
        prop_assert!(unpacked <= limits.unpacked_bytes.max(bytes.len() as u64));
    }
}

fn cursor(position: u64) -> String {
    let store = StoreId([1; 8]);
    let position = Position(position);
    Cursor { store, position }.to_string()
}
