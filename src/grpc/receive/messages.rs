//! Cuts the bytes of a request into messages, each decompressed and within its bounds.

use std::io::{self, Read};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The bytes before each message: whether it is compressed, and its length.
pub(super) const HEADER: usize = 5;
/// A message of at most this size may be compressed to any size.
const FREE_SIZE: usize = 64 << 10;
/// A message of at most this size is decompressed at once: that takes a fraction of a millisecond.
const INLINE_SIZE: usize = 64 << 10;
/// The maximum ratio of a larger message.
const MAX_RATIO: usize = 1000;
/// The maximum window of a zstd frame, as a power of two: 8 MiB.
const ZSTD_WINDOW: u32 = 23;

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// Reads the header `grpc-encoding`.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"identity" => Some(Self::Identity),
            b"gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Why a message cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    /// It is too large, as it is or decompressed.
    #[error("the message has more than {max} bytes")]
    TooLarge {
        /// The maximum of this RPC.
        max: usize,
    },
    /// It became far larger when it was decompressed.
    #[error("the message is compressed more than {MAX_RATIO} to 1")]
    TooDense,
    /// It is not what its header says.
    #[error("the message cannot be read: {0}")]
    Malformed(String),
}

/// A message of which the header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub is_compressed: bool,
    /// Its length on the wire.
    pub length: usize,
}

/// A message that has come whole.
#[derive(Debug)]
pub(super) enum Whole {
    /// It is not compressed any more.
    Plain(Bytes),
    /// Decompressing it takes a while.
    Large(Compressed),
}

/// A compressed message.
#[derive(Debug)]
pub(super) struct Compressed {
    encoding: Encoding,
    max: usize,
    message: Bytes,
}

/// Gathers the bytes of one message after another.
pub(super) struct Messages {
    encoding: Encoding,
    max: usize,
    buffer: BytesMut,
    announced: Option<Announced>,
}

impl Messages {
    /// Messages of at most `max` bytes.
    pub(super) fn new(encoding: Encoding, max: usize) -> Self {
        Self {
            encoding,
            max,
            buffer: BytesMut::new(),
            announced: None,
        }
    }

    /// Adds what has come.
    pub(super) fn push(&mut self, data: Bytes) {
        if self.buffer.is_empty() {
            // Takes the bytes over where nobody else holds them.
            self.buffer = BytesMut::from(data);
        } else {
            self.buffer.extend_from_slice(&data);
        }
    }

    /// Whether the header of the next message has come and was read.
    pub(super) fn has_header(&self) -> bool {
        self.announced.is_some()
    }

    /// Whether a part of a message has come.
    pub(super) fn is_partial(&self) -> bool {
        self.announced.is_some() || !self.buffer.is_empty()
    }

    /// The message whose header has come; `None`: not enough has come.
    pub(super) fn announced(&mut self) -> Result<Option<Announced>, MessageError> {
        if self.announced.is_none() && self.buffer.len() >= HEADER {
            let flag = self.buffer.get_u8();
            let length = self.buffer.get_u32() as usize;
            let is_compressed = match flag {
                0 => false,
                1 if self.encoding != Encoding::Identity => true,
                1 => return Err(malformed("compressed, and no grpc-encoding is named")),
                _ => return Err(malformed("unknown compression flag")),
            };
            if length > self.max {
                return Err(MessageError::TooLarge { max: self.max });
            }
            self.announced = Some(Announced {
                is_compressed,
                length,
            });
        }
        Ok(self.announced)
    }

    /// The announced message once it is complete, without its header.
    pub(super) fn take(&mut self) -> Result<Option<Whole>, MessageError> {
        let Some(announced) = self.announced()? else {
            return Ok(None);
        };
        if self.buffer.len() < announced.length {
            return Ok(None);
        }
        self.announced = None;
        let message = self.buffer.split_to(announced.length).freeze();
        if !announced.is_compressed {
            return Ok(Some(Whole::Plain(message)));
        }
        let compressed = Compressed {
            encoding: self.encoding,
            max: self.max,
            message,
        };
        if compressed.max() > INLINE_SIZE && compressed.start(INLINE_SIZE)?.len() > INLINE_SIZE {
            return Ok(Some(Whole::Large(compressed)));
        }
        compressed.open().map(|plain| Some(Whole::Plain(plain)))
    }
}

impl Compressed {
    /// Decompresses it.
    pub(super) fn open(&self) -> Result<Bytes, MessageError> {
        let max = self.max();
        let plain = self.start(max)?;
        if plain.len() <= max {
            Ok(plain)
        } else if max == self.max {
            Err(MessageError::TooLarge { max })
        } else {
            Err(MessageError::TooDense)
        }
    }

    /// The size that it may have.
    fn max(&self) -> usize {
        let dense = self.message.len().saturating_mul(MAX_RATIO);
        self.max.min(FREE_SIZE.max(dense))
    }

