//! The loads. Each stands until it is dropped; who is refused or cut off comes again a second later.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::{BoxFuture, FutureExt as _, join_all, ready};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;
use yeta_gateway::proto::submit_rows_request::Message as Said;
use yeta_gateway::proto::subscribe_pushes_request::Start as From;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::{
    DirectCall, Position, SubmitRowsRequest, SubscribePushesRequest, UploadHeader,
};

use super::HARMFUL;

/// Where a load goes: the port for services, and the port for pushes.
type At = (SocketAddr, SocketAddr);
/// Starts a load, and resolves once it stands.
pub type Start = fn(At) -> BoxFuture<'static, anyhow::Result<JoinSet<()>>>;

pub const LOADS: [(&str, Start); 9] = [
    ("4,096 heads without a token a second", |at| {
        ready(Ok(heads(at))).boxed()
    }),
    ("300 half-sent messages", |at| {
        ready(Ok(half_messages(at))).boxed()
    }),
    ("1,100 silent connections, gRPC", |(grpc, _)| {
        silent(grpc).boxed()
    }),
    ("1,100 silent connections, pushes", |(_, push)| {
        silent(push).boxed()
    }),
    ("32 trickling pushes", |at| ready(Ok(trickles(at))).boxed()),
    ("4 × 8 MiB of zeros, again and again", |at| {
        ready(Ok(zeros(at))).boxed()
    }),
    ("16 gzip bombs, again and again", |at| bombs(at).boxed()),
    ("256 idle uploads", |at| uploads(at).boxed()),
    ("600 streams that take nothing", |at| streams(at).boxed()),
];

const GET_CALL: &str = "/yeta.v1.CallService/GetCall";
const CALL_OUT: &str = "/yeta.v1.OutboundService/CallOut";
const SUBMIT_ROWS: &str = "/yeta.v1.OutboundService/SubmitRows";
const SUBSCRIBE: &str = "/yeta.v1.PushService/SubscribePushes";
const PUSH_HEAD: &str =
    "POST /v1/push/default/bench-push-secret/receiveDialog HTTP/1.1\r\nhost: gateway\r\n";

/// The streams that one connection may have.
const STREAMS: usize = 200;
/// The pause after which somebody comes again.
const AGAIN: Duration = Duration::from_secs(1);
/// The bodies of pushes have at most this size.
const MAX_BODY: usize = 8 << 20;

fn heads((grpc, _): At) -> JoinSet<()> {
    const HEADS: usize = 4096;
    let mut load = JoinSet::new();
    for first in (0..HEADS).step_by(STREAMS) {
        load.spawn(again(AGAIN, move || async move {
            let send = open(grpc, 1 << 20).await?;
            let mut all = Vec::new();
            for _ in first..HEADS.min(first + STREAMS) {
                all.push(head(&send, GET_CALL, None, &[]).await?);
            }
            // The bodies stay open until all have been answered.
            let (answers, _bodies): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            join_all(answers).await;
            anyhow::Ok(())
        }));
    }
    load
}

fn half_messages((grpc, _): At) -> JoinSet<()> {
    const LEN: usize = 4 << 20;
    let message = framed(0, &vec![b'x'; LEN]).slice(..LEN - 100);
    let mut load = JoinSet::new();
    for _ in 0..300 {
        let message = message.clone();
        load.spawn(again(AGAIN, move || {
            let message = message.clone();
            async move {
                let send = open(grpc, 1 << 20).await?;
                let (answer, mut body) = head(&send, CALL_OUT, Some(HARMFUL), &[]).await?;
                body.send_data(message, false)?;
                answer.await?;
                anyhow::Ok(())
            }
        }));
    }
    load
}

async fn silent(to: SocketAddr) -> anyhow::Result<JoinSet<()>> {
    let mut load = JoinSet::new();
    for _ in 0..1100 {
        let mut stream = TcpStream::connect(to).await?;
        load.spawn(async move {
            loop {
                until_closed(&mut stream).await;
                sleep(AGAIN).await;
                if let Ok(next) = TcpStream::connect(to).await {
                    stream = next;
                }
            }
        });
    }
    Ok(load)
}

