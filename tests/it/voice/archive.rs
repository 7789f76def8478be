//! Recordings that are kept: found under their calls' names, told to the calls, each once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tonic::transport::Endpoint;
use yeta_gateway::config::Config;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::subscription_service_client::SubscriptionServiceClient;
use yeta_gateway::proto::{
    Call, CallState, GetSubscriptionRequest, ListPushesRequest, PushFilter, PushKind, Voice,
};
use yeta_gateway::sandbox::SandboxConfig;

use super::{Stage, call, call_when, metadata, pushed, record, requests, url};
use crate::bridge::reason;
use crate::sandbox::harness::Sandbox;
use crate::support::{Http, Process, eventually, pushes_client};

fn into(folder: &Path) -> impl FnOnce(&mut Config) {
    let archive = format!("file://{}", folder.display());
    move |config: &mut Config| {
        config.voice.archive = archive;
        config.voice.retry_after = Duration::from_millis(20);
    }
}

/// Every file of a folder, by its path in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, &mut found);
    let name = |path: &PathBuf| path.strip_prefix(folder).unwrap().display().to_string();
    let files = found
        .iter()
        .map(|path| (name(path), std::fs::read(path).unwrap_or_default()));
    files.collect()
}

fn voice(call: &Call) -> Voice {
    call.voice.clone().unwrap_or_default()
}

fn is_kept(call: &Call) -> bool {
    !voice(call).archived_url.is_empty()
}

/// What the log holds of recordings that were to be kept.
async fn told(grpc: &str) -> Vec<Voice> {
    let filter = PushFilter {
        kinds: vec![PushKind::VoiceArchived.into()],
        ..PushFilter::default()
    };
    let request = ListPushesRequest {
        filter: Some(filter),
        page_size: 1000,
        ..ListPushesRequest::default()
    };
    let page = pushes_client(grpc).list_pushes(request).await.unwrap();
    let events = page.into_inner().events;
    let voices = events.into_iter().map(|event| match event.payload {
        Some(Payload::VoiceArchived(voice)) => voice,
        other => panic!("{other:?}"),
    });
    voices.collect()
}

#[tokio::test]
async fn a_recording_is_kept_under_what_is_known_of_its_call_and_the_call_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::with(into(folder.path())).await;
    let bytes = stage.record("ant/4/a.MP3", 100_000).await;
    let identity = json!({ "call_uuid": "c/..", "app_id": "app", "task_data_id": "1" });
    let with = |more: serde_json::Value| {
        let mut body = identity.clone();
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let record = json!({ "task_id": "129", "direction": 2, "time_answer": 1, "task_row_index": 1, "task_result": "0" });
    stage
        .app
        .push(
            "receiveVoice",
            with(json!({ "url": "ant/4/a.MP3", "size": 100_000 })),
        )
        .await;
    stage.app.push("receiveCallRecord", with(record)).await;
    stage
        .app
        .push(
            "receiveDialog",
            with(json!({ "tag_max": "A", "dialog": [{ "seq": 1 }] })),
        )
        .await;

    let call = call_when(&stage.app.grpc, "c/..", is_kept).await;
    let files = files(folder.path());
    let [(name, kept)] = &files.iter().collect::<Vec<_>>()[..] else {
        panic!("{files:?}");
    };
    assert!(**kept == bytes);
    assert!(
        name.starts_with("default/20") && name.rsplit('.').next() == Some("mp3"),
        "{name}"
    );
    assert!(name.contains("/129/c_..-A-"), "{name}");
    let expected = format!("file://{}/{name}", folder.path().display());
    assert_eq!(
        (voice(&call).archived_url, voice(&call).archive_error),
        (expected, String::new())
    );
    assert_eq!(told(&stage.app.grpc).await, [voice(&call)]);
    // A call that was told before is told again.
    let last = call_when(&stage.app.grpc, "c/..", |call| {
        call.revision > 0 && is_kept(call)
    })
    .await;
    assert_eq!(last.state(), CallState::Complete);
}

