//! How a gateway ends, and what keeps it from starting.

use std::net::TcpListener;

use serde_json::json;
use tokio::net::unix::pipe;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use yeta_gateway::proto::SubscribePushesResponse;
use yeta_gateway::proto::config_service_client::ConfigServiceClient;
use yeta_gateway::proto::{ListPushesRequest, QueryConfigRequest};

use crate::bridge::reason;
use crate::fake::Fake;
use crate::support::{
    Http, Process, earliest, eventually, next_event, next_message, pushes_client, record, within,
};

#[tokio::test]
async fn a_gateway_told_to_end_says_so_everywhere_finishes_what_is_under_way_and_exits_zero() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Fake::start(|_, _, _| json!({ "code": 0, "result": {} }).to_string()).await;
    Process::configure_with_platform(folder.path(), &platform.base_url, "");
    let gateway = Process::spawn(Process::command(folder.path())).await;
    let at = gateway.addresses.clone();
    let http = Http::new();
    assert!(
        http.push(&at.push, "receiveCallRecord", record("a"))
            .await
            .unwrap()
            .is_success()
    );

    let mut subscriber = pushes_client(&at.grpc)
        .subscribe_pushes(earliest())
        .await
        .unwrap()
        .into_inner();
    let event = next_event(&mut subscriber).await;
    let channel = Endpoint::from_shared(at.grpc.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut watched = HealthClient::new(channel.clone())
        .watch(HealthCheckRequest {
            service: "yeta.v1.PushService".into(),
        })
        .await
        .unwrap()
        .into_inner();
    let serving = |message: Option<HealthCheckResponse>| message.unwrap().status();
    assert_eq!(
        serving(watched.message().await.unwrap()),
        ServingStatus::Serving
    );
    // A call that is with the platform, which takes its time.
    platform.hold_operations_until(usize::MAX);
    let mut config = ConfigServiceClient::new(channel);
    let call =
        tokio::spawn(async move { config.query_config(QueryConfigRequest::default()).await });
    eventually("the call to reach the platform", async || {
        (platform.operations() > 0).then_some(())
    })
    .await;

    gateway.terminate();
    eventually("not ready", async || {
        let ready = http.get(&at.admin, "/readyz").await.unwrap();
        (ready.status == 503).then_some(())
    })
    .await;
    let status = within("word of health", watched.message()).await.unwrap();
    assert_eq!(serving(status), ServingStatus::NotServing);
    // The stream may have had progress to tell before; its last word is how far it came.
    let mut last = None;
    let ended = loop {
        match next_message(&mut subscriber).await {
            Ok(SubscribePushesResponse::Progress(progress)) => last = Some(progress.cursor),
            Ok(other) => panic!("{other:?}"),
            Err(status) => break status,
        }
    };
    assert_eq!(last, Some(event.cursor.clone()));
    assert_eq!(reason(&ended).0, Code::Unavailable);
    assert_eq!(reason(&ended).1, "DRAINING");
    assert_eq!(
        within("the watch's end", watched.message()).await.unwrap(),
        None
    );
    assert_eq!(http.get(&at.admin, "/livez").await.unwrap().status, 200);
    assert!(!call.is_finished());
    platform.hold_operations_until(0);
    within("the call", call).await.unwrap().unwrap();

    let (status, output) = gateway.ended().await;
    assert_eq!(status.code(), Some(0), "{output}");
    let again = Process::spawn(Process::command(folder.path())).await;
    let held = pushes_client(&again.addresses.grpc)
        .list_pushes(ListPushesRequest::default())
        .await
        .unwrap();
    assert_eq!(held.into_inner().events[0].cursor, event.cursor);
}

#[tokio::test]
async fn a_gateway_with_open_streams_and_connections_ends_within_its_grace() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Process::start(folder.path()).await;
    let at = gateway.addresses.clone();
    let channel = Endpoint::from_shared(at.grpc.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let watched = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await
        .unwrap();
    let subscriber = pushes_client(&at.grpc)
        .subscribe_pushes(earliest())
        .await
        .unwrap();
    let http = Http::new();
    assert!(
        http.push(&at.push, "receiveVoice", "kept alive")
            .await
            .unwrap()
            .is_success()
    );
    let half = std::net::TcpStream::connect(at.push.trim_start_matches("http://")).unwrap();
    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(!output.contains("cut off"), "{output}");
    drop((watched, subscriber, half));
}

#[tokio::test]
async fn a_second_gateway_on_the_same_folder_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::start(folder.path()).await;
    let Err((status, output)) = Process::try_spawn(Process::command(folder.path())).await else {
        panic!("two gateways share a folder")
    };
    assert!(!status.success());
    let store = folder.path().join("store");
    assert!(output.contains("in use by another process"), "{output}");
    assert!(output.contains(store.to_str().unwrap()), "{output}");
    // The first has not noticed.
    let http = Http::new();
    let push = http.push(&first.addresses.push, "receiveVoice", "x").await;
    assert!(push.unwrap().is_success());
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for key in ["grpc.listen", "push.listen", "admin.listen"] {
        let folder = tempfile::tempdir().unwrap();
        Process::configure(folder.path(), "");
        let file = folder.path().join("gateway.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let port = format!("{key} = '127.0.0.1:0'");
        assert!(text.contains(&port));
        std::fs::write(&file, text.replace(&port, &format!("{key} = '{address}'"))).unwrap();
        let Err((status, output)) = Process::try_spawn(Process::command(folder.path())).await
        else {
            panic!("started on a taken port")
        };
        assert!(!status.success());
        assert!(
            output.contains(key) && output.contains(&address.to_string()),
            "{output}"
        );
    }
}

/// The C library of such systems looks up names without dots in a file that the environment names.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[tokio::test]
async fn a_name_that_is_being_looked_up_does_not_keep_a_gateway_from_ending() {
    let folder = tempfile::tempdir().unwrap();
    let aliases = folder.path().join("aliases");
    let made = std::process::Command::new("mkfifo").arg(&aliases).status();
    assert!(made.unwrap().success());
    let more = "dialog_context.endpoint = 'http://provider:50051'";
    Process::configure(folder.path(), more);
    let mut command = Process::command(folder.path());
    command.env("HOSTALIASES", &aliases);
    let gateway = Process::spawn(command).await;
    // Opened once the lookup has opened it, which then waits for a line that never comes.
    let _held = eventually("the name to be looked up", async || {
        pipe::OpenOptions::new().open_sender(&aliases).ok()
    })
    .await;
    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(status.success(), "{output}");
    assert!(output.contains("stopped"), "{output}");
}
