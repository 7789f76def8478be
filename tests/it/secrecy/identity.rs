//! Keys of certificates, tokens of every kind, and the audit log.

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::{CallOutRequest, ListPushesRequest, Row};

use super::{CALLED, hex, leaks};
use crate::dialog_context::QUESTION;
use crate::dialog_context::tls::{TlsProvider, file, identity};
use crate::hostile::raw::address;
use crate::identity::jwks::{KeyServer, SERVERS_TOKEN};
use crate::identity::{Issuer, by, tls_channel};
use crate::support::{Http, Process, eventually};
use crate::tls::{Authority, Signed, connect, write};

const PROVIDER_TOKEN: &str = "provider-token-93ce";
const NEXT_PROVIDER_TOKEN: &str = "provider-token-next-07d1";
/// What somebody wrote into a token's file by mistake.
const NO_TOKEN: &str = "two words 5be2";

fn call_out() -> CallOutRequest {
    CallOutRequest {
        robot_id: "719".into(),
        line_num: "69101338".into(),
        call_column: vec!["客户手机号码".into()],
        call_list: vec![Row {
            values: vec![CALLED.into()],
        }],
        request_id: format!("order-{CALLED}"),
        ..CallOutRequest::default()
    }
}

/// A private key as it could stand in a log: each line of its PEM, and its bytes.
fn forms_of_key(signed: &Signed) -> Vec<String> {
    use rustls::pki_types::pem::PemObject as _;
    let lines = signed.key.lines().filter(|line| !line.starts_with("---"));
    let mut forms: Vec<_> = lines.map(ToOwned::to_owned).collect();
    assert!(!forms.is_empty());
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    let bytes = key.secret_der();
    forms.push(hex(bytes));
    forms.push(format!("{bytes:?}").trim_matches(['[', ']']).to_owned());
    forms
}

