//! Places calls through the gateway's gRPC port and follows them to their last push.

use std::collections::HashSet;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use tonic::transport::Channel;
use yeta_gateway::proto::call_service_client::CallServiceClient;
use yeta_gateway::proto::config_service_client::ConfigServiceClient;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    Call, CallOutRequest, CallOutResponse, CallState, QueryConfigRequest, Row,
    SubscribePushesRequest, SubscribePushesResponse, WatchCallsRequest,
};

use super::report;
use crate::cli::print;

/// The documents' own example numbers: in the sandbox two answer, the other is busy.
const ROWS: [[&str; 2]; 3] = [
    ["13000000001", "张先生"],
    ["13000000002", "王女士"],
    ["19900000001", "李女士"],
];

/// Submits the calls, prints the pushes as they come, and ends with the calls that they make.
pub async fn place(gateway: SocketAddr) -> anyhow::Result<()> {
    let channel = Channel::from_shared(format!("http://{gateway}"))?
        .connect()
        .await?;
    let config = ConfigServiceClient::new(channel.clone())
        .query_config(QueryConfigRequest::default())
        .await?
        .into_inner();
    let robot = config
        .robots
        .iter()
        .find(|robot| robot.call_column.len() == ROWS[0].len());
    let robot = robot.context("the platform has no robot for rows of two columns")?;
    let line = config.lines.first().context("the platform has no line")?;
    report::submitting(robot, line, ROWS.len())?;

    let request = CallOutRequest {
        robot_id: robot.robot_id.clone(),
        line_num: line.line_num.clone(),
        call_column: robot.call_column.clone(),
        call_list: ROWS
            .iter()
            .map(|row| Row {
                values: row.map(String::from).to_vec(),
            })
            .collect(),
        ..CallOutRequest::default()
    };
    let placed = OutboundServiceClient::new(channel.clone())
        .call_out(request)
        .await?
        .into_inner();
    report::submitted(&placed)?;
    let follow = follow(channel.clone(), &placed);
    let ((), calls) = tokio::try_join!(follow, watch(channel, &placed))?;
    report::summary(&calls)
}

/// Prints pushes as they come, until each row's call has been put together.
async fn follow(channel: Channel, placed: &CallOutResponse) -> anyhow::Result<()> {
    let request = SubscribePushesRequest {
        start: Some(Start::Cursor(placed.push_cursor.clone())),
        ..SubscribePushesRequest::default()
    };
    let mut stream = PushServiceClient::new(channel)
        .subscribe_pushes(request)
        .await?
        .into_inner();
    let mut waiting: HashSet<_> = placed.task_data_ids.iter().cloned().collect();
    while let Some(message) = stream.message().await? {
        let SubscribePushesResponse::Event(event) = message else {
            continue;
        };
        print::styled(format_args!("  {}", print::line(&event)))?;
        if let Some(Payload::Call(call)) = &event.payload {
            waiting.remove(&call.task_data_id);
        }
        if waiting.is_empty() {
            return Ok(());
        }
    }
    bail!("the gateway ended the stream")
}

/// The calls of the rows, each once all of its pushes have come back.
async fn watch(channel: Channel, placed: &CallOutResponse) -> anyhow::Result<Vec<Call>> {
    let request = WatchCallsRequest {
        task_data_ids: placed.task_data_ids.clone(),
        push_cursor: placed.push_cursor.clone(),
    };
    let stream = CallServiceClient::new(channel).watch_calls(request).await?;
    let calls = stream
        .into_inner()
        .try_filter_map(async |message| Ok(message.call));
    let mut calls: Vec<_> = calls.try_collect().await?;
    if let Some(call) = calls
        .iter()
        .find(|call| call.state() != CallState::Complete)
    {
        bail!(
            "call {} was closed without all of its pushes",
            call.call_uuid
        );
    }
    calls.sort_by(|a, b| a.task_data_id.cmp(&b.task_data_id));
    Ok(calls)
}
