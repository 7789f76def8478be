//! The client over a scripted transport, on a clock that stands still.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{advance, sleep};

use super::{
    simulation_seam::{Gate, HttpAnswer, PostError, Transport},
    *,
};
use crate::{
    proto::{QueryConfigRequest, QueryTasksRequest, StartTaskRequest},
    secret::Secret,
};

const OK: Reply = Reply::Answer(200, r#"{"code":0,"result":{}}"#);
const HTML: Reply = Reply::Answer(502, "<html>Bad Gateway</html>");
const SECOND: Duration = Duration::from_secs(1);

const TOKEN: &str = "/oauth/v1/token";

/// How the scripted platform answers.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Answer(u16, &'static str),
    NotSent,
    /// It acts, and the connection breaks.
    Lost,
    /// It never answers, and no timeout of the transport ends the wait.
    Hangs,
}

type Script = dyn Fn(&str, &str) -> Reply + Send + Sync;

/// Answers by path and token, and counts requests by path.
struct Scripted {
    script: Mutex<Box<Script>>,
    posts: Mutex<HashMap<String, usize>>,
}

impl Scripted {
    fn set(&self, script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    fn posts<O: Operation>(&self) -> usize {
        self.posts_to(O::PATH)
    }

    fn posts_to(&self, path: &str) -> usize {
        let posts = self.posts.lock().unwrap();
        posts.get(path).copied().unwrap_or_default()
    }
}

impl Transport for Scripted {
    fn post<'a>(
        &'a self,
        path: &'a str,
        token: Option<&'a SecretString>,
        _: Bytes,
        gate: &'a Arc<Gate>,
    ) -> BoxFuture<'a, Result<HttpAnswer, PostError>> {
        Box::pin(async move {
            let try_number = gate.arm();
            let posts = {
                let mut posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
                let posts = posts.entry(path.to_owned()).or_default();
                *posts += 1;
                *posts
            };
            let token = token.map_or("", |token| token.expose_secret());
            let reply = (self.script.lock().unwrap())(path, token);
            if matches!(reply, Reply::NotSent) {
                gate.close();
                return Err(PostError::NotSent("connection refused".into()));
            }
            assert!(gate.open(try_number));
            if matches!(reply, Reply::Hangs) {
                std::future::pending::<()>().await;
            }
            gate.close();
            match reply {
                Reply::Answer(200, "token") => Ok(HttpAnswer {
                    status: 200,
                    body: format!(r#"{{"code":0,"result":{{"token":"{posts}"}}}}"#).into(),
                }),
                Reply::Answer(status, body) => Ok(HttpAnswer {
                    status,
                    body: body.into(),
                }),
                Reply::NotSent | Reply::Lost | Reply::Hangs => {
                    Err(PostError::NoAnswer("connection reset".into()))
                }
            }
        })
    }
}

/// Gives tokens, named by their number, and answers operations from `script`.
fn tokens_and(
    script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
) -> impl Fn(&str, &str) -> Reply + Send + Sync + 'static {
    move |path, token| match path {
        TOKEN => Reply::Answer(200, "token"),
        _ => script(path, token),
    }
}

fn always(reply: Reply) -> impl Fn(&str, &str) -> Reply + Send + Sync + 'static {
    tokens_and(move |_, _| reply)
}

fn platform_with(
    config: &PlatformConfig,
    script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
) -> (Platform, Arc<Scripted>) {
    let transport = Arc::new(Scripted {
        script: Mutex::new(Box::new(script)),
        posts: Mutex::default(),
    });
    let account = Arc::new(Account {
        name: "default".to_owned(),
        app_key: Secret::inline("key"),
        app_secret: Secret::inline("secret"),
        push_secret: Secret::inline("push-secret"),
        allow_push_from: Vec::new(),
        enabled: true,
    });
    let metrics = PlatformMetrics::register(&mut Registry::default());
    let platform = Platform::with_transport(config, [account], metrics, transport.clone());
    (platform, transport)
}

fn platform(
    script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
) -> (Platform, Arc<Scripted>) {
    platform_with(&PlatformConfig::default(), script)
}

async fn change(platform: &Platform) -> Result<(), PlatformError> {
    let request = StartTaskRequest {
        task_id: "1".to_owned(),
    };
    let done = platform.call("default", &request, None).await;
    done.map(|_| ())
}

