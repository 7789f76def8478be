//! Providers that are late, gone, or not what they were: there is always an answer.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use super::provider::{Mode, Provider};
use super::{QUESTION, answers, ask, connected, fallback, patiently, shortly};
use crate::support::{PUSH_SECRET, TestApp, eventually, within};

/// Asks until the answer is this provider's.
async fn until_answered_by(app: &TestApp, provider: &Provider) {
    let context = provider.context();
    let asked = async || (ask(app, QUESTION).await == context).then_some(());
    eventually("an answer of the provider", asked).await;
}

#[tokio::test]
async fn a_provider_that_never_answers_is_not_waited_for() {
    let provider = Provider::start(Mode::Hang).await;
    let app = TestApp::with(shortly(&provider.url)).await;
    assert_eq!(within("the answer", ask(&app, QUESTION)).await, fallback());
}

#[tokio::test]
async fn somebody_who_takes_connections_and_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = TestApp::with(shortly(&url)).await;
    for _ in 0..3 {
        assert_eq!(within("the answer", ask(&app, QUESTION)).await, fallback());
    }
}

#[tokio::test]
async fn somebody_who_answers_rubbish_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let rubbish = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            // The gateway may be gone already.
            let _ = stream.write_all(rubbish).await;
        }
    });
    let app = TestApp::with(patiently(&url)).await;
    for _ in 0..20 {
        assert_eq!(within("the answer", ask(&app, QUESTION)).await, fallback());
    }
}

#[tokio::test]
async fn nobody_waits_for_a_provider_that_is_not_there() {
    let gone = Provider::start(Mode::Answer).await;
    let url = gone.url.clone();
    drop(gone);
    // With this patience, only what is not waited for is answered.
    let app = TestApp::with(patiently(&url)).await;
    assert_eq!(within("the answer", ask(&app, QUESTION)).await, fallback());
    assert!(answers(&app, "fallback", "unreachable").await > 0);
}

#[tokio::test]
async fn a_name_that_means_nothing_is_no_reason_to_wait() {
    let app = TestApp::with(patiently("http://provider.invalid:50051")).await;
    assert_eq!(within("the answer", ask(&app, QUESTION)).await, fallback());
}

#[tokio::test]
async fn the_circuit_opens_when_a_provider_is_silent_and_closes_when_it_answers() {
    let provider = Provider::start(Mode::Hang).await;
    let app = TestApp::with(shortly(&provider.url)).await;
    eventually("an open circuit", async || {
        assert_eq!(ask(&app, QUESTION).await, fallback());
        (answers(&app, "fallback", "circuit_open").await > 0).then_some(())
    })
    .await;
    provider.set(Mode::Answer);
    until_answered_by(&app, &provider).await;
}

#[tokio::test]
async fn a_silent_first_try_is_followed_by_a_second_over_another_connection() {
    let provider = Provider::start(Mode::HangOnce).await;
    let app = TestApp::with(|config| {
        patiently(&provider.url)(config);
        config.dialog_context.second_try_after = Duration::from_millis(10);
    })
    .await;
    connected(&app, &provider.url).await;
    // The first try alone would wait for good.
    let answer = within("the answer", ask(&app, QUESTION)).await;
    assert_eq!(answer, provider.context());
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn no_second_try_is_made_that_has_less_time_than_the_first() {
    let provider = Provider::start(Mode::HangOnce).await;
    let app = TestApp::with(|config| {
        shortly(&provider.url)(config);
        config.dialog_context.second_try_after = super::SHORT * 2 / 3;
    })
    .await;
    connected(&app, &provider.url).await;
    assert_eq!(ask(&app, QUESTION).await, fallback());
    assert!(provider.asked() <= 1);
}

#[tokio::test]
async fn a_provider_that_is_restarted_is_found_again() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    until_answered_by(&app, &provider).await;
    let address = provider.address().to_owned();
    drop(provider);
    let provider = Provider::at(&address, Mode::Answer).await;
    until_answered_by(&app, &provider).await;
}

