//! TLS: certificates from files, which are read again when they change.

mod client;
mod reload;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use self::client::{ClientFiles, ClientTls, Identity};
use self::reload::{Contents, Reloaded, Source};

/// The settings of a listener with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate and those that lead to its root, as PEM.
    pub cert_file: PathBuf,
    /// Its private key, as PEM.
    pub key_file: PathBuf,
    /// The roots of client certificates, as PEM; `None`: no client certificate is asked for.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub requires_client: bool,
}

/// Why TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", file.display())]
    Bad {
        /// The file.
        file: PathBuf,
        /// What is wrong with it; never its content.
        problem: String,
    },
}

impl TlsError {
    /// The file that is at fault.
    pub fn file(&self) -> &Path {
        match self {
            Self::Read { file, .. } | Self::Bad { file, .. } => file,
        }
    }
}

/// The names in the verified certificate of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNames {
    /// DNS names, in lower case.
    pub dns: Vec<String>,
    /// URIs, such as `spiffe://cluster/ns/crm`.
    pub uris: Vec<String>,
}

/// Accepts TLS connections with the present content of the files.
///
/// Open connections stay as they are when the files change. Files that cannot be used leave the
/// last good ones in force, and a warning in the log.
pub struct ServerTls(Reloaded<Listener>);

/// A listener with TLS.
struct Listener {
    settings: TlsSettings,
    /// The protocol that is negotiated: `h2` or `http/1.1`.
    protocol: &'static [u8],
}

impl ServerTls {
    /// Reads the files; `protocol` is `h2` or `http/1.1`.
    pub fn load(settings: TlsSettings, protocol: &'static [u8]) -> Result<Self, TlsError> {
        let listener = Listener { settings, protocol };
        Reloaded::load(listener).map(Self)
    }

    /// Does the handshake of a connection. The names are those of its client's certificate.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<PeerNames>)> {
        let config = self.0.value().await;
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let names = certificates.and_then(|all| all.first()).and_then(names);
        Ok((stream, names))
    }
}

impl Source for Listener {
    type Value = Arc<ServerConfig>;

    fn paths(&self) -> Vec<&Path> {
        let settings = &self.settings;
        let mut paths = vec![settings.cert_file.as_path(), settings.key_file.as_path()];
        paths.extend(settings.client_ca_file.as_deref());
        paths
    }

    fn build(&self, contents: &Contents) -> Result<Self::Value, TlsError> {
        let settings = &self.settings;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let cert_file = &settings.cert_file;
        let chain = certificates(cert_file, contents.of(cert_file))?;
        let key = private_key(&settings.key_file, contents.of(&settings.key_file))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(cert_file, error.to_string()))?;
        let builder = match &settings.client_ca_file {
            Some(file) => {
                let roots = roots(file, contents.of(file))?;
                let verifier = client_verifier(file, roots, provider, settings.requires_client)?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| bad(cert_file, error.to_string()))?;
        config.alpn_protocols = vec![self.protocol.to_vec()];
        Ok(Arc::new(config))
    }
}

fn bad(file: &Path, problem: String) -> TlsError {
    TlsError::Bad {
        file: file.to_owned(),
        problem,
    }
}

fn client_verifier(
    file: &Path,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    is_required: bool,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder
        .build()
        .map_err(|error| bad(file, error.to_string()))
}

fn roots(file: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, pem)? {
        roots
            .add(certificate)
            .map_err(|error| bad(file, error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(bad(file, "holds no certificate".into())),
    }
}

fn private_key(file: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| bad(file, "holds no private key".into()))
}

/// The names of a certificate that has been verified. DNS names become lower case, as they are
/// compared without regard to case.
fn names(certificate: &CertificateDer<'_>) -> Option<PeerNames> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let dns = certificate.valid_dns_names();
    Some(PeerNames {
        dns: dns.map(str::to_ascii_lowercase).collect(),
        uris: certificate.valid_uri_names().map(Into::into).collect(),
    })
}