async fn read(platform: &Platform) -> Result<(), PlatformError> {
    let request = QueryConfigRequest::default();
    let done = platform.call("default", &request, None).await;
    done.map(|_| ())
}

#[tokio::test(start_paused = true)]
async fn only_a_documented_code_below_http_500_proves_that_a_change_was_refused() {
    const DOCUMENTED: &str = r#"{"code":10005,"message":"m"}"#;
    const OTHER: &str = r#"{"code":504,"message":"Gateway Timeout"}"#;
    const REFUSED_TOKEN: &str = r#"{"code":10001,"message":"m"}"#;
    const DONE: &str = r#"{"code":0,"result":{}}"#;
    // An answer; of a change, whether it proves the refusal, and how often it goes out.
    for (status, body, proven, sent) in [
        (200, DOCUMENTED, Some(true), 1),
        (400, DOCUMENTED, Some(true), 1),
        (499, DOCUMENTED, Some(true), 1),
        (500, DOCUMENTED, Some(false), 1),
        (503, DOCUMENTED, Some(false), 1),
        (200, OTHER, Some(false), 1),
        (404, OTHER, Some(false), 1),
        (504, OTHER, Some(false), 1),
        (502, REFUSED_TOKEN, Some(false), 1),
        (200, REFUSED_TOKEN, None, 2),
        (401, REFUSED_TOKEN, None, 2),
        (500, DONE, None, 1),
    ] {
        let (platform, transport) = platform(always(Reply::Answer(status, body)));
        let outcome = change(&platform).await;
        assert_eq!(
            transport.posts::<StartTaskRequest>(),
            sent,
            "{status} {body}"
        );
        match (&outcome, proven) {
            (Err(PlatformError::Refused { proven, .. }), Some(expected)) => {
                assert_eq!(*proven, expected, "{status} {body}");
            }
            (Err(PlatformError::TokenRefused { .. }), None) if sent == 2 => {}
            (Ok(()), None) if body == DONE => {}
            _ => panic!("{status} {body}: {outcome:?}"),
        }
        let outcome = read(&platform).await;
        let is_proven = match &outcome {
            Err(PlatformError::Refused { proven, .. }) => *proven,
            Err(PlatformError::TokenRefused { .. }) => body == REFUSED_TOKEN,
            Ok(()) => body == DONE,
            Err(_) => false,
        };
        assert!(is_proven, "a read: {status} {body}: {outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_goes_out_again_only_where_the_transport_says_that_nothing_was_sent() {
    for (reply, sent, proof) in [
        (Reply::NotSent, 3, Proof::NothingSent),
        (Reply::Lost, 1, Proof::Nothing),
    ] {
        let (platform, transport) = platform(always(reply));
        let error = change(&platform).await.unwrap_err();
        assert_eq!(error.proof(), proof, "{reply:?}: {error}");
        assert_eq!(transport.posts::<StartTaskRequest>(), sent, "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_admitted_where_it_would_be_sent_and_asking_sends_nothing() {
    const MAINTENANCE: Reply = Reply::Answer(200, r#"{"code":10020,"message":"m"}"#);
    let (platform, transport) = platform(always(OK));
    let unknown = PlatformError::UnknownAccount("other".to_owned());
    assert_eq!(platform.admits("other"), Err(unknown));
    // No token yet, and none refused: a change would wait for one.
    assert_eq!(platform.admits("default"), Ok(()));
    assert_eq!(change(&platform).await, Ok(()));
    assert_eq!(platform.admits("default"), Ok(()));

    transport.set(always(MAINTENANCE));
    change(&platform).await.unwrap_err();
    let held_back = |error: &PlatformError| matches!(error, PlatformError::HeldBack { .. });
    assert!(
        platform
            .admits("default")
            .is_err_and(|error| held_back(&error))
    );
    advance(2 * SECOND).await;
    // Asking takes no probe away.
    for _ in 0..3 {
        assert_eq!(platform.admits("default"), Ok(()));
    }
    assert_eq!(transport.posts::<StartTaskRequest>(), 2);
    transport.set(always(OK));
    assert_eq!(change(&platform).await, Ok(()));
    assert_eq!(platform.admits("default"), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn no_change_is_admitted_while_the_token_request_pauses_after_a_failure() {
    let (platform, transport) = platform(|_, _| Reply::NotSent);
    let error = change(&platform).await.unwrap_err();
    assert!(
        matches!(error, PlatformError::Unreachable { .. }),
        "{error}"
    );
    let error = platform.admits("default").unwrap_err();
    assert!(
        matches!(error, PlatformError::Unreachable { .. }),
        "{error}"
    );
    transport.set(always(OK));
    sleep(SECOND).await;
    assert_eq!(platform.admits("default"), Ok(()));
    assert_eq!(change(&platform).await, Ok(()));
}

fn is_held_back_as_unreadable(outcome: &Result<(), PlatformError>) -> bool {
    matches!(
        outcome,
        Err(PlatformError::HeldBack {
            outage: Outage::Unreadable { .. },
            ..
        })
    )
}

/// How many changes, and how many probes for them, went out.
fn sent(transport: &Scripted) -> (usize, usize) {
    let changes = transport.posts::<StartTaskRequest>();
    (changes, transport.posts::<QueryTasksRequest>())
}

#[tokio::test(start_paused = true)]
async fn after_three_unreadable_answers_changes_wait_for_a_read_that_can_be_read() {
    const GATEWAY_TIMEOUT: Reply = Reply::Answer(504, r#"{"code":504,"message":"m"}"#);
    const UNDOCUMENTED: Reply = Reply::Answer(200, r#"{"code":1,"message":"m"}"#);
    for reply in [HTML, Reply::Lost, GATEWAY_TIMEOUT, UNDOCUMENTED] {
        let (platform, transport) = platform(always(reply));
        for _ in 0..3 {
            let error = change(&platform).await.unwrap_err();
            assert_eq!(error.proof(), Proof::Nothing, "{error}");
        }
        assert_eq!(sent(&transport), (3, 0));
        assert_eq!(platform.admits("default"), Ok(()));
        // The first probe goes out at once.
        let outcome = change(&platform).await;
        assert!(is_held_back_as_unreadable(&outcome), "{outcome:?}");
        assert_eq!(sent(&transport), (3, 1));
        for _ in 0..100 {
            let outcome = change(&platform).await;
            assert!(is_held_back_as_unreadable(&outcome), "{outcome:?}");
            assert!(is_held_back_as_unreadable(&platform.admits("default")));
        }
        assert_eq!(sent(&transport), (3, 1));
        // Reads are not held back.
        let reads = transport.posts::<QueryConfigRequest>();
        read(&platform).await.unwrap_err();
        assert!(transport.posts::<QueryConfigRequest>() > reads);

        advance(SECOND).await;
        let outcome = change(&platform).await;
        assert!(is_held_back_as_unreadable(&outcome), "{outcome:?}");
        assert_eq!(sent(&transport), (3, 2));
        transport.set(always(OK));
        advance(2 * SECOND).await;
        assert_eq!(change(&platform).await, Ok(()));
        assert_eq!(sent(&transport), (4, 3));
        assert_eq!(change(&platform).await, Ok(()));
        assert_eq!(sent(&transport), (5, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn the_waits_between_probes_grow_from_the_configured_one_to_a_minute() {
    let (platform, _) = platform(always(HTML));
    for _ in 0..3 {
        change(&platform).await.unwrap_err();
    }
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        let error = change(&platform).await.unwrap_err();
        let wait = error.retry_after().unwrap();
        let longest = seconds * SECOND;
        assert!(wait >= longest / 2 && wait <= longest, "{seconds} {wait:?}");
        advance(wait).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_of_a_client_that_can_be_read_lets_changes_out_again() {
    let (platform, transport) = platform(always(HTML));
    for _ in 0..4 {
        change(&platform).await.unwrap_err();
    }
    assert!(is_held_back_as_unreadable(&change(&platform).await));
    transport.set(always(OK));
    assert_eq!(read(&platform).await, Ok(()));
    assert_eq!(change(&platform).await, Ok(()));
    assert_eq!(sent(&transport), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn changes_that_wait_for_their_turn_when_answers_become_unreadable_are_not_sent() {
    let config = PlatformConfig {
        max_concurrent_requests: 1,
        ..PlatformConfig::default()
    };
    let (platform, transport) = platform_with(&config, always(HTML));
    let outcomes = futures_util::future::join_all((0..50).map(|_| change(&platform))).await;
    assert_eq!(sent(&transport), (3, 0));
    let held_back = outcomes
        .iter()
        .filter(|one| is_held_back_as_unreadable(one));
    assert_eq!(held_back.count(), 47);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_leaves_makes_room_for_another() {
    let config = PlatformConfig {
        max_requests_per_second: 0,
        ..PlatformConfig::default()
    };
    let (platform, transport) = platform_with(&config, always(HTML));
    for _ in 0..3 {
        change(&platform).await.unwrap_err();
    }
    transport.set(tokens_and(|path, _| match path {
        QueryTasksRequest::PATH => Reply::Hangs,
        _ => OK,
    }));
    {
        let mut leaving = Box::pin(change(&platform));
        assert!(futures_util::poll!(&mut leaving).is_pending());
        assert_eq!(sent(&transport), (3, 1));
        // One at a time.
        assert!(is_held_back_as_unreadable(&change(&platform).await));
        assert_eq!(sent(&transport), (3, 1));
    }
    transport.set(always(OK));
    assert_eq!(change(&platform).await, Ok(()));
    assert_eq!(sent(&transport), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn without_a_number_of_failures_unreadable_answers_hold_nothing_back() {
    let config = PlatformConfig {
        breaker_failures: 0,
        ..PlatformConfig::default()
    };
    let (platform, transport) = platform_with(&config, always(HTML));
    for _ in 0..20 {
        let error = change(&platform).await.unwrap_err();
        assert_eq!(error.proof(), Proof::Nothing, "{error}");
    }
    assert_eq!(sent(&transport), (20, 0));
}

const TOKEN_REFUSED: Reply = Reply::Answer(200, r#"{"code":10001,"message":"m"}"#);

#[tokio::test(start_paused = true)]
async fn an_operation_that_is_always_refused_costs_the_others_no_token() {
    let refuses_start = || {
        tokens_and(|path, _| match path {
            StartTaskRequest::PATH => TOKEN_REFUSED,
            _ => OK,
        })
    };
    // One call of the refused operation for each of the other, or several, on both sides.
    for (refused, served) in [(1, 1), (10, 10), (50, 50), (5, 1), (1, 5)] {
        let (platform, transport) = platform(refuses_start());
        let mut calls = 0;
        while calls < 100 {
            for _ in 0..refused {
                let error = change(&platform).await.unwrap_err();
                assert_eq!(error.proof(), Proof::NothingSent, "{error}");
                sleep(Duration::from_millis(100)).await;
            }
            let tokens = transport.posts_to(TOKEN);
            for _ in 0..served {
                assert_eq!(read(&platform).await, Ok(()));
                sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(transport.posts_to(TOKEN), tokens);
            calls += refused + served;
        }
        let tokens = transport.posts_to(TOKEN);
        assert!(tokens <= 3, "{refused} {served}: {tokens} token requests");
        // Nothing lasts: once the operation is served again, it is as before.
        transport.set(always(OK));
        assert_eq!(change(&platform).await, Ok(()));
        let dead = tokens.to_string();
        transport.set(tokens_and(
            move |_, token| {
                if token == dead { TOKEN_REFUSED } else { OK }
            },
        ));
        assert_eq!(change(&platform).await, Ok(()));
        assert_eq!(transport.posts_to(TOKEN), tokens + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_dies_while_only_a_refused_operation_uses_it_is_replaced_within_a_minute() {
    let (platform, transport) = platform(tokens_and(|path, _| match path {
        StartTaskRequest::PATH => TOKEN_REFUSED,
        _ => OK,
    }));
    change(&platform).await.unwrap_err();
    assert_eq!(read(&platform).await, Ok(()));
    change(&platform).await.unwrap_err();
    assert_eq!(transport.posts_to(TOKEN), 2);
    transport.set(tokens_and(|_, token| match token {
        "1" | "2" => TOKEN_REFUSED,
        _ => OK,
    }));
    change(&platform).await.unwrap_err();
    advance(60 * SECOND).await;
    assert_eq!(change(&platform).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_deadline_waits_for_a_token_no_longer_than_the_request_timeout() {
    let (platform, transport) = platform(|_, _| Reply::Hangs);
    let began = Instant::now();
    let error = change(&platform).await.unwrap_err();
    assert_eq!(error.proof(), Proof::NothingSent);
    assert!(error.to_string().contains("no token within 10s"), "{error}");
    assert_eq!(began.elapsed(), PlatformConfig::default().request_timeout);
    assert_eq!(sent(&transport), (0, 0));
}
