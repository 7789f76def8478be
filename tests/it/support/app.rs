//! A whole gateway in this process: every listener on port 0, a temporary store.

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use yeta_gateway::app::{self, AppError, Listeners};
use yeta_gateway::config::Config;

use super::{Http, PUSH_SECRET, Pushes, pushes_client, within};

pub struct TestApp {
    /// Base URLs.
    pub grpc: String,
    pub push: String,
    pub admin: String,
    pub http: Http,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), AppError>>,
    _folder: TempDir,
}

impl TestApp {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A gateway whose configuration has been changed.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "grpc.listen = '127.0.0.1:0'\n\
             push.listen = '127.0.0.1:0'\n\
             admin.listen = '127.0.0.1:0'\n\
             platform.base_url = 'http://127.0.0.1:1'\n\
             backfill.enabled = false\n\
             store.path = '{}'\n\
             [[accounts]]\n\
             app_key = 'key'\n\
             app_secret = 'secret'\n\
             push_secret = '{PUSH_SECRET}'\n",
            folder.path().display()
        );
        let mut config = Config::parse(&text, std::iter::empty()).unwrap();
        change(&mut config);
        let listeners = Listeners::bind(&config).await.unwrap();
        let url = |listener: &tokio::net::TcpListener| {
            format!("http://{}", listener.local_addr().unwrap())
        };
        let (grpc, push, admin) = (
            url(&listeners.grpc),
            url(&listeners.push),
            url(&listeners.admin),
        );
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(app::run(config, listeners, async {
            // Dropped without a word when a test fails: that is a stop as well.
            drop(stopped.await);
        }));
        Self {
            grpc,
            push,
            admin,
            http: Http::new(),
            stop,
            running,
            _folder: folder,
        }
    }

    pub fn pushes(&self) -> Pushes {
        pushes_client(&self.grpc)
    }

    /// Sends a push that must be taken.
    pub async fn push(&self, module: &str, body: impl Into<bytes::Bytes>) {
        let answer = self.http.push(&self.push, module, body).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "success"));
    }

    /// Tells the gateway to stop, and waits until it has.
    pub async fn stop(self) -> Result<(), AppError> {
        // It may have ended by itself; what it ended with is told below.
        let _: Result<(), ()> = self.stop.send(());
        within("the gateway's end", self.running).await.unwrap()
    }
}
