//! What names one delivery.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// One delivery of one entry of one subscription.
///
/// Its text is opaque to members: base64url of the parts in order and a checksum, so that a
/// mangled id is told from a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AckId {
    /// The subscription's key, which no later one of the same name has.
    pub subscription: u64,
    /// How often the subscription had been moved.
    pub generation: u32,
    /// The entry's number.
    pub number: u64,
    /// Tells this delivery from all others of this process, and most likely of any other.
    pub tag: u64,
}

const PARTS: usize = 8 + 4 + 8 + 8;
const LEN: usize = PARTS + 4;

impl AckId {
    /// Reads an id back; `None` if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let bytes: [u8; LEN] = bytes.try_into().ok()?;
        let (subscription, rest) = bytes.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (tag, _) = rest.split_first_chunk()?;
        let id = Self {
            subscription: u64::from_be_bytes(*subscription),
            generation: u32::from_be_bytes(*generation),
            number: u64::from_be_bytes(*number),
            tag: u64::from_be_bytes(*tag),
        };
        (id.to_bytes() == bytes).then_some(id)
    }

    fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&self.subscription.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.generation.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.number.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.tag.to_be_bytes());
        let checksum = crc32fast::hash(&bytes[..PARTS]);
        bytes[PARTS..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl std::fmt::Display for AckId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::bent;

    const ID: AckId = AckId {
        subscription: 1,
        generation: 2,
        number: 3,
        tag: 4,
    };

    proptest! {
        #[test]
        fn an_id_reads_back(subscription: u64, generation: u32, number: u64, tag: u64) {
            let id = AckId { subscription, generation, number, tag };
            prop_assert_eq!(AckId::parse(&id.to_string()), Some(id));
        }

        #[test]
        fn fuzz_a_bent_id_is_refused(text in bent(vec![ID.to_string().into_bytes()])) {
            let text = String::from_utf8_lossy(&text);
            let read = AckId::parse(&text);
            prop_assert!(read.is_none() || text == ID.to_string());
        }

        #[test]
        fn any_other_text_is_no_id_and_does_not_panic(text: String) {
            prop_assert_eq!(AckId::parse(&text), None);
        }
    }
}
