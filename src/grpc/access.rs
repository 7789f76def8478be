//! Who may do what with pushes, and with which durable subscription.

use std::sync::Arc;

use tonic::{Request, Status};

use super::admission::{Admitted, admitted};
use super::auth::{AuthError, Caller, Clients};
use super::status;
use super::validate::{self, Validate, Violations};
use crate::audit::Details;
use crate::config::Permission;
use crate::proto::PushFilter;
use crate::relay::RelayError;
use crate::store::PushLog;
use crate::store::subscriptions::{Info, OWN_NAMES, SubscriptionError, Subscriptions};

/// What is to be done with a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// Look at it.
    Look,
    /// Pause, change or move it; one of the gateway's own takes the permission `admin`.
    Manage,
    /// Create or delete it, take its events and settle them; none of the gateway's own.
    Own,
}

/// The way to the log and its subscriptions.
#[derive(Clone)]
pub(super) struct Access {
    pub log: Arc<dyn PushLog>,
    pub subscriptions: Arc<dyn Subscriptions>,
    pub clients: Arc<Clients>,
}

impl Access {
    /// The subscription of this name, if the caller may see all that it takes.
    pub(super) async fn info(&self, caller: &Caller, name: &str) -> Result<Info, Status> {
        let info = self.subscriptions.get(name).await;
        let info = info.map_err(|error| self.status(&error.into()))?;
        if may_see(caller, &info.spec.filter).is_err() {
            // To a client that may not see it, it does not exist.
            let unknown = SubscriptionError::NotFound(name.to_owned());
            return Err(self.status(&unknown.into()));
        }
        Ok(info)
    }

    /// Makes sure that the caller may see all that the subscription of this name takes.
    pub(super) async fn check(&self, caller: &Caller, name: &str) -> Result<(), Status> {
        // Who may see everything need not ask.
        if caller.accounts().is_some() {
            self.info(caller, name).await?;
        }
        Ok(())
    }

    /// The accounts that a reader is held to; `None`: all. Naming one that is not the caller's is
    /// refused, instead of a stream that stays empty for a reason nobody sees.
    pub(super) fn visible(
        &self,
        admitted: &Admitted,
        filter: Option<&PushFilter>,
    ) -> Result<Option<Vec<String>>, Status> {
        for account in filter.iter().flat_map(|filter| &filter.accounts) {
            self.clients.check(&admitted.caller, account)?;
        }
        Ok(admitted.visible().map(Vec::from_iter))
    }

    /// The filter that a subscription of the caller's gets: within what the caller may see, which
    /// is written into it, as others will take its events later.
    pub(super) fn held(
        &self,
        admitted: &Admitted,
        mut wanted: PushFilter,
    ) -> Result<PushFilter, Status> {
        let Some(visible) = self.visible(admitted, Some(&wanted))? else {
            return Ok(wanted);
        };
        if wanted.accounts.is_empty() {
            wanted.accounts = visible;
            // A filter that names none would take all.
            return may_see(&admitted.caller, &wanted).map(|()| wanted);
        }
        wanted.accounts.retain(|account| visible.contains(account));
        if wanted.accounts.is_empty() {
            let mut violations = Violations::default();
            violations.add("filter.accounts", "has not the account of yeta-account");
            return Err(violations.into());
        }
        Ok(wanted)
    }

    pub(super) fn status(&self, error: &RelayError) -> Status {
        status::of_relay(error, |position| self.log.cursor(position))
    }
}

/// Who sends a request that is valid.
pub(super) fn admit<R: Validate>(request: &Request<R>) -> Result<Admitted, Status> {
    let admitted = admitted(request)?;
    validate::check(request.get_ref())?;
    Ok(admitted.clone())
}

/// Who sends a valid request that does this with subscriptions of such a name.
pub(super) fn admit_to<R: Validate>(
    request: &Request<R>,
    name: &str,
    intent: Intent,
) -> Result<Admitted, Status> {
    let admitted = admit(request)?;
    Details::of(request).object(name);
    let caller = &admitted.caller;
    let is_free = name.is_empty() || is_reserved(name) && caller.may(Permission::Admin);
    if !is_free {
        caller.check_name(name)?;
    }
    if is_reserved(name) {
        match intent {
            Intent::Look => {}
            Intent::Manage => admitted.caller.require(&[Permission::Admin])?,
            Intent::Own => return Err(status::name_reserved(name)),
        }
    }
    Ok(admitted)
}

/// Whether a name is one of the gateway's own.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with(OWN_NAMES)
}

/// Whether the caller may see all that passes a filter.
pub(super) fn may_see(caller: &Caller, filter: &PushFilter) -> Result<(), Status> {
    let hidden = if filter.accounts.is_empty() {
        caller.accounts().map(|_| "*")
    } else {
        let mut accounts = filter.accounts.iter().map(String::as_str);
        accounts.find(|account| !caller.may_use(account))
    };
    hidden.map_or(Ok(()), |account| {
        Err(AuthError::AccountForbidden {
            client: caller.name().to_owned(),
            account: account.to_owned(),
        }
        .into())
    })
}
