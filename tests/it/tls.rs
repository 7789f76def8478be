//! TLS of the gRPC listener.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use yeta_gateway::config::Permission;
use yeta_gateway::proto::ListPushesRequest;
use yeta_gateway::tls::{PeerNames, ServerTls, TlsSettings};

use crate::hostile::raw::{Raw, address};
use crate::identity::client;
use crate::support::{TestApp, eventually, within};

const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// An authority, and certificates that it has signed.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub struct Signed {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn sign(&self, names: &[&str]) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        for name in names {
            let name = if name.contains("://") {
                SanType::URI((*name).try_into().unwrap())
            } else {
                SanType::DnsName((*name).try_into().unwrap())
            };
            params.subject_alt_names.push(name);
        }
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed {
            cert,
            key: key.serialize_pem(),
        }
    }
}

/// Writes the files of a server into a folder.
pub fn write(folder: &Path, server: &Signed, clients: Option<&Authority>) -> TlsSettings {
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsSettings {
        cert_file: file("tls.crt", &server.cert),
        key_file: file("tls.key", &server.key),
        client_ca_file: clients.map(|authority| file("ca.crt", &authority.pem)),
        requires_client: clients.is_some(),
    }
}

pub async fn connect(
    url: &str,
    trusted: &Authority,
    client: Option<&Signed>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(client_config(&[trusted], client)));
    let stream = TcpStream::connect(address(url)).await?;
    let connected = connector.connect(server_name(), stream);
    within("the handshake", connected).await
}

/// The name that clients ask the gateway's certificate for.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("gateway.test").unwrap()
}

