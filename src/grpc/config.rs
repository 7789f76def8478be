//! `yeta.v1.ConfigService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, codec::CompressionEncoding};
use url::Url;

use super::door::Door;
use crate::{
    platform::Platform,
    proto::{
        QueryConfigRequest, QueryConfigResponse,
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
        for url in &mut reply.urls {
            url.url = without_secret(&url.url);
        }
        Ok(Response::new(reply))
    }
}

/// The address of a push without its secret, which the platform knows and shows. Of an address that
/// has not the form of this gateway's, the whole path is left out: it may hold another's secret.
fn without_secret(address: &str) -> String {
    const HIDDEN: &str = "***";
    let Ok(url) = Url::parse(address) else {
        return HIDDEN.to_owned();
    };
    let origin = url.origin().ascii_serialization();
    let segments: Vec<&str> = url.path_segments().into_iter().flatten().collect();
    let path = match segments.as_slice() {
        [before @ .., "v1", "push", account, _, module] => {
            let before = before.iter().flat_map(|segment| [*segment, "/"]);
            let before: String = before.collect();
            format!("{before}v1/push/{account}/{HIDDEN}/{module}")
        }
        [] | [""] => String::new(),
        _ => HIDDEN.to_owned(),
    };
    format!("{origin}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_the_place_of_a_push_secret_is_hidden() {
        for (address, expected) in [
            (
                "http://gw/v1/push/default/push-secret/receiveDialog",
                "http://gw/v1/push/default/***/receiveDialog",
            ),
            (
                "https://gw:8443/yeta/v1/push/a/%70ush/receiveVoice?x=push-secret#s",
                "https://gw:8443/yeta/v1/push/a/***/receiveVoice",
            ),
            (
                "https://u:hush@gw/v1/push/a/s/m",
                "https://gw/v1/push/a/***/m",
            ),
            ("https://other/hooks/secret", "https://other/***"),
            ("https://gw/v1/%70ush/a/s/m", "https://gw/***"),
            ("https://gw/v1/push/a/s/m/more", "https://gw/***"),
            ("https://gw/", "https://gw/"),
            ("gw/v1/push/a/s/m", "***"),
            ("", "***"),
        ] {
            assert_eq!(without_secret(address), expected);
        }
    }
}
