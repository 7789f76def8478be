//! A bare HTTP client, for what the platform and the probes send.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::PUSH_SECRET;

#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    /// Whether the platform would be content.
    pub fn is_success(&self) -> bool {
        self.body.windows(7).any(|window| window == b"success")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Http {
    pub fn new() -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// One exchange; an error is a broken connection.
    pub async fn send(&self, request: http::Request<Full<Bytes>>) -> Result<Answer, String> {
        let failed = |error: &dyn std::error::Error| error.to_string();
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        Ok(Answer {
            status,
            body: body.map_err(|error| failed(&error))?.to_bytes(),
        })
    }

    pub async fn get(&self, base: &str, path: &str) -> Result<Answer, String> {
        let request = http::Request::get(format!("{base}{path}")).body(Full::default());
        self.send(request.unwrap()).await
    }

    /// Sends a push as the platform does.
    pub async fn push(
        &self,
        base: &str,
        module: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let uri = format!("{base}/v1/push/default/{PUSH_SECRET}/{module}");
        let request = http::Request::post(uri)
            .header("content-type", "application/json;charset=UTF-8")
            .body(Full::new(body.into()));
        self.send(request.unwrap()).await
    }
}
