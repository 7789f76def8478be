//! TLS of the gateway as a client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;

use super::reload::{Contents, Reloaded, Source};
use super::{TlsError, bad, certificates, private_key, roots};

/// The files of connections to a server, all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientFiles {
    /// The roots of the server's certificate; `None`: the public ones.
    pub ca_file: Option<PathBuf>,
    /// The gateway's own certificate; `None`: the gateway presents none.
    pub identity: Option<Identity>,
}

/// A certificate that the gateway presents to a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The certificate and those that lead to its root.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

impl ClientFiles {
    /// Whether no file is named.
    pub fn is_empty(&self) -> bool {
        self.ca_file.is_none() && self.identity.is_none()
    }

    /// Reads the files once.
    pub fn read(&self) -> Result<ClientConfig, TlsError> {
        self.config(&Contents::read(self)?)
    }

    fn config(&self, contents: &Contents) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions of TLS");
        let builder = match &self.ca_file {
            Some(file) => builder.with_root_certificates(roots(file, contents.of(file))?),
            None => builder.with_webpki_roots(),
        };
        let Some(Identity {
            cert_file,
            key_file,
        }) = &self.identity
        else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(cert_file, contents.of(cert_file))?;
        let key = private_key(key_file, contents.of(key_file))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad(cert_file, error.to_string()))
    }
}

impl Source for ClientFiles {
    type Value = Arc<ClientConfig>;

    fn paths(&self) -> Vec<&Path> {
        let identity = self.identity.iter();
        let identity = identity.flat_map(|it| [&it.cert_file, &it.key_file]);
        let files = self.ca_file.iter().chain(identity);
        files.map(PathBuf::as_path).collect()
    }

    fn build(&self, contents: &Contents) -> Result<Self::Value, TlsError> {
        let mut config = self.config(contents)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The TLS configuration of HTTP/2 connections to a server, with the present content of its files.
///
/// Open connections stay as they are when the files change.
pub struct ClientTls(Reloaded<ClientFiles>);

impl ClientTls {
    /// Reads the files.
    pub fn load(files: ClientFiles) -> Result<Self, TlsError> {
        Reloaded::load(files).map(Self)
    }

    /// The configuration of the next connection.
    pub async fn config(&self) -> Arc<ClientConfig> {
        self.0.value().await
    }
}
