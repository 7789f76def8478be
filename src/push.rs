//! Domain words of the push log: what identifies an event and where it stands.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Identifies an event by its content.
///
/// The same account, module and JSON value give the same id, whenever and by whichever way they
/// arrive; anything that differs in content gives another one. A module's scope ("|AppX") is no part
/// of it: whoever makes an id leaves it out. It is the first half of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId([u8; Self::LEN]);

impl EventId {
    /// How many bytes an id has.
    pub const LEN: usize = 16;

    /// The id of content that is JSON; `canonical` is its canonical text.
    pub fn of_json(account: &str, module: &str, canonical: &str) -> Self {
        Self::of(account, module, b"json", canonical.as_bytes())
    }

    /// The id of content that is no JSON: the bytes as received.
    pub fn of_raw(account: &str, module: &str, raw: &[u8]) -> Self {
        Self::of(account, module, b"raw", raw)
    }

    fn of(account: &str, module: &str, form: &[u8], content: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        // Lengths first, so that no two different triples run together into the same bytes.
        for part in [account.as_bytes(), module.as_bytes(), form, content] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&hasher.finalize()[..Self::LEN]);
        Self(id)
    }

    /// The id's bytes, as the store keeps them.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The id from the bytes that the store keeps.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The id from its text.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 2 * Self::LEN || !text.as_bytes().iter().all(is_hex) {
            return None;
        }
        u128::from_str_radix(text, 16)
            .ok()
            .map(|id| Self(id.to_be_bytes()))
    }
}

/// Lower-case hexadecimal, as `PushEvent.event_id` carries it.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A place in the log: just after the event of that number, which counts from 1. Zero is before
/// the first event ever.
///
/// Positions of different stores have nothing to do with each other; a [`Cursor`] says whose it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before the first event ever.
    pub const START: Self = Self(0);

    /// Just after the following event.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Just before the event that this position follows.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// Names one log for its whole life: random, made when the log is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 8]);

/// A position together with the store that it belongs to: what clients keep to resume from.
///
/// Its text is opaque to clients: base64url of a version, the store's id, the position and a
/// checksum that turns a mistyped cursor into an error instead of another place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The log that the position belongs to.
    pub store: StoreId,
    /// The place in that log.
    pub position: Position,
}

/// Why a text is no cursor of this store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// The text is not a cursor at all; the caller should pass on exactly what it was given.
    #[error("not a cursor: {0:?}")]
    Malformed(String),
    /// A cursor of another store: of another gateway, or from before its data were replaced.
    #[error("the cursor belongs to another store")]
    Foreign,
    /// A place that this log has never reached.
    #[error("the cursor lies beyond the end of the log")]
    BeyondEnd,
}

impl Cursor {
    const VERSION: u8 = 2;
    const LEN: usize = 1 + 8 + 8 + 4;

    /// Reads a cursor's text back and holds it against the store that is asked.
    pub fn parse(text: &str, store: StoreId) -> Result<Position, CursorError> {
        let malformed = || CursorError::Malformed(text.chars().take(64).collect());
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed())?;
        let bytes: [u8; Self::LEN] = bytes.try_into().map_err(|_| malformed())?;
        let [version, rest @ ..] = bytes;
        let (store_bytes, rest) = rest.split_at(8);
        let (position_bytes, _checksum) = rest.split_at(8);
        let cursor = Self {
            store: StoreId(store_bytes.try_into().map_err(|_| malformed())?),
            position: Position(u64::from_be_bytes(
                position_bytes.try_into().map_err(|_| malformed())?,
            )),
        };
        if version != Self::VERSION || cursor.to_bytes() != bytes {
            return Err(malformed());
        }
        if cursor.store != store {
            return Err(CursorError::Foreign);
        }
        Ok(cursor.position)
    }

    fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = Self::VERSION;
        bytes[1..9].copy_from_slice(&self.store.0);
        bytes[9..17].copy_from_slice(&self.position.0.to_be_bytes());
        // A CRC: whatever single character is changed, it shows.
        let checksum = crc32fast::hash(&bytes[..17]);
        bytes[17..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; Self::LEN.div_ceil(3) * 4];
        let len = URL_SAFE_NO_PAD
            .encode_slice(self.to_bytes(), &mut text)
            .map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_reads_back_in_its_own_store_and_in_no_other(
            store: [u8; 8], other: [u8; 8], position: u64,
        ) {
            let text = Cursor { store: StoreId(store), position: Position(position) }.to_string();
            prop_assert_eq!(Cursor::parse(&text, StoreId(store)), Ok(Position(position)));
            if store != other {
                prop_assert_eq!(Cursor::parse(&text, StoreId(other)), Err(CursorError::Foreign));
            }
        }

        #[test]
        fn a_cursor_with_one_character_changed_is_refused(
            store: [u8; 8], position: u64, at in 0_usize..28, with in "[A-Za-z0-9_-]",
        ) {
            let text = Cursor { store: StoreId(store), position: Position(position) }.to_string();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &with);
            if changed != text {
                prop_assert!(Cursor::parse(&changed, StoreId(store)).is_err());
            }
        }

        #[test]
        fn any_other_text_is_no_cursor_and_does_not_panic(text: String) {
            prop_assert!(matches!(
                Cursor::parse(&text, StoreId([0; 8])),
                Err(CursorError::Malformed(_))
            ));
        }
    }

    #[test]
    fn an_id_is_the_same_in_every_version_of_the_gateway() {
        let id = EventId::of_json("default", "receiveVoice", r#"{"call_uuid":"c"}"#);
        assert_eq!(id.to_string(), "98abf4019949f31a9996dc15c19a701c");
    }

    #[test]
    fn ids_differ_when_account_module_or_form_differ() {
        let ids = [
            EventId::of_json("a", "receiveVoice", "{}"),
            EventId::of_json("b", "receiveVoice", "{}"),
            EventId::of_json("a", "receiveDialog", "{}"),
            EventId::of_json("ar", "eceiveVoice", "{}"),
            EventId::of_raw("a", "receiveVoice", b"{}"),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
