//! Places calls through the gateway's gRPC port and follows them to their last push.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use tonic::transport::Channel;
use yeta_gateway::proto::config_service_client::ConfigServiceClient;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    CallOutRequest, CallRecord, CallRecordVariant, Dialog, PushEvent, QueryConfigRequest, Row,
    SubscribePushesRequest, SubscribePushesResponse, Voice,
};

use super::report;
use crate::cli::print;

/// The documents' own example numbers: in the sandbox two answer, the other is busy.
const ROWS: [[&str; 2]; 3] = [
    ["13000000001", "张先生"],
    ["13000000002", "王女士"],
    ["19900000001", "李女士"],
];

/// What has come back of a call.
#[derive(Default)]
pub struct Call {
    basic: bool,
    /// The outbound record, which has everything that the basic one has.
    pub record: Option<CallRecord>,
    /// The recording.
    pub voice: Option<Voice>,
    /// The dialog.
    pub dialog: Option<Dialog>,
}

impl Call {
    /// Whether the call was answered; `None` before its record has come.
    pub fn answered(&self) -> Option<bool> {
        Some(
            self.record
                .as_ref()?
                .time_answer
                .is_some_and(|time| time > 0),
        )
    }

    fn take(&mut self, payload: Payload) {
        match payload {
            Payload::CallRecord(record) if record.variant() == CallRecordVariant::Outbound => {
                self.record = Some(record);
            }
            Payload::CallRecord(_) => self.basic = true,
            Payload::Voice(voice) => self.voice = Some(voice),
            Payload::Dialog(dialog) => self.dialog = Some(dialog),
            Payload::Call(_) | Payload::Unrecognized(_) => {}
        }
    }

    fn is_complete(&self) -> bool {
        let spoken = self.voice.is_some() && self.dialog.is_some();
        self.basic && self.answered().is_some_and(|answered| spoken || !answered)
    }
}

/// Submits the calls and prints what comes back, until all of it has.
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
    report::submitting(robot, line, ROWS.len());

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
    report::submitted(&placed);
    let calls = follow(channel, placed.push_cursor).await?;
    report::summary(&calls);
    Ok(())
}

/// Reads pushes until every row's call is complete.
async fn follow(channel: Channel, push_cursor: String) -> anyhow::Result<Vec<Call>> {
    let request = SubscribePushesRequest {
        start: Some(Start::Cursor(push_cursor)),
        ..SubscribePushesRequest::default()
    };
    let mut stream = PushServiceClient::new(channel)
        .subscribe_pushes(request)
        .await?
        .into_inner();
    let mut calls: HashMap<String, Call> = HashMap::new();
    while let Some(message) = stream.message().await? {
        let SubscribePushesResponse::Event(event) = message else {
            continue;
        };
        anstream::println!("  {}", print::line(&event));
        let Some((call_uuid, payload)) = call_of(*event) else {
            continue;
        };
        calls.entry(call_uuid).or_default().take(payload);
        if calls.len() == ROWS.len() && calls.values().all(Call::is_complete) {
            return Ok(calls.into_values().collect());
        }
    }
    bail!("the gateway ended the stream")
}

fn call_of(event: PushEvent) -> Option<(String, Payload)> {
    let payload = event.payload?;
    let call_uuid = match &payload {
        Payload::CallRecord(record) => &record.call_uuid,
        Payload::Voice(voice) => &voice.call_uuid,
        Payload::Dialog(dialog) => &dialog.call_uuid,
        Payload::Call(_) | Payload::Unrecognized(_) => return None,
    };
    Some((call_uuid.clone(), payload))
}
