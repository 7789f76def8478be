//! Each RPC, with each kind of credentials and each right.

use std::path::Path;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use yeta_gateway::config::{Keys, Kubernetes, Permission, ServiceAccount};
use yeta_gateway::grpc::rpc::{Access, RPCS};
use yeta_gateway::proto::subscription_service_client::SubscriptionServiceClient;
use yeta_gateway::proto::{
    CreateSubscriptionRequest, GetSubscriptionRequest, ListSubscriptionsRequest, Subscription,
};

use super::{Issuer, by, channel, client, reason, second_account};
use crate::support::TestApp;

/// Sends one empty message; gives the code and the reason that the answer begins with.
async fn call(app: &TestApp, path: &'static str, headers: &[(&str, &str)]) -> (Code, String) {
    let mut grpc = Grpc::new(channel(&app.grpc));
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

/// A gateway with a client for each right, named after it, by token and by service account, and one
/// that is switched off.
async fn gateway(keys: &Path) -> TestApp {
    TestApp::with(|config| {
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
                client.kubernetes = Some(ServiceAccount {
                    namespace: "crm".into(),
                    service_account: right.name().into(),
                });
                client
            })
            .collect();
        let mut off = client("off", &Permission::ALL, &["*"]);
        off.enabled = false;
        config.clients.push(off);
    })
    .await
}

#[tokio::test]
async fn every_rpc_refuses_bad_credentials_and_accounts_and_lets_each_right_do_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("jwks.json");
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    std::fs::write(&keys, issuer.jwks()).unwrap();
    let app = gateway(&keys).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let refused = |reason: &str| (Code::Unauthenticated, reason.to_owned());
    let mut checked = 0;
    for path in rpcs() {
        for (what, header) in [
            ("no credentials", None),
            ("a wrong token", Some(bearer("nobody"))),
            ("an empty token", Some(bearer(""))),
            ("another scheme", Some("Basic outbound".into())),
            (
                "an expired JWT",
                Some(bearer(&issuer.token("admin", "yeta-gateway", -90))),
            ),
            (
                "a wrong audience",
                Some(bearer(&issuer.token("admin", "other", 600))),
            ),
            (
                "a stranger's JWT",
                Some(bearer(&stranger.token("admin", "yeta-gateway", 600))),
            ),
            (
                "an unknown account's JWT",
                Some(bearer(&issuer.token("who", "yeta-gateway", 600))),
            ),
        ] {
            let header = header.iter().map(|it| ("authorization", it.as_str()));
            let headers: Vec<_> = header.collect();
            let expected = refused("UNAUTHENTICATED");
            assert_eq!(call(&app, path, &headers).await, expected, "{path}: {what}");
        }
        for right in Permission::ALL {
            let token = bearer(right.name());
            let with = |account: &'static str| {
                [("authorization", token.as_str()), ("yeta-account", account)]
            };
            if !is_enough(right, path) {
                let expected = (Code::PermissionDenied, "RPC_FORBIDDEN".to_owned());
                assert_eq!(
                    call(&app, path, &with("default")).await,
                    expected,
                    "{path}: {right:?}"
                );
                continue;
            }
            let other = (Code::PermissionDenied, "ACCOUNT_FORBIDDEN".to_owned());
            assert_eq!(
                call(&app, path, &with("second")).await,
                other,
                "{path}: {right:?}"
            );
            let none = (Code::NotFound, "ACCOUNT_NOT_FOUND".to_owned());
            assert_eq!(
                call(&app, path, &with("none")).await,
                none,
                "{path}: {right:?}"
            );
            let jwt = bearer(&issuer.token(right.name(), "yeta-gateway", 600));
            for token in [token.as_str(), jwt.as_str()] {
                let (code, reason) = call(&app, path, &[("authorization", token)]).await;
                let is_allowed = !REFUSALS.contains(&reason.as_str());
                assert!(is_allowed, "{path}: {right:?} got {code:?} {reason}");
            }
            checked += 1;
        }
        let off = call(&app, path, &[("authorization", "Bearer off")]).await;
        assert_eq!(
            off,
            (Code::PermissionDenied, "CLIENT_DISABLED".to_owned()),
            "{path}"
        );
    }
    assert!(checked > 50, "{checked}");
    app.stop().await.unwrap();
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
