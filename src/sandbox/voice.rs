//! The recordings that the simulated calls leave behind.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::faults::Kind;
use super::server::Cut;
use super::world::World;

const RATE: u32 = 8_000;
const HEADER: u64 = 44;
/// Recordings of longer calls are cut here, to stay small.
const MAX_SECONDS: u64 = 15;
/// The oldest recordings are forgotten beyond this many.
const MAX_RECORDINGS: usize = 100_000;
/// Recordings are made and sent in pieces of this size.
const PIECE: u64 = 64 << 10;

/// The recordings that can be fetched, by their paths.
#[derive(Default)]
pub(super) struct Recordings {
    known: HashMap<String, Recording>,
    oldest: VecDeque<String>,
    requests: u64,
}

/// A recording, of which every byte is known without having it: PCM, 8 kHz,
/// 16 bit, one channel.
#[derive(Clone, Copy, Debug)]
struct Recording {
    bytes: u64,
    sound: Sound,
}

#[derive(Clone, Copy, Debug)]
enum Sound {
    /// A square wave of 400 Hz.
    Tone,
    /// Repeats itself after a prime number of bytes, so that no part of it
    /// passes for another.
    Noise,
}

static TONE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let levels = [2_000_i16, -2_000].into_iter();
    let samples = levels.flat_map(|level| [level.to_le_bytes(); 10]);
    samples.flatten().collect()
});

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mixed = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..65_521).map(|number| mixed(number)[6]).collect()
});

impl Recordings {
    /// Adds a recording, and returns its size in bytes.
    pub fn add(&mut self, path: &str, seconds: u64) -> u64 {
        let seconds = seconds.clamp(1, MAX_SECONDS);
        let bytes = HEADER + seconds * u64::from(RATE) * 2;
        let sound = Sound::Tone;
        self.insert(path, Recording { bytes, sound });
        bytes
    }

    /// Adds a recording of any size, in place of an earlier one.
    pub fn add_noise(&mut self, path: &str, bytes: u64) {
        let sound = Sound::Noise;
        self.insert(path, Recording { bytes, sound });
    }

    fn insert(&mut self, path: &str, recording: Recording) {
        if self.oldest.len() >= MAX_RECORDINGS
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.known.remove(&oldest);
        }
        if self.known.insert(path.to_owned(), recording).is_none() {
            self.oldest.push_back(path.to_owned());
        }
    }

    fn ask(&mut self, path: &str) -> Option<Recording> {
        self.requests += 1;
        self.known.get(path).copied()
    }

    /// How often recordings were asked for.
    pub fn requests(&self) -> u64 {
        self.requests
    }
}

