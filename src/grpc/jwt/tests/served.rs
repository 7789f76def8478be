//! Keys from a server, over real sockets.

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::super::keys::{HTTP_TIMEOUT, MAX_KEY_SET};
use super::*;
use crate::tls::{ServerTls, TlsSettings};

/// What the server answers.
#[derive(Clone, Debug)]
enum Mode {
    /// This body.
    Body(String),
    /// This head alone, then the end.
    Head(&'static str),
    /// Nothing, until the mode changes.
    Hang,
    /// A head, then nothing until the mode changes.
    HangInBody,
    /// A body without an end.
    Endless,
}

/// A server of keys. Each connection serves one request.
struct Server {
    url: String,
    mode: watch::Sender<Mode>,
    /// The head of each request.
    requests: watch::Receiver<Vec<String>>,
    folder: TempDir,
}

impl Server {
    /// Serves plain HTTP.
    async fn plain(keys: &[Value]) -> Self {
        Self::start(keys, None).await
    }

    async fn start(keys: &[Value], tls: Option<(TempDir, ServerTls)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(body(keys));
        let (noted, requests) = watch::channel(Vec::new());
        let (folder, tls) = match tls {
            Some((folder, tls)) => (folder, Some(Arc::new(tls))),
            None => (tempfile::tempdir().unwrap(), None),
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let noted = Arc::new(noted);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, modes, noted) = (tls.clone(), modes.clone(), noted.clone());
                tokio::spawn(async move {
                    match tls {
                        // A client that does not trust the certificate goes away.
                        Some(tls) => {
                            if let Ok((stream, _)) = tls.accept(stream).await {
                                serve(stream, modes, &noted).await;
                            }
                        }
                        None => serve(stream, modes, &noted).await,
                    }
                });
            }
        });
        Self {
            url: format!("{scheme}://localhost:{port}/keys"),
            mode,
            requests,
            folder,
        }
    }

    /// Serves TLS with a certificate of its own in `root.crt`.
    async fn tls(keys: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = vec!["localhost".to_owned()];
        let signed = rcgen::generate_simple_self_signed(names).unwrap();
        let settings = TlsSettings {
            cert_file: folder.path().join("root.crt"),
            key_file: folder.path().join("tls.key"),
            client_ca_file: None,
            requires_client: false,
        };
        std::fs::write(&settings.cert_file, signed.cert.pem()).unwrap();
        std::fs::write(&settings.key_file, signed.signing_key.serialize_pem()).unwrap();
        let tls = ServerTls::load(settings, b"http/1.1").unwrap();
        Self::start(keys, Some((folder, tls))).await
    }

    fn ca_file(&self) -> PathBuf {
        self.folder.path().join("root.crt")
    }

    fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    fn asked(&self) -> usize {
        self.requests.borrow().len()
    }

    /// Resolves at the request of this number.
    async fn until_asked(&mut self, times: usize) {
        let asked = self.requests.wait_for(|requests| requests.len() >= times);
        let asked = tokio::time::timeout(Duration::from_secs(60), asked).await;
        asked.expect("no request").unwrap();
    }

    fn jwts(&self, ca_file: Option<PathBuf>, token_file: Option<PathBuf>) -> Arc<Jwts> {
        Arc::new(jwts_of(Keys::Url {
            url: self.url.parse().unwrap(),
            ca_file,
            token_file,
        }))
    }
}

