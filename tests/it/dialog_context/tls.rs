//! Providers behind TLS, and what the gateway shows them: a certificate and a token.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tempfile::TempDir;
use tokio::net::TcpListener;
use yeta_gateway::proto::dialog_context_service_server::DialogContextServiceServer;
use yeta_gateway::provider::Endpoint;
use yeta_gateway::tls::{ClientFiles, Identity, PeerNames, ServerTls};

use super::provider::{Desk, Mode, Provider};
use super::{QUESTION, ask, fallback, patiently};
use crate::support::{Http, Process, TestApp, eventually, within};
use crate::tls::{Authority, Signed, write};

/// A provider that speaks TLS alone.
pub struct TlsProvider {
    pub url: String,
    pub desk: Arc<Desk>,
    authority: Authority,
    /// The names of the client of each connection.
    connections: Arc<Mutex<Vec<Option<PeerNames>>>>,
    folder: TempDir,
}

impl TlsProvider {
    /// Requires certificates of an authority, if one is given.
    pub async fn start(clients: Option<&Authority>) -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let settings = write(folder.path(), &authority.sign(&["localhost"]), clients);
        let tls = ServerTls::load(settings, b"h2").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self {
            url: format!(
                "https://localhost:{}",
                listener.local_addr().unwrap().port()
            ),
            desk: Desk::new(Mode::Answer),
            authority,
            connections: Arc::default(),
            folder,
        };
        let (desk, tls) = (provider.desk.clone(), Arc::new(tls));
        let connections = provider.connections.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, connections) = (tls.clone(), connections.clone());
                let server = DialogContextServiceServer::from_arc(desk.clone());
                tokio::spawn(async move {
                    // A client that does not trust the certificate, or is refused, goes away.
                    let Ok((stream, names)) = tls.accept(stream).await else {
                        return;
                    };
                    connections.lock().unwrap().push(names);
                    let service = TowerToHyperService::new(server);
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .unwrap_or_default();
                });
            }
        });
        provider
    }

    /// The file of the authority that its certificate is of.
    pub fn ca_file(&self) -> PathBuf {
        file(self.folder.path(), "root.crt", &self.authority.pem)
    }

    /// The number of connections so far, and the name of the last one's client.
    fn last_connection(&self) -> (usize, Option<String>) {
        let connections = self.connections.lock().unwrap();
        let last = connections.last().cloned().flatten();
        let name = last.and_then(|names| names.dns.first().cloned());
        (connections.len(), name)
    }
}

/// Writes a file in one step.
pub fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (draft, path) = (folder.join("draft"), folder.join(name));
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, &path).unwrap();
    path
}

/// Writes a certificate and its key.
pub fn identity(folder: &Path, signed: &Signed) -> Identity {
    Identity {
        key_file: file(folder, "client.key", &signed.key),
        cert_file: file(folder, "client.crt", &signed.cert),
    }
}

/// A gateway that asks at an endpoint.
async fn gateway(endpoint: Endpoint, url: &str) -> TestApp {
    TestApp::with(|config| {
        patiently(url)(config);
        config.dialog_context.endpoint = Some(endpoint);
    })
    .await
}

#[tokio::test]
async fn a_provider_behind_tls_is_asked_if_its_certificate_is_trusted() {
    let provider = TlsProvider::start(None).await;
    let trusting = Endpoint::parse(&provider.url).unwrap();
    let files = ClientFiles {
        ca_file: Some(provider.ca_file()),
        identity: None,
    };
    let trusting = trusting.with_certificates(files).unwrap();
    let app = gateway(trusting, &provider.url).await;
    assert_eq!(
        within("the answer", ask(&app, QUESTION)).await,
        provider.desk.context()
    );

    let app = TestApp::with(patiently(&provider.url)).await;
    assert_eq!(within("the answer", ask(&app, QUESTION)).await, fallback());
}

