//! The requests that can carry a request id, and how each stands in a [`Submission`].

use crate::platform::Operation;
use crate::proto::submission::{Outcome, Request};
use crate::proto::{
    CallOutRequest, CallOutResponse, CreateTaskRequest, CreateTaskResponse, InsertTaskDataRequest,
    InsertTaskDataResponse, SubmissionOperation,
};

/// A request that can be recorded before it is sent.
pub trait Submit: Operation<Reply: Clone + Sync> + Clone + Send {
    /// What it asks for.
    const OPERATION: SubmissionOperation;

    /// The caller's id of it.
    fn request_id(&self) -> &str;

    /// How many rows it submits.
    fn rows(&self) -> usize {
        0
    }

    /// The request as it is recorded: without its id.
    fn written(&self) -> Request;

    /// A reply as it is recorded, with the log's end just before the request went out.
    fn outcome(reply: Self::Reply, push_cursor: &str) -> Outcome;

    /// Whether a caller can do anything with a reply.
    fn is_usable(_: &Self::Reply) -> bool {
        true
    }

    /// The reply that was recorded; `None` where that is a reply to something else.
    fn reply(outcome: Outcome) -> Option<Self::Reply>;
}

impl Submit for CallOutRequest {
    const OPERATION: SubmissionOperation = SubmissionOperation::CallOut;

    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn rows(&self) -> usize {
        self.call_list.len()
    }

    fn written(&self) -> Request {
        Request::CallOut(Self {
            request_id: String::new(),
            ..self.clone()
        })
    }

    fn outcome(reply: CallOutResponse, push_cursor: &str) -> Outcome {
        Outcome::CallOutResponse(CallOutResponse {
            push_cursor: push_cursor.to_owned(),
            ..reply
        })
    }

    fn reply(outcome: Outcome) -> Option<CallOutResponse> {
        match outcome {
            Outcome::CallOutResponse(reply) => Some(reply),
            _ => None,
        }
    }
}

impl Submit for CreateTaskRequest {
    const OPERATION: SubmissionOperation = SubmissionOperation::CreateTask;

    fn is_usable(reply: &CreateTaskResponse) -> bool {
        !reply.task_id.is_empty()
    }

    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn written(&self) -> Request {
        Request::CreateTask(Self {
            request_id: String::new(),
            ..self.clone()
        })
    }

    fn outcome(reply: CreateTaskResponse, _: &str) -> Outcome {
        Outcome::CreateTaskResponse(reply)
    }

    fn reply(outcome: Outcome) -> Option<CreateTaskResponse> {
        match outcome {
            Outcome::CreateTaskResponse(reply) => Some(reply),
            _ => None,
        }
    }
}

impl Submit for InsertTaskDataRequest {
    const OPERATION: SubmissionOperation = SubmissionOperation::InsertTaskData;

    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn rows(&self) -> usize {
        self.call_list.len()
    }

    fn written(&self) -> Request {
        Request::InsertTaskData(Self {
            request_id: String::new(),
            ..self.clone()
        })
    }

    fn outcome(reply: InsertTaskDataResponse, push_cursor: &str) -> Outcome {
        Outcome::InsertTaskDataResponse(InsertTaskDataResponse {
            push_cursor: push_cursor.to_owned(),
            ..reply
        })
    }

    fn reply(outcome: Outcome) -> Option<InsertTaskDataResponse> {
        match outcome {
            Outcome::InsertTaskDataResponse(reply) => Some(reply),
            _ => None,
        }
    }
}
