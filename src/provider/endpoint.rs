//! Where a service is, and how it is spoken to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// A gRPC service's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    uri: Uri,
    ca_file: Option<PathBuf>,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Of another form. What was given is not repeated: it may hold a password.
    #[error("expected an address such as \"http://host:50051\" or \"https://host:50051\"")]
    NoAddress,
    /// Certificates for a connection that shows none.
    #[error("certificates belong to an https address alone")]
    PlainWithCertificates,
    /// The certificates cannot be read.
    #[error("{}: {problem}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Endpoint {
    /// Reads `http://host:port`, for plain HTTP/2, or `https://host:port`, for TLS. Without a port
    /// it is 80 or 443.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError::NoAddress)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let has_user = uri.authority().is_some_and(|a| a.as_str().contains('@'));
        if !is_http || !is_bare || !has_host || has_user {
            return Err(EndpointError::NoAddress);
        }
        Ok(Self { uri, ca_file: None })
    }

    /// The same, trusting the certificates of a PEM file in place of the public ones.
    pub fn with_ca_file(self, path: PathBuf) -> Result<Self, EndpointError> {
        if !self.is_tls() {
            return Err(EndpointError::PlainWithCertificates);
        }
        read_certificates(&path)?;
        Ok(Self {
            ca_file: Some(path),
            ..self
        })
    }

    /// Whether it is spoken to over TLS.
    pub fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// As it is named in log lines and metrics.
    pub(super) fn name(&self) -> String {
        self.uri.to_string().trim_end_matches('/').to_owned()
    }

    pub(super) fn tls(&self) -> Result<Option<ClientConfig>, EndpointError> {
        let Some(path) = &self.ca_file else {
            return Ok(None);
        };
        let roots = read_certificates(path)?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| problem(path, &error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(config))
    }
}

fn read_certificates(path: &Path) -> Result<RootCertStore, EndpointError> {
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| problem(path, &error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| problem(path, &error))?;
        let added = roots.add(certificate);
        added.map_err(|error| problem(path, &error))?;
    }
    if roots.is_empty() {
        return Err(problem(path, &"there is no certificate in it"));
    }
    Ok(roots)
}

fn problem(path: &Path, problem: &impl ToString) -> EndpointError {
    EndpointError::Certificates {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_scheme_a_host_and_a_port() {
        for good in [
            "http://provider:50051",
            "http://127.0.0.1:1/",
            "https://[::1]:50051",
            "https://provider.crm.svc.cluster.local",
        ] {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "provider:50051",
            "http://",
            "grpc://provider:1",
            "http://provider/path",
            "http://provider?x=1",
            "http://user:hush@provider",
        ] {
            let error = Endpoint::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn certificates_are_looked_at_beforehand() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let https = || Endpoint::parse("https://provider").unwrap();
        assert!(https().with_ca_file(path.clone()).is_err());
        assert!(https().with_ca_file("/none".into()).is_err());
        let http = Endpoint::parse("http://provider").unwrap();
        assert!(http.with_ca_file(path).is_err());
    }
}