#[tokio::test]
async fn a_provider_that_requires_a_certificate_and_a_token_answers_with_both_and_not_without() {
    let (folder, clients) = (tempfile::tempdir().unwrap(), Authority::new());
    let provider = TlsProvider::start(Some(&clients)).await;
    provider.desk.require("token-1");
    let known = folder.path().join("known");
    let foreign = folder.path().join("foreign");
    for (folder, signed) in [
        (&known, clients.sign(&["gateway.svc"])),
        (&foreign, provider.authority.sign(&["gateway.svc"])),
    ] {
        std::fs::create_dir(folder).unwrap();
        identity(folder, &signed);
    }
    let identity = |folder: &Path| Identity {
        cert_file: folder.join("client.crt"),
        key_file: folder.join("client.key"),
    };
    let (right, wrong) = (
        file(folder.path(), "right", "token-1\n"),
        file(folder.path(), "wrong", "token-2\n"),
    );
    for (what, certificate, token, is_answered) in [
        ("both", Some(&known), Some(&right), true),
        ("no certificate", None, Some(&right), false),
        ("a foreign certificate", Some(&foreign), Some(&right), false),
        ("no token", Some(&known), None, false),
        ("a wrong token", Some(&known), Some(&wrong), false),
    ] {
        let files = ClientFiles {
            ca_file: Some(provider.ca_file()),
            identity: certificate.map(|folder| identity(folder)),
        };
        let endpoint = Endpoint::parse(&provider.url).unwrap();
        let mut endpoint = endpoint.with_certificates(files).unwrap();
        if let Some(token) = token {
            endpoint = endpoint.with_token_file(token.clone()).unwrap();
        }
        let app = gateway(endpoint, &provider.url).await;
        let answer = within("the answer", ask(&app, QUESTION)).await;
        let expected = if is_answered {
            provider.desk.context()
        } else {
            fallback()
        };
        assert_eq!(answer, expected, "{what}");
        app.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_token_is_sent_to_a_loopback_address_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let provider = Provider::start(Mode::Answer).await;
    provider.require("token-1");
    let token = file(folder.path(), "token", "token-1");
    let endpoint = Endpoint::parse(&provider.url).unwrap();
    let app = gateway(endpoint.with_token_file(token).unwrap(), &provider.url).await;
    assert_eq!(ask(&app, QUESTION).await, provider.context());
    let app = TestApp::with(patiently(&provider.url)).await;
    assert_eq!(ask(&app, QUESTION).await, fallback());
}

#[tokio::test]
async fn certificates_and_tokens_rotate_while_the_gateway_runs_and_bad_ones_change_nothing() {
    let (folder, clients) = (tempfile::tempdir().unwrap(), Authority::new());
    let provider = TlsProvider::start(Some(&clients)).await;
    provider.desk.require("token-1");
    let (old, new) = (clients.sign(&["old.svc"]), clients.sign(&["new.svc"]));
    let path = folder.path();
    let Identity {
        cert_file,
        key_file,
    } = identity(path, &old);
    let token_file = file(path, "token", "token-1\n");
    Process::configure(path, "");
    let text = std::fs::read_to_string(path.join("gateway.toml")).unwrap();
    let more = format!(
        "[dialog_context]\nendpoint = '{}'\nconnection_age = '1s'\nca_file = '{}'\n\
         cert_file = '{}'\nkey_file = '{}'\ntoken_file = '{}'\n",
        provider.url,
        provider.ca_file().display(),
        cert_file.display(),
        key_file.display(),
        token_file.display()
    );
    std::fs::write(path.join("gateway.toml"), text + &more).unwrap();
    let gateway = Process::spawn(Process::command(path)).await;
    let http = Http::new();
    let context = serde_json::to_vec(&provider.desk.context()).unwrap();
    let answered = async || {
        let url = &gateway.addresses.push;
        let answer = http.push(url, "getDialogContext", QUESTION).await.unwrap();
        (answer.body == context).then_some(())
    };
    eventually("an answer", answered).await;
    assert_eq!(provider.last_connection().1.as_deref(), Some("old.svc"));

    // Neither a key of another certificate nor what is no token takes the place of the good ones.
    file(path, "client.key", &new.key);
    file(path, "token", "two words\n");
    gateway.until_logged("the TLS files cannot be used").await;
    gateway.until_logged("keeping the secret read before").await;
    let (before, _) = provider.last_connection();
    let later = eventually("more connections", async || {
        let (count, name) = provider.last_connection();
        (count > before + 1).then_some(name)
    });
    assert_eq!(later.await.as_deref(), Some("old.svc"));
    eventually("an answer", answered).await;

    identity(path, &new);
    eventually("the new certificate", async || {
        let (_, name) = provider.last_connection();
        (name.as_deref() == Some("new.svc")).then_some(())
    })
    .await;
    provider.desk.require("token-2");
    file(path, "token", "token-2\n");
    eventually("an answer to the new token", answered).await;
    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(status.success(), "{output}");
    for secret in ["token-1", "token-2", "two words", "PRIVATE KEY"] {
        assert!(!output.contains(secret), "{secret} in {output}");
    }
}
