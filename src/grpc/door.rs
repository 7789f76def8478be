//! What every operation does between its request and its answer.

use std::sync::Arc;

use tonic::{Request, Status};

use super::{
    auth::{Caller, Clients},
    deadline,
    validate::{self, Validate},
};
use crate::{
    config::Permission,
    platform::{Operation, Platform},
};

/// Tells the cursor of the push log's present end.
pub type LogEnd = Arc<dyn Fn() -> String + Send + Sync>;

/// The way from a request to the platform.
pub(super) struct Door {
    pub platform: Arc<Platform>,
    pub clients: Arc<Clients>,
}

impl Door {
    /// The account that `request` is for, if its client may call `group` for it.
    pub(super) fn account<T>(
        &self,
        request: &Request<T>,
        group: Permission,
    ) -> Result<&str, Status> {
        let caller = self.clients.authorize(request.metadata(), group)?;
        Ok(self.clients.account(&caller, request.metadata())?)
    }

    /// Who sends `request`, and the account that it is for, if the client may call `group` for it.
    pub(super) fn caller<T>(
        &self,
        request: &Request<T>,
        group: Permission,
    ) -> Result<(Caller, &str), Status> {
        let caller = self.clients.authorize(request.metadata(), group)?;
        let account = self.clients.account(&caller, request.metadata())?;
        Ok((caller, account))
    }

    /// Does what `request` asks for, if its client may and it is valid.
    pub(super) async fn pass<O: Operation + Validate>(
        &self,
        request: Request<O>,
        group: Permission,
    ) -> Result<O::Reply, Status> {
        let deadline = deadline::of(request.metadata());
        let account = self.account(&request, group)?;
        let operation = request.get_ref();
        validate::check(operation)?;
        Ok(self.platform.call(account, operation, deadline).await?)
    }
}
