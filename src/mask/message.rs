//! Phone numbers in messages, field by field of their descriptors.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::field::{self, Holds};
use super::{MaskError, json, text};
use crate::proto::FILE_DESCRIPTOR_SET;

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).ok());

/// Masks the messages of one RPC's answers.
#[derive(Clone, Debug)]
pub struct Masker(MessageDescriptor);

impl Masker {
    /// The masker of an RPC of `yeta.v1`, by its path `/service/method`.
    pub fn of_rpc(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let service = POOL.as_ref()?.get_service_by_name(service)?;
        let method = service.methods().find(|known| known.name() == method)?;
        Some(Self(method.output()))
    }

    /// Masks an encoded message. Fields that the descriptor does not know are left out.
    pub fn mask(&self, message: &[u8]) -> Result<Vec<u8>, MaskError> {
        let mut message = DynamicMessage::decode(self.0.clone(), message)?;
        mask_message(&mut message)?;
        Ok(message.encode_to_vec())
    }
}

/// Masks an error. Details of other kinds than the gateway's own are left out.
pub fn status(status: &Status) -> Status {
    let known = status.get_error_details();
    let mut details = ErrorDetails::new();
    if let Some(info) = known.error_info() {
        let metadata = info.metadata.iter().map(|(key, value)| {
            let holds = field::of_proto("google.rpc.ErrorInfo", key);
            (key.clone(), field::mask(holds, value))
        });
        details.set_error_info(
            &info.reason,
            &info.domain,
            metadata.collect::<HashMap<_, _>>(),
        );
    }
    if let Some(retry) = known.retry_info() {
        details.set_retry_info(retry.retry_delay);
    }
    if let Some(request) = known.bad_request() {
        for violation in &request.field_violations {
            details.add_bad_request_violation(
                text::text(&violation.field),
                text::text(&violation.description),
            );
        }
    }
    let message = text::text(status.message());
    if status.details().is_empty() {
        return Status::new(status.code(), message);
    }
    Status::with_error_details(status.code(), message, details)
}

fn mask_message(message: &mut DynamicMessage) -> Result<(), MaskError> {
    if message.descriptor().full_name() == "google.protobuf.Struct" {
        let mut object: prost_types::Struct = message.transcode_to()?;
        json::members(&mut object);
        return Ok(message.transcode_from(&object)?);
    }
    message.take_unknown_fields().for_each(drop);
    for (of, value) in message.fields_mut() {
        mask_field(&of, value)?;
    }
    mask_columns(message);
    Ok(())
}

fn mask_field(of: &FieldDescriptor, value: &mut Value) -> Result<(), MaskError> {
    let message = of.parent_message().full_name().to_owned();
    let holds = field::of_proto(&message, of.name());
    mask_value(holds, of, value)
}

fn mask_value(holds: Holds, of: &FieldDescriptor, value: &mut Value) -> Result<(), MaskError> {
    match value {
        Value::String(string) => *string = field::mask(holds, string),
        Value::Bytes(bytes) => *bytes = mask_bytes(of, bytes),
        Value::Message(message) => mask_message(message)?,
        Value::List(values) => {
            for value in values {
                mask_value(holds, of, value)?;
            }
        }
        Value::Map(members) => {
            for (key, value) in members {
                let holds = match key {
                    MapKey::String(key) => field::of_json(key),
                    _ => Holds::Text,
                };
                mask_value(holds, of, value)?;
            }
        }
        Value::Bool(_)
        | Value::I32(_)
        | Value::I64(_)
        | Value::U32(_)
        | Value::U64(_)
        | Value::F32(_)
        | Value::F64(_)
        | Value::EnumNumber(_) => {}
    }
    Ok(())
}

/// Masks bytes: a push as it was received. The sound of a recording stays; any other is left out.
fn mask_bytes(of: &FieldDescriptor, bytes: &Bytes) -> Bytes {
    match of.full_name() {
        "yeta.v1.PushEvent.raw_json" => json::raw(bytes),
        "yeta.v1.DownloadVoiceResponse.chunk" => bytes.clone(),
        _ => Bytes::new(),
    }
}

/// Masks the values of rows by the names of their columns.
fn mask_columns(message: &mut DynamicMessage) {
    for (heads, values) in field::COLUMNS {
        let names: Vec<String> = match message.get_field_by_name(heads) {
            None => continue,
            Some(names) => names
                .as_list()
                .into_iter()
                .flatten()
                .map(|name| name.as_str().unwrap_or_default().to_owned())
                .collect(),
        };
        let Some(list) = message.get_field_by_name_mut(values) else {
            continue;
        };
        let Some(list) = list.as_list_mut() else {
            continue;
        };
        for (index, value) in list.iter_mut().enumerate() {
            match value {
                Value::Message(row) => mask_row(row, &names),
                value => mask_cell(index, &names, value),
            }
        }
    }
}

fn mask_row(row: &mut DynamicMessage, names: &[String]) {
    let cells = row.get_field_by_name_mut("values");
    for (index, value) in cells
        .and_then(Value::as_list_mut)
        .into_iter()
        .flatten()
        .enumerate()
    {
        mask_cell(index, names, value);
    }
}

fn mask_cell(index: usize, names: &[String], value: &mut Value) {
    if let Value::String(string) = value {
        *string = field::mask(field::of_column(index, names.get(index)), string);
    }
}
