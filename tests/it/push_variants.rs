//! Bodies as other senders make them: what can be understood is, and what cannot is seen.

use std::io::Write as _;

use bytes::Bytes;
use encoding_rs::GB18030;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::{ListPushesRequest, PushEvent, PushKind};

use crate::support::{Answer, Http, PUSH_SECRET, Process, pushes_client};

/// A record with a value beyond ASCII.
fn record(call: &str) -> String {
    format!(r#"{{"call_uuid":"{call}","robot_id":"催收","direction":2}}"#)
}

async fn push(
    gateway: &Process,
    module: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let base = &gateway.addresses.push;
    let uri = format!("{base}/v1/push/default/{PUSH_SECRET}/{module}");
    let mut request = http::Request::post(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    Http::new().send(request).await.unwrap()
}

async fn events(gateway: &Process) -> Vec<PushEvent> {
    let request = ListPushesRequest {
        include_raw: true,
        ..ListPushesRequest::default()
    };
    let mut client = pushes_client(&gateway.addresses.grpc);
    let page = client.list_pushes(request).await.unwrap();
    page.into_inner().events
}

#[tokio::test]
async fn a_record_is_read_in_whatever_charset_encoding_or_form_it_comes() {
    const JSON: (&str, &str) = ("content-type", "application/json");
    let folder = tempfile::tempdir().unwrap();
    Process::configure(folder.path(), "");
    let gateway = Process::spawn(Process::command(folder.path())).await;
    let gbk = |call| GB18030.encode(&record(call)).0.into_owned();
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let form: String = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("data", &record("form"))
        .finish();
    let named = ("content-type", "application/json; charset=GBK");
    let encoded = ("content-encoding", "gzip");
    let forms = ("content-type", "application/x-www-form-urlencoded");
    let variants = [
        ("gbk", vec![named], gbk("gbk")),
        ("unnamed", vec![JSON], gbk("unnamed")),
        ("gzip", vec![JSON, encoded], gzip(record("gzip").as_bytes())),
        ("both", vec![JSON, encoded], gzip(&gbk("both"))),
        ("form", vec![forms], form.into_bytes()),
    ];
    for (call, headers, body) in &variants {
        let answer = push(&gateway, "receiveCallRecord", headers, body.clone()).await;
        assert_eq!(answer.text(), "success", "{call}");
    }
    // The same content again is the same event, however it comes.
    push(&gateway, "receiveCallRecord", &[JSON], record("gbk")).await;
    let events = events(&gateway).await;
    assert_eq!(events.len(), variants.len());
    for (event, (call, ..)) in events.iter().zip(&variants) {
        let Some(Payload::CallRecord(record)) = &event.payload else {
            panic!("{call}: {event:?}")
        };
        assert_eq!((&*record.call_uuid, &*record.robot_id), (*call, "催收"));
        let notes = event.reading_notes.len();
        assert_eq!(notes, usize::from(*call != "gzip"), "{call}: {event:?}");
    }
}

#[tokio::test]
async fn a_push_that_is_not_understood_is_stored_counted_and_logged_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    Process::configure(folder.path(), "");
    let gateway = Process::spawn(Process::command(folder.path())).await;
    let bomb = {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b' '; 16 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    for (module, headers, body, reason) in [
        (
            "receiveCallRecord",
            &[][..],
            b"{\"call_uuid\":\"1\",}".to_vec(),
            "not JSON",
        ),
        (
            "receivecallrecord",
            &[],
            record("2").into(),
            "not a documented module",
        ),
        (
            "receiveCallRecord",
            &[],
            b"[]".to_vec(),
            "not a JSON object",
        ),
        (
            "receiveVoice",
            &[],
            b"{}".to_vec(),
            "none of the module's documented fields",
        ),
        (
            "receiveVoice",
            &[("content-encoding", "gzip")],
            bomb,
            "not JSON",
        ),
    ] {
        let before = gateway.count_logged("push stored, not understood");
        for _ in 0..2 {
            let answer = push(&gateway, module, headers, body.clone()).await;
            assert_eq!(answer.text(), "success", "{reason}");
        }
        // Twice the same is one push.
        assert_eq!(
            gateway.count_logged("push stored, not understood"),
            before + 1
        );
        assert!(gateway.count_logged(reason) > 0, "{reason}");
        let admin = &gateway.addresses.admin;
        let metrics = Http::new().get(admin, "/metrics").await.unwrap().text();
        let counted = metrics.lines().any(|line| {
            line.starts_with("yeta_gateway_pushes_unrecognized_total")
                && line.contains(&format!("reason=\"{reason}\""))
        });
        assert!(counted, "{reason}: {metrics}");
    }
    let events = events(&gateway).await;
    assert!(
        events
            .iter()
            .all(|event| event.kind() == PushKind::Unrecognized)
    );
    assert_eq!(events.len(), 5);
}
