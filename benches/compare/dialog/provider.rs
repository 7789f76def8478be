//! A service that answers at once, never, or only now and then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use yeta_gateway::proto::dialog_context_service_server::{
    DialogContextService, DialogContextServiceServer,
};
use yeta_gateway::proto::{
    AnalyzeSemanticsRequest, AnalyzeSemanticsResponse, GetDialogContextRequest,
    GetDialogContextResponse,
};

use crate::measure::server_runtime;

/// A flapping provider is there for so long, and then away for as long.
const FLAP: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq)]
pub enum Behaviour {
    Good,
    Hanging,
    Dead,
    Flapping,
}

impl Behaviour {
    pub const ALL: [Self; 4] = [Self::Good, Self::Hanging, Self::Dead, Self::Flapping];

    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Hanging => "hanging",
            Self::Dead => "dead",
            Self::Flapping => "flapping",
        }
    }
}

pub struct Provider {
    pub url: String,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    pub fn start(behaviour: Behaviour) -> anyhow::Result<Self> {
        let runtime = server_runtime("provider")?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = thread::spawn(move || match behaviour {
            Behaviour::Dead => drop(listener),
            Behaviour::Good | Behaviour::Hanging => {
                let is_silent = behaviour == Behaviour::Hanging;
                runtime.spawn(serve(listener, is_silent));
                runtime.block_on(stopped.cancelled());
                runtime.shutdown_background();
            }
            Behaviour::Flapping => {
                drop(listener);
                runtime.shutdown_background();
                flap(address, &stopped);
            }
        });
        Ok(Self {
            url: format!("http://{address}"),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

/// Comes and goes, each time with all of its sockets.
fn flap(address: SocketAddr, stopped: &CancellationToken) {
    while !stopped.is_cancelled() {
        let Ok(runtime) = server_runtime("provider") else {
            return;
        };
        run_for_a_while(&runtime, address);
        runtime.shutdown_timeout(FLAP);
        thread::sleep(FLAP);
    }
}

fn run_for_a_while(runtime: &Runtime, address: SocketAddr) {
    runtime.block_on(async {
        // Taken, for a moment: then it is away for longer.
        if let Ok(listener) = TcpListener::bind(address).await {
            tokio::spawn(serve(listener, false));
            sleep(FLAP).await;
        }
    });
}

async fn serve(listener: TcpListener, is_silent: bool) {
    let service = DialogContextServiceServer::from_arc(Arc::new(Service { is_silent }));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(service);
    if let Err(error) = server.serve_with_incoming(incoming).await {
        eprintln!("the provider: {error}");
    }
}

struct Service {
    is_silent: bool,
}

#[tonic::async_trait]
impl DialogContextService for Service {
    async fn get_dialog_context(
        &self,
        _: Request<GetDialogContextRequest>,
    ) -> Result<Response<GetDialogContextResponse>, Status> {
        if self.is_silent {
            std::future::pending::<()>().await;
        }
        let context = [("姓名", "张三"), ("性别", "男")];
        let context = context.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Response::new(GetDialogContextResponse {
            context: context.into(),
        }))
    }

    async fn analyze_semantics(
        &self,
        _: Request<AnalyzeSemanticsRequest>,
    ) -> Result<Response<AnalyzeSemanticsResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}
