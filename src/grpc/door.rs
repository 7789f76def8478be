//! What every operation does between its request and its answer.

use std::sync::Arc;

use tonic::{Request, Status};

use super::{
    admission::admitted,
    deadline,
    validate::{self, Validate},
};
use crate::audit::Details;
use crate::platform::{Operation, Platform};

/// Tells the cursor of the push log's present end.
pub type LogEnd = Arc<dyn Fn() -> String + Send + Sync>;

/// The way from a request to the platform.
pub(super) struct Door {
    pub platform: Arc<Platform>,
}

impl Door {
    /// Does what `request` asks for, if it is valid.
    pub(super) async fn pass<O: Operation + Validate>(
        &self,
        request: Request<O>,
    ) -> Result<O::Reply, Status> {
        let deadline = deadline::of(request.metadata());
        let account = admitted(&request)?.account()?;
        let operation = request.get_ref();
        Details::of(&request).object(&operation.named().task_id);
        validate::check(operation)?;
        Ok(self.platform.call(account, operation, deadline).await?)
    }
}
