//! What the gateway leaves on disk: who can read it, and what it shows.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tonic::transport::Endpoint;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::submit_rows_request::Message;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::{DirectCall, SubmitRowsRequest, UploadHeader, UploadRow, UploadRows};
use yeta_gateway::sandbox::SandboxConfig;

use crate::sandbox::harness::Sandbox;
use crate::support::{Http, Process, record, within};

/// Every file and folder below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn folders_and_files_are_the_gateways_own_also_where_the_folder_was_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    std::fs::create_dir(&store).unwrap();
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o755)).unwrap();
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let archive = folder.path().join("archive");
    let more = format!(
        "platform.voice_base_url = '{}/voice/'\nvoice.archive = 'file://{}'",
        sandbox.base,
        archive.display()
    );
    Process::configure_with_platform(folder.path(), &sandbox.base, &more);
    let gateway = Process::spawn(Process::command_after("umask 000", folder.path())).await;
    let push = &gateway.addresses.push;
    let pushed = Http::new()
        .push(push, "receiveCallRecord", record("c"))
        .await;
    assert!(pushed.unwrap().is_success());
    submit(&gateway.addresses.grpc).await;
    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(status.success(), "{output}");

    let found = [walk(&store), walk(&archive)].concat();
    for path in &found {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{} has {mode:o}", path.display());
    }
    assert!(found.iter().any(|path| path.ends_with("hash-key")));
    assert!(
        found
            .iter()
            .any(|path| path.extension().is_some_and(|it| it == "jnl"))
    );
}

/// Submits one row, which need not be accepted.
async fn submit(grpc: &str) {
    let channel = Endpoint::from_shared(grpc.to_owned())
        .unwrap()
        .connect_lazy();
    let header = UploadHeader {
        upload_id: "u".into(),
        call_column: vec!["客户手机号码".into()],
        target: Some(Target::Direct(DirectCall {
            robot_id: "1".into(),
            line_num: "1".into(),
            ..DirectCall::default()
        })),
        ..UploadHeader::default()
    };
    let rows = UploadRows {
        rows: vec![UploadRow {
            row_key: "r".into(),
            values: vec!["13800138000".into()],
        }],
    };
    let requests = [Message::Header(header), Message::Rows(rows)];
    let requests = requests.map(|message| SubmitRowsRequest {
        message: Some(message),
    });
    let mut client = OutboundServiceClient::new(channel);
    let answers = client
        .submit_rows(futures_util::stream::iter(requests))
        .await;
    let mut answers = answers.unwrap().into_inner();
    within("the row's answer", async {
        while let Ok(Some(_)) = answers.message().await {}
    })
    .await;
}

#[tokio::test]
async fn a_gateway_does_not_start_with_another_hash_key_than_its_store_was_written_with() {
    let folder = tempfile::tempdir().unwrap();
    Process::configure(
        folder.path(),
        &format!("store.hash_key = '{}'", "a".repeat(32)),
    );
    let gateway = Process::spawn(Process::command(folder.path())).await;
    assert!(!folder.path().join("store/hash-key").exists());
    gateway.terminate();
    assert!(gateway.ended().await.0.success());

    let other = "b".repeat(32);
    Process::configure(folder.path(), &format!("store.hash_key = '{other}'"));
    let started = Process::try_spawn(Process::command(folder.path())).await;
    let (status, output) = started.err().unwrap();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(
        output.contains("another hash key than store.hash_key"),
        "{output}"
    );
    assert!(!output.contains(&other), "{output}");
}
