//! TLS of the push listener.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use yeta_gateway::tls::TlsSettings;

use crate::support::{PATIENCE, PUSH_SECRET, TestApp, within};

/// A gateway whose push port has TLS, and what trusts its certificate.
async fn gateway(header_timeout: Duration) -> (TestApp, TlsConnector, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["gateway.test".to_owned()]).unwrap();
    let cert = params.self_signed(&key).unwrap();
    let settings = TlsSettings {
        cert_file: folder.path().join("tls.crt"),
        key_file: folder.path().join("tls.key"),
        client_ca_file: None,
        requires_client: false,
    };
    std::fs::write(&settings.cert_file, cert.pem()).unwrap();
    std::fs::write(&settings.key_file, key.serialize_pem()).unwrap();
    let app = TestApp::with(|config| {
        config.push.tls = Some(settings);
        config.push.header_timeout = header_timeout;
    })
    .await;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (app, TlsConnector::from(Arc::new(client)), folder)
}

async fn connect(app: &TestApp) -> TcpStream {
    let address = app.push.trim_start_matches("http://");
    within("a connection", TcpStream::connect(address))
        .await
        .unwrap()
}

fn request() -> String {
    format!(
        "POST /v1/push/default/{PUSH_SECRET}/receiveVoice HTTP/1.1\r\nhost: x\r\n\
         connection: close\r\ncontent-length: 2\r\n\r\n{{}}"
    )
}

#[tokio::test]
async fn a_push_over_tls_is_taken_and_one_in_plain_text_is_not() {
    let (app, connector, _folder) = gateway(PATIENCE).await;
    let name = ServerName::try_from("gateway.test").unwrap();
    let stream = connector.connect(name, connect(&app).await);
    let mut stream = within("a handshake", stream).await.unwrap();
    stream.write_all(request().as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = within("an answer", stream.read_to_string(&mut answer));
    read.await.unwrap();
    assert!(answer.ends_with("success"), "{answer}");

    let mut plain = connect(&app).await;
    plain.write_all(request().as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is reset has ended as well.
    let _ = within("the end", plain.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("success"), "{answer}");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let (app, _connector, _folder) = gateway(Duration::from_millis(200)).await;
    let mut silent = connect(&app).await;
    let mut answer = Vec::new();
    let _ = within("the end", silent.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
}
