//! Each RPC, with each kind of credentials and each right.

use std::path::Path;

use http::uri::PathAndQuery;
use tempfile::TempDir;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use yeta_gateway::config::{Keys, Kubernetes, Permission, ServiceAccount};
use yeta_gateway::grpc::rpc::{Access, RPCS};
use yeta_gateway::proto::subscription_service_client::SubscriptionServiceClient;
use yeta_gateway::proto::{
    CreateSubscriptionRequest, GetSubscriptionRequest, ListSubscriptionsRequest, Subscription,
};
use yeta_gateway::tls::TlsSettings;

use super::{Issuer, by, channel, client, reason, second_account, tls_channel};
use crate::support::TestApp;
use crate::tls::{Authority, write};

/// Sends one empty message; gives the code and the reason that the answer begins with.
async fn call(channel: &Channel, path: &'static str, headers: &[(&str, &str)]) -> (Code, String) {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(());
    for (name, value) in headers {
        let name: tonic::metadata::MetadataKey<_> = name.parse().unwrap();
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let codec: ProstCodec<(), ()> = ProstCodec::default();
    let path = PathAndQuery::from_static(path);
    match grpc.server_streaming(request, path, codec).await {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), reason(&status)),
    }
}

/// The RPCs that the gateway knows clients for.
fn rpcs() -> impl Iterator<Item = &'static str> {
    let known = RPCS.iter();
    let of_clients = known.filter(|rpc| matches!(rpc.access, Access::Any(_)));
    of_clients.map(|rpc| rpc.path)
}

/// Whether a right is enough for an RPC, as the configuration describes the rights.
fn is_enough(right: Permission, path: &str) -> bool {
    use Permission as P;
    let (service, method) = path.rsplit_once('/').unwrap();
    let service = service.rsplit('.').next().unwrap();
    let rights: &[P] = match (service, method) {
        ("CallService", _) => &[P::Calls],
        ("ConfigService", _) => &[P::Config],
        ("VoiceService", _) => &[P::Voice],
        ("OutboundService", "SettleSubmission")
        | ("PushService", "BackfillPushes" | "BackfillFile") => &[P::Admin],
        ("OutboundService", "GetSubmission" | "ListSubmissions") => &[P::Outbound, P::Submissions],
        ("OutboundService", "CallOut" | "CreateTask" | "InsertTaskData" | "SubmitRows") => {
            &[P::Outbound, P::Place]
        }
        ("OutboundService", _) => &[P::Outbound, P::Tasks],
        ("PushService", "ListFailedPushFiles") => &[P::Admin, P::Subscribe, P::Consume],
        ("PushService", _) => &[P::Subscribe, P::Consume],
        ("SubscriptionService", _) => &[P::Subscribe, P::Subscriptions],
        other => panic!("{other:?} has no rights here"),
    };
    rights.contains(&right)
}

const REFUSALS: [&str; 5] = [
    "UNAUTHENTICATED",
    "RPC_FORBIDDEN",
    "ACCOUNT_FORBIDDEN",
    "ACCOUNT_NOT_FOUND",
    "CLIENT_DISABLED",
];

/// A gateway with a client for each right, named after it, by token, by service account and by
/// certificate, and one that is switched off.
async fn gateway(keys: &Path, tls: TlsSettings) -> TestApp {
    TestApp::with(|config| {
        config.grpc.tls = Some(TlsSettings {
            requires_client: false,
            ..tls
        });
        config.accounts.push(second_account());
        config.kubernetes = Kubernetes {
            issuer: "https://cluster".into(),
            audience: "yeta-gateway".into(),
            keys: Some(Keys::File(keys.to_owned())),
        };
        let rights = Permission::ALL.into_iter();
        config.clients = rights
            .map(|right| {
                let mut client = client(right.name(), &[right], &["default"]);
                client.tls_san = vec![format!("{}.svc", right.name())];
                client.kubernetes = Some(ServiceAccount {
                    namespace: "crm".into(),
                    service_account: right.name().into(),
                });
                client
            })
            .collect();
        let mut off = client("off", &Permission::ALL, &["*"]);
        off.enabled = false;
        off.tls_san = vec!["off.svc".into()];
        config.clients.push(off);
    })
    .await
}

