//! Where recordings are not fetched from.

use serde_json::json;
use tonic::Code;

use super::{Stage, call, record, requests, url};
use crate::bridge::reason;
use crate::sandbox::harness::Sandbox;
use yeta_gateway::sandbox::SandboxConfig;

/// Attempts to have something else fetched; `{own}` is the voice server's host and port, `{other}`
/// another one's.
const ATTEMPTS: [&str; 26] = [
    "http://{other}/voice/a.wav",
    "//{other}/voice/a.wav",
    "///{other}/voice/a.wav",
    "/\\{other}/voice/a.wav",
    "\\\\{other}\\voice\\a.wav",
    "http:\\\\{other}\\voice\\a.wav",
    "http://{own}@{other}/voice/a.wav",
    "http://{own}\\@{other}/voice/a.wav",
    "http://user:password@{own}/voice/a.wav",
    "http://user@{other}/voice/a.wav",
    "https://{own}/voice/a.wav",
    "https://{other}/voice/a.wav",
    "file:///etc/passwd",
    "ftp://{own}/voice/a.wav",
    "gopher://{other}/_GET%20/",
    "http://[::1]/voice/a.wav",
    "http://[::ffff:127.0.0.1]/voice/a.wav",
    "http://2130706433/voice/a.wav",
    "http://localhost:1/voice/a.wav",
    "http://127.0.0.1/voice/a.wav",
    "http://{own}/sandbox/tokens",
    "../sandbox/tokens",
    "%2e%2e/sandbox/tokens",
    "%252e%252e/sandbox/tokens",
    "ant/..%2f..%2fsandbox/tokens",
    "\thttp://{other}/voice/a.wav",
];

#[tokio::test]
async fn addresses_that_lead_elsewhere_are_refused_and_nothing_is_fetched() {
    let stage = Stage::start().await;
    let other = Sandbox::start(SandboxConfig::default()).await;
    record(&other, "a.wav", 100).await;
    let before = requests(&other).await;
    let host = |sandbox: &Sandbox| sandbox.base.trim_start_matches("http://").to_owned();
    for (number, attempt) in ATTEMPTS.iter().enumerate() {
        let attempt = attempt
            .replace("{own}", &host(&stage.sandbox))
            .replace("{other}", &host(&other));
        let refused = stage.get(url(attempt.as_str()), 0).await.err();
        let refused = refused.unwrap_or_else(|| panic!("{attempt} was fetched"));
        let (code, reason_, _) = reason(&refused);
        assert_eq!(
            (code, &*reason_),
            (Code::InvalidArgument, "VOICE_ADDRESS_REFUSED"),
            "{attempt}"
        );
        assert!(!refused.message().contains(&attempt), "{refused:?}");

        // The same pushed by somebody: the call says so, and nothing more happens.
        let call_uuid = format!("call-{number}");
        stage.announce(&call_uuid, &attempt, 100).await;
        let refused = stage.get(call(&call_uuid), 0).await.err().unwrap();
        let (code, reason_, _) = reason(&refused);
        assert_eq!(
            (code, &*reason_),
            (Code::FailedPrecondition, "VOICE_ADDRESS_REFUSED"),
            "{attempt}"
        );
    }
    let none = stage.get(url(""), 0).await.err().unwrap();
    assert_eq!(none.code(), Code::InvalidArgument);
    assert_eq!(stage.requests().await, 0);
    assert_eq!(requests(&other).await, before);
}

#[tokio::test]
async fn a_redirect_is_followed_below_the_voice_server_and_nowhere_else() {
    let stage = Stage::start().await;
    let other = Sandbox::start(SandboxConfig::default()).await;
    record(&other, "a.wav", 100).await;
    let before = requests(&other).await;
    let bytes = stage.record("b.wav", 1_000).await;
    let redirect = |location: String| json!({ "operation": "voice", "fault": "redirect", "location": location });

    stage.sandbox.fault(redirect("/voice/b.wav".into())).await;
    let (info, got) = stage.get(url("a.wav"), 0).await.unwrap().whole();
    assert!(info.url.ends_with("/voice/b.wav"), "{}", info.url);
    assert_eq!(got, bytes);

    for location in [
        format!("{}/voice/a.wav", other.base),
        format!("{}/sandbox/tokens", stage.sandbox.base),
        other.base.replace("http:", ""),
        "http://user@127.0.0.1/voice/a.wav".into(),
        "file:///etc/passwd".into(),
        "../sandbox/tokens".into(),
    ] {
        stage.sandbox.fault(redirect(location.clone())).await;
        let refused = stage.get(url("a.wav"), 0).await.err();
        let refused = refused.unwrap_or_else(|| panic!("{location} was followed"));
        let (code, reason, _) = reason(&refused);
        assert_eq!(
            (code, &*reason),
            (Code::FailedPrecondition, "VOICE_REDIRECT_REFUSED"),
            "{location}"
        );
    }
    assert_eq!(requests(&other).await, before);

    // One that goes in circles ends.
    let mut endless = redirect("/voice/a.wav".into());
    endless["times"] = json!(100);
    stage.sandbox.fault(endless).await;
    let refused = stage.get(url("a.wav"), 0).await.err().unwrap();
    assert_eq!(reason(&refused).1, "VOICE_SERVER_ERROR");
}
