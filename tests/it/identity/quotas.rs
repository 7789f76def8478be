//! Each client's own bounds.

use tonic_types::StatusExt as _;
use yeta_gateway::config::Permission;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::{CallOutRequest, ListPushesRequest, Row, SubscribePushesRequest};

use super::{by, channel, client, reason};
use crate::support::{TestApp, eventually};

fn rows(count: usize) -> CallOutRequest {
    CallOutRequest {
        robot_id: "1".into(),
        line_num: "1".into(),
        call_column: vec!["number".into()],
        call_list: vec![
            Row {
                values: vec!["13812345678".into()],
            };
            count
        ],
        ..CallOutRequest::default()
    }
}

#[tokio::test]
async fn a_client_over_its_bounds_is_refused_and_told_when_to_come_back() {
    let app = TestApp::with(|config| {
        let mut requests = client("requests", &[Permission::Subscribe], &["*"]);
        requests.max_requests_per_second = 1;
        let mut placing = client("rows", &[Permission::Place], &["*"]);
        placing.max_rows_per_day = 2;
        let mut streams = client("streams", &[Permission::Subscribe], &["*"]);
        streams.max_streams = 1;
        config.clients = vec![requests, placing, streams];
    })
    .await;
    let channel = channel(&app.grpc);
    let mut pushes = PushServiceClient::new(channel.clone());

    let refused = eventually("a refusal", async || {
        let list = by("requests", ListPushesRequest::default());
        pushes.list_pushes(list).await.err()
    })
    .await;
    assert_eq!(reason(&refused), "OVERLOADED");
    let retry = refused
        .get_details_retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!(retry.as_secs_f64() <= 1.0, "{retry:?}");

    let mut outbound = OutboundServiceClient::new(channel);
    // The platform cannot be reached; the rows count all the same.
    let first = outbound.call_out(by("rows", rows(2))).await.unwrap_err();
    assert_eq!(reason(&first), "PLATFORM_UNREACHABLE");
    let second = outbound.call_out(by("rows", rows(1))).await.unwrap_err();
    assert_eq!(reason(&second), "OVERLOADED");
    assert!(second.get_details_retry_info().is_some());

    let subscribe = || by("streams", SubscribePushesRequest::default());
    let stream = pushes.subscribe_pushes(subscribe()).await.unwrap();
    let more = pushes.subscribe_pushes(subscribe()).await.unwrap_err();
    assert_eq!(reason(&more), "OVERLOADED");
    drop(stream);
    eventually("room for a stream", async || {
        pushes.subscribe_pushes(subscribe()).await.ok()
    })
    .await;
    app.stop().await.unwrap();
}
