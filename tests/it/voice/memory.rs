//! What a long recording costs.

use sha2::{Digest, Sha256};
use yeta_gateway::proto::DownloadVoiceRequest;
use yeta_gateway::proto::download_voice_response::Message;
use yeta_gateway::sandbox::SandboxConfig;

use super::{download, record, requests, url, voices};
use crate::sandbox::harness::Sandbox;
use crate::support::{Http, Process, within};

const SIZE: u64 = 200 << 20;
/// Far less than the recording, and far more than what is under way at a time.
const ALLOWED: u64 = 32 << 20;

/// How much memory of its own a process has, in bytes: without the program's pages.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// How many bytes of recordings the gateway has taken in.
async fn fetched(http: &Http, admin: &str) -> u64 {
    let metrics = http.get(admin, "/metrics").await.unwrap().text();
    let line = metrics
        .lines()
        .find(|line| line.contains("voice_bytes_total{"));
    line.and_then(|line| line.split_whitespace().last())
        .map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_recording_of_200_mb_takes_little_memory_and_waits_for_its_reader() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    record(&sandbox, "a.wav", SIZE).await;
    let folder = tempfile::tempdir().unwrap();
    let base = format!("platform.voice_base_url = '{}/voice/'", sandbox.base);
    Process::configure(folder.path(), &base);
    let gateway = Process::spawn(Process::command(folder.path())).await;
    let request = DownloadVoiceRequest {
        source: Some(url("a.wav")),
        offset: 0,
    };
    let mut client = voices(&gateway.addresses.grpc);
    // Once, so that what is there for good is there.
    record(&sandbox, "b.wav", 8 << 20).await;
    let first = download(&gateway.addresses.grpc, url("b.wav"), 0).await;
    first.unwrap().whole();
    let before = memory(gateway.id());
    let asked = requests(&sandbox).await;
    let http = Http::new();
    let start = fetched(&http, &gateway.addresses.admin).await;

    let mut stream = client.download_voice(request).await.unwrap().into_inner();
    stream.message().await.unwrap();
    // Nobody reads: what is taken in comes to an end by itself.
    let (mut last, mut same) = (0, 0);
    within("the stream is held back", async {
        while same < 50 {
            let now = fetched(&http, &gateway.addresses.admin).await;
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
    })
    .await;
    let held = last - start;
    assert!(held < ALLOWED, "{held} bytes are on their way to nobody");

    let mut hash = Sha256::new();
    let (mut size, mut peak, mut chunks) = (0, before, 0_u64);
    let reading = async {
        while let Some(message) = stream.message().await.unwrap() {
            let Some(Message::Chunk(chunk)) = message.message else {
                panic!("{message:?}");
            };
            size += chunk.len() as u64;
            hash.update(&chunk);
            chunks += 1;
            if chunks.is_multiple_of(50) {
                peak = peak.max(memory(gateway.id()));
            }
        }
    };
    within("the recording", reading).await;
    let grown = peak - before;
    assert_eq!((size, requests(&sandbox).await - asked), (SIZE, 1));
    assert!(grown < ALLOWED, "{grown} bytes more for {SIZE}");
    assert_eq!(hash.finalize(), of_noise());
}

/// What a recording of that size hashes to, by the sandbox's own words of it: a header, and a
/// period of 65,521 bytes over and over.
fn of_noise() -> sha2::digest::Output<Sha256> {
    let data = u32::try_from(SIZE - 44).unwrap();
    let mut hash = Sha256::new();
    hash.update(b"RIFF");
    hash.update((data + 36).to_le_bytes());
    hash.update(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data");
    hash.update(data.to_le_bytes());
    let period: Vec<u8> = (0..65_521_u64)
        .map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[6])
        .collect();
    let mut left = data as usize;
    while left > 0 {
        let run = left.min(period.len());
        hash.update(&period[..run]);
        left -= run;
    }
    hash.finalize()
}
