//! Undoes a body's Content-Encoding, within a bound.

use std::io::Read;

use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};

/// Why a body could not be decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EncodingError {
    /// It becomes larger than a body may be.
    TooLarge,
    /// It is not what the header says, or that is an encoding that is not known.
    Unreadable,
}

/// The body without the encoding that its header names, `max` bytes at most.
pub(super) fn decode(encoding: &str, body: &[u8], max: usize) -> Result<Bytes, EncodingError> {
    let name = encoding.trim().to_ascii_lowercase();
    let decoder: Box<dyn Read + '_> = match &*name {
        "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(body)),
        "deflate" => Box::new(ZlibDecoder::new(body)),
        _ => return Err(EncodingError::Unreadable),
    };
    let mut decoded = Vec::new();
    // One byte more shows what is too large.
    let read = decoder.take(max as u64 + 1).read_to_end(&mut decoded);
    match read {
        Err(_) => Err(EncodingError::Unreadable),
        Ok(_) if decoded.len() > max => Err(EncodingError::TooLarge),
        Ok(_) => Ok(decoded.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn bodies_are_decompressed_up_to_the_bound() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
        zlib.write_all(b"{}").unwrap();
        assert_eq!(decode("GZIP", &gzip(b"{}"), 2).unwrap(), "{}");
        assert_eq!(decode(" x-gzip", &gzip(b"{}"), 2).unwrap(), "{}");
        assert_eq!(decode("deflate", &zlib.finish().unwrap(), 2).unwrap(), "{}");
        let bomb = gzip(&vec![b'0'; 1 << 20]);
        assert_eq!(decode("gzip", &bomb, 1 << 20).unwrap().len(), 1 << 20);
        let too_large = decode("gzip", &bomb, (1 << 20) - 1);
        assert_eq!(too_large, Err(EncodingError::TooLarge));
        for (encoding, body) in [("gzip", &b"{}"[..]), ("br", b"{}"), ("", b"{}")] {
            let unreadable = decode(encoding, body, 100);
            assert_eq!(unreadable, Err(EncodingError::Unreadable), "{encoding}");
        }
    }
}