/// What trusts these authorities, and shows a certificate if one is given.
pub fn client_config(trusted: &[&Authority], client: Option<&Signed>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for authority in trusted {
        let root = CertificateDer::from_pem_slice(authority.pem.as_bytes());
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(Signed { cert, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// The status of a health check over a connection.
async fn check(raw: &Raw) -> Code {
    let sent = raw.call(HEALTH, None, &HealthCheckRequest::default()).await;
    sent.status().await.code()
}

#[tokio::test]
async fn a_new_certificate_is_presented_to_new_connections_and_open_ones_stay() {
    let (folder, authority, later) = (
        tempfile::tempdir().unwrap(),
        Authority::new(),
        Authority::new(),
    );
    let tls = write(folder.path(), &authority.sign(&["gateway.test"]), None);
    let app = TestApp::with(|config| config.grpc.tls = Some(tls)).await;
    let open = connect(&app.grpc, &authority, None).await.unwrap();
    let open = Raw::over(open, 1 << 20).await;
    assert_eq!(check(&open).await, Code::Ok);
    assert!(connect(&app.grpc, &later, None).await.is_err());

    // A key that does not fit leaves the last pair in force.
    let renewed = later.sign(&["gateway.test"]);
    std::fs::write(folder.path().join("tls.crt"), &renewed.cert).unwrap();
    assert!(connect(&app.grpc, &authority, None).await.is_ok());
    std::fs::write(folder.path().join("tls.key"), &renewed.key).unwrap();
    let renewed = eventually("the new certificate", async || {
        connect(&app.grpc, &later, None).await.ok()
    })
    .await;
    assert_eq!(check(&Raw::over(renewed, 1 << 20).await).await, Code::Ok);
    assert_eq!(check(&open).await, Code::Ok);
    app.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_certificate_of_the_named_authority_is_refused() {
    let (folder, authority, clients) = (
        tempfile::tempdir().unwrap(),
        Authority::new(),
        Authority::new(),
    );
    let server = authority.sign(&["gateway.test"]);
    let tls = write(folder.path(), &server, Some(&clients));
    let app = TestApp::with(|config| config.grpc.tls = Some(tls)).await;
    let crm = clients.sign(&["crm.svc"]);
    let known = connect(&app.grpc, &authority, Some(&crm)).await.unwrap();
    assert_eq!(check(&Raw::over(known, 1 << 20).await).await, Code::Ok);
    let foreign = authority.sign(&["crm.svc"]);
    for certificate in [None, Some(&foreign)] {
        // With TLS 1.3 the client learns of it when it reads.
        let Ok(stream) = connect(&app.grpc, &authority, certificate).await else {
            continue;
        };
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        within("the refusal", connection).await.unwrap_err();
        drop::<h2::client::SendRequest<bytes::Bytes>>(send);
    }
    app.stop().await.unwrap();
}

#[tokio::test]
async fn the_names_of_a_clients_certificate_are_known_and_none_is_needed_where_it_is_optional() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = authority.sign(&["gateway.test"]);
    let settings = TlsSettings {
        requires_client: false,
        ..write(folder.path(), &server, Some(&authority))
    };
    let tls = ServerTls::load(settings, b"h2").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let crm = authority.sign(&["crm.svc", "spiffe://cluster/ns/crm"]);
    let names = PeerNames {
        dns: vec!["crm.svc".into()],
        uris: vec!["spiffe://cluster/ns/crm".into()],
    };
    for (certificate, expected) in [(Some(&crm), Some(names)), (None, None)] {
        let accepted = async { tls.accept(listener.accept().await.unwrap().0).await };
        let (accepted, connected) = tokio::join!(accepted, connect(&url, &authority, certificate));
        connected.unwrap();
        assert_eq!(accepted.unwrap().1, expected);
    }
}

#[tokio::test]
async fn a_client_is_known_by_a_name_of_its_certificate_or_by_its_token() {
    const LIST: &str = "/yeta.v1.PushService/ListPushes";
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = authority.sign(&["gateway.test"]);
    let tls = TlsSettings {
        requires_client: false,
        ..write(folder.path(), &server, Some(&authority))
    };
    let app = TestApp::with(|config| {
        config.grpc.tls = Some(tls);
        let mut crm = client("crm", &[Permission::Consume], &["*"]);
        crm.tls_san = vec!["crm.svc".into(), "spiffe://cluster/ns/crm".into()];
        config.clients = vec![crm];
    })
    .await;
    let by_dns = authority.sign(&["other.svc", "crm.svc"]);
    let by_dns_in_capitals = authority.sign(&["CRM.Svc"]);
    let by_other_uri = authority.sign(&["spiffe://cluster/ns/CRM"]);
    let by_uri = authority.sign(&["spiffe://cluster/ns/crm"]);
    let stranger = authority.sign(&["crm.svc.evil", "spiffe://cluster/ns/crm/more"]);
    for (certificate, token, expected) in [
        (Some(&by_dns), None, Code::Ok),
        (Some(&by_dns_in_capitals), None, Code::Ok),
        (Some(&by_uri), None, Code::Ok),
        (Some(&by_other_uri), None, Code::Unauthenticated),
        (Some(&stranger), None, Code::Unauthenticated),
        (None, None, Code::Unauthenticated),
        (None, Some("crm"), Code::Ok),
        (Some(&stranger), Some("crm"), Code::Ok),
        (Some(&by_dns), Some("wrong"), Code::Unauthenticated),
    ] {
        let stream = connect(&app.grpc, &authority, certificate).await.unwrap();
        let raw = Raw::over(stream, 1 << 20).await;
        let sent = raw.call(LIST, token, &ListPushesRequest::default()).await;
        let names = certificate.is_some();
        assert_eq!(sent.status().await.code(), expected, "{names} {token:?}");
    }
    app.stop().await.unwrap();
}

#[tokio::test]
async fn a_silent_connection_is_cut_off_with_and_without_tls() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = write(folder.path(), &authority.sign(&["gateway.test"]), None);
    let with = TestApp::with(|config| config.grpc.tls = Some(tls)).await;
    let without = TestApp::start().await;
    for app in [with, without] {
        let stream = TcpStream::connect(address(&app.grpc)).await.unwrap();
        // The server's settings may come before.
        within("the end", async {
            let mut buffer = [0; 1024];
            loop {
                stream.readable().await.unwrap();
                match stream.try_read(&mut buffer) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        })
        .await;
        app.stop().await.unwrap();
    }
}
