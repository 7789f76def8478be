//! Changes of the configuration file while the gateway runs.

use tonic::Code;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::{
    ListPushesRequest, PauseTaskRequest, StartTaskRequest, SubscribePushesRequest,
};

use super::{by, channel, hex, reason};
use crate::support::{Process, eventually, within};

/// Replaces the file as an editor or Kubernetes does.
fn write(folder: &std::path::Path, text: &str) {
    let draft = folder.join("draft.toml");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, folder.join("gateway.toml")).unwrap();
}

fn crm(tokens: &[&str], more: &str) -> String {
    let tokens: Vec<_> = tokens
        .iter()
        .map(|token| format!("'{}'", hex(token)))
        .collect();
    format!(
        "[[clients]]\nname = 'crm'\ntoken_sha256 = [{}]\nallow = ['outbound', 'subscribe']\n\
         accounts = ['*']\n{more}\n",
        tokens.join(", ")
    )
}

#[tokio::test]
async fn tokens_rotate_and_switches_act_while_the_gateway_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Process::configure(path, "");
    let base = std::fs::read_to_string(path.join("gateway.toml")).unwrap();
    write(path, &(base.clone() + &crm(&["old"], "")));
    let gateway = Process::spawn(Process::command(path)).await;
    let channel = channel(&gateway.addresses.grpc);
    let (mut pushes, mut outbound) = (
        PushServiceClient::new(channel.clone()),
        OutboundServiceClient::new(channel),
    );
    let list = |token| by(token, ListPushesRequest::default());
    let mut can = async |token: &'static str| pushes.list_pushes(list(token)).await.is_ok();
    assert!(can("old").await && !can("new").await);

    write(path, &(base.clone() + &crm(&["old", "new"], "")));
    eventually("the new token", async || can("new").await.then_some(())).await;
    assert!(can("old").await);

    // A faulty file, and one without clients, change nothing.
    write(path, "nonsense = ");
    gateway
        .until_logged("the configuration stays as it was")
        .await;
    assert!(can("old").await && can("new").await);
    write(path, &base);
    gateway
        .until_logged("neither introduced nor all removed")
        .await;
    assert!(can("old").await && can("new").await && !can("none").await);

    // A stream of a client whose token is withdrawn ends.
    let mut reader = pushes.clone();
    let stream = reader.subscribe_pushes(by("old", SubscribePushesRequest::default()));
    let mut stream = stream.await.unwrap().into_inner();
    write(path, &(base.clone() + &crm(&["new"], "")));
    let end = within("the stream's end", async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a status"),
                Err(status) => return status,
            }
        }
    });
    assert_eq!(end.await.code(), Code::Unauthenticated);
    let mut can = async |token: &'static str| pushes.list_pushes(list(token)).await.is_ok();
    assert!(can("new").await && !can("old").await);

    // An account that is switched off starts nothing, and can still be paused.
    let off = base.replace("[[accounts]]", "[[accounts]]\nenabled = false");
    write(path, &(off.clone() + &crm(&["new"], "")));
    let start = || {
        by(
            "new",
            StartTaskRequest {
                task_id: "1".into(),
            },
        )
    };
    let refused = eventually("the account is off", async || {
        let refused = outbound.start_task(start()).await.unwrap_err();
        (reason(&refused) == "ACCOUNT_DISABLED").then_some(refused)
    })
    .await;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let pause = by(
        "new",
        PauseTaskRequest {
            task_id: "1".into(),
        },
    );
    let paused = outbound.pause_task(pause).await.unwrap_err();
    assert_ne!(reason(&paused), "ACCOUNT_DISABLED");

    write(path, &(off.clone() + &crm(&["new"], "enabled = false")));
    eventually("the client is off", async || {
        let refused = outbound.start_task(start()).await.unwrap_err();
        (reason(&refused) == "CLIENT_DISABLED").then_some(())
    })
    .await;

    // What needs a restart is named.
    write(
        path,
        &(format!("shutdown_grace = '9s'\n{off}") + &crm(&["new"], "")),
    );
    gateway.until_logged("takes effect at the next start").await;
    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(status.success());
    assert!(
        output.contains("\"section\":\"shutdown_grace\""),
        "{output}"
    );
    assert!(!output.contains("\"section\":\"accounts\""), "{output}");
}
