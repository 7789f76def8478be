//! Counts the elements of a request message before it is decoded.
//!
//! A decoded element costs many times its bytes on the wire: an empty string has two bytes there
//! and 24 in memory.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

use crate::proto::FILE_DESCRIPTOR_SET;

/// The depth beyond which fields are counted as one. No request message nests deeper.
const MAX_DEPTH: usize = 16;

/// What the bytes of a length-delimited field hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// A message of this type.
    Message(usize),
    /// Numbers, each with at least one byte.
    Packed,
}

/// The fields of a message type that hold further elements, by field number.
type Fields = Vec<(u32, Holds)>;

/// The request messages of all RPCs.
pub(super) struct Schema {
    types: Vec<Fields>,
    /// The type of the request message, by path of the RPC.
    requests: HashMap<String, usize>,
}

/// The schema of the compiled descriptors.
pub(super) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::read(FILE_DESCRIPTOR_SET));

impl Schema {
    /// The schema of descriptors; empty where they cannot be decoded.
    fn read(descriptors: &[u8]) -> Self {
        let files = FileDescriptorSet::decode(descriptors)
            .unwrap_or_default()
            .file;
        let mut messages = Vec::new();
        for file in &files {
            let scope = match file.package() {
                "" => String::new(),
                package => format!(".{package}"),
            };
            for message in &file.message_type {
                collect(&scope, message, &mut messages);
            }
        }
        let index: HashMap<_, _> = messages
            .iter()
            .enumerate()
            .map(|(index, (name, _))| (name.clone(), index))
            .collect();
        let types = messages.iter().map(|(_, message)| fields(message, &index));
        let mut requests = HashMap::new();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    if let Some(&input) = index.get(method.input_type()) {
                        requests.insert(path, input);
                    }
                }
            }
        }
        Self {
            types: types.collect(),
            requests,
        }
    }

    /// Whether a request message has at most `max` elements: fields, at every depth, and numbers.
    ///
    /// What is not well-formed is left to the decoder.
    pub(super) fn has_at_most(&self, max: usize, path: &str, message: &[u8]) -> bool {
        let mut left = max;
        let fields = self.requests.get(path).copied();
        self.count(message, fields, &mut left, 0).is_some()
    }

    /// Takes the elements of a message from what is left; `None`: there are more.
    fn count(
        &self,
        mut bytes: &[u8],
        message: Option<usize>,
        left: &mut usize,
        depth: usize,
    ) -> Option<()> {
        let fields = message.and_then(|message| self.types.get(message));
        while !bytes.is_empty() {
            *left = left.checked_sub(1)?;
            let Ok((number, wire)) = decode_key(&mut bytes) else {
                return Some(());
            };
            let skipped = match wire {
                WireType::Varint => {
                    if decode_varint(&mut bytes).is_err() {
                        return Some(());
                    }
                    0
                }
                WireType::ThirtyTwoBit => 4,
                WireType::SixtyFourBit => 8,
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut bytes).ok();
                    let length = length.and_then(|length| usize::try_from(length).ok());
                    match length {
                        Some(length) => length,
                        None => return Some(()),
                    }
                }
                // The fields of a group are counted as fields beside it.
                WireType::StartGroup | WireType::EndGroup => 0,
            };
            let Some((value, rest)) = bytes.split_at_checked(skipped) else {
                return Some(());
            };
            bytes = rest;
            if wire != WireType::LengthDelimited {
                continue;
            }
            let holds = fields.and_then(|fields| fields.iter().find(|(it, _)| *it == number));
            match holds {
                Some((_, Holds::Message(inner))) if depth < MAX_DEPTH => {
                    self.count(value, Some(*inner), left, depth + 1)?;
                }
                Some((_, Holds::Packed)) => {
                    let numbers = value.iter().filter(|byte| **byte < 0x80).count();
                    *left = left.checked_sub(numbers)?;
                }
                Some(_) | None => {}
            }
        }
        Some(())
    }
}

/// Adds a message and those declared inside it, with their full names.
fn collect<'a>(
    scope: &str,
    message: &'a DescriptorProto,
    into: &mut Vec<(String, &'a DescriptorProto)>,
) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, into);
    }
    into.push((name, message));
}

fn fields(message: &DescriptorProto, index: &HashMap<String, usize>) -> Fields {
    let mut fields = Fields::new();
    for field in &message.field {
        let holds = match field.r#type() {
            Type::Message | Type::Group => {
                index.get(field.type_name()).copied().map(Holds::Message)
            }
            Type::String | Type::Bytes => None,
            _ => (field.label() == Label::Repeated).then_some(Holds::Packed),
        };
        if let (Some(holds), Ok(number)) = (holds, u32::try_from(field.number())) {
            fields.push((number, holds));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{
        CallOutRequest, ListCallsRequest, Row, Subscription, UpdateSubscriptionRequest,
    };

    const CALL_OUT: &str = "/yeta.v1.OutboundService/CallOut";
    const LIST_CALLS: &str = "/yeta.v1.CallService/ListCalls";
    const UPDATE: &str = "/yeta.v1.SubscriptionService/UpdateSubscription";

    /// Asserts that a message has exactly this many elements.
    fn assert_elements(path: &str, message: &impl Message, expected: usize) {
        let bytes = message.encode_to_vec();
        assert!(SCHEMA.has_at_most(expected, path, &bytes), "{path}: more");
        assert!(
            !SCHEMA.has_at_most(expected - 1, path, &bytes),
            "{path}: fewer"
        );
    }

    #[test]
    fn fields_are_counted_at_every_depth_and_numbers_one_by_one() {
        let row = |values: usize| Row {
            values: vec![String::new(); values],
        };
        let rows = CallOutRequest {
            robot_id: "719".into(),
            call_list: vec![row(0), row(3), row(2)],
            ..CallOutRequest::default()
        };
        assert_elements(CALL_OUT, &rows, 1 + 3 + 5);
        let calls = ListCallsRequest {
            task_ids: vec!["1".into(); 4],
            outcomes: vec![1, 2, 300],
            ..ListCallsRequest::default()
        };
        assert_elements(LIST_CALLS, &calls, 4 + 1 + 3);
        let update = UpdateSubscriptionRequest {
            subscription: Some(Subscription {
                name: "crm".into(),
                ..Subscription::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec![String::new(); 7],
            }),
        };
        assert_elements(UPDATE, &update, 2 + 1 + 7);
    }

    #[test]
    fn what_is_not_well_formed_is_left_to_the_decoder() {
        for bytes in [
            &[0xff][..],
            &[0x0a, 0x05, 0x01],
            &[0x0a, 0xff],
            &[0x00],
            &[0x0d, 0x01],
        ] {
            assert!(SCHEMA.has_at_most(2, CALL_OUT, bytes), "{bytes:?}");
        }
    }

    #[test]
    fn every_rpc_of_the_gateway_has_a_request_message() {
        for rpc in crate::grpc::rpc::RPCS {
            let is_ours = rpc.path.starts_with("/yeta.");
            let is_known = SCHEMA.requests.contains_key(rpc.path);
            assert_eq!(is_known, is_ours, "{}", rpc.path);
        }
    }
}