#[tokio::test]
async fn a_recording_that_the_voice_server_has_no_more_comes_from_the_archive() {
    const SIZE: u64 = 2_500_000;
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::with(into(folder.path())).await;
    let bytes = stage.record("a.wav", SIZE).await;
    stage.announce("c", "a.wav", SIZE).await;
    let kept = call_when(&stage.app.grpc, "c", is_kept).await;
    let gone = json!({ "operation": "voice", "fault": "not_found", "times": 99 });
    stage.sandbox.fault(gone).await;

    for offset in [0_usize, 1, 1 << 20, 2_499_999, 2_500_000] {
        let at = i64::try_from(offset).unwrap();
        let (info, got) = stage.get(call("c"), at).await.unwrap().whole();
        assert_eq!((info.size, info.offset), (Some(2_500_000), at));
        assert_eq!(info.url, voice(&kept).archived_url);
        assert!(info.announced_at.is_some() && !info.size_differs);
        assert!(got == bytes[offset..], "from {offset}");
    }
    let beyond = stage.get(call("c"), 2_500_001).await.err().unwrap();
    assert_eq!(reason(&beyond).1, "OFFSET_BEYOND_END");
    assert_eq!(metadata(&beyond, "size"), "2500000");
    // Also by its address, for whoever may see a call that has it.
    let (info, got) = stage.get(url("a.wav"), 0).await.unwrap().whole();
    assert!(info.url == voice(&kept).archived_url && got == bytes);
    for (name, _) in files(folder.path()) {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let gone = stage.get(call("c"), 0).await.err().unwrap();
    assert_eq!(reason(&gone).1, "VOICE_NOT_FOUND");
}

#[tokio::test]
async fn a_recording_that_comes_late_is_kept_and_makes_a_new_revision_of_its_call() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::with(|config| {
        into(folder.path())(config);
        config.calls.wait = Duration::from_millis(20);
    })
    .await;
    stage.announce("c", "late.wav", 50_000).await;
    let before = call_when(&stage.app.grpc, "c", |call| call.revision == 1).await;
    assert!(!is_kept(&before));
    eventually("it is asked for again", async || {
        (stage.requests().await > 2).then_some(())
    })
    .await;
    let bytes = stage.record("late.wav", 50_000).await;
    let call = call_when(&stage.app.grpc, "c", |call| call.revision == 2).await;
    assert!(is_kept(&call));
    assert!(files(folder.path()).values().all(|file| *file == bytes));
}

#[tokio::test]
async fn a_recording_that_never_comes_is_said_in_its_call() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::with(|config| {
        into(folder.path())(config);
        config.voice.retry_for = Duration::from_millis(200);
    })
    .await;
    stage.announce("c", "never.wav", 50_000).await;
    stage
        .announce("elsewhere", "http://127.0.0.1:1/a.wav", 50_000)
        .await;
    for (call_uuid, reason) in [
        ("c", "VOICE_NOT_FOUND: "),
        ("elsewhere", "VOICE_ADDRESS_REFUSED: "),
    ] {
        let has_error = |call: &Call| !voice(call).archive_error.is_empty();
        let call = call_when(&stage.app.grpc, call_uuid, has_error).await;
        assert!(voice(&call).archive_error.starts_with(reason), "{call:?}");
        assert!(!is_kept(&call));
    }
    assert!(files(folder.path()).is_empty());
    let metrics = stage
        .app
        .http
        .get(&stage.app.admin, "/metrics")
        .await
        .unwrap()
        .text();
    assert!(
        metrics.contains(r#"voice_archive_total{outcome="given_up"} 2"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_recording_of_another_size_is_tried_again_and_kept_in_the_end_with_a_word_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::with(into(folder.path())).await;
    let bytes = stage.record("a.wav", 1_000).await;
    // For a while half of it is there.
    let half = json!({ "operation": "voice", "fault": "wrong_size", "times": 2 });
    stage.sandbox.fault(half).await;
    stage.announce("growing", "a.wav", 1_000).await;
    let call = call_when(&stage.app.grpc, "growing", is_kept).await;
    assert_eq!(voice(&call).archive_error, "");

    stage.announce("wrong", "a.wav", 3_000).await;
    let call = call_when(&stage.app.grpc, "wrong", is_kept).await;
    let error = voice(&call).archive_error;
    assert!(
        error.starts_with("SIZE_MISMATCH: ") && error.contains("3000"),
        "{error}"
    );
    let files = files(folder.path());
    assert!(
        files.len() == 2 && files.values().all(|file| *file == bytes),
        "{files:?}"
    );
}

/// A gateway of its own that keeps recordings.
struct Archiving {
    sandbox: Sandbox,
    folder: TempDir,
    gateway: Option<Process>,
}

impl Archiving {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::start(SandboxConfig::default()).await;
        let more = format!(
            "platform.voice_base_url = '{}/voice/'\n\
             calls.wait = '1s'\n\
             voice.archive = 'file://{}'\n\
             voice.retry_after = '100ms'\n",
            sandbox.base,
            folder.path().join("kept").display()
        );
        Process::configure(folder.path(), &more);
        let mut archiving = Self {
            sandbox,
            folder,
            gateway: None,
        };
        archiving.spawn().await;
        archiving
    }

    async fn spawn(&mut self) {
        self.gateway = Some(Process::spawn(Process::command(self.folder.path())).await);
    }

    fn kill(&mut self) {
        self.gateway.take().unwrap().kill();
    }

    fn grpc(&self) -> String {
        self.gateway.as_ref().unwrap().addresses.grpc.clone()
    }

    async fn push(&self, number: usize) {
        let push = &self.gateway.as_ref().unwrap().addresses.push;
        let body = pushed(
            &format!("c{number}"),
            &format!("{number}.wav"),
            size(number),
        );
        let answer = Http::new().push(push, "receiveVoice", body).await.unwrap();
        assert!(answer.is_success());
    }

    fn kept(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.folder.path().join("kept"))
    }
}

