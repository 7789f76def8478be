//! `SubscribePushesResponse`, written by hand so that an event is encoded once for all readers:
//! the log keeps it encoded, and a stream only copies its bytes.

use ::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, bytes, encode_key, encode_varint};
use prost::encoding::{encoded_len_varint, key_len, message, skip_field, string, uint32};
use prost::{DecodeError, Message};

use super::{PushEvent, SubscribeProgress};

/// One message of a subscriber's stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SubscribePushesResponse {
    /// Nothing that this version knows.
    #[default]
    Unset,
    /// A push, as a client decodes it.
    Event(Box<PushEvent>),
    /// A push, as the gateway sends it.
    Encoded(EncodedEvent),
    /// How far the reader has come.
    Progress(SubscribeProgress),
}

/// An encoded `PushEvent`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncodedEvent {
    /// The event's bytes, without `raw_json`.
    pub event: Bytes,
    /// `raw_json`, if it is to be sent.
    pub raw_json: Option<Bytes>,
    /// Which delivery of a durable subscription this is.
    pub delivery: Option<EncodedDelivery>,
}

/// What tells one delivery of an event from another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncodedDelivery {
    /// `ack_id`
    pub ack_id: String,
    /// `delivery_attempt`
    pub attempt: u32,
}

const EVENT: u32 = 1;
const PROGRESS: u32 = 2;
// Fields of `PushEvent`, appended to the encoded event, as messages merge by concatenation.
const ACK_ID: u32 = 7;
const DELIVERY_ATTEMPT: u32 = 8;
const RAW_JSON: u32 = 100;

impl EncodedEvent {
    fn len(&self) -> usize {
        let delivery = self.delivery.as_ref().map_or(0, |delivery| {
            string::encoded_len(ACK_ID, &delivery.ack_id)
                + uint32::encoded_len(DELIVERY_ATTEMPT, &delivery.attempt)
        });
        let raw_json = self
            .raw_json
            .as_ref()
            .map_or(0, |raw| bytes::encoded_len(RAW_JSON, raw));
        self.event.len() + delivery + raw_json
    }

    fn encode(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.event);
        if let Some(delivery) = &self.delivery {
            string::encode(ACK_ID, &delivery.ack_id, buf);
            uint32::encode(DELIVERY_ATTEMPT, &delivery.attempt, buf);
        }
        if let Some(raw_json) = &self.raw_json {
            bytes::encode(RAW_JSON, raw_json, buf);
        }
    }
}

impl Message for SubscribePushesResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match self {
            Self::Unset => {}
            Self::Event(event) => message::encode(EVENT, event.as_ref(), buf),
            Self::Encoded(event) => {
                encode_key(EVENT, WireType::LengthDelimited, buf);
                encode_varint(event.len() as u64, buf);
                event.encode(buf);
            }
            Self::Progress(progress) => message::encode(PROGRESS, progress, buf),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Unset => 0,
            Self::Event(event) => message::encoded_len(EVENT, event.as_ref()),
            Self::Encoded(event) => {
                key_len(EVENT) + encoded_len_varint(event.len() as u64) + event.len()
            }
            Self::Progress(progress) => message::encoded_len(PROGRESS, progress),
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            EVENT => {
                let mut event = match std::mem::take(self) {
                    Self::Event(event) => event,
                    _ => Box::default(),
                };
                message::merge(wire_type, event.as_mut(), buf, ctx)?;
                *self = Self::Event(event);
                Ok(())
            }
            PROGRESS => {
                let mut progress = match std::mem::take(self) {
                    Self::Progress(progress) => progress,
                    _ => SubscribeProgress::default(),
                };
                message::merge(wire_type, &mut progress, buf, ctx)?;
                *self = Self::Progress(progress);
                Ok(())
            }
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn clear(&mut self) {
        *self = Self::Unset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> PushEvent {
        PushEvent {
            event_id: "e".into(),
            row_key: "k".into(),
            ..PushEvent::default()
        }
    }

    #[test]
    fn an_encoded_event_arrives_as_the_event_that_it_was() {
        let delivery = EncodedDelivery {
            ack_id: "a".repeat(200),
            attempt: 300,
        };
        for (raw_json, delivery) in [
            (None, None),
            (Some(Bytes::from_static(b"{}")), None),
            (None, Some(delivery.clone())),
            (Some(Bytes::from_static(b"{}")), Some(delivery)),
        ] {
            let frame = SubscribePushesResponse::Encoded(EncodedEvent {
                event: event().encode_to_vec().into(),
                raw_json: raw_json.clone(),
                delivery: delivery.clone(),
            });
            let bytes = frame.encode_to_vec();
            assert_eq!(bytes.len(), frame.encoded_len());
            let delivery = delivery.unwrap_or_default();
            let whole = PushEvent {
                ack_id: delivery.ack_id,
                delivery_attempt: delivery.attempt,
                raw_json: raw_json.unwrap_or_default(),
                ..event()
            };
            let expected = SubscribePushesResponse::Event(Box::new(whole));
            assert_eq!(
                SubscribePushesResponse::decode(bytes.as_slice()),
                Ok(expected)
            );
        }
    }

    #[test]
    fn progress_reads_back() {
        let progress = SubscribeProgress {
            cursor: "c".into(),
            caught_up: true,
        };
        let frame = SubscribePushesResponse::Progress(progress);
        let bytes = frame.encode_to_vec();
        assert_eq!(SubscribePushesResponse::decode(bytes.as_slice()), Ok(frame));
    }
}
