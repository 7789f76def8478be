use std::io::Write;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use yeta_gateway::proto::dialog_context_service_server::DialogContextServiceServer;
use yeta_gateway::provider::Endpoint;

use super::provider::{Desk, Mode};
use super::{QUESTION, ask, fallback, patiently};
use crate::support::{TestApp, within};

/// A provider that speaks TLS alone; gives its port and its certificate.
async fn start(desk: Arc<Desk>) -> (u16, NamedTempFile) {
    let names = vec!["localhost".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, server) = (
                acceptor.clone(),
                DialogContextServiceServer::from_arc(desk.clone()),
            );
            tokio::spawn(async move {
                // A client that does not trust the certificate goes away.
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = TowerToHyperService::new(server);
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .unwrap_or_default();
            });
        }
    });
    (port, file)
}

#[tokio::test]
async fn a_provider_behind_tls_is_asked_if_its_certificate_is_trusted() {
    let desk = Desk::new(Mode::Answer);
    let (port, certificate) = start(desk.clone()).await;
    let url = format!("https://localhost:{port}");
    let trusting = Endpoint::parse(&url).unwrap();
    let trusting = trusting
        .with_ca_file(certificate.path().to_owned())
        .unwrap();
    let app = TestApp::with(|config| {
        patiently(&url)(config);
        config.dialog_context.endpoint = Some(trusting);
    })
    .await;
    assert_eq!(
        within("the answer", ask(&app, QUESTION)).await,
        desk.context()
    );

    let app = TestApp::with(patiently(&url)).await;
    assert_eq!(within("the answer", ask(&app, QUESTION)).await, fallback());
}
