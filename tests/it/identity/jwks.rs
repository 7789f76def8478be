//! Keys of service accounts that a server gives out over TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Code;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::{ListPushesRequest, SubscribePushesRequest};
use yeta_gateway::tls::ServerTls;

use super::{Issuer, by, channel, hex};
use crate::support::{Process, within};
use crate::tls::{Authority, write};

pub const SERVERS_TOKEN: &str = "token-for-the-keys-41b7";

/// A server of keys, which asks for a token.
pub struct KeyServer {
    pub url: String,
    authority: Authority,
    /// The keys; `None`: it does not answer.
    keys: watch::Sender<Option<String>>,
    folder: TempDir,
}

impl KeyServer {
    pub async fn start(keys: String) -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let settings = write(folder.path(), &authority.sign(&["localhost"]), None);
        let tls = Arc::new(ServerTls::load(settings, b"http/1.1").unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (keys, served) = watch::channel(Some(keys));
        let router = Router::new().route("/keys", get(move |headers| answer(headers, served)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, router) = (tls.clone(), router.clone());
                tokio::spawn(async move {
                    let (stream, _) = tls.accept(stream).await.unwrap();
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                        .await
                        .unwrap_or_default();
                });
            }
        });
        Self {
            url: format!("https://localhost:{port}/keys"),
            authority,
            keys,
            folder,
        }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The settings of a gateway that takes keys from it.
    pub fn settings(&self) -> String {
        format!(
            "[auth.kubernetes]\nissuer = 'https://cluster'\njwks_url = '{}'\nca_file = '{}'\n\
             token_file = '{}'\n",
            self.url,
            self.file("root.crt", &self.authority.pem).display(),
            self.file("token", SERVERS_TOKEN).display()
        )
    }
}

async fn answer(
    headers: HeaderMap,
    mut served: watch::Receiver<Option<String>>,
) -> Result<String, StatusCode> {
    let bearer = format!("Bearer {SERVERS_TOKEN}");
    if headers.get("authorization").is_none_or(|it| *it != bearer) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let keys = served.wait_for(Option::is_some).await.unwrap().clone();
    Ok(keys.unwrap())
}

/// A gateway whose client `crm` is known by a token and by a service account.
async fn gateway(folder: &Path, server: &KeyServer) -> Process {
    Process::configure(folder, "");
    let file = folder.join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let client = format!(
        "[[clients]]\nname = 'crm'\ntoken_sha256 = '{}'\n\
         kubernetes = {{ namespace = 'crm', service_account = 'dialer' }}\n\
         allow = ['consume']\naccounts = ['*']\n",
        hex("crm-token")
    );
    std::fs::write(&file, text + &client + &server.settings()).unwrap();
    Process::spawn(Process::command(folder)).await
}

#[tokio::test]
async fn a_service_account_is_known_by_keys_of_a_server_that_wants_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::new();
    let server = KeyServer::start(issuer.jwks()).await;
    let gateway = gateway(folder.path(), &server).await;
    let mut pushes = PushServiceClient::new(channel(&gateway.addresses.grpc));
    let good = issuer.token("dialer", "yeta-gateway", 600);
    let list = by(&good, ListPushesRequest::default());
    pushes.list_pushes(list).await.unwrap();
    let stranger = Issuer::new().token("dialer", "yeta-gateway", 600);
    let list = by(&stranger, ListPushesRequest::default());
    let refused = pushes.list_pushes(list).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(status.success(), "{output}");
    assert!(!output.contains(SERVERS_TOKEN), "{output}");
}

#[tokio::test]
async fn a_server_of_keys_that_hangs_delays_no_client_with_other_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::new();
    let server = KeyServer::start(issuer.jwks()).await;
    server.keys.send_replace(None);
    let gateway = gateway(folder.path(), &server).await;
    let mut pushes = PushServiceClient::new(channel(&gateway.addresses.grpc));
    let jwt = issuer.token("dialer", "yeta-gateway", 600);
    let waiting = [(); 50].map(|()| {
        let (mut pushes, list) = (pushes.clone(), by(&jwt, ListPushesRequest::default()));
        tokio::spawn(async move { pushes.list_pushes(list).await.map(drop) })
    });
    for _ in 0..20 {
        let list = by("crm-token", ListPushesRequest::default());
        pushes.list_pushes(list).await.unwrap();
    }
    let subscribe = by("crm-token", SubscribePushesRequest::default());
    pushes.subscribe_pushes(subscribe).await.unwrap();
    for waiting in waiting {
        let refused = within("the refusal", waiting).await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(status.success(), "{output}");
    assert!(output.contains("keeping the keys of service accounts"));
}
