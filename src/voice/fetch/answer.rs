//! What the voice server answers: what it says of a recording, and its bytes.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;
use url::Url;

use super::error::FetchError;

/// No content type is longer.
const LONGEST_TYPE: usize = 200;

/// What the voice server says of a recording.
#[derive(Clone, Debug)]
pub struct Head {
    /// The size of the whole; `None`: it does not tell.
    pub size: Option<u64>,
    /// Its content type.
    pub content_type: String,
    /// Where it came from, behind redirects.
    pub url: Url,
    /// Names the content, if it has a name.
    pub(super) etag: Option<HeaderValue>,
}

/// An answer's body.
pub(super) struct Body {
    response: Response,
    /// What comes first and is not wanted, from a server that knows no ranges.
    pub skip: u64,
}

/// What came of asking once.
pub(super) struct Answer {
    pub head: Head,
    /// `None`: there is nothing behind the position.
    pub body: Option<Body>,
}

impl Head {
    /// Whether a later answer can be of the same content.
    pub(super) fn may_be(&self, later: &Self) -> bool {
        fn agree<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        agree(self.size.as_ref(), later.size.as_ref())
            && agree(self.etag.as_ref(), later.etag.as_ref())
    }
}

impl Body {
    /// The next bytes that are wanted; `None` at the body's end. An error without a cause: nothing
    /// came for too long.
    pub async fn next(
        &mut self,
        patience: Duration,
    ) -> Result<Option<Bytes>, Option<reqwest::Error>> {
        loop {
            // Looks for bytes before it looks at the clock: a reader that was slow itself finds
            // what has come meanwhile.
            let chunk = timeout(patience, self.response.chunk()).await;
            let Some(mut bytes) = chunk.map_err(|_| None)?.map_err(Some)? else {
                return Ok(None);
            };
            let unwanted = usize::try_from(self.skip).unwrap_or(usize::MAX);
            let unwanted = unwanted.min(bytes.len());
            bytes.advance(unwanted);
            self.skip -= unwanted as u64;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }
}

/// Reads an answer that is no redirect; `position`: from where the recording was asked for.
pub(super) fn read_head(response: Response, url: Url, position: u64) -> Result<Answer, FetchError> {
    let status = response.status();
    let range = content_range(response.headers());
    let (size, skip) = match (status, range) {
        (StatusCode::OK, _) => (response.content_length(), position),
        (StatusCode::PARTIAL_CONTENT, Some((Some(first), size))) if first == position => (size, 0),
        (StatusCode::RANGE_NOT_SATISFIABLE, Some((_, Some(size)))) if position > 0 => {
            (Some(size), 0)
        }
        (StatusCode::NOT_FOUND | StatusCode::GONE, _) => return Err(FetchError::NotFound),
        (status, _) => return Err(FetchError::Status(status.as_u16())),
    };
    if let Some(size) = size.filter(|size| *size < position) {
        return Err(FetchError::BeyondEnd { size });
    }
    let headers = response.headers();
    let text = |value: &HeaderValue| {
        let text = value.to_str().ok()?;
        (text.len() <= LONGEST_TYPE).then(|| text.to_owned())
    };
    let head = Head {
        size,
        content_type: headers.get(CONTENT_TYPE).and_then(text).unwrap_or_default(),
        url,
        // A weak one names no bytes.
        etag: headers
            .get(ETAG)
            .filter(|etag| !etag.as_bytes().starts_with(b"W/"))
            .cloned(),
    };
    let is_over = status == StatusCode::RANGE_NOT_SATISFIABLE;
    let body = (!is_over).then_some(Body { response, skip });
    Ok(Answer { head, body })
}

/// Reads `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`: the first byte and the size of the whole.
fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let first = range
        .split_once('-')
        .and_then(|(first, _)| first.trim().parse().ok());
    Some((first, size.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_tells_the_first_byte_and_the_size() {
        for (text, expected) in [
            ("bytes 5-9/10", Some((Some(5), Some(10)))),
            ("bytes 5-9/*", Some((Some(5), None))),
            ("bytes */10", Some((None, Some(10)))),
            ("lines 5-9/10", None),
            ("bytes 5-9", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            assert_eq!(content_range(&headers), expected, "{text}");
        }
    }
}