/// What a request shows of its client: a connection with or without a certificate, and a token.
struct Shown {
    channel: Channel,
    token: Option<String>,
}

impl Shown {
    /// Calls an RPC for an account; `None`: for the default one.
    async fn call(&self, path: &'static str, account: Option<&str>) -> (Code, String) {
        let token = self.token.iter().map(|it| ("authorization", it.as_str()));
        let account = account.iter().map(|it| ("yeta-account", *it));
        let headers: Vec<_> = token.chain(account).collect();
        call(&self.channel, path, &headers).await
    }
}

/// A gateway of the table, and those who make credentials for it.
struct Table {
    app: TestApp,
    issuer: Issuer,
    authority: Authority,
    /// A connection without a certificate.
    plain: Channel,
    _folder: TempDir,
}

impl Table {
    async fn new() -> Self {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::new());
        let keys = folder.path().join("jwks.json");
        std::fs::write(&keys, issuer.jwks()).unwrap();
        let authority = Authority::new();
        let server = authority.sign(&["gateway.test"]);
        let tls = write(folder.path(), &server, Some(&authority));
        let app = gateway(&keys, tls).await;
        Self {
            plain: tls_channel(&app.grpc, &authority, None),
            app,
            issuer,
            authority,
            _folder: folder,
        }
    }

    fn token(&self, token: impl std::fmt::Display) -> Shown {
        Shown {
            channel: self.plain.clone(),
            token: Some(format!("Bearer {token}")),
        }
    }

    fn jwt(&self, name: &str) -> Shown {
        self.token(self.issuer.token(name, "yeta-gateway", 600))
    }

    fn certificate(&self, name: &str) -> Shown {
        let signed = self.authority.sign(&[name]);
        Shown {
            channel: tls_channel(&self.app.grpc, &self.authority, Some(&signed)),
            token: None,
        }
    }

    /// Credentials of no client.
    fn strangers(&self) -> Vec<(&'static str, Shown)> {
        let (issuer, stranger) = (&self.issuer, Issuer::new());
        let nothing = Shown {
            channel: self.plain.clone(),
            token: None,
        };
        let basic = Shown {
            channel: self.plain.clone(),
            token: Some("Basic outbound".into()),
        };
        let known_with_a_wrong_token = Shown {
            token: Some("Bearer nobody".into()),
            ..self.certificate("admin.svc")
        };
        let jwt = |audience, seconds| issuer.token("admin", audience, seconds);
        vec![
            ("no credentials", nothing),
            ("a wrong token", self.token("nobody")),
            ("an empty token", self.token("")),
            ("another scheme", basic),
            ("an expired JWT", self.token(jwt("yeta-gateway", -90))),
            ("a wrong audience", self.token(jwt("other", 600))),
            (
                "a stranger's JWT",
                self.token(stranger.token("admin", "yeta-gateway", 600)),
            ),
            ("an unknown account's JWT", self.jwt("who")),
            ("an unknown certificate", self.certificate("who.svc")),
            (
                "a certificate with a similar name",
                self.certificate("admin.svc.who"),
            ),
            (
                "a certificate of a client and a wrong token",
                known_with_a_wrong_token,
            ),
        ]
    }
}

