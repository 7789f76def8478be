//! The table of RPCs: what the gateway knows of each before it reads a request's message.

use self::Account::{Named, One};
use self::Messages::{Ids, Large, Small};
use self::Shape::{BidiStreaming, ServerStreaming, Unary};
use crate::config::Permission::{
    self, Admin, Calls, Config, Consume, Place, Submissions, Subscriptions, Tasks, Voice,
};

/// One RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rpc {
    /// The path of its requests.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// Which account its requests are for.
    pub account: Account,
    /// Which sides stream.
    pub shape: Shape,
    /// The bound of one request message.
    pub messages: Messages,
    /// Whether its answer is a page of up to some 2 MiB.
    pub is_page: bool,
    /// Whether it changes something. The audit log has a line for each such request.
    pub changes: bool,
}

/// Who may call an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, without credentials; such requests share a small pool.
    Public(Pool),
    /// A client that has one of these rights.
    Any(&'static [Permission]),
}

/// Requests that need no credentials, apart from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// `grpc.health.v1.Health/Check`.
    Health,
    /// Streams of `grpc.health.v1.Health`.
    HealthWatch,
    /// Server reflection.
    Reflection,
}

/// Which account a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// The one that it names, otherwise the default one.
    One,
    /// The one that it names, otherwise every account of the client.
    Named,
}

/// Which sides of an RPC stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// None.
    Unary,
    /// The gateway.
    ServerStreaming,
    /// Both.
    BidiStreaming,
}

/// The bound of one request message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// 64 KiB.
    Small,
    /// 512 KiB: lists of ids.
    Ids,
    /// `grpc.max_request_bytes`: rows and files.
    Large,
}

impl Messages {
    /// The maximum size of one message, decompressed; `max_request_bytes` bounds all.
    pub fn max_bytes(self, max_request_bytes: usize) -> usize {
        match self {
            Small => max_request_bytes.min(64 << 10),
            Ids => max_request_bytes.min(512 << 10),
            Large => max_request_bytes,
        }
    }

    /// The maximum number of elements of one message: fields at every depth, and numbers of lists.
    pub fn max_elements(self) -> usize {
        match self {
            Small => 4 << 10,
            Ids => 32 << 10,
            Large => 256 << 10,
        }
    }
}

/// RPCs that change nothing and read personal data: calls, recordings, submissions, pushes.
const AUDITED_READS: [&str; 8] = [
    "/yeta.v1.CallService/GetCall",
    "/yeta.v1.CallService/ListCalls",
    "/yeta.v1.OutboundService/GetSubmission",
    "/yeta.v1.OutboundService/ListSubmissions",
    "/yeta.v1.PushService/ListPushes",
    "/yeta.v1.PushService/SubscribePushes",
    "/yeta.v1.SubscriptionService/ListDeadLetters",
    "/yeta.v1.VoiceService/DownloadVoice",
];
/// RPCs that settle deliveries one by one. They are as many as the events, and concern the client's
/// own work alone.
const DELIVERY_RPCS: [&str; 2] = [
    "/yeta.v1.PushService/AckPushes",
    "/yeta.v1.PushService/ExtendAckDeadline",
];

impl Rpc {
    /// Whether the audit log has a line for each request.
    pub fn is_audited(&self) -> bool {
        AUDITED_READS.contains(&self.path) || self.changes && !DELIVERY_RPCS.contains(&self.path)
    }

    const fn new(path: &'static str, access: Access) -> Self {
        Self {
            path,
            access,
            account: Named,
            shape: Unary,
            messages: Small,
            is_page: false,
            changes: false,
        }
    }

    const fn of(path: &'static str, rights: &'static [Permission]) -> Self {
        Self::new(path, Access::Any(rights))
    }

    const fn public(path: &'static str, pool: Pool) -> Self {
        Self::new(path, Access::Public(pool))
    }

    const fn one_account(self) -> Self {
        Self {
            account: One,
            ..self
        }
    }