fn trickles((_, push): At) -> JoinSet<()> {
    let mut load = JoinSet::new();
    for _ in 0..32 {
        load.spawn(again(Duration::ZERO, move || async move {
            let mut stream = TcpStream::connect(push).await?;
            let head = format!("{PUSH_HEAD}content-length: {MAX_BODY}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut byte = [0];
            loop {
                tokio::select! {
                    _ = stream.read(&mut byte) => return anyhow::Ok(()),
                    () = sleep(Duration::from_millis(100)) => stream.write_all(b" ").await?,
                }
            }
        }));
    }
    load
}

fn zeros((_, push): At) -> JoinSet<()> {
    // Each body differs from all others, or it would be known already.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    const NUMBER: usize = 20;
    let zeros = Bytes::from(",0".repeat((MAX_BODY - NUMBER - 2) / 2) + "]");
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let zeros = zeros.clone();
        load.spawn(again(Duration::ZERO, move || {
            let zeros = zeros.clone();
            async move {
                let mut stream = TcpStream::connect(push).await?;
                let number = NEXT.fetch_add(1, Ordering::Relaxed) + 10_u64.pow(18);
                let start = format!("[{number}");
                let length = start.len() + zeros.len();
                let head =
                    format!("{PUSH_HEAD}connection: close\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all((head + &start).as_bytes()).await?;
                stream.write_all(&zeros).await?;
                until_closed(&mut stream).await;
                anyhow::Ok(())
            }
        }));
    }
    load
}

async fn bombs((grpc, _): At) -> anyhow::Result<JoinSet<()>> {
    // Rows that are empty, up to the largest message, and 64 MiB of nothing.
    let rows = gzip(&[0x2a, 0].repeat(2_000_000))?;
    let nothing = gzip(&vec![0; 64 << 20])?;
    let mut load = JoinSet::new();
    for number in 0..16 {
        let message = framed(1, if number % 2 == 0 { &rows } else { &nothing });
        let send = open(grpc, 1 << 20).await?;
        load.spawn(again(Duration::ZERO, move || {
            let (send, message) = (send.clone(), message.clone());
            async move {
                let encoding = [("grpc-encoding", "gzip")];
                let (answer, mut body) = head(&send, CALL_OUT, Some(HARMFUL), &encoding).await?;
                body.send_data(message, true)?;
                answer.await?;
                anyhow::Ok(())
            }
        }));
    }
    Ok(load)
}

async fn uploads((grpc, _): At) -> anyhow::Result<JoinSet<()>> {
    let header = UploadHeader {
        target: Some(Target::Direct(DirectCall {
            robot_id: "11".into(),
            line_num: "69101338".into(),
            ..DirectCall::default()
        })),
        call_column: vec!["客户手机号码".into()],
        ..UploadHeader::default()
    };
    let header = SubmitRowsRequest {
        message: Some(Said::Header(header)),
    };
    held(grpc, 256, 1 << 20, SUBMIT_ROWS, &header, false).await
}

async fn streams((grpc, _): At) -> anyhow::Result<JoinSet<()>> {
    let request = SubscribePushesRequest {
        start: Some(From::Position(Position::Earliest.into())),
        ..SubscribePushesRequest::default()
    };
    held(grpc, 600, 0, SUBSCRIBE, &request, true).await
}

/// Opens streams that send one message and take as much of the answers as their windows allow.
async fn held(
    grpc: SocketAddr,
    count: usize,
    window: u32,
    path: &'static str,
    message: &impl Message,
    is_end: bool,
) -> anyhow::Result<JoinSet<()>> {
    let message = framed(0, &message.encode_to_vec());
    let mut load = JoinSet::new();
    for first in (0..count).step_by(STREAMS) {
        let send = open(grpc, window).await?;
        for _ in first..count.min(first + STREAMS) {
            let (send, message) = (send.clone(), message.clone());
            load.spawn(again(AGAIN, move || {
                let (send, message) = (send.clone(), message.clone());
                async move {
                    let (answer, mut body) = head(&send, path, Some(HARMFUL), &[]).await?;
                    body.send_data(message, is_end)?;
                    let mut answer: Response<RecvStream> = answer.await?;
                    while let Some(data) = answer.body_mut().data().await {
                        data?;
                    }
                    anyhow::Ok(())
                }
            }));
        }
    }
    Ok(load)
}

/// Does something again and again, whatever comes of it.
async fn again<F>(pause: Duration, mut act: impl FnMut() -> F)
where
    F: Future<Output = anyhow::Result<()>>,
{
    loop {
        if act().await.is_err() {
            // A gateway that refuses at once is not asked in a busy loop.
            sleep(AGAIN).await;
        }
        sleep(pause).await;
    }
}

async fn until_closed(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// An HTTP/2 connection with a window for each answer.
async fn open(to: SocketAddr, window: u32) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut builder = Builder::new();
    builder.initial_window_size(window);
    let (send, connection) = builder.handshake(stream).await?;
    // What is wrong with it shows where it is used.
    tokio::spawn(connection);
    Ok(send)
}

/// Sends the head of a request, whose body stays open.
async fn head(
    send: &SendRequest<Bytes>,
    path: &str,
    token: Option<&str>,
    headers: &[(&str, &str)],
) -> anyhow::Result<(ResponseFuture, SendStream<Bytes>)> {
    let mut request = Request::post(format!("http://gateway{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut send = send.clone().ready().await?;
    Ok(send.send_request(request.body(())?, false)?)
}

fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(flag);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

fn gzip(plain: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain)?;
    Ok(encoder.finish()?)
}
