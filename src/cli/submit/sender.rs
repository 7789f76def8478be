//! One stream of an upload: the whole file to the gateway, and what became of each row back.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::Context;
use futures_util::stream;
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::{
    SubmitRowsRequest, UploadHeader, UploadRow, UploadRowError, UploadRows, submit_rows_request,
    submit_rows_response,
};

use super::columns::Columns;
use super::flight::Flight;
use super::progress::Progress;
use super::report::Report;
use super::source::{Line, Source};
use crate::cli::remote::Connection;

/// What an upload is made of.
pub struct Upload {
    pub client: OutboundServiceClient<Connection>,
    pub header: UploadHeader,
    pub source: Arc<Source>,
    pub columns: Columns,
}

/// Why a stream did not come to its end.
pub enum Broken {
    /// The gateway or the way to it.
    Stream(Status),
    /// Something here, as when the file cannot be read any more.
    Here(anyhow::Error),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Stream(status)
    }
}

impl From<anyhow::Error> for Broken {
    fn from(error: anyhow::Error) -> Self {
        Self::Here(error)
    }
}

/// A message has so many rows at most, and so many bytes of values but for its last row.
const ROWS: usize = 200;
const BYTES: usize = 128 * 1024;
/// So many rows are sent and not answered at most: more than a gateway holds, so that it is the
/// gateway that sets the pace, and few enough to be kept in memory.
const IN_FLIGHT: usize = 20_000;

/// What sending and receiving share.
struct Shared<'a> {
    report: &'a RefCell<Report>,
    progress: &'a RefCell<Progress>,
    flight: RefCell<Flight>,
    room: Semaphore,
}

impl Upload {
    /// Sends the file from its first row to its last, and notes what became of each.
    pub async fn run(
        &self,
        report: &RefCell<Report>,
        progress: &RefCell<Progress>,
    ) -> Result<(), Broken> {
        let shared = Shared {
            report,
            progress,
            flight: RefCell::default(),
            room: Semaphore::new(IN_FLIGHT),
        };
        let (requests, to_send) = mpsc::channel(2);
        let received = async {
            self.receive(to_send, &shared).await?;
            let unanswered = shared.flight.borrow().rows();
            if unanswered > 0 {
                let ended = format!("the gateway ended the stream, {unanswered} rows unanswered");
                return Err(Broken::Stream(Status::unavailable(ended)));
            }
            Ok(())
        };
        let mut is_sent = false;
        let sent = async {
            self.send(requests, &shared).await?;
            is_sent = true;
            // From here on only the answers matter.
            std::future::pending::<Result<(), Broken>>().await
        };
        tokio::select! {
            ended = received => ended?,
            failed = sent => failed?,
        }
        if !is_sent {
            return Err(Status::unavailable("the gateway ended the stream before its end").into());
        }
        Ok(())
    }

    async fn send(
        &self,
        requests: mpsc::Sender<SubmitRowsRequest>,
        shared: &Shared<'_>,
    ) -> Result<(), Broken> {
        use submit_rows_request::Message;
        let request = |message| SubmitRowsRequest {
            message: Some(message),
        };
        let header = Message::Header(self.header.clone());
        let mut is_open = requests.send(request(header)).await.is_ok();
        let (lines_read, mut lines) = mpsc::channel(2);
        let source = self.source.clone();
        let reading = tokio::task::spawn_blocking(move || read(&source, &lines_read));
        while is_open && let Some(lines) = lines.recv().await {
            let count = u32::try_from(lines.len()).unwrap_or(u32::MAX);
            let room = shared.room.acquire_many(count).await;
            room.context("never closed")?.forget();
            let rows = UploadRows {
                rows: self.rows(lines, shared)?,
            };
            is_open = requests.send(request(Message::Rows(rows))).await.is_ok();
        }
        if !is_open {
            // The stream has broken, and its answers will tell why.
            return std::future::pending().await;
        }
        reading.await.context("the file's reader failed")??;
        Ok(())
    }

    /// What is sent of these lines; what is not is refused at once.
    fn rows(&self, lines: Vec<Line>, shared: &Shared<'_>) -> anyhow::Result<Vec<UploadRow>> {
        let mut rows = Vec::with_capacity(lines.len());
        for line in lines {
            match self.columns.row(&line) {
                Ok(row) => {
                    shared.flight.borrow_mut().add(&row.row_key, line);
                    rows.push(row);
                }
                Err(fault) => {
                    shared.room.add_permits(1);
                    let error = UploadRowError {
                        reason: fault.reason.to_owned(),
                        message: fault.message,
                        ..UploadRowError::default()
                    };
                    shared.report.borrow_mut().refuse(&line, &error)?;
                }
            }
        }
        Ok(rows)
    }

    async fn receive(
        &self,
        mut requests: mpsc::Receiver<SubmitRowsRequest>,
        shared: &Shared<'_>,
    ) -> Result<(), Broken> {
        use submit_rows_response::Message;
        let requests = stream::poll_fn(move |context| requests.poll_recv(context));
        let answers = self.client.clone().submit_rows(requests).await?;
        let mut answers = answers.into_inner();
        while let Some(answer) = answers.message().await? {
            // The gateway's own count says nothing that is not counted here.
            let Some(Message::Row(result)) = answer.message else {
                continue;
            };
            let line = shared.flight.borrow_mut().take(&result);
            // A key that was not sent would be no row of the file.
            let Some(line) = line else { continue };
            shared.room.add_permits(1);
            let mut report = shared.report.borrow_mut();
            report.settle(&line, result)?;
            shared.progress.borrow_mut().at(report.counts.settled());
        }
        Ok(())
    }
}

/// Hands out the file's lines in portions until nobody takes them.
fn read(source: &Source, lines: &mpsc::Sender<Vec<Line>>) -> anyhow::Result<()> {
    let (mut portion, mut bytes) = (Vec::new(), 0);
    source.read(|line| {
        bytes += line.values.iter().map(String::len).sum::<usize>();
        portion.push(line);
        if portion.len() < ROWS && bytes < BYTES {
            return ControlFlow::Continue(());
        }
        bytes = 0;
        match lines.blocking_send(std::mem::take(&mut portion)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    if !portion.is_empty() {
        // Whoever has stopped taking them has a reason of their own to tell.
        let _ = lines.blocking_send(portion);
    }
    Ok(())
}
