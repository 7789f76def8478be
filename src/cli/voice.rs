//! `yeta-gateway voice`: recordings of calls.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tonic::{Code, Status};
use yeta_gateway::proto::download_voice_request::Source;
use yeta_gateway::proto::download_voice_response::Message;
use yeta_gateway::proto::voice_service_client::VoiceServiceClient;
use yeta_gateway::proto::{DownloadVoiceRequest, VoiceInfo};

use super::print;
use super::remote::{UnaryArgs, refused};

/// Fetches recordings.
#[derive(Args)]
pub struct VoiceArgs {
    #[command(subcommand)]
    command: VoiceCommand,
}

#[derive(Subcommand)]
enum VoiceCommand {
    Get(GetArgs),
}

/// Fetches a recording into a file.
///
/// What has come of it stands in FILE.part until it is whole; the same command goes on from there.
#[derive(Args)]
struct GetArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    /// The call.
    #[arg(required_unless_present = "url", conflicts_with = "url")]
    call_uuid: Option<String>,
    /// The recording's address, as a push told it, instead of the call.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Where to put it.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Does what the arguments ask.
pub async fn run(args: VoiceArgs) -> anyhow::Result<()> {
    match args.command {
        VoiceCommand::Get(args) => args.run().await,
    }
}

/// A gateway that breaks off is asked again so often without a byte between.
const TRIES: u32 = 3;
/// And after this long.
const PAUSE: Duration = Duration::from_secs(1);

/// A file that grows beside the one that it becomes.
struct Partial {
    file: File,
    path: PathBuf,
    /// Says what the file is of, so that it is never taken up with another recording.
    note: PathBuf,
    size: u64,
    began_at: u64,
}

impl GetArgs {
    async fn run(self) -> anyhow::Result<()> {
        // Found out now, and not when everything has come.
        if fs::metadata(&self.output).await.is_ok_and(|it| it.is_dir()) {
            bail!("{} is a folder", self.output.display());
        }
        let mut partial = Partial::open(&self.output).await?;
        let info = match self.fetch_all(&mut partial).await {
            Ok(info) => info,
            Err(error) => {
                partial.leave().await;
                return Err(error);
            }
        };
        let began_at = partial.began_at;
        let size = partial.finish(&self.output).await?;
        self.report(&info, size, began_at)
    }

    /// Fetches until everything is there.
    async fn fetch_all(&self, partial: &mut Partial) -> anyhow::Result<VoiceInfo> {
        let bar = ProgressBar::no_length().with_style(style()?);
        let mut tries = 0;
        let info = loop {
            let before = partial.size;
            match self.fetch(partial, &bar).await {
                Ok(info) => break info,
                Err(Failure::Broken(status)) => {
                    tries = if partial.size > before { 1 } else { tries + 1 };
                    if tries >= TRIES {
                        return Err(refused(status));
                    }
                    bar.suspend(|| {
                        print::note(format_args!("{}, trying again", status.message()));
                    });
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Failure::Final(error)) => return Err(error),
            }
        };
        bar.finish_and_clear();
        Ok(info)
    }

    /// Fetches what is missing, or as much of it as comes.
    async fn fetch(&self, partial: &mut Partial, bar: &ProgressBar) -> Result<VoiceInfo, Failure> {
        let mut client = VoiceServiceClient::new(self.unary.connect()?);
        let opened = client.download_voice(self.request(partial.size)?).await;
        let mut stream = match opened {
            Ok(response) => response.into_inner(),
            // It was of something longer.
            Err(status) if status.code() == Code::OutOfRange && partial.size > 0 => {
                partial.restart().await?;
                let again = client.download_voice(self.request(0)?).await;
                again.map_err(Failure::of)?.into_inner()
            }
            Err(status) => return Err(Failure::of(status)),
        };
        let Some(Message::Info(mut info)) = next(&mut stream).await? else {
            return Err(anyhow::anyhow!("the gateway told nothing of the recording").into());
        };
        if partial.size > 0 && !partial.is_of(&info).await {
            partial.restart().await?;
            let again = client.download_voice(self.request(0)?).await;
            stream = again.map_err(Failure::of)?.into_inner();
            if let Some(Message::Info(again)) = next(&mut stream).await? {
                info = again;
            }
        }
        partial.note(&info).await?;
        if let Some(size) = info.size.and_then(|size| u64::try_from(size).ok()) {
            bar.set_length(size);
        }
        bar.set_position(partial.size);
        while let Some(message) = next(&mut stream).await? {
            if let Message::Chunk(bytes) = message {
                partial.add(&bytes).await?;
                bar.set_position(partial.size);
            }
        }
        Ok(info)
    }

