//! Where a service is, and how the gateway shows who it is there.

use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;

use crate::secret::{Rule, Secret, SecretError};
use crate::tls::{ClientFiles, ClientTls, TlsError};

/// A gRPC service's address, and the files of connections to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    uri: Uri,
    files: ClientFiles,
    token_file: Option<PathBuf>,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Of another form. What was given is not repeated: it may hold a password.
    #[error("expected an address such as \"http://host:50051\" or \"https://host:50051\"")]
    NoAddress,
    /// Certificates for a connection without TLS.
    #[error("certificates belong to an https address alone")]
    PlainWithCertificates,
    /// A token for a connection on which others can read it.
    #[error("a token is sent to an https or a loopback address alone")]
    PlainWithToken,
    /// The certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] TlsError),
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] SecretError),
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
        Ok(Self {
            uri,
            files: ClientFiles::default(),
            token_file: None,
        })
    }

    /// The same with certificates, which are read once to find faults.
    pub fn with_certificates(self, files: ClientFiles) -> Result<Self, EndpointError> {
        if !self.is_tls() {
            return Err(EndpointError::PlainWithCertificates);
        }
        files.read()?;
        Ok(Self { files, ..self })
    }

    /// The same with the file of a bearer token, which is read once to find faults.
    pub fn with_token_file(self, path: PathBuf) -> Result<Self, EndpointError> {
        if !self.is_tls() && !is_loopback(&self.uri) {
            return Err(EndpointError::PlainWithToken);
        }
        token(&path).read()?;
        Ok(Self {
            token_file: Some(path),
            ..self
        })
    }

    /// Whether connections to it have TLS.
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

    /// The TLS of connections to it; `None`: they are plain.
    pub(super) fn tls(&self) -> Result<Option<ClientTls>, EndpointError> {
        let files = self.is_tls().then(|| self.files.clone());
        Ok(files.map(ClientTls::load).transpose()?)
    }

    /// The bearer token of requests to it.
    pub(super) fn token(&self) -> Result<Option<Secret>, EndpointError> {
        let token = self.token_file.as_ref().map(token);
        if let Some(token) = &token {
            token.read()?;
        }
        Ok(token)
    }
}

fn token(path: &PathBuf) -> Secret {
    Secret::file(path, Rule::Token)
}

/// Whether an address leads to this machine. The resolver keeps `localhost` to that.
pub(crate) fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> = host.parse().ok();
    address.map_or_else(
        || host.eq_ignore_ascii_case("localhost"),
        |address| address.is_loopback(),
    )
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
    fn certificates_are_read_beforehand_and_only_of_https() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let trusting = |ca_file: PathBuf| ClientFiles {
            ca_file: Some(ca_file),
            identity: None,
        };
        let with = |url: &str, files| Endpoint::parse(url).unwrap().with_certificates(files);
        for bad in [path.clone(), "/none".into()] {
            let refused = with("https://provider", trusting(bad.clone()));
            match refused.unwrap_err() {
                EndpointError::Certificates(error) => assert_eq!(error.file(), bad),
                other => panic!("{other}"),
            }
        }
        let refused = with("http://provider", trusting(path));
        assert!(matches!(refused, Err(EndpointError::PlainWithCertificates)));
    }

    #[test]
    fn a_token_is_for_tls_and_loopback_alone_and_read_beforehand() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "token-1\n").unwrap();
        let with = |url: &str, path: &std::path::Path| {
            let endpoint = Endpoint::parse(url).unwrap();
            endpoint.with_token_file(path.to_owned())
        };
        for good in [
            "https://provider:1",
            "http://127.0.0.1:1",
            "http://127.8.9.10:1",
            "http://[::1]:1",
            "http://LocalHost:1",
        ] {
            assert!(with(good, file.path()).is_ok(), "{good}");
        }
        for bad in [
            "http://provider:1",
            "http://localhost.evil:1",
            "http://127.0.0.1.evil:1",
            "http://10.0.0.1:1",
            "http://0.0.0.0:1",
            "http://[::ffff:10.0.0.1]:1",
        ] {
            let refused = with(bad, file.path());
            assert!(
                matches!(refused, Err(EndpointError::PlainWithToken)),
                "{bad}"
            );
        }
        std::fs::write(file.path(), "hush hush").unwrap();
        let refused = with("https://provider", file.path()).unwrap_err();
        assert!(!refused.to_string().contains("hush"), "{refused}");
        assert!(with("https://provider", "/none".as_ref()).is_err());
    }
}