/// A gateway with every kind of identity, on both of its sides.
struct World {
    gateway: Process,
    authority: Authority,
    issuer: Issuer,
    provider: TlsProvider,
    /// Certificates whose keys must not be seen.
    server: Signed,
    own: Signed,
    _keys: KeyServer,
    folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let path = folder.path();
        let issuer = Issuer::new();
        let keys = KeyServer::start(issuer.jwks()).await;
        let provider = TlsProvider::start(Some(&authority)).await;
        provider.desk.require(PROVIDER_TOKEN);
        let server = authority.sign(&["gateway.test"]);
        let own = authority.sign(&["gateway.svc"]);
        write(path, &server, Some(&authority));
        identity(path, &own);
        file(path, "provider-token", PROVIDER_TOKEN);
        Process::configure(path, "");
        let text = std::fs::read_to_string(path.join("gateway.toml")).unwrap();
        let text = text.replace(
            "log.format = 'json'",
            "log.format = 'json'\nlog.filter = 'trace'",
        );
        let more = format!(
            "[grpc.tls]\ncert_file = '{path}/tls.crt'\nkey_file = '{path}/tls.key'\n\
             client_ca_file = '{path}/ca.crt'\nclient_auth = 'optional'\n\
             [dialog_context]\nendpoint = '{}'\nconnection_age = '1s'\nca_file = '{}'\n\
             cert_file = '{path}/client.crt'\nkey_file = '{path}/client.key'\n\
             token_file = '{path}/provider-token'\n\
             [[clients]]\nname = 'crm'\ntls_san = 'crm.svc'\n\
             kubernetes = {{ namespace = 'crm', service_account = 'dialer' }}\n\
             allow = ['outbound', 'consume']\naccounts = ['*']\n{}",
            provider.url,
            provider.ca_file().display(),
            keys.settings(),
            path = path.display(),
        );
        std::fs::write(path.join("gateway.toml"), text + &more).unwrap();
        Self {
            gateway: Process::spawn(Process::command(path)).await,
            authority,
            issuer,
            provider,
            server,
            own,
            _keys: keys,
            folder,
        }
    }

    /// Calls by certificate, by tokens of a service account, and by what is refused; gives the
    /// errors.
    async fn call(&self, [good, expired]: &[String; 2], [known, unknown]: [&Signed; 2]) -> String {
        let grpc = &self.gateway.addresses.grpc;
        let channel = |client| tls_channel(grpc, &self.authority, client);
        let mut outbound = OutboundServiceClient::new(channel(Some(known)));
        let mut errors = vec![outbound.call_out(call_out()).await.unwrap_err()];
        let mut pushes = PushServiceClient::new(channel(None));
        let list = |jwt: &str| by(jwt, ListPushesRequest::default());
        pushes.list_pushes(list(good)).await.unwrap();
        errors.push(pushes.list_pushes(list(expired)).await.unwrap_err());
        let mut pushes = PushServiceClient::new(channel(Some(unknown)));
        let without_token = ListPushesRequest::default();
        errors.push(pushes.list_pushes(without_token).await.unwrap_err());
        for error in &errors[1..] {
            assert_eq!(error.code(), Code::Unauthenticated);
        }
        format!("{errors:?}")
    }

    /// Connects with a certificate that is not trusted, and without TLS.
    async fn fail_to_connect(&self, foreign: &Signed, jwt: &str) {
        let grpc = &self.gateway.addresses.grpc;
        if let Ok(mut stream) = connect(grpc, &self.authority, Some(foreign)).await {
            // With TLS 1.3 the client learns of the refusal when it reads.
            stream.read_u8().await.unwrap_err();
        }
        let mut plain = TcpStream::connect(address(grpc)).await.unwrap();
        plain.write_all(jwt.as_bytes()).await.unwrap();
        // The connection may be reset.
        let _ = plain.read_to_end(&mut Vec::new()).await;
    }

    /// Rotates the provider's token, with a mistake before the next good one.
    async fn ask_with_tokens(&self) {
        let http = Http::new();
        let context = serde_json::to_vec(&self.provider.desk.context()).unwrap();
        let answered = async || {
            let url = &self.gateway.addresses.push;
            let answer = http.push(url, "getDialogContext", QUESTION).await.unwrap();
            (answer.body == context).then_some(())
        };
        let path = self.folder.path();
        eventually("an answer", answered).await;
        file(path, "provider-token", NO_TOKEN);
        let gateway = &self.gateway;
        gateway.until_logged("keeping the secret read before").await;
        self.provider.desk.require(NEXT_PROVIDER_TOKEN);
        let refused = async || answered().await.is_none().then_some(());
        eventually("a question with the last token", refused).await;
        file(path, "provider-token", NEXT_PROVIDER_TOKEN);
        eventually("an answer", answered).await;
    }

    /// Puts keys of other certificates into the files of both sides.
    async fn spoil_keys(&self, [of_client, of_server]: [&Signed; 2]) {
        const WARNING: &str = "the TLS files cannot be used";
        let (path, gateway) = (self.folder.path(), &self.gateway);
        file(path, "client.key", &of_client.key);
        gateway.until_logged(WARNING).await;
        let before = gateway.count_logged(WARNING);
        file(path, "tls.key", &of_server.key);
        eventually("the listener's warning", async || {
            let grpc = &gateway.addresses.grpc;
            connect(grpc, &self.authority, None).await.unwrap();
            (gateway.count_logged(WARNING) > before).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_of_a_certificate_and_no_token_is_written_and_audit_lines_have_no_number() {
    let world = World::start().await;
    let jwts = [600, -600].map(|seconds| world.issuer.token("dialer", "yeta-gateway", seconds));
    let known = world.authority.sign(&["crm.svc"]);
    let unknown = world.authority.sign(&["other.svc"]);
    let foreign = Authority::new().sign(&["crm.svc"]);
    let mut shown = world.call(&jwts, [&known, &unknown]).await;
    world.fail_to_connect(&foreign, &jwts[0]).await;
    world.ask_with_tokens().await;
    world.spoil_keys([&unknown, &foreign]).await;
    world.gateway.terminate();
    let (status, output) = world.gateway.ended().await;
    assert!(status.success(), "{status}");
    assert!(output.contains("\"TRACE\""), "the filter is not in force");

    let lines = output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let audit: Vec<Value> = lines
        .filter(|line: &Value| line["target"] == "audit")
        .collect();
    for (field, value) in [
        ("auth", "certificate"),
        ("auth", "jwt"),
        ("message", "authentication failed"),
    ] {
        let is_there = audit.iter().any(|line| line[field] == value);
        assert!(is_there, "{value} in {audit:#?}");
    }
    shown += &output;
    let keys = [&world.server, &world.own, &known, &unknown, &foreign];
    let keys: Vec<_> = keys.into_iter().flat_map(forms_of_key).collect();
    // The signatures alone, too.
    let signatures = jwts.each_ref().map(|jwt| &jwt[jwt.len() - 40..]);
    let tokens = [
        PROVIDER_TOKEN,
        NEXT_PROVIDER_TOKEN,
        NO_TOKEN,
        SERVERS_TOKEN,
        CALLED,
        &jwts[0],
        &jwts[1],
    ];
    let secrets = keys.iter().map(String::as_str).chain(tokens);
    let leaks = leaks(&shown, secrets.chain(signatures));
    assert!(leaks.is_empty(), "{leaks}");
}