    fn request(&self, offset: u64) -> anyhow::Result<DownloadVoiceRequest> {
        let source = match (&self.call_uuid, &self.url) {
            (Some(call_uuid), _) => Source::CallUuid(call_uuid.clone()),
            (None, Some(url)) => Source::Url(url.clone()),
            (None, None) => bail!("neither a call nor a --url is given"),
        };
        Ok(DownloadVoiceRequest {
            source: Some(source),
            offset: offset.try_into()?,
        })
    }

    fn report(&self, info: &VoiceInfo, size: u64, began_at: u64) -> anyhow::Result<()> {
        let file = self.output.display();
        if info.size_differs {
            let pushed = info.pushed_size.unwrap_or_default();
            print::note(format_args!(
                "{size} bytes, although the push told {pushed}"
            ));
        }
        if self.unary.json {
            let report = serde_json::json!({
                "file": self.output,
                "size": size,
                "resumed_at": began_at,
                "content_type": info.content_type,
                "url": info.url,
                "pushed_size": info.pushed_size,
                "size_differs": info.size_differs,
            });
            print::out(print::json_of(&report)?)?;
            return Ok(());
        }
        let mut text = format!("{file}: {size} bytes");
        if !info.content_type.is_empty() {
            write!(text, ", {}", info.content_type)?;
        }
        if began_at > 0 {
            write!(text, ", taken up at byte {began_at}")?;
        }
        print::out(text)?;
        Ok(())
    }
}

/// Why a recording did not come to its end.
enum Failure {
    /// Another try may go on.
    Broken(Status),
    /// No other try helps.
    Final(anyhow::Error),
}

impl Failure {
    fn of(status: Status) -> Self {
        match status.code() {
            Code::Unavailable => Self::Broken(status),
            _ => Self::Final(refused(status)),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

type Stream = tonic::Streaming<yeta_gateway::proto::DownloadVoiceResponse>;

async fn next(stream: &mut Stream) -> Result<Option<Message>, Failure> {
    let message = stream.message().await.map_err(Failure::of)?;
    Ok(message.and_then(|message| message.message))
}

fn style() -> anyhow::Result<ProgressStyle> {
    let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    Ok(ProgressStyle::with_template(style)?)
}

impl Partial {
    async fn open(output: &Path) -> anyhow::Result<Self> {
        let path = beside(output, ".part");
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path).await;
        let file = file.with_context(|| format!("{} cannot be written", path.display()))?;
        let size = file.metadata().await?.len();
        Ok(Self {
            file,
            note: beside(output, ".part.info"),
            path,
            size,
            began_at: size,
        })
    }

    /// Whether what is there is of this recording.
    async fn is_of(&self, info: &VoiceInfo) -> bool {
        fs::read_to_string(&self.note)
            .await
            .is_ok_and(|noted| noted == note(info))
    }

    async fn note(&self, info: &VoiceInfo) -> anyhow::Result<()> {
        Ok(fs::write(&self.note, note(info)).await?)
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        self.file.set_len(0).await?;
        (self.size, self.began_at) = (0, 0);
        Ok(())
    }

    async fn add(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(bytes).await?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Leaves nothing behind if nothing came.
    async fn leave(self) {
        if self.size > 0 {
            return;
        }
        drop(self.file);
        for path in [&self.path, &self.note] {
            // What cannot be removed is empty, and will be taken up again.
            let _ = fs::remove_file(path).await;
        }
    }

    /// Gives the file its name; tells its size.
    async fn finish(&mut self, output: &Path) -> anyhow::Result<u64> {
        self.file.flush().await?;
        fs::rename(&self.path, output)
            .await
            .with_context(|| format!("{} cannot be written", output.display()))?;
        match fs::remove_file(&self.note).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(self.size),
        }
    }
}

/// Names a recording's content, as far as that is known.
fn note(info: &VoiceInfo) -> String {
    format!("{}\n{}\n", info.url, info.size.unwrap_or(-1))
}

/// A file's path with something behind its name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
