//! A gateway that answers uploads by the rows' own words, keeps what it accepted, and breaks off
//! where it is told to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};
use yeta_gateway::proto::outbound_service_server::{OutboundService, OutboundServiceServer};
use yeta_gateway::proto::settle_submission_request::{Outcome as Settled, Which};
use yeta_gateway::proto::upload_row_result::Outcome;
use yeta_gateway::proto::{
    CallOutRequest, CallOutResponse, CreateTaskRequest, CreateTaskResponse, DeleteTaskRequest,
    DeleteTaskResponse, GetSubmissionRequest, InsertTaskDataRequest, InsertTaskDataResponse,
    ListSubmissionsRequest, ListSubmissionsResponse, PauseTaskRequest, PauseTaskResponse,
    QueryTasksRequest, QueryTasksResponse, SettleSubmissionRequest, Settlement, StartTaskRequest,
    StartTaskResponse, Submission, SubmissionState, SubmitRowsRequest, SubmitRowsResponse,
    UploadHeader, UploadProgress, UploadRow, UploadRowError, UploadRowResult, UploadRowWarning,
    submit_rows_request, submit_rows_response,
};

/// Where a stream ends before its end.
pub enum Break {
    /// With a status, after so many rows of it were answered.
    With(usize, Status),
    /// Silent after so many rows, until the connection is gone.
    Silent(usize),
    /// As if all was done, after so many rows.
    Early(usize),
}

/// What the gateway was asked for and what it knows.
#[derive(Default)]
pub struct Book {
    /// Each stream's header.
    pub headers: Vec<UploadHeader>,
    /// Each row that was accepted, as it was called.
    pub called: Vec<UploadRow>,
    /// The rows that one stream brought, of the last stream.
    pub received: Vec<UploadRow>,
    /// Accepted rows of each upload.
    known: HashMap<(String, String), String>,
    /// The breaks to come, one for each stream.
    pub breaks: VecDeque<Break>,
    /// What `GetSubmission`, `ListSubmissions` and `SettleSubmission` know.
    pub submissions: Vec<Submission>,
    /// Each request to settle a submission.
    pub settled: Vec<SettleSubmissionRequest>,
    /// The request ids of other requests.
    pub request_ids: Vec<String>,
}

#[derive(Clone)]
pub struct Fake {
    pub book: Arc<Mutex<Book>>,
    /// One permit for each stream that has fallen silent, or is at its end and may not end.
    pub silent: Arc<Semaphore>,
    /// One permit for each stream that may end.
    pub may_end: Arc<Semaphore>,
    pub address: String,
}

impl Fake {
    /// Serves until the runtime ends.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            book: Arc::default(),
            silent: Arc::new(Semaphore::new(0)),
            may_end: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            address: format!("http://{}", listener.local_addr().unwrap()),
        };
        let service = OutboundServiceServer::new(fake.clone());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        fake
    }

    pub async fn that_breaks(breaks: impl IntoIterator<Item = Break>) -> Self {
        let fake = Self::start().await;
        fake.book.lock().unwrap().breaks.extend(breaks);
        fake
    }

    /// The first values of the rows that were called, sorted.
    pub fn called(&self) -> Vec<String> {
        let book = self.book.lock().unwrap();
        let mut called: Vec<_> = book
            .called
            .iter()
            .map(|row| row.values[0].clone())
            .collect();
        called.sort();
        called
    }

    /// What a row's last value asks for.
    fn answer(&self, upload_id: &str, row: UploadRow) -> UploadRowResult {
        let mut result = UploadRowResult {
            row_key: row.row_key.clone(),
            ..UploadRowResult::default()
        };
        let mut book = self.book.lock().unwrap();
        book.received.push(row.clone());
        let key = (upload_id.to_owned(), row.row_key.clone());
        if let Some(id) = book.known.get(&key) {
            result.outcome = Some(Outcome::TaskDataId(id.clone()));
            result.known_before = true;
            return result;
        }
        let reason = match row.values.last().map(String::as_str) {
            Some("bad") => "BAD_PHONE_NUMBER",
            Some("lost") => "OUTCOME_UNKNOWN",
            word => {
                if word == Some("odd") {
                    result.warnings.push(UploadRowWarning {
                        reason: "DUPLICATE_NUMBER".into(),
                        message: "as in another row".into(),
                    });
                }
                let id = format!("id-{}", book.called.len());
                book.known.insert(key, id.clone());
                book.called.push(row);
                result.outcome = Some(Outcome::TaskDataId(id));
                return result;
            }
        };
        result.outcome = Some(Outcome::Error(UploadRowError {
            reason: reason.into(),
            message: format!("号码{}不合规", row.values[0]),
            platform_code: String::new(),
        }));
        result
    }

    async fn upload(
        self,
        mut requests: Streaming<SubmitRowsRequest>,
        answers: mpsc::Sender<Result<SubmitRowsResponse, Status>>,
    ) -> Option<()> {
        use submit_rows_request::Message;
        let said = requests.message().await.ok()??.message;
        let Some(Message::Header(header)) = said else {
            panic!("a header comes first");
        };
        let upload_id = header.upload_id.clone();
        let next = {
            let mut book = self.book.lock().unwrap();
            book.headers.push(header);
            book.received.clear();
            book.breaks.pop_front()
        };
        let mut answered = 0;
        while let Some(message) = requests.message().await.ok()? {
            let Some(Message::Rows(rows)) = message.message else {
                panic!("rows come after the header");
            };
            for row in rows.rows {
                match &next {
                    Some(Break::With(after, status)) if *after == answered => {
                        answers.send(Err(status.clone())).await.ok()?;
                        return None;
                    }
                    Some(Break::Early(after)) if *after == answered => return None,
                    Some(Break::Silent(after)) if *after == answered => {
                        self.silent.add_permits(1);
                        answers.closed().await;
                        return None;
                    }
                    _ => {}
                }
                let result = self.answer(&upload_id, row);
                let message = submit_rows_response::Message::Row(result);
                answers.send(Ok(said_of(message))).await.ok()?;
                answered += 1;
            }
            let progress = UploadProgress::default();
            let message = submit_rows_response::Message::Progress(progress);
            answers.send(Ok(said_of(message))).await.ok()?;
        }
        if self.may_end.available_permits() == 0 {
            self.silent.add_permits(1);
        }
        self.may_end.acquire().await.unwrap().forget();
        Some(())
    }
}