#[tokio::test]
async fn a_new_provider_takes_over_although_the_old_one_still_answers() {
    let old = Provider::start(Mode::Answer).await;
    let app = TestApp::with(|config| {
        patiently(&old.url)(config);
        config.dialog_context.connection_age = Duration::from_secs(1);
    })
    .await;
    until_answered_by(&app, &old).await;
    connected(&app, &old.url).await;
    old.stop_listening();
    let new = Provider::at(old.address(), Mode::Answer).await;
    until_answered_by(&app, &new).await;
    // Nobody was answered in a provider's place meanwhile.
    assert_eq!(answers(&app, "fallback", "unreachable").await, 0);
}

#[tokio::test]
async fn a_provider_that_comes_and_goes_leaves_nobody_without_an_answer() {
    let mut provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    for _ in 0..5 {
        let callers = join_all((0..20).map(|_| ask(&app, QUESTION)));
        let address = provider.address().to_owned();
        let mut contexts = vec![provider.context(), fallback()];
        let (told, next) = tokio::join!(callers, async {
            drop(provider);
            Provider::at(&address, Mode::Answer).await
        });
        provider = next;
        contexts.push(provider.context());
        assert!(
            told.iter().all(|answer| contexts.contains(answer)),
            "{told:?}"
        );
    }
    until_answered_by(&app, &provider).await;
}

#[tokio::test]
async fn an_error_is_as_good_as_no_answer() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    for code in [Code::Internal, Code::NotFound, Code::Unimplemented] {
        provider.set(Mode::Fail(code));
        assert_eq!(ask(&app, QUESTION).await, fallback());
    }
    assert_eq!(answers(&app, "fallback", "error").await, 3);
    assert_eq!(provider.asked(), 3);
    // Another instance might be available: that one is asked, too.
    provider.set(Mode::Fail(Code::Unavailable));
    assert_eq!(ask(&app, QUESTION).await, fallback());
    assert_eq!(provider.asked(), 5);
    provider.set(Mode::Answer);
    assert_eq!(ask(&app, QUESTION).await, provider.context());
}

#[tokio::test]
async fn a_large_context_is_answered_whole_and_one_beyond_all_bounds_not_at_all() {
    let provider = Provider::start(Mode::Huge(3000)).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    assert_eq!(ask(&app, QUESTION).await.len(), 3000);
    provider.set(Mode::Huge(5000));
    assert_eq!(ask(&app, QUESTION).await, fallback());
}

#[tokio::test]
async fn two_hundred_callers_at_once_are_answered() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    let told = join_all((0..200).map(|_| ask(&app, QUESTION))).await;
    assert!(told.iter().all(|answer| *answer == provider.context()));

    provider.set(Mode::Hang);
    let app = TestApp::with(shortly(&provider.url)).await;
    let callers = join_all((0..200).map(|_| ask(&app, QUESTION)));
    let told = within("the answers", callers).await;
    assert!(told.iter().all(|answer| *answer == fallback()));
}

#[tokio::test]
async fn a_question_that_does_not_come_to_an_end_is_answered() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(shortly(&provider.url)).await;
    let mut stream = TcpStream::connect(app.push.trim_start_matches("http://"))
        .await
        .unwrap();
    let head = format!(
        "POST /v1/push/default/{PUSH_SECRET}/getDialogContext HTTP/1.1\r\nhost: x\r\n\
         content-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the answer", async {
        while !answer.contains("客户") {
            let mut bytes = [0; 1024];
            let read = stream.read(&mut bytes).await.unwrap();
            assert!(read > 0, "{answer}");
            answer.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(provider.asked(), 0);
    let large = vec![b' '; 2 << 20];
    assert_eq!(within("the answer", ask(&app, large)).await, fallback());
    assert_eq!(answers(&app, "fallback", "unread").await, 2);
}
