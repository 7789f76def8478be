//! Who may do what: by permission, by account, and with the gateway's own subscriptions.

use sha2::{Digest, Sha256};
use tonic::{Code, Request};
use yeta_gateway::account::Account;
use yeta_gateway::config::{Client, Permission};
use yeta_gateway::proto::{
    AckPushesRequest, DeleteSubscriptionRequest, GetSubscriptionRequest, ListDeadLettersRequest,
    ListSubscriptionsRequest, Position, PushFilter, RedriveDeadLettersRequest,
    SeekSubscriptionRequest, SubscribePushesRequest, Subscription, UpdateSubscriptionRequest,
    seek_subscription_request,
};
use yeta_gateway::push::Position as Place;
use yeta_gateway::secret::Secret;
use yeta_gateway::store::PushLog;
use yeta_gateway::store::embedded::subscriptions::EmbeddedSubscriptions;
use yeta_gateway::store::embedded::{EmbeddedLog, Options};
use yeta_gateway::store::subscriptions::{Spec, Subscriptions};

use super::{
    NAME, call, creating, ended, expected, faulty, joining, manager, named, refusal, with_token,
};
use crate::bridge::reason;
use crate::support::{TestApp, next_event, record};

/// A gateway with two accounts; `all` may use both, `one` the second, `caller` may not subscribe,
/// `admin` may do everything.
async fn shared(path: Option<&std::path::Path>) -> TestApp {
    let client = |name: &str, allow: &[Permission], accounts: &[&str]| Client {
        name: name.to_owned(),
        token_sha256: vec![Sha256::digest(name).into()],
        allow: allow.to_vec(),
        accounts: accounts.iter().map(|&account| account.to_owned()).collect(),
        ..Client::default()
    };
    TestApp::with(|config| {
        config.accounts.push(Account {
            name: "second".into(),
            app_key: Secret::inline("key"),
            app_secret: Secret::inline("secret"),
            push_secret: Secret::inline("second-secret"),
            allow_push_from: Vec::new(),
            enabled: true,
        });
        config.clients = vec![
            client("all", &[Permission::Subscribe], &["*"]),
            client("one", &[Permission::Subscribe], &["second"]),
            client("none", &[Permission::Subscribe], &[]),
            client("caller", &[Permission::Outbound], &["*"]),
            client("admin", &[Permission::Subscribe, Permission::Admin], &["*"]),
        ];
        if let Some(path) = path {
            path.clone_into(&mut config.store.path);
        }
    })
    .await
}

async fn push_to_both(app: &TestApp) {
    app.push("receiveCallRecord", record("first")).await;
    let uri = format!(
        "{}/v1/push/second/second-secret/receiveCallRecord",
        app.push
    );
    let request = http::Request::post(uri).body(http_body_util::Full::new(record("second").into()));
    assert!(app.http.send(request.unwrap()).await.unwrap().is_success());
}

fn of_accounts(accounts: &[&str]) -> PushFilter {
    PushFilter {
        accounts: accounts.iter().map(|&account| account.to_owned()).collect(),
        ..PushFilter::default()
    }
}

fn filtered(name: &str, filter: Option<PushFilter>) -> Subscription {
    Subscription {
        filter,
        ..named(name)
    }
}

fn for_account<T>(account: &str, mut request: Request<T>) -> Request<T> {
    let metadata = request.metadata_mut();
    metadata.insert("yeta-account", account.parse().unwrap());
    request
}

#[tokio::test]
async fn a_subscription_holds_the_accounts_of_whoever_created_it() {
    let app = shared(None).await;
    push_to_both(&app).await;
    let mut manager = manager(&app);
    let mut create = async |request| {
        let created = manager.create_subscription(request).await;
        created.map(|it| it.into_inner().filter.unwrap().accounts)
    };
    let by = |token, name, filter| with_token(token, creating(filtered(name, filter)));
    assert_eq!(create(by("all", "a", None)).await.unwrap(), [""; 0]);
    assert_eq!(create(by("one", "b", None)).await.unwrap(), ["second"]);
    assert_eq!(
        create(for_account("default", by("all", "c", None)))
            .await
            .unwrap(),
        ["default"]
    );
    let both = || Some(of_accounts(&["default", "second"]));
    assert_eq!(
        create(for_account("second", by("all", "d", both())))
            .await
            .unwrap(),
        ["second"]
    );
    let forbidden = expected(Code::PermissionDenied, "ACCOUNT_FORBIDDEN");
    assert_eq!(refusal(create(by("one", "e", both())).await), forbidden);
    assert_eq!(refusal(create(by("none", "e", None)).await), forbidden);
    assert_eq!(
        refusal(create(by("caller", "e", None)).await),
        expected(Code::PermissionDenied, "RPC_FORBIDDEN")
    );
    assert_eq!(
        refusal(create(by("nobody", "e", None)).await),
        expected(Code::Unauthenticated, "UNAUTHENTICATED")
    );
    // What is asked for and what is meant have nothing in common: not to be taken for everything.
    let apart = for_account("second", by("all", "e", Some(of_accounts(&["default"]))));
    assert_eq!(faulty(create(apart).await), ["filter.accounts"]);

    // The first subscriber creates within the same bounds.
    let request = with_token("one", joining(NAME));
    let stream = app.pushes().subscribe_pushes(request).await.unwrap();
    assert_eq!(call(&next_event(&mut stream.into_inner()).await), "second");
}

