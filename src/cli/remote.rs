//! A connection to a running gateway.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::terminal::clean;

/// Which gateway, and who asks.
#[derive(Args, Clone)]
pub struct RemoteArgs {
    /// The gateway's gRPC address.
    #[arg(long, global = true, value_name = "URL", env = "YETA_GATEWAY_ADDRESS")]
    #[arg(default_value = "http://127.0.0.1:50051")]
    address: String,
    /// A file that holds the bearer token, where the gateway asks for one.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "YETA_GATEWAY_TOKEN_FILE"
    )]
    token_file: Option<PathBuf>,
}

/// A connection that says who asks, and for which account.
pub type Connection = InterceptedService<Channel, Metadata>;

/// What each request carries.
#[derive(Clone, Default)]
pub struct Metadata {
    bearer: Option<MetadataValue<Ascii>>,
    account: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Metadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(bearer) = &self.bearer {
            metadata.insert("authorization", bearer.clone());
        }
        if let Some(account) = &self.account {
            metadata.insert("yeta-account", account.clone());
        }
        Ok(request)
    }
}

/// A stream that is silent is asked this often whether it is still there, so that nobody waits for
/// ever on a connection that something between has forgotten.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// And must answer within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

impl RemoteArgs {
    /// Connects when first used; `account` is the one that requests are for, if not the default.
    pub fn connect(&self, account: Option<&str>) -> anyhow::Result<Connection> {
        let endpoint = Endpoint::from_shared(self.address.clone())
            .with_context(|| format!("{:?} is no address", self.address))?
            .connect_timeout(ANSWER_WITHIN)
            .http2_keep_alive_interval(ASK_EVERY)
            .keep_alive_timeout(ANSWER_WITHIN);
        let account = account
            .map(str::parse)
            .transpose()
            .context("no account has such a name")?;
        let metadata = Metadata {
            bearer: self.bearer()?,
            account,
        };
        Ok(InterceptedService::new(endpoint.connect_lazy(), metadata))
    }

    fn bearer(&self) -> anyhow::Result<Option<MetadataValue<Ascii>>> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let token = std::fs::read_to_string(path)
            .with_context(|| format!("the token file {} cannot be read", path.display()))?;
        let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
            .parse()
            .context("the token is not made of printable characters")?;
        bearer.set_sensitive(true);
        Ok(Some(bearer))
    }
}

/// One request for one account, and how its answer is shown.
#[derive(Args, Clone)]
pub struct UnaryArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The account; without it, the gateway's default one, or all that may be seen.
    #[arg(long, global = true, value_name = "NAME")]
    account: Option<String>,
    /// Prints the answer as JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

impl UnaryArgs {
    /// Connects when first used.
    pub fn connect(&self) -> anyhow::Result<Connection> {
        self.remote.connect(self.account.as_deref())
    }
}

/// A refusal in words: what was wrong with which field, and the reason that programs go by.
#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
pub fn refused(status: Status) -> anyhow::Error {
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .map(|info| format!(" ({})", clean(&info.reason)))
        .unwrap_or_default();
    let violations = details
        .bad_request()
        .into_iter()
        .flat_map(|bad| &bad.field_violations);
    let violations: Vec<_> = violations
        .map(|violation| {
            let (field, description) = (&violation.field, &violation.description);
            format!("\n  {}: {}", clean(field), clean(description))
        })
        .collect();
    anyhow::anyhow!(
        "{}{reason}: {}{}",
        status.code(),
        clean(status.message()),
        violations.concat()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::super::terminal::{clean_lines, hostile};
    use super::*;

    proptest! {
        #[test]
        fn a_refusal_has_no_escapes_and_one_line_for_each_violation(text in hostile()) {
            let mut details = ErrorDetails::new();
            details
                .set_error_info(text.clone(), text.clone(), [])
                .add_bad_request_violation(text.clone(), text.clone());
            let status = Status::with_error_details(Code::InvalidArgument, text, details);
            let words = refused(status).to_string();
            prop_assert_eq!(clean_lines(&words), words.clone());
            prop_assert_eq!(words.lines().count(), 2);
        }
    }
}
