//! `DownloadVoice`: whole, in part, broken and resumed.

use std::time::Duration;

use serde_json::json;
use tonic::{Code, Request};
use yeta_gateway::config::{Client, Permission};
use yeta_gateway::proto::DownloadVoiceRequest;

use super::{Stage, call, download, metadata, sha256, url, voices};
use crate::bridge::reason;
use crate::support::{record as call_record, within};

#[tokio::test]
async fn a_recording_comes_with_what_is_known_of_it_by_its_call_or_its_address() {
    let stage = Stage::start().await;
    let bytes = stage.record("ant/4/a.wav", 300_000).await;
    stage.announce("c", "ant/4/a.wav", 300_000).await;
    let (info, got) = stage.get(call("c"), 0).await.unwrap().whole();
    assert_eq!(sha256(&got), sha256(&bytes));
    let address = format!("{}/voice/ant/4/a.wav", stage.sandbox.base);
    assert_eq!(
        (info.size, info.pushed_size),
        (Some(300_000), Some(300_000))
    );
    assert_eq!(
        (&*info.content_type, &*info.url),
        ("audio/x-wav", &*address)
    );
    assert!(info.announced_at.is_some() && !info.size_differs);

    for source in ["ant/4/a.wav", "/ant/4/a.wav", &address] {
        let (info, got) = stage.get(url(source), 0).await.unwrap().whole();
        assert_eq!(
            (info.size, sha256(&got)),
            (Some(300_000), sha256(&bytes)),
            "{source}"
        );
    }
}

#[tokio::test]
async fn a_recording_can_be_had_as_soon_as_its_push_was_answered() {
    let stage = Stage::start().await;
    let bytes = stage.record("a.wav", 1_000).await;
    for call_uuid in ["first", "second", "third"] {
        let push = super::pushed(call_uuid, "a.wav", 1_000);
        stage.app.push("receiveVoice", push).await;
        let (info, got) = stage.get(call(call_uuid), 0).await.unwrap().whole();
        assert_eq!(sha256(&got), sha256(&bytes));
        assert!(info.announced_at.is_some());
    }
    let push = super::pushed("fourth", "gone.wav", 1_000);
    stage.app.push("receiveVoice", push).await;
    let gone = stage.get(url("gone.wav"), 0).await.err().unwrap();
    assert!(metadata(&gone, "announced_at").ends_with('Z'), "{gone:?}");
}

#[tokio::test]
async fn an_address_brings_what_its_push_told_whichever_way_it_is_written() {
    let stage = Stage::start().await;
    let recording = json!({ "path": "录音.wav", "bytes": 1_000 });
    stage.sandbox.admin("recordings", recording).await;
    stage.announce("c", "/录音.wav", 77).await;
    let whole = format!("{}/voice/录音.wav", stage.sandbox.base);
    for address in ["录音.wav", "/%E5%BD%95%E9%9F%B3.wav", &whole] {
        let (info, _) = stage.get(url(address), 0).await.unwrap().whole();
        assert_eq!((info.pushed_size, info.size_differs), (Some(77), true));
        assert!(info.announced_at.is_some());
    }
    stage.announce("gone", "gone.wav", 1_000).await;
    let gone = stage.get(url("gone.wav"), 0).await.err().unwrap();
    let at = metadata(&gone, "announced_at");
    assert!(gone.message().ends_with(&format!("announced at {at}")));
}