#[tokio::test]
async fn a_subscription_that_takes_more_than_a_client_may_see_does_not_exist_for_it() {
    let app = shared(None).await;
    let mut manager = manager(&app);
    for (name, filter) in [
        ("everything", None),
        ("firsts", Some(of_accounts(&["default"]))),
        ("seconds", Some(of_accounts(&["second"]))),
    ] {
        let request = with_token("all", creating(filtered(name, filter)));
        manager.create_subscription(request).await.unwrap();
    }
    let unknown = expected(Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
    for name in ["everything", "firsts"] {
        let name = || name.to_owned();
        let request = GetSubscriptionRequest { name: name() };
        let got = manager.get_subscription(with_token("one", request)).await;
        assert_eq!(refusal(got), unknown);
        let request = UpdateSubscriptionRequest {
            subscription: Some(filtered(&name(), Some(of_accounts(&["second"])))),
            update_mask: None,
        };
        let updated = manager
            .update_subscription(with_token("one", request))
            .await;
        assert_eq!(refusal(updated), unknown);
        let request = DeleteSubscriptionRequest { name: name() };
        let deleted = manager
            .delete_subscription(with_token("one", request))
            .await;
        assert_eq!(refusal(deleted), unknown);
        let moved = manager
            .seek_subscription(with_token("one", to_start(&name())))
            .await;
        assert_eq!(refusal(moved), unknown);
        let request = ListDeadLettersRequest {
            subscription: name(),
            ..ListDeadLettersRequest::default()
        };
        let listed = manager.list_dead_letters(with_token("one", request)).await;
        assert_eq!(refusal(listed), unknown);
        let request = RedriveDeadLettersRequest {
            subscription: name(),
            ..RedriveDeadLettersRequest::default()
        };
        let redriven = manager
            .redrive_dead_letters(with_token("one", request))
            .await;
        assert_eq!(refusal(redriven), unknown);
        let request = AckPushesRequest {
            subscription: name(),
            ack_ids: Vec::new(),
        };
        let acked = app.pushes().ack_pushes(with_token("one", request)).await;
        assert_eq!(refusal(acked), unknown);
        let request = with_token("one", joining(&name()));
        let joined = app.pushes().subscribe_pushes(request).await;
        let taken = expected(Code::PermissionDenied, "SUBSCRIPTION_FORBIDDEN");
        assert_eq!(refusal(joined), taken);
    }
    let mut list = async |token| {
        let request = ListSubscriptionsRequest {
            page_size: 1,
            ..ListSubscriptionsRequest::default()
        };
        let page = manager.list_subscriptions(with_token(token, request)).await;
        let page = page.unwrap().into_inner();
        let names: Vec<_> = page.subscriptions.into_iter().map(|it| it.name).collect();
        (names.concat(), page.next_page_token.is_empty())
    };
    assert_eq!(list("one").await, ("seconds".to_owned(), true));
    assert_eq!(list("all").await, ("everything".to_owned(), false));

    // Its own it may change, within its accounts.
    let mut update = async |filter| {
        let request = UpdateSubscriptionRequest {
            subscription: Some(filtered("seconds", filter)),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["filter".into()],
            }),
        };
        let updated = manager
            .update_subscription(with_token("one", request))
            .await;
        updated.map(|it| it.into_inner().filter.unwrap().accounts)
    };
    assert_eq!(update(None).await.unwrap(), ["second"]);
    let refused = update(Some(of_accounts(&["default"]))).await;
    assert_eq!(
        refusal(refused),
        expected(Code::PermissionDenied, "ACCOUNT_FORBIDDEN")
    );
}