/// Serves `/voice/{path}`, the voice base URL, whole or a range of it.
pub(super) async fn serve(
    State(world): State<Arc<World>>,
    Extension(cut): Extension<Cut>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    let recording = world.recordings().ask(&path);
    let fault = world.faults().take_for_voice();
    let kind = fault.as_ref().map(|fault| fault.kind);
    let pause = Duration::from_millis(fault.as_ref().map_or(0, |fault| fault.millis));
    let is_slow = kind == Some(Kind::Slow);
    if !is_slow {
        tokio::time::sleep(pause).await;
    }
    match kind {
        Some(Kind::NotFound) => return StatusCode::NOT_FOUND.into_response(),
        Some(Kind::Http500) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Some(Kind::CutBeforeReading) => return cut.reset().await,
        Some(Kind::Redirect) => {
            let location = fault.and_then(|fault| fault.location).unwrap_or_default();
            return (StatusCode::FOUND, [(LOCATION, location)]).into_response();
        }
        _ => {}
    }
    let Some(mut recording) = recording else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if kind == Some(Kind::WrongSize) {
        recording.bytes /= 2;
    }
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let range = range.filter(|_| kind != Some(Kind::IgnoreRange));
    let mut sending = Sending {
        recording,
        from: 0,
        to: recording.bytes,
        pause: if is_slow { pause } else { Duration::ZERO },
        cut: None,
    };
    let mut status = StatusCode::OK;
    let mut answer = HeaderMap::new();
    answer.insert(CONTENT_TYPE, HeaderValue::from_static("audio/x-wav"));
    answer.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(range) = range {
        let whole = recording.bytes;
        let Some((from, to)) = slice(range, whole) else {
            let headers = [(CONTENT_RANGE, format!("bytes */{whole}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response();
        };
        (sending.from, sending.to) = (from, to);
        status = StatusCode::PARTIAL_CONTENT;
        let range = HeaderValue::from_str(&format!("bytes {from}-{}/{whole}", to - 1));
        answer.extend(range.ok().map(|range| (CONTENT_RANGE, range)));
    }
    answer.insert(CONTENT_LENGTH, HeaderValue::from(sending.to - sending.from));
    if kind == Some(Kind::CutMidAnswer) {
        sending.to = sending.from.midpoint(sending.to);
        sending.cut = Some(cut);
    }
    (status, answer, sending.into_body()).into_response()
}

/// The part of a recording that is being sent.
struct Sending {
    recording: Recording,
    from: u64,
    to: u64,
    /// Before each piece.
    pause: Duration,
    /// Breaks the connection at the end.
    cut: Option<Cut>,
}

impl Sending {
    fn into_body(self) -> Body {
        let pieces = stream::unfold(self, |mut sending| async {
            tokio::time::sleep(sending.pause).await;
            let to = (sending.from + PIECE).min(sending.to);
            if to == sending.from {
                // Never ends by itself then: what is announced has not come.
                sending.cut.as_ref()?.reset().await;
                return None;
            }
            let piece = sending.recording.part(sending.from, to);
            sending.from = to;
            Some((Ok::<_, std::io::Error>(Bytes::from(piece)), sending))
        });
        Body::from_stream(pieces)
    }
}

impl Recording {
    /// The bytes from one place to another.
    fn part(self, from: u64, to: u64) -> Vec<u8> {
        let header = self.header();
        let of_header = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(header.len());
        let mut part = header[of_header(from)..of_header(to)].to_vec();
        let period = match self.sound {
            Sound::Tone => &*TONE,
            Sound::Noise => &*NOISE,
        };
        let mut at = from.max(HEADER);
        while at < to {
            let left = usize::try_from(to - at).unwrap_or(usize::MAX);
            let skip = usize::try_from((at - HEADER) % period.len() as u64).unwrap_or_default();
            let run = &period[skip..period.len().min(skip.saturating_add(left))];
            part.extend_from_slice(run);
            at += run.len() as u64;
        }
        part
    }

    fn header(self) -> Vec<u8> {
        let data = u32::try_from(self.bytes.saturating_sub(HEADER)).unwrap_or(u32::MAX);
        let mut header = Vec::with_capacity(44);
        header.extend_from_slice(b"RIFF");
        header.extend_from_slice(&data.saturating_add(36).to_le_bytes());
        header.extend_from_slice(b"WAVEfmt ");
        header.extend_from_slice(&16_u32.to_le_bytes());
        header.extend_from_slice(&1_u16.to_le_bytes());
        header.extend_from_slice(&1_u16.to_le_bytes());
        header.extend_from_slice(&RATE.to_le_bytes());
        header.extend_from_slice(&(RATE * 2).to_le_bytes());
        header.extend_from_slice(&2_u16.to_le_bytes());
        header.extend_from_slice(&16_u16.to_le_bytes());
        header.extend_from_slice(b"data");
        header.extend_from_slice(&data.to_le_bytes());
        header
    }
}

/// Reads `bytes=from-to`, `bytes=from-` or `bytes=-last`, as from and end.
pub(super) fn slice(range: &str, len: u64) -> Option<(u64, u64)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = match (from, to) {
        ("", last) => (len.saturating_sub(last.parse().ok()?), len),
        (from, "") => (from.parse().ok()?, len),
        (from, to) => (
            from.parse().ok()?,
            to.parse::<u64>().ok()?.saturating_add(1).min(len),
        ),
    };
    (from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::{Recordings, slice};

    #[test]
    fn the_pushed_size_is_the_size_of_the_file() {
        let mut recordings = Recordings::default();
        let size = recordings.add("a.wav", 3);
        let file = recordings.ask("a.wav").unwrap().part(0, size);
        assert_eq!(size, file.len() as u64);
        assert_eq!(&file[..4], b"RIFF");
        assert_eq!(
            u32::from_le_bytes(file[4..8].try_into().unwrap()) as usize,
            file.len() - 8
        );
    }

    #[test]
    fn ranges_stay_within_the_file() {
        assert_eq!(slice("bytes=0-9", 100), Some((0, 10)));
        assert_eq!(slice("bytes=90-", 100), Some((90, 100)));
        assert_eq!(slice("bytes=-10", 100), Some((90, 100)));
        assert_eq!(slice("bytes=50-500", 100), Some((50, 100)));
        assert_eq!(slice("bytes=100-", 100), None);
        assert_eq!(slice("lines=1-2", 100), None);
    }

    #[test]
    fn a_recording_in_parts_is_the_recording() {
        let mut recordings = Recordings::default();
        recordings.add_noise("a.wav", 1_000);
        let recording = recordings.ask("a.wav").unwrap();
        let whole = recording.part(0, 1_000);
        for at in [0, 1, 43, 44, 45, 999, 1_000] {
            let parts = [recording.part(0, at), recording.part(at, 1_000)];
            assert_eq!(parts.concat(), whole, "{at}");
        }
    }
}
