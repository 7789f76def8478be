//! A sandbox, a gateway process before it that can be killed and started again, and the way of
//! the pushes from the one to the other.

use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use yeta_gateway::proto::call_service_client::CallServiceClient;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::sandbox::SandboxConfig;

use crate::sandbox::harness::Sandbox;
use crate::support::{Addresses, PUSH_SECRET, Process, Pushes, pushes_client};

pub type Outbound = OutboundServiceClient<Channel>;

/// Where the gateway is now; `None` while there is none.
pub type Place = watch::Receiver<Option<Addresses>>;

pub struct Stage {
    pub sandbox: Sandbox,
    place: watch::Sender<Option<Addresses>>,
    /// Where pushes go; those that come while it is `None` wait.
    pushed_to: watch::Sender<Option<Addresses>>,
    are_pushes_held: bool,
    gateway: Option<Process>,
    folder: TempDir,
}

/// A sandbox whose calls take some milliseconds, and on which several clients have their tokens.
pub fn fast() -> SandboxConfig {
    SandboxConfig {
        speed: 1000.0,
        kill_old_tokens: false,
        ..SandboxConfig::default()
    }
}

/// A sandbox that takes rows and calls nobody.
pub fn silent() -> SandboxConfig {
    SandboxConfig {
        dial: false,
        ..fast()
    }
}

pub fn outbound(grpc: &str) -> Outbound {
    let channel = Endpoint::from_shared(grpc.to_owned())
        .unwrap()
        .connect_lazy();
    OutboundServiceClient::new(channel)
}

impl Stage {
    /// `more` is further keys of the gateway's configuration.
    pub async fn set(config: SandboxConfig, more: &str) -> Self {
        Self::set_pushing(config, more, None).await
    }

    /// With pushes to somewhere else than the gateway.
    pub async fn set_pushing(config: SandboxConfig, more: &str, to: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = listener.local_addr().unwrap();
        let gateway = format!("http://{relay}/v1/push/default/{PUSH_SECRET}");
        let sandbox = Sandbox::start(SandboxConfig {
            push_to: vec![to.map_or(gateway, str::to_owned)],
            ..config
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        Process::configure_with_platform(folder.path(), &sandbox.base, more);
        let mut stage = Self {
            sandbox,
            place: watch::Sender::new(None),
            pushed_to: watch::Sender::new(None),
            are_pushes_held: false,
            gateway: None,
            folder,
        };
        tokio::spawn(relay_pushes(listener, stage.pushed_to.subscribe()));
        stage.start().await;
        stage
    }

    /// Starts a gateway on the store; there must be none.
    pub async fn start(&mut self) {
        let gateway = Process::spawn(Process::command(self.folder.path())).await;
        let addresses = gateway.addresses.clone();
        self.gateway = Some(gateway);
        self.place.send_replace(Some(addresses.clone()));
        if !self.are_pushes_held {
            self.pushed_to.send_replace(Some(addresses));
        }
    }

    /// kill −9.
    pub fn kill(&mut self) {
        self.place.send_replace(None);
        self.pushed_to.send_replace(None);
        self.gateway.take().unwrap().kill();
    }

    pub async fn kill_and_start(&mut self) {
        self.kill();
        self.start().await;
    }

    /// Lets pushes wait that come by new connections, also after another start.
    pub fn hold_pushes(&mut self) {
        self.are_pushes_held = true;
        self.pushed_to.send_replace(None);
    }

    pub fn let_pushes_through(&mut self) {
        self.are_pushes_held = false;
        self.pushed_to.send_replace(self.place.borrow().clone());
    }

    pub fn place(&self) -> Place {
        self.place.subscribe()
    }

    fn addresses(&self) -> &Addresses {
        &self.gateway.as_ref().unwrap().addresses
    }

    pub fn outbound(&self) -> Outbound {
        outbound(&self.addresses().grpc)
    }

    pub fn pushes(&self) -> Pushes {
        pushes_client(&self.addresses().grpc)
    }

    pub fn calls(&self) -> CallServiceClient<Channel> {
        let grpc = self.addresses().grpc.clone();
        CallServiceClient::new(Endpoint::from_shared(grpc).unwrap().connect_lazy())
    }

    /// How much memory the gateway keeps that is its own, in MiB.
    pub fn resident(&self) -> u64 {
        let id = self.gateway.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse::<u64>().unwrap() / 1024
    }
}

/// Carries each connection of the platform to wherever the gateway is.
async fn relay_pushes(listener: TcpListener, to: Place) {
    loop {
        let (mut from, _) = listener.accept().await.unwrap();
        let mut to = to.clone();
        tokio::spawn(async move {
            let Ok(place) = to.wait_for(Option::is_some).await.map(|it| it.clone()) else {
                return;
            };
            let push = place.unwrap().push;
            let Ok(mut gateway) = TcpStream::connect(push.trim_start_matches("http://")).await
            else {
                return;
            };
            // Ends when either side does, a killed gateway's included.
            let _ = copy_bidirectional(&mut from, &mut gateway).await;
        });
    }
}