#[tokio::test]
async fn a_recording_goes_on_from_any_byte() {
    let stage = Stage::start().await;
    let bytes = stage.record("a.wav", 100_000).await;
    for offset in [1_usize, 44, 65_536, 99_999, 100_000] {
        let at = i64::try_from(offset).unwrap();
        let (info, got) = stage.get(url("a.wav"), at).await.unwrap().whole();
        assert_eq!((info.size, info.offset), (Some(100_000), at));
        assert!(got == bytes[offset..], "from {offset}");
        // Also where the voice server knows nothing of ranges.
        stage
            .sandbox
            .fault(json!({ "operation": "voice", "fault": "ignore_range" }))
            .await;
        let (info, got) = stage.get(url("a.wav"), at).await.unwrap().whole();
        assert_eq!(info.size, Some(100_000));
        assert!(got == bytes[offset..], "from {offset}, without ranges");
    }
    for fault in [None, Some("ignore_range")] {
        if let Some(fault) = fault {
            let fault = json!({ "operation": "voice", "fault": fault });
            stage.sandbox.fault(fault).await;
        }
        let beyond = stage.get(url("a.wav"), 100_001).await.err().unwrap();
        let (code, reason, _) = reason(&beyond);
        assert_eq!((code, &*reason), (Code::OutOfRange, "OFFSET_BEYOND_END"));
        assert_eq!(metadata(&beyond, "size"), "100000");
    }
    let negative = stage.get(url("a.wav"), -1).await.err().unwrap();
    assert_eq!(negative.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_connection_that_breaks_is_taken_up_where_it_stood() {
    let stage = Stage::start().await;
    let bytes = stage.record("a.wav", 3_000_000).await;
    for fault in [
        json!({ "operation": "voice", "fault": "cut_before_reading", "times": 2 }),
        json!({ "operation": "voice", "fault": "http_500", "times": 2 }),
        json!({ "operation": "voice", "fault": "cut_mid_answer", "times": 5 }),
        json!([
            { "operation": "voice", "fault": "cut_mid_answer" },
            { "operation": "voice", "fault": "ignore_range" },
        ]),
    ] {
        stage.sandbox.fault(fault.clone()).await;
        let (_, got) = stage.get(url("a.wav"), 0).await.unwrap().whole();
        assert_eq!(sha256(&got), sha256(&bytes), "{fault}");
    }
}

#[tokio::test]
async fn a_recording_that_breaks_off_says_where_to_go_on() {
    let stage = Stage::start().await;
    let bytes = stage.record("a.wav", 1_000_000).await;
    let faults = json!([
        { "operation": "voice", "fault": "cut_mid_answer" },
        { "operation": "voice", "fault": "cut_before_reading", "times": 20 },
    ]);
    stage.sandbox.fault(faults).await;
    let mut got = stage.get(url("a.wav"), 0).await.unwrap();
    let broken = got.end.unwrap_err();
    let (code, reason, _) = reason(&broken);
    assert_eq!(
        (code, &*reason),
        (Code::Unavailable, "VOICE_SERVER_UNREACHABLE")
    );
    assert_eq!(
        metadata(&broken, "next_offset"),
        got.bytes.len().to_string()
    );
    assert!(got.bytes.len() <= 500_000, "{}", got.bytes.len());

    let request = http::Request::delete(format!("{}/sandbox/faults", stage.sandbox.base));
    let request = request.body(http_body_util::Full::default()).unwrap();
    stage.sandbox.exchange(request).await.unwrap();
    let offset = i64::try_from(got.bytes.len()).unwrap();
    let (_, rest) = stage.get(url("a.wav"), offset).await.unwrap().whole();
    got.bytes.extend(rest);
    assert_eq!(sha256(&got.bytes), sha256(&bytes));
}

#[tokio::test]
async fn a_recording_that_changes_on_the_way_is_not_patched_together() {
    let stage = Stage::start().await;
    stage.record("a.wav", 1_000_000).await;
    let faults = json!([
        { "operation": "voice", "fault": "cut_mid_answer" },
        { "operation": "voice", "fault": "wrong_size" },
    ]);
    stage.sandbox.fault(faults).await;
    let got = stage.get(url("a.wav"), 0).await.unwrap();
    let changed = got.end.unwrap_err();
    let code = changed.code();
    assert!(
        matches!(code, Code::Aborted | Code::OutOfRange),
        "{changed:?}"
    );
}

#[tokio::test]
async fn another_size_than_the_push_told_is_said() {
    let stage = Stage::start().await;
    let bytes = stage.record("a.wav", 1_000).await;
    stage.announce("c", "a.wav", 2_000).await;
    let (info, got) = stage.get(call("c"), 0).await.unwrap().whole();
    assert_eq!((info.size, info.pushed_size), (Some(1_000), Some(2_000)));
    assert!(info.size_differs && got == bytes);
}

#[tokio::test]
async fn what_is_not_there_says_what_of_it_is_known() {
    let stage = Stage::start().await;
    let unknown = stage.get(call("none"), 0).await.err().unwrap();
    assert_eq!(reason(&unknown).1, "CALL_NOT_FOUND");

    stage
        .app
        .push("receiveCallRecord", call_record("silent"))
        .await;
    super::call_when(&stage.app.grpc, "silent", |_| true).await;
    let silent = stage.get(call("silent"), 0).await.err().unwrap();
    assert_eq!(
        (silent.code(), &*reason(&silent).1),
        (Code::NotFound, "VOICE_NOT_PUSHED")
    );

    stage.announce("gone", "gone.wav", 1_000).await;
    let gone = stage.get(call("gone"), 0).await.err().unwrap();
    assert_eq!(
        (gone.code(), &*reason(&gone).1),
        (Code::NotFound, "VOICE_NOT_FOUND")
    );
    assert!(metadata(&gone, "announced_at").ends_with('Z'), "{gone:?}");
    let by_address = stage.get(url("gone.wav"), 0).await.err().unwrap();
    assert_eq!(reason(&by_address).1, "VOICE_NOT_FOUND");

    let failing = json!({ "operation": "voice", "fault": "http_500", "times": 9 });
    stage.sandbox.fault(failing).await;
    let failed = stage.get(url("a.wav"), 0).await.err().unwrap();
    assert_eq!(
        (failed.code(), &*reason(&failed).1),
        (Code::Unavailable, "VOICE_SERVER_ERROR")
    );
    assert_eq!(metadata(&failed, "http_status"), "500");
}

#[tokio::test]
async fn a_deadline_ends_a_recording_and_says_where_to_go_on() {
    let stage = Stage::start().await;
    stage.record("a.wav", 10_000_000).await;
    for slow in [
        json!({ "operation": "voice", "fault": "slow", "millis": 200 }),
        json!({ "operation": "voice", "fault": "latency", "millis": 60_000 }),
    ] {
        stage.sandbox.fault(slow).await;
        let mut request = Request::new(DownloadVoiceRequest {
            source: Some(url("a.wav")),
            offset: 0,
        });
        // Told in the metadata alone: the client's own clock would end the stream in its own words.
        request
            .metadata_mut()
            .insert("grpc-timeout", "1S".parse().unwrap());
        let mut client = voices(&stage.app.grpc);
        let ended = within("the deadline", async {
            let mut stream = client.download_voice(request).await?.into_inner();
            while stream.message().await?.is_some() {}
            Ok::<(), tonic::Status>(())
        });
        let late = ended.await.unwrap_err();
        assert_eq!(
            (late.code(), &*reason(&late).1),
            (Code::DeadlineExceeded, "DEADLINE")
        );
        metadata(&late, "next_offset").parse::<u64>().unwrap();
    }
}

#[tokio::test]
async fn a_drain_ends_a_recording_and_says_where_to_go_on() {
    let stage = Stage::start().await;
    stage.record("a.wav", 10_000_000).await;
    let slow = json!({ "operation": "voice", "fault": "slow", "millis": 200 });
    stage.sandbox.fault(slow).await;
    let request = DownloadVoiceRequest {
        source: Some(url("a.wav")),
        offset: 0,
    };
    let mut client = voices(&stage.app.grpc);
    let mut stream = client.download_voice(request).await.unwrap().into_inner();
    stream.message().await.unwrap();
    let stopping = tokio::spawn(stage.app.stop());
    let ended = within("the drain", async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    });
    let ended = ended.await;
    assert_eq!(
        (ended.code(), &*reason(&ended).1),
        (Code::Unavailable, "DRAINING")
    );
    metadata(&ended, "next_offset").parse::<u64>().unwrap();
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_fetches_recordings_of_its_own_accounts_calls_alone() {
    let named = |name: &str, allow: Permission, accounts: &[&str]| Client {
        name: name.into(),
        token_sha256: vec![sha256(name.as_bytes())],
        allow: vec![allow],
        accounts: accounts.iter().map(|&account| account.into()).collect(),
        ..Client::default()
    };
    let stage = Stage::with(|config| {
        config.clients = vec![
            named("own", Permission::Voice, &["default"]),
            named("other", Permission::Voice, &["second"]),
            named("none", Permission::Calls, &["*"]),
        ];
        let mut second = config.accounts[0].clone();
        second.name = "second".into();
        config.accounts.push(second);
        config.voice.stall_timeout = Duration::from_secs(15);
    })
    .await;
    stage.record("a.wav", 1_000).await;
    let push = super::pushed("c", "a.wav", 1_000);
    stage.app.push("receiveVoice", push).await;
    let ask = async |name: &str| {
        let mut request = Request::new(DownloadVoiceRequest {
            source: Some(call("c")),
            offset: 0,
        });
        let bearer = format!("Bearer {name}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        voices(&stage.app.grpc).download_voice(request).await
    };
    crate::support::eventually("the call is known", async || ask("own").await.ok()).await;
    assert_eq!(reason(&ask("other").await.unwrap_err()).1, "CALL_NOT_FOUND");
    assert_eq!(reason(&ask("none").await.unwrap_err()).1, "RPC_FORBIDDEN");
    let stranger = download(&stage.app.grpc, call("c"), 0).await.err().unwrap();
    assert_eq!(stranger.code(), Code::Unauthenticated);
}