#[tokio::test]
async fn every_rpc_refuses_bad_credentials_and_accounts_and_lets_each_right_do_its_own() {
    let table = Table::new().await;
    let strangers = table.strangers();
    let clients = Permission::ALL.map(|right| {
        let name = right.name();
        let certificate = table.certificate(&format!("{name}.svc"));
        let shown = [table.token(name), table.jwt(name), certificate];
        (right, shown)
    });
    let off = [table.token("off"), table.certificate("off.svc")];
    let expect = |code, reason: &str| (code, reason.to_owned());
    let mut checked = 0;
    for path in rpcs() {
        for (what, stranger) in &strangers {
            let refused = expect(Code::Unauthenticated, "UNAUTHENTICATED");
            assert_eq!(stranger.call(path, None).await, refused, "{path}: {what}");
        }
        for off in &off {
            let refused = expect(Code::PermissionDenied, "CLIENT_DISABLED");
            assert_eq!(off.call(path, None).await, refused, "{path}");
        }
        for (right, shown) in &clients {
            for (shown, how) in shown.iter().zip(["token", "JWT", "certificate"]) {
                let what = format!("{path}: {right:?} by {how}");
                if !is_enough(*right, path) {
                    let refused = expect(Code::PermissionDenied, "RPC_FORBIDDEN");
                    assert_eq!(shown.call(path, Some("default")).await, refused, "{what}");
                    continue;
                }
                let other = expect(Code::PermissionDenied, "ACCOUNT_FORBIDDEN");
                assert_eq!(shown.call(path, Some("second")).await, other, "{what}");
                let none = expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
                assert_eq!(shown.call(path, Some("none")).await, none, "{what}");
                let (code, reason) = shown.call(path, None).await;
                let is_refused = REFUSALS.contains(&reason.as_str());
                assert!(!is_refused, "{what} got {code:?} {reason}");
                checked += 1;
            }
        }
    }
    assert!(checked > 150, "{checked}");
    table.app.stop().await.unwrap();
}

#[tokio::test]
async fn another_accounts_subscription_does_not_exist_and_patterns_bound_names() {
    let app = TestApp::with(|config| {
        config.accounts.push(second_account());
        let mut bounded = client("bounded", &[Permission::Subscribe], &["default"]);
        bounded.subscriptions = vec!["crm-*".into()];
        config.clients = vec![
            client("one", &[Permission::Subscribe], &["default"]),
            client("two", &[Permission::Subscribe], &["second"]),
            bounded,
        ];
    })
    .await;
    let mut manager = SubscriptionServiceClient::new(channel(&app.grpc));
    let creating = |name: &str| CreateSubscriptionRequest {
        subscription: Some(Subscription {
            name: name.into(),
            ..Subscription::default()
        }),
        start: None,
    };
    let getting = |name: &str| GetSubscriptionRequest { name: name.into() };
    manager
        .create_subscription(by("one", creating("billing")))
        .await
        .unwrap();
    manager
        .create_subscription(by("one", creating("crm-1")))
        .await
        .unwrap();

    let status = manager
        .get_subscription(by("two", getting("billing")))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), &*reason(&status)),
        (Code::NotFound, "SUBSCRIPTION_NOT_FOUND")
    );
    let unknown = manager
        .get_subscription(by("two", getting("nothing")))
        .await
        .unwrap_err();
    let text = |status: &tonic::Status| status.message().replace("nothing", "billing");
    assert_eq!(text(&status), text(&unknown));
    let taken = manager
        .create_subscription(by("two", creating("billing")))
        .await
        .unwrap_err();
    assert_eq!(reason(&taken), "SUBSCRIPTION_FORBIDDEN");
    assert!(!format!("{taken:?}").contains("default"), "{taken:?}");

    let mut listing = by("two", ListSubscriptionsRequest::default());
    let listed = manager
        .list_subscriptions(by("two", ListSubscriptionsRequest::default()))
        .await;
    assert_eq!(listed.unwrap().into_inner().subscriptions, []);
    listing
        .metadata_mut()
        .insert("yeta-account", "default".parse().unwrap());
    let foreign = manager.list_subscriptions(listing).await.unwrap_err();
    assert_eq!(reason(&foreign), "ACCOUNT_FORBIDDEN");

    let listed = manager.list_subscriptions(by("bounded", ListSubscriptionsRequest::default()));
    let listed = listed.await.unwrap().into_inner().subscriptions;
    let names: Vec<_> = listed.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["crm-1"]);
    let outside = manager
        .get_subscription(by("bounded", getting("billing")))
        .await
        .unwrap_err();
    assert_eq!(reason(&outside), "SUBSCRIPTION_FORBIDDEN");
    manager
        .get_subscription(by("bounded", getting("crm-1")))
        .await
        .unwrap();
    app.stop().await.unwrap();
}