/// Some are sent to the archive in one piece, some in several.
fn size(number: usize) -> u64 {
    if number.is_multiple_of(4) {
        12 << 20
    } else {
        10_000 + number as u64
    }
}

#[tokio::test]
async fn recordings_are_kept_and_told_once_through_kills() {
    const RECORDINGS: usize = 12;
    let mut stage = Archiving::start().await;
    let mut expected = Vec::new();
    for number in 0..RECORDINGS {
        expected.push(record(&stage.sandbox, &format!("{number}.wav"), size(number)).await);
        stage.push(number).await;
    }
    for round in 0..5 {
        // Killed as soon as it has begun with something more, wherever it is by then.
        let before = requests(&stage.sandbox).await;
        eventually("something is fetched, or all is told", async || {
            let all = told(&stage.grpc()).await.len() == RECORDINGS;
            (all || requests(&stage.sandbox).await > before + round).then_some(())
        })
        .await;
        stage.kill();
        stage.spawn().await;
    }
    let mut calls = BTreeMap::new();
    for number in 0..RECORDINGS {
        let uuid = format!("c{number}");
        let is_final = |call: &Call| is_kept(call) && call.revision > 0;
        calls.insert(number, call_when(&stage.grpc(), &uuid, is_final).await);
    }
    assert_eq!(told(&stage.grpc()).await.len(), RECORDINGS);
    let kept = stage.kept();
    assert_eq!(kept.len(), RECORDINGS, "{:?}", kept.keys());
    for (number, call) in &calls {
        let (_, name) = voice(call)
            .archived_url
            .split_once("/kept/")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        assert!(kept[&name] == expected[*number], "{name}");
    }

    // The log alone makes the same calls again.
    stage.kill();
    std::fs::remove_dir_all(stage.folder.path().join("store/calls")).unwrap();
    stage.spawn().await;
    for (number, before) in &calls {
        let call = call_when(&stage.grpc(), &format!("c{number}"), |call| {
            call.revision >= before.revision
        })
        .await;
        assert_eq!(call, *before);
    }
}

#[tokio::test]
async fn a_change_of_how_long_recordings_are_tried_reaches_the_subscription_that_there_is() {
    let mut stage = Archiving::start().await;
    let deadline = async |stage: &Archiving| {
        let endpoint = Endpoint::from_shared(stage.grpc()).unwrap();
        let mut client = SubscriptionServiceClient::new(endpoint.connect_lazy());
        eventually("the archivist's subscription", async || {
            let name = "yeta-gateway.voice".to_owned();
            let request = GetSubscriptionRequest { name };
            let found = client.get_subscription(request).await.ok()?;
            Some(found.into_inner().ack_deadline?.seconds)
        })
        .await
    };
    assert_eq!(deadline(&stage).await, 5 * 24 * 3600);
    let file = stage.folder.path().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("voice.retry_for = '48h'\n{text}")).unwrap();
    stage.kill();
    stage.spawn().await;
    eventually("the deadline to change", async || {
        (deadline(&stage).await == 48 * 3600).then_some(())
    })
    .await;
}
