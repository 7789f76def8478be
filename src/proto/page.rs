//! `ListCallsResponse`, written by hand so that a call is sent as it is kept: a page of many calls
//! costs a copy of their bytes, not a decoding and an encoding of each.

use ::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, encode_key, encode_varint};
use prost::encoding::{encoded_len_varint, key_len, message, skip_field, string};
use prost::{DecodeError, Message};

use super::Call;

/// A page of calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListCallsResponse {
    /// The calls, as a client decodes them.
    pub calls: Vec<Call>,
    /// The calls, as the gateway sends them: each an encoded [`Call`]. They follow `calls`.
    pub encoded: Vec<Bytes>,
    /// Asks for the next page; empty: this is the last.
    pub next_page_token: String,
}

const CALLS: u32 = 1;
const NEXT_PAGE_TOKEN: u32 = 2;

impl Message for ListCallsResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        message::encode_repeated(CALLS, &self.calls, buf);
        for call in &self.encoded {
            encode_key(CALLS, WireType::LengthDelimited, buf);
            encode_varint(call.len() as u64, buf);
            buf.put_slice(call);
        }
        if !self.next_page_token.is_empty() {
            string::encode(NEXT_PAGE_TOKEN, &self.next_page_token, buf);
        }
    }

    fn encoded_len(&self) -> usize {
        let encoded = self
            .encoded
            .iter()
            .map(|call| key_len(CALLS) + encoded_len_varint(call.len() as u64) + call.len());
        let token = if self.next_page_token.is_empty() {
            0
        } else {
            string::encoded_len(NEXT_PAGE_TOKEN, &self.next_page_token)
        };
        message::encoded_len_repeated(CALLS, &self.calls) + encoded.sum::<usize>() + token
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            CALLS => message::merge_repeated(wire_type, &mut self.calls, buf, ctx),
            NEXT_PAGE_TOKEN => string::merge(wire_type, &mut self.next_page_token, buf, ctx),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_calls_arrive_as_the_calls_that_they_were() {
        let call = |call_uuid: &str| Call {
            call_uuid: call_uuid.into(),
            ..Call::default()
        };
        let sent = ListCallsResponse {
            calls: vec![call("a")],
            encoded: vec![call("b").encode_to_vec().into(), Bytes::new()],
            next_page_token: "next".into(),
        };
        let bytes = sent.encode_to_vec();
        assert_eq!(bytes.len(), sent.encoded_len());
        let expected = ListCallsResponse {
            calls: vec![call("a"), call("b"), Call::default()],
            encoded: Vec::new(),
            next_page_token: "next".into(),
        };
        assert_eq!(ListCallsResponse::decode(bytes.as_slice()), Ok(expected));
    }
}
