//! A connection to a running gateway.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use yeta_gateway::proto::push_service_client::PushServiceClient;

/// Which gateway, and who asks.
#[derive(Args, Clone)]
pub struct RemoteArgs {
    /// The gateway's gRPC address.
    #[arg(long, value_name = "URL", env = "YETA_GATEWAY_ADDRESS")]
    #[arg(default_value = "http://127.0.0.1:50051")]
    address: String,
    /// A file that holds the bearer token, where the gateway asks for one.
    #[arg(long, value_name = "FILE", env = "YETA_GATEWAY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// Adds the bearer token to each request.
#[derive(Clone)]
pub struct Credentials(Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

impl RemoteArgs {
    /// A client of the gateway's `PushService`; connects when it is first used.
    pub fn pushes(
        &self,
    ) -> anyhow::Result<PushServiceClient<InterceptedService<Channel, Credentials>>> {
        let endpoint = Endpoint::from_shared(self.address.clone())
            .with_context(|| format!("{:?} is no address", self.address))?;
        let client = PushServiceClient::with_interceptor(endpoint.connect_lazy(), self.bearer()?);
        Ok(client.max_decoding_message_size(usize::MAX))
    }

    fn bearer(&self) -> anyhow::Result<Credentials> {
        let Some(path) = &self.token_file else {
            return Ok(Credentials(None));
        };
        let token = std::fs::read_to_string(path)
            .with_context(|| format!("the token file {} cannot be read", path.display()))?;
        let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
            .parse()
            .context("the token is not made of printable characters")?;
        bearer.set_sensitive(true);
        Ok(Credentials(Some(bearer)))
    }
}