    const fn streaming(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    const fn messages(self, messages: Messages) -> Self {
        Self { messages, ..self }
    }

    const fn page(self) -> Self {
        Self {
            is_page: true,
            ..self
        }
    }

    const fn changing(self) -> Self {
        Self {
            changes: true,
            ..self
        }
    }
}

/// Every RPC that the gateway serves.
#[rustfmt::skip]
pub const RPCS: &[Rpc] = &[
    Rpc::of("/yeta.v1.CallService/GetCall", &[Calls]),
    Rpc::of("/yeta.v1.CallService/ListCalls", &[Calls]).messages(Ids).page(),
    Rpc::of("/yeta.v1.CallService/WatchCalls", &[Calls]).messages(Ids).streaming(ServerStreaming),
    Rpc::of("/yeta.v1.CallService/ListOverdue", &[Calls]).messages(Ids).page(),

    Rpc::of("/yeta.v1.ConfigService/QueryConfig", &[Config]).one_account(),

    Rpc::of("/yeta.v1.OutboundService/CallOut", &[Place]).one_account().messages(Large).changing(),
    Rpc::of("/yeta.v1.OutboundService/CreateTask", &[Place]).one_account().changing(),
    Rpc::of("/yeta.v1.OutboundService/InsertTaskData", &[Place]).one_account().messages(Large).changing(),
    Rpc::of("/yeta.v1.OutboundService/StartTask", &[Tasks]).one_account().changing(),
    Rpc::of("/yeta.v1.OutboundService/PauseTask", &[Tasks]).one_account().changing(),
    Rpc::of("/yeta.v1.OutboundService/DeleteTask", &[Tasks]).one_account().changing(),
    Rpc::of("/yeta.v1.OutboundService/QueryTasks", &[Tasks]).one_account(),
    Rpc::of("/yeta.v1.OutboundService/SubmitRows", &[Place]).one_account().messages(Large).streaming(BidiStreaming).changing(),
    Rpc::of("/yeta.v1.OutboundService/GetSubmission", &[Submissions]).one_account().page(),
    Rpc::of("/yeta.v1.OutboundService/ListSubmissions", &[Submissions]).one_account().page(),
    Rpc::of("/yeta.v1.OutboundService/SettleSubmission", &[Admin]).one_account().changing(),

    Rpc::of("/yeta.v1.PushService/SubscribePushes", &[Consume]).messages(Ids).streaming(ServerStreaming),
    Rpc::of("/yeta.v1.PushService/ListPushes", &[Consume]).messages(Ids).page(),
    Rpc::of("/yeta.v1.PushService/AckPushes", &[Consume]).messages(Ids).changing(),
    Rpc::of("/yeta.v1.PushService/NackPushes", &[Consume]).messages(Ids).changing(),
    Rpc::of("/yeta.v1.PushService/ExtendAckDeadline", &[Consume]).messages(Ids).changing(),
    // A reader of pushes may know which are missing, and so may the client that fetches them again.
    Rpc::of("/yeta.v1.PushService/ListFailedPushFiles", &[Consume, Admin]).one_account(),
    Rpc::of("/yeta.v1.PushService/BackfillPushes", &[Admin]).one_account().streaming(ServerStreaming).changing(),
    Rpc::of("/yeta.v1.PushService/BackfillFile", &[Admin]).one_account().messages(Large).streaming(BidiStreaming).changing(),

    Rpc::of("/yeta.v1.SubscriptionService/CreateSubscription", &[Subscriptions]).messages(Ids).changing(),
    Rpc::of("/yeta.v1.SubscriptionService/GetSubscription", &[Subscriptions]),
    Rpc::of("/yeta.v1.SubscriptionService/ListSubscriptions", &[Subscriptions]).page(),
    Rpc::of("/yeta.v1.SubscriptionService/UpdateSubscription", &[Subscriptions]).messages(Ids).changing(),
    Rpc::of("/yeta.v1.SubscriptionService/DeleteSubscription", &[Subscriptions]).changing(),
    Rpc::of("/yeta.v1.SubscriptionService/SeekSubscription", &[Subscriptions]).changing(),
    Rpc::of("/yeta.v1.SubscriptionService/ListDeadLetters", &[Subscriptions]).page(),
    Rpc::of("/yeta.v1.SubscriptionService/RedriveDeadLetters", &[Subscriptions]).messages(Ids).changing(),

    Rpc::of("/yeta.v1.VoiceService/DownloadVoice", &[Voice]).streaming(ServerStreaming),

    Rpc::public("/grpc.health.v1.Health/Check", Pool::Health),
    Rpc::public("/grpc.health.v1.Health/Watch", Pool::HealthWatch).streaming(ServerStreaming),
    Rpc::public("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Pool::Reflection).streaming(BidiStreaming),
    Rpc::public("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Pool::Reflection).streaming(BidiStreaming),
];

/// The RPC of a path.
pub fn find(path: &str) -> Option<&'static Rpc> {
    RPCS.iter().find(|rpc| rpc.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Implemented by the users' services; the gateway is its client.
    const NOT_SERVED: &str = "yeta.v1.DialogContextService";

    /// Every method of compiled descriptors, with which sides of it stream: the client, the server.
    fn methods(descriptors: &[u8]) -> BTreeMap<String, (bool, bool)> {
        let files = FileDescriptorSet::decode(descriptors).unwrap().file;
        let mut methods = BTreeMap::new();
        for file in &files {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                if name == NOT_SERVED {
                    continue;
                }
                for method in &service.method {
                    let path = format!("/{name}/{}", method.name());
                    let streams = (method.client_streaming(), method.server_streaming());
                    methods.insert(path, streams);
                }
            }
        }
        methods
    }

    #[test]
    fn the_table_has_every_method_of_the_descriptors_with_its_shape_and_no_other() {
        let described = [
            crate::proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let described: BTreeMap<_, _> = described.into_iter().flat_map(methods).collect();
        let table: BTreeMap<_, _> = RPCS
            .iter()
            .map(|rpc| {
                let streams = match rpc.shape {
                    Unary => (false, false),
                    ServerStreaming => (false, true),
                    BidiStreaming => (true, true),
                };
                (rpc.path.to_owned(), streams)
            })
            .collect();
        assert_eq!(table.len(), RPCS.len(), "a path stands twice in the table");
        assert_eq!(table, described);
    }

    #[test]
    fn only_health_and_reflection_need_no_credentials() {
        for rpc in RPCS {
            let is_standard = rpc.path.starts_with("/grpc.");
            match rpc.access {
                Access::Public(_) => assert!(is_standard, "{}", rpc.path),
                Access::Any(rights) => {
                    assert!(!is_standard && !rights.is_empty(), "{}", rpc.path);
                }
            }
        }
    }

    #[test]
    fn the_rpcs_of_the_audit_log_are_in_the_table() {
        for path in AUDITED_READS {
            let is_read = find(path).is_some_and(|rpc| !rpc.changes && rpc.is_audited());
            assert!(is_read, "{path}");
        }
        for path in DELIVERY_RPCS {
            assert!(find(path).is_some_and(|rpc| rpc.changes && !rpc.is_audited()));
        }
    }

    #[test]
    fn no_message_is_larger_than_the_configured_bound() {
        for (bound, expected) in [
            (4 << 20, [64 << 10, 512 << 10, 4 << 20]),
            (256 << 10, [64 << 10, 256 << 10, 256 << 10]),
            (64 << 10, [64 << 10; 3]),
        ] {
            assert_eq!([Small, Ids, Large].map(|it| it.max_bytes(bound)), expected);
        }
    }
}