fn body(keys: &[Value]) -> Mode {
    Mode::Body(json!({ "keys": keys }).to_string())
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut modes: watch::Receiver<Mode>,
    noted: &watch::Sender<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    noted.send_modify(|all| all.push(String::from_utf8(head).unwrap()));
    let mut mode = modes.borrow_and_update().clone();
    if matches!(mode, Mode::Hang | Mode::HangInBody) {
        if matches!(mode, Mode::HangInBody) {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{";
            stream.write_all(head).await.unwrap();
        }
        modes.changed().await.unwrap();
        mode = modes.borrow().clone();
    }
    let answer = match mode {
        Mode::Body(body) => format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}"),
        Mode::Head(head) => format!("{head}\r\ncontent-length: 0\r\n\r\n"),
        Mode::Hang | Mode::HangInBody => return,
        Mode::Endless => {
            let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"keys\":[";
            let mut written = stream.write_all(head).await;
            // Ends when the client goes away.
            while written.is_ok() {
                written = stream.write_all(&[b' '; 4096]).await;
            }
            return;
        }
    };
    // The client may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn keys_come_over_tls_from_a_trusted_server_which_gets_the_present_token() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let server = Server::tls(&[old.jwk()]).await;
    let token_file = server.folder.path().join("token");
    std::fs::write(&token_file, "token-1\n").unwrap();
    let jwts = server.jwts(Some(server.ca_file()), Some(token_file.clone()));
    assert!(jwts.subject(&old.token(|_| {})).await.is_ok());
    std::fs::write(&token_file, "token-2\n").unwrap();
    server.set(body(&[old.jwk(), new.jwk()]));
    pass(MIN_REFRESH).await;
    assert!(jwts.subject(&new.token(|_| {})).await.is_ok());
    let requests = server.requests.borrow().clone();
    assert_eq!(requests.len(), 2);
    for (request, token) in requests.iter().zip(["token-1", "token-2"]) {
        assert!(request.starts_with("GET /keys HTTP/1.1\r\n"), "{request}");
        let header = format!("authorization: Bearer {token}\r\n");
        assert!(request.contains(&header), "{request}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_trusted_gets_no_token_and_gives_no_keys() {
    let issuer = Issuer::new("a");
    let server = Server::tls(&[issuer.jwk()]).await;
    let other = Server::tls(&[issuer.jwk()]).await;
    let token_file = server.folder.path().join("token");
    std::fs::write(&token_file, "token-1").unwrap();
    for ca_file in [Some(other.ca_file()), None, Some("/none".into())] {
        let jwts = server.jwts(ca_file, Some(token_file.clone()));
        assert!(jwts.subject(&issuer.token(|_| {})).await.is_err());
    }
    // Nor does the gateway ask without the token that it is configured to send.
    let jwts = server.jwts(Some(server.ca_file()), Some("/none".into()));
    assert!(jwts.subject(&issuer.token(|_| {})).await.is_err());
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn unknown_keys_have_a_server_asked_at_most_once_a_minute() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let server = Server::plain(&[old.jwk()]).await;
    let jwts = server.jwts(None, None);
    let is_good = async |issuer: &Issuer| jwts.subject(&issuer.token(|_| {})).await.is_ok();
    assert!(is_good(&old).await && !is_good(&new).await);
    server.set(body(&[old.jwk(), new.jwk()]));
    for name in ["b", "c", "d"] {
        assert!(!is_good(&Issuer::new(name)).await);
    }
    pass(MIN_REFRESH / 2).await;
    assert!(!is_good(&new).await && is_good(&old).await);
    assert_eq!(server.asked(), 1);
    pass(MIN_REFRESH / 2).await;
    assert!(is_good(&new).await && is_good(&old).await);
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_server_that_fails_leaves_the_last_good_keys_in_force() {
    let (known, unknown) = (Issuer::new("known"), Issuer::new("unknown"));
    let server = Server::plain(&[known.jwk()]).await;
    let jwts = server.jwts(None, None);
    let is_good = async |issuer: &Issuer| jwts.subject(&issuer.token(|_| {})).await.is_ok();
    assert!(is_good(&known).await);
    let set = |more: usize| {
        let padding = " ".repeat(more);
        Mode::Body(json!({ "keys": [unknown.jwk()] }).to_string() + &padding)
    };
    let faults = [
        Mode::Head("HTTP/1.1 500 Internal Server Error"),
        Mode::Head("HTTP/1.1 404 Not Found"),
        Mode::Head("HTTP/1.1 302 Found\r\nlocation: /keys"),
        Mode::Head("HTTP/1.1 200 OK"),
        Mode::Head("no HTTP"),
        Mode::Body("{\"keys\":[".into()),
        Mode::Body("<html>".into()),
        Mode::Endless,
        set(MAX_KEY_SET),
    ];
    for (fault, asked) in faults.into_iter().zip(2..) {
        server.set(fault.clone());
        pass(MIN_REFRESH).await;
        assert!(!is_good(&unknown).await, "{fault:?}");
        assert!(is_good(&known).await, "{fault:?}");
        assert!(!is_good(&unknown).await, "{fault:?}");
        assert_eq!(server.asked(), asked, "{fault:?}");
    }
    server.set(set(0));
    pass(MIN_REFRESH).await;
    assert!(is_good(&unknown).await);
}

#[tokio::test]
async fn while_a_server_hangs_known_keys_are_good_and_unknown_ones_are_refused_in_time() {
    let (known, unknown) = (Issuer::new("known"), Issuer::new("unknown"));
    for mode in [Mode::Hang, Mode::HangInBody] {
        let mut server = Server::plain(&[known.jwk()]).await;
        let jwts = server.jwts(None, None);
        assert!(jwts.subject(&known.token(|_| {})).await.is_ok());
        server.set(mode);
        pass(MIN_REFRESH).await;
        let waiting = [0; 20].map(|_| {
            let (jwts, token) = (jwts.clone(), unknown.token(|_| {}));
            tokio::spawn(async move { jwts.subject(&token).await })
        });
        server.until_asked(2).await;
        assert!(jwts.subject(&known.token(|_| {})).await.is_ok());
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        pass(HTTP_TIMEOUT).await;
        for waiting in waiting {
            let ended = tokio::time::timeout(Duration::from_secs(60), waiting);
            let refused = ended.await.expect("it waits in vain").unwrap();
            assert!(matches!(refused, Err(JwtError::UnknownKey(_))));
        }
        assert!(jwts.subject(&known.token(|_| {})).await.is_ok());
        assert_eq!(server.asked(), 2);
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_end_the_read_that_others_need() {
    let issuer = Issuer::new("a");
    let mut server = Server::plain(&[]).await;
    server.set(Mode::Hang);
    let jwts = server.jwts(None, None);
    let token = issuer.token(|_| {});
    let impatient = tokio::spawn({
        let (jwts, token) = (jwts.clone(), token.clone());
        async move { jwts.subject(&token).await }
    });
    server.until_asked(1).await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    server.set(body(&[issuer.jwk()]));
    assert!(jwts.subject(&token).await.is_ok());
    assert_eq!(server.asked(), 1);
}