/// Whether a submission is of this client; empty: of any.
fn is_of(submission: &Submission, client: &str) -> bool {
    client.is_empty() || submission.client == client
}

fn said_of(message: submit_rows_response::Message) -> SubmitRowsResponse {
    SubmitRowsResponse {
        message: Some(message),
    }
}

/// UNAVAILABLE, worth another try at once.
pub fn unavailable() -> Status {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
    Status::with_error_details(tonic::Code::Unavailable, "draining", details)
}

#[tonic::async_trait]
impl OutboundService for Fake {
    type SubmitRowsStream = ReceiverStream<Result<SubmitRowsResponse, Status>>;

    async fn submit_rows(
        &self,
        request: Request<Streaming<SubmitRowsRequest>>,
    ) -> Result<Response<Self::SubmitRowsStream>, Status> {
        // Rows are read only as fast as answers are taken.
        let (answers, stream) = mpsc::channel(1);
        tokio::spawn(self.clone().upload(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_submission(
        &self,
        request: Request<GetSubmissionRequest>,
    ) -> Result<Response<Submission>, Status> {
        let GetSubmissionRequest { request_id, client } = request.into_inner();
        let book = self.book.lock().unwrap();
        let mut submissions = book.submissions.iter();
        let found = submissions.find(|it| it.request_id == request_id && is_of(it, &client));
        let found = found.ok_or_else(|| Status::not_found("none"))?;
        Ok(Response::new(found.clone()))
    }

    async fn settle_submission(
        &self,
        request: Request<SettleSubmissionRequest>,
    ) -> Result<Response<Submission>, Status> {
        let request = request.into_inner();
        let mut book = self.book.lock().unwrap();
        book.settled.push(request.clone());
        let is_it = |it: &&mut Submission| match &request.which {
            Some(Which::RequestId(id)) => it.request_id == *id,
            Some(Which::UploadRow(row)) => it.upload_id == row.upload_id,
            None => false,
        };
        let submission = book.submissions.iter_mut().find(is_it);
        let submission = submission.ok_or_else(|| Status::not_found("none"))?;
        if submission.state() != SubmissionState::Unknown {
            let code = tonic::Code::FailedPrecondition;
            let details =
                ErrorDetails::with_error_info("SUBMISSION_NOT_UNKNOWN", "yeta-gateway", []);
            return Err(Status::with_error_details(code, "not unknown", details));
        }
        submission.settlements.push(Settlement {
            client: "ops".into(),
            reason: request.reason,
            accepted: matches!(request.outcome, Some(Settled::Accepted(_))),
            ..Settlement::default()
        });
        Ok(Response::new(submission.clone()))
    }

    /// One to a page.
    async fn list_submissions(
        &self,
        request: Request<ListSubmissionsRequest>,
    ) -> Result<Response<ListSubmissionsResponse>, Status> {
        let request = request.into_inner();
        let book = self.book.lock().unwrap();
        let is_wanted = |it: &&Submission| {
            let state = request.state();
            (state == SubmissionState::Unspecified || it.state() == state)
                && is_of(it, &request.client)
        };
        let found: Vec<_> = book.submissions.iter().filter(is_wanted).collect();
        let at: usize = request.page_token.parse().unwrap_or(0);
        let next_page_token = (at + 1 < found.len()).then(|| (at + 1).to_string());
        Ok(Response::new(ListSubmissionsResponse {
            submissions: found.into_iter().skip(at).take(1).cloned().collect(),
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }

    async fn call_out(
        &self,
        request: Request<CallOutRequest>,
    ) -> Result<Response<CallOutResponse>, Status> {
        self.note(request.into_inner().request_id);
        Ok(Response::new(CallOutResponse::default()))
    }

    async fn create_task(
        &self,
        request: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        self.note(request.into_inner().request_id);
        Ok(Response::new(CreateTaskResponse::default()))
    }

    async fn insert_task_data(
        &self,
        request: Request<InsertTaskDataRequest>,
    ) -> Result<Response<InsertTaskDataResponse>, Status> {
        self.note(request.into_inner().request_id);
        Ok(Response::new(InsertTaskDataResponse::default()))
    }

    async fn start_task(
        &self,
        _: Request<StartTaskRequest>,
    ) -> Result<Response<StartTaskResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn pause_task(
        &self,
        _: Request<PauseTaskRequest>,
    ) -> Result<Response<PauseTaskResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn delete_task(
        &self,
        _: Request<DeleteTaskRequest>,
    ) -> Result<Response<DeleteTaskResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn query_tasks(
        &self,
        _: Request<QueryTasksRequest>,
    ) -> Result<Response<QueryTasksResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

impl Fake {
    fn note(&self, request_id: String) {
        self.book.lock().unwrap().request_ids.push(request_id);
    }
}
