//! The recordings: real WAV files with a tone as long as the call.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, StatusCode};

use super::world::World;

const RATE: u32 = 8_000;
const HEADER: u64 = 44;
/// Recordings of longer calls are cut here, to stay small.
const MAX_SECONDS: u64 = 15;
/// The oldest recordings are forgotten beyond this many.
const MAX_RECORDINGS: usize = 100_000;

/// The recordings that can be fetched: their paths and lengths in seconds.
#[derive(Default)]
pub(super) struct Recordings {
    seconds: HashMap<String, u64>,
    oldest: VecDeque<String>,
}

impl Recordings {
    /// Adds a recording, and returns its size in bytes.
    pub fn add(&mut self, path: &str, seconds: u64) -> u64 {
        let seconds = seconds.clamp(1, MAX_SECONDS);
        if self.oldest.len() >= MAX_RECORDINGS
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.seconds.remove(&oldest);
        }
        self.oldest.push_back(path.to_owned());
        self.seconds.insert(path.to_owned(), seconds);
        HEADER + seconds * u64::from(RATE) * 2
    }

    fn seconds(&self, path: &str) -> Option<u64> {
        self.seconds.get(path).copied()
    }
}

/// Serves `/voice/{path}`, the voice base URL, whole or a range of it.
pub(super) async fn serve(
    State(world): State<Arc<World>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    let seconds = world.recordings().seconds(&path);
    let Some(seconds) = seconds else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let file = wav(seconds);
    let kind = [(CONTENT_TYPE, "audio/x-wav"), (ACCEPT_RANGES, "bytes")];
    let Some(range) = headers.get(RANGE).and_then(|range| range.to_str().ok()) else {
        return (kind, file).into_response();
    };
    let Some((from, to)) = slice(range, file.len()) else {
        let headers = [(CONTENT_RANGE, format!("bytes */{}", file.len()))];
        return (StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response();
    };
    let headers = [(
        CONTENT_RANGE,
        format!("bytes {from}-{}/{}", to - 1, file.len()),
    )];
    (
        StatusCode::PARTIAL_CONTENT,
        kind,
        headers,
        file[from..to].to_vec(),
    )
        .into_response()
}

/// Reads `bytes=from-to`, `bytes=from-` or `bytes=-last`, as from and end.
fn slice(range: &str, len: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = match (from, to) {
        ("", last) => (len.saturating_sub(last.parse().ok()?), len),
        (from, "") => (from.parse().ok()?, len),
        (from, to) => (
            from.parse().ok()?,
            to.parse::<usize>().ok()?.saturating_add(1).min(len),
        ),
    };
    (from < to).then_some((from, to))
}

/// PCM, 8 kHz, 16 bit, one channel: a square wave of 400 Hz.
fn wav(seconds: u64) -> Vec<u8> {
    let samples = u32::try_from(seconds).unwrap_or_default() * RATE;
    let data = samples * 2;
    let mut file = Vec::with_capacity(data as usize + 44);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(data + 36).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&16_u32.to_le_bytes());
    file.extend_from_slice(&1_u16.to_le_bytes());
    file.extend_from_slice(&1_u16.to_le_bytes());
    file.extend_from_slice(&RATE.to_le_bytes());
    file.extend_from_slice(&(RATE * 2).to_le_bytes());
    file.extend_from_slice(&2_u16.to_le_bytes());
    file.extend_from_slice(&16_u16.to_le_bytes());
    file.extend_from_slice(b"data");
    file.extend_from_slice(&data.to_le_bytes());
    for sample in 0..samples {
        let level: i16 = if (sample / 10) % 2 == 0 {
            2_000
        } else {
            -2_000
        };
        file.extend_from_slice(&level.to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::{Recordings, slice, wav};

    #[test]
    fn the_pushed_size_is_the_size_of_the_file() {
        let size = Recordings::default().add("a.wav", 3);
        let file = wav(3);
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
}