    /// Decompresses its first `size` bytes, and one more to show that there is more.
    fn start(&self, size: usize) -> Result<Bytes, MessageError> {
        let read = |decoder: &mut dyn Read| -> io::Result<Bytes> {
            let mut plain = BytesMut::new().writer();
            io::copy(&mut decoder.take(size as u64 + 1), &mut plain)?;
            Ok(plain.into_inner().freeze())
        };
        let plain = match self.encoding {
            Encoding::Identity => {
                return Err(malformed("compressed, and no grpc-encoding is named"));
            }
            Encoding::Gzip => read(&mut flate2::read::GzDecoder::new(&*self.message)),
            Encoding::Zstd => {
                zstd_decoder(&self.message).and_then(|mut decoder| read(&mut decoder))
            }
        };
        plain.map_err(|error| MessageError::Malformed(error.to_string()))
    }
}

fn zstd_decoder(message: &[u8]) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(message)?;
    decoder.window_log_max(ZSTD_WINDOW)?;
    Ok(decoder)
}

fn malformed(why: &str) -> MessageError {
    MessageError::Malformed(why.to_owned())
}

/// A message as it goes on: not compressed, behind its header.
pub(super) fn framed(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(HEADER + message.len());
    framed.put_u8(0);
    // Bounded by `max_request_bytes`, at most 1 GiB.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(plain: &[u8]) -> Vec<u8> {
        zstd::encode_all(plain, 19).unwrap()
    }

    fn message(flag: u8, bytes: &[u8]) -> Vec<u8> {
        let mut message = vec![flag];
        message.put_u32(bytes.len().try_into().unwrap());
        message.extend_from_slice(bytes);
        message
    }

    /// What is read when the bytes come in pieces of this size.
    fn read(
        encoding: Encoding,
        max: usize,
        bytes: &[u8],
        piece: usize,
    ) -> Result<Vec<Bytes>, MessageError> {
        let mut messages = Messages::new(encoding, max);
        let mut read = Vec::new();
        for piece in bytes.chunks(piece) {
            messages.push(Bytes::copy_from_slice(piece));
            while let Some(message) = messages.take()? {
                read.push(match message {
                    Whole::Plain(message) => message,
                    Whole::Large(message) => message.open()?,
                });
            }
        }
        assert!(!messages.is_partial());
        Ok(read)
    }

    #[test]
    fn messages_come_whole_however_their_bytes_are_cut() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let compress = if encoding == Encoding::Gzip {
                gzip
            } else {
                zstd
            };
            let bytes = [
                message(0, b"one"),
                message(1, &compress(b"two")),
                message(0, b""),
                message(1, &compress(b"")),
            ]
            .concat();
            for piece in [1, 3, 7, bytes.len()] {
                let read = read(encoding, 100, &bytes, piece).unwrap();
                assert_eq!(read, ["one", "two", "", ""], "{encoding:?} {piece}");
            }
        }
    }

    #[test]
    fn a_message_over_its_bound_is_refused_by_its_header_alone() {
        let header = &message(0, &[0; 101])[..HEADER];
        let refused = read(Encoding::Identity, 100, header, HEADER);
        assert_eq!(refused, Err(MessageError::TooLarge { max: 100 }));
        let exact = message(0, &[0; 100]);
        assert!(read(Encoding::Identity, 100, &exact, 100).is_ok());
    }

    #[test]
    fn a_message_over_its_bound_once_decompressed_is_refused() {
        for (encoding, compressed) in [
            (Encoding::Gzip, gzip(&[0; 101])),
            (Encoding::Zstd, zstd(&[0; 101])),
        ] {
            let refused = read(encoding, 100, &message(1, &compressed), 1000);
            assert_eq!(refused, Err(MessageError::TooLarge { max: 100 }));
        }
    }

    #[test]
    fn a_large_message_that_is_nearly_all_compression_is_refused() {
        for (encoding, compress) in [
            (Encoding::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
            (Encoding::Zstd, zstd),
        ] {
            let free = message(1, &compress(&vec![0; FREE_SIZE]));
            assert!(read(encoding, 4 << 20, &free, 1000).is_ok());
            let dense = message(1, &compress(&vec![0; 4 << 20]));
            let refused = read(encoding, 4 << 20, &dense, 1 << 20);
            assert_eq!(refused, Err(MessageError::TooDense));
        }
    }

    #[test]
    fn a_message_is_left_compressed_if_decompressing_it_takes_a_while() {
        for (size, is_large) in [(INLINE_SIZE, false), (INLINE_SIZE + 1, true)] {
            // Bytes without a pattern, which compress to no less.
            let bytes = (0..size).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[4]);
            let plain: Vec<u8> = bytes.collect();
            for (encoding, compressed) in [
                (Encoding::Gzip, gzip(&plain)),
                (Encoding::Zstd, zstd(&plain)),
            ] {
                let mut messages = Messages::new(encoding, 4 << 20);
                messages.push(message(1, &compressed).into());
                let whole = messages.take().unwrap().unwrap();
                assert_eq!(matches!(whole, Whole::Large(_)), is_large, "{encoding:?}");
            }
        }
    }

    #[test]
    fn nonsense_is_malformed() {
        for (encoding, bytes) in [
            (Encoding::Gzip, message(2, b"x")),
            (Encoding::Identity, message(1, b"x")),
            (Encoding::Gzip, message(1, b"x")),
            (Encoding::Zstd, message(1, b"x")),
        ] {
            let refused = read(encoding, 100, &bytes, 1000);
            assert!(
                matches!(refused, Err(MessageError::Malformed(_))),
                "{refused:?}"
            );
        }
    }
}