#[tokio::test]
async fn a_member_does_not_see_what_its_subscription_comes_to_take_later() {
    let app = shared(None).await;
    let request = SubscribePushesRequest {
        max_in_flight: Some(1),
        ..joining(NAME)
    };
    let stream = app
        .pushes()
        .subscribe_pushes(with_token("one", request))
        .await;
    let request = UpdateSubscriptionRequest {
        subscription: Some(filtered(NAME, Some(of_accounts(&["default", "second"])))),
        update_mask: None,
    };
    let widened = manager(&app)
        .update_subscription(with_token("all", request))
        .await;
    widened.unwrap();
    push_to_both(&app).await;
    let (code, reason, _) = reason(&ended(&mut stream.unwrap().into_inner()).await);
    assert_eq!(
        (code, reason),
        expected(Code::PermissionDenied, "ACCOUNT_FORBIDDEN")
    );
    let stream = app
        .pushes()
        .subscribe_pushes(with_token("all", joining(NAME)))
        .await;
    let event = next_event(&mut stream.unwrap().into_inner()).await;
    assert_eq!(
        (call(&event).as_str(), event.delivery_attempt),
        ("first", 1)
    );
}

fn to_start(name: &str) -> SeekSubscriptionRequest {
    SeekSubscriptionRequest {
        name: name.to_owned(),
        start: Some(seek_subscription_request::Start::Position(
            Position::Earliest.into(),
        )),
    }
}

#[tokio::test]
async fn the_gateways_own_subscriptions_are_looked_at_by_all_and_managed_by_admins_alone() {
    const OWN: &str = "yeta-gateway.test";
    let folder = tempfile::tempdir().unwrap();
    {
        let log = EmbeddedLog::open(Options::new(folder.path()))
            .await
            .unwrap();
        let log = std::sync::Arc::new(log);
        let own = EmbeddedSubscriptions::open(log.clone(), 10).await.unwrap();
        own.create(OWN, Spec::default(), Place::START)
            .await
            .unwrap();
        own.close().await;
        log.close().await;
    }
    let app = shared(Some(folder.path())).await;
    let mut manager = manager(&app);
    let reserved = expected(Code::PermissionDenied, "NAME_RESERVED");
    for token in ["all", "admin"] {
        let request = creating(named("yeta-gateway.mine"));
        let created = manager
            .create_subscription(with_token(token, request))
            .await;
        assert_eq!(refusal(created), reserved);
        let request = DeleteSubscriptionRequest { name: OWN.into() };
        let deleted = manager
            .delete_subscription(with_token(token, request))
            .await;
        assert_eq!(refusal(deleted), reserved);
        let request = with_token(token, joining(OWN));
        assert_eq!(
            refusal(app.pushes().subscribe_pushes(request).await),
            reserved
        );
        let request = AckPushesRequest {
            subscription: OWN.into(),
            ack_ids: Vec::new(),
        };
        let acked = app.pushes().ack_pushes(with_token(token, request)).await;
        assert_eq!(refusal(acked), reserved);
        let request = GetSubscriptionRequest { name: OWN.into() };
        let got = manager.get_subscription(with_token(token, request)).await;
        assert_eq!(got.unwrap().into_inner().name, OWN);
    }
    let pause = || UpdateSubscriptionRequest {
        subscription: Some(Subscription {
            paused: Some(true),
            ..named(OWN)
        }),
        update_mask: None,
    };
    let forbidden = expected(Code::PermissionDenied, "RPC_FORBIDDEN");
    let paused = manager
        .update_subscription(with_token("all", pause()))
        .await;
    assert_eq!(refusal(paused), forbidden);
    let moved = manager
        .seek_subscription(with_token("all", to_start(OWN)))
        .await;
    assert_eq!(refusal(moved), forbidden);
    let paused = manager
        .update_subscription(with_token("admin", pause()))
        .await;
    assert_eq!(paused.unwrap().into_inner().paused, Some(true));
    let moved = manager
        .seek_subscription(with_token("admin", to_start(OWN)))
        .await;
    moved.unwrap();
    let request = UpdateSubscriptionRequest {
        subscription: Some(filtered(OWN, Some(of_accounts(&["second"])))),
        update_mask: None,
    };
    let changed = manager
        .update_subscription(with_token("admin", request))
        .await;
    assert_eq!(faulty(changed), ["update_mask"]);
}
