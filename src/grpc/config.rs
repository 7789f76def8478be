//! `yeta.v1.ConfigService`.

use std::sync::Arc;

use secrecy::ExposeSecret;
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use super::door::Door;
use crate::{
    platform::Platform,
    proto::{
        CallbackUrl, QueryConfigRequest, QueryConfigResponse,
        config_service_server::{ConfigService, ConfigServiceServer},
    },
};

/// The service's implementation.
pub struct Config {
    door: Door,
}

/// The service, ready to be served.
pub fn config_service(platform: Arc<Platform>) -> ConfigServiceServer<Config> {
    let door = Door { platform };
    ConfigServiceServer::new(Config { door })
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd)
}

#[tonic::async_trait]
impl ConfigService for Config {
    async fn query_config(
        &self,
        request: Request<QueryConfigRequest>,
    ) -> Result<Response<QueryConfigResponse>, Status> {
        let mut reply = self.door.pass(request).await?;
        hide_push_secrets(&mut reply.urls, &self.door.platform);
        Ok(Response::new(reply))
    }
}

/// The platform knows where it pushes to, and so the secret in that path. It
/// must not reach whoever may read the configuration.
fn hide_push_secrets(urls: &mut [CallbackUrl], platform: &Platform) {
    for account in platform.accounts() {
        match account.push_secret.read_all() {
            Ok(secrets) => {
                let secrets = secrets.iter().map(ExposeSecret::expose_secret);
                for secret in secrets.filter(|secret| !secret.is_empty()) {
                    for url in urls.iter_mut() {
                        url.url = url.url.replace(secret, "***");
                    }
                }
            }
            Err(error) => {
                // Better no address than one that may hold the secret.
                tracing::warn!(account = account.name, %error, "push addresses hidden");
                for url in urls.iter_mut() {
                    "***".clone_into(&mut url.url);
                }
            }
        }
    }
}
