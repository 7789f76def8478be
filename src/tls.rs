//! TLS of a listener: certificates from files, read again when they change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The files are looked at for changes no more often than this.
const CHECK_EVERY: Duration = Duration::from_secs(1);

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

/// Why a listener cannot have TLS.
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
    /// DNS names.
    pub dns: Vec<String>,
    /// URIs, such as `spiffe://cluster/ns/crm`.
    pub uris: Vec<String>,
}

/// The files of a listener as they were read.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// Accepts TLS connections with the present content of the files.
///
/// Open connections stay as they are when the files change. Files that cannot be used leave the
/// last good ones in force, and a warning in the log.
pub struct ServerTls {
    settings: TlsSettings,
    /// The protocol that is negotiated: `h2` or `http/1.1`.
    protocol: &'static [u8],
    config: Mutex<Arc<ServerConfig>>,
    /// Serializes looks at the files.
    check: tokio::sync::Mutex<Check>,
}

struct Check {
    at: Instant,
    files: Files,
    /// The last fault, which is logged once.
    fault: Option<String>,
}

impl ServerTls {
    /// Reads the files; `protocol` is `h2` or `http/1.1`.
    pub fn load(settings: TlsSettings, protocol: &'static [u8]) -> Result<Self, TlsError> {
        let files = Files::read(&settings)?;
        let config = files.config(&settings, protocol)?;
        Ok(Self {
            settings,
            protocol,
            config: Mutex::new(config),
            check: tokio::sync::Mutex::new(Check {
                at: Instant::now(),
                files,
                fault: None,
            }),
        })
    }

    /// Does the handshake of a connection. The names are those of its client's certificate.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<PeerNames>)> {
        self.refresh().await;
        let config = self.config();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let names = certificates.and_then(|all| all.first()).and_then(names);
        Ok((stream, names))
    }

    fn config(&self) -> Arc<ServerConfig> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.clone()
    }

    /// Reads the files again if nobody has looked at them for a while.
    async fn refresh(&self) {
        // Others go on with what is loaded while one looks.
        let Ok(mut check) = self.check.try_lock() else {
            return;
        };
        if check.at.elapsed() < CHECK_EVERY {
            return;
        }
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || Files::read(&settings)).await;
        check.at = Instant::now();
        let changed = match read {
            Ok(Ok(files)) if files == check.files => Ok(None),
            Ok(Ok(files)) => files
                .config(&self.settings, self.protocol)
                .map(|config| Some((files, config))),
            Ok(Err(error)) => Err(error),
            Err(_) => return,
        };
        match changed {
            Ok(None) => check.fault = None,
            Ok(Some((files, config))) => {
                check.files = files;
                check.fault = None;
                *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
                let file = self.settings.cert_file.display();
                tracing::info!(%file, "the TLS certificate has been read again");
            }
            Err(error) => {
                let fault = error.to_string();
                if check.fault.as_ref() != Some(&fault) {
                    tracing::warn!(fault, "the TLS files cannot be used; the last ones stay");
                }
                check.fault = Some(fault);
            }
        }
    }
}

impl Files {
    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let client_ca = settings.client_ca_file.as_deref();
        Ok(Self {
            cert: read(&settings.cert_file)?,
            key: read(&settings.key_file)?,
            client_ca: client_ca.map(read).transpose()?,
        })
    }

    fn config(
        &self,
        settings: &TlsSettings,
        protocol: &[u8],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let bad = |file: &Path, problem: String| TlsError::Bad {
            file: file.to_owned(),
            problem,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&settings.cert_file, &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| bad(&settings.key_file, "holds no private key".into()))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&settings.cert_file, error.to_string()))?;
        let builder = match (&settings.client_ca_file, &self.client_ca) {
            (Some(file), Some(pem)) => {
                let verifier = client_verifier(file, pem, provider, settings.requires_client)?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| bad(&settings.cert_file, error.to_string()))?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }
}

fn client_verifier(
    file: &Path,
    pem: &[u8],
    provider: Arc<CryptoProvider>,
    is_required: bool,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let bad = |problem: String| TlsError::Bad {
        file: file.to_owned(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, pem)? {
        roots
            .add(certificate)
            .map_err(|error| bad(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder.build().map_err(|error| bad(error.to_string()))
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::Bad {
            file: file.to_owned(),
            problem: "holds no certificate".into(),
        }),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|error| TlsError::Read {
        file: file.to_owned(),
        error,
    })
}

/// The names of a certificate that has been verified.
fn names(certificate: &CertificateDer<'_>) -> Option<PeerNames> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(PeerNames {
        dns: certificate.valid_dns_names().map(Into::into).collect(),
        uris: certificate.valid_uri_names().map(Into::into).collect(),
    })
}
