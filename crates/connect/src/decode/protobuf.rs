//! Records of Protobuf, as JSON with the names of their fields: from there on they are records of
//! JSON like any other, with all that can be done to these.
//!
//! ```text
//! from a registry: 0 │ u32 BE number of the schema │ which message: varint count, varint index .. │ message
//! otherwise:       message
//! ```
//!
//! Refused: messages that the schema does not lead to, and bytes that are none. Fields that the
//! schema does not know are passed over, as Protobuf does.

use super::registry::{PREFIX, Registry, Schema, id_of};
use crate::formats::DecodeError;
use crate::{Error, Result};
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage,
    Value as Reflected,
};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The name under which a schema of a registry is compiled.
const MAIN: &str = "__registered.proto";
/// Messages within messages that an index leads through.
const MAX_DEPTH: i64 = 64;

/// A compiled schema.
#[derive(Debug)]
pub(super) struct Messages {
    pool: DescriptorPool,
}

/// How records of Protobuf are read.
#[derive(Clone, Debug)]
pub struct Protobuf {
    /// `message`: the only one that is taken.
    message: Option<String>,
    schemas: Schemas,
}

#[derive(Clone, Debug)]
enum Schemas {
    Registry(Arc<Registry>),
    /// One message, whose records have nothing before them.
    File(MessageDescriptor),
}

struct Sources(BTreeMap<String, String>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> std::result::Result<File, protox::Error> {
        match self.0.get(name) {
            Some(source) => File::from_source(name, source),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// Compiles a schema with the files that it imports.
pub(super) fn compiled(
    source: &str,
    mut imports: BTreeMap<String, String>,
) -> std::result::Result<Messages, String> {
    imports.insert(MAIN.to_owned(), source.to_owned());
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources(imports));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    compiler.open_file(MAIN).map_err(|e| e.to_string())?;
    Ok(Messages { pool: compiler.descriptor_pool() })
}

impl Protobuf {
    /// What `ENCODE PROTOBUF (..)` says.
    ///
    /// # Errors
    /// There is no schema, or no such message in it.
    pub(super) fn new(
        options: &BTreeMap<String, String>,
        registry: Option<Arc<Registry>>,
    ) -> Result<Self> {
        let message = options.get("message").cloned();
        let schemas = match (registry, options.get("schema.location")) {
            (Some(registry), None) => Schemas::Registry(registry),
            (None, Some(location)) => Schemas::File(located(location, message.as_deref())?),
            _ => {
                return Err(Error::config("ENCODE PROTOBUF needs one schema").hint(
                    "write schema.registry = 'http://host:8081', or \
                     schema.location = 'file:///path/of/descriptors.pb' and message = 'package.Name'",
                ));
            }
        };
        Ok(Self { message, schemas })
    }

    /// A record as JSON.
    pub(super) fn json(&self, body: &[u8]) -> std::result::Result<Vec<u8>, DecodeError> {
        let (descriptor, body) = match &self.schemas {
            Schemas::File(descriptor) => (descriptor.clone(), body),
            Schemas::Registry(registry) => registered(registry, body)?,
        };
        if let Some(wanted) = self.message.as_deref().filter(|m| *m != descriptor.full_name()) {
            let found = descriptor.full_name();
            return Err(DecodeError::new(format!("the record is a {found} and no {wanted}")));
        }
        let message = DynamicMessage::decode(descriptor, body)
            .map_err(|e| DecodeError::new(format!("not valid Protobuf: {e}")))?;
        serde_json::to_vec(&object(&message))
            .map_err(|e| DecodeError::new(format!("not valid Protobuf: {e}")))
    }
}

/// The message of a file with descriptors, as `protoc --descriptor_set_out` writes it.
fn located(location: &str, message: Option<&str>) -> Result<MessageDescriptor> {
    let path = location.strip_prefix("file://").unwrap_or(location);
    let wrong = |what: String| {
        Error::config(format!("schema.location = '{location}': {what}"))
            .hint("protoc --include_imports --descriptor_set_out=FILE writes one")
    };
    let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let pool = DescriptorPool::decode(bytes.as_slice()).map_err(|e| wrong(e.to_string()))?;
    let name = message.ok_or_else(|| {
        Error::config("ENCODE PROTOBUF has no message").hint("write message = 'package.Name'")
    })?;
    pool.get_message_by_name(name).ok_or_else(|| wrong(format!("it has no message {name}")))
}

/// The message that a record from a registry is, and its bytes.
fn registered<'a>(
    registry: &Registry,
    body: &'a [u8],
) -> std::result::Result<(MessageDescriptor, &'a [u8]), DecodeError> {
    let id = id_of(body)?;
    let Schema::Protobuf(messages) = registry.schema(id)? else {
        return Err(DecodeError::new(format!("schema {id} is not of Protobuf")));
    };
    let mut rest = &body[PREFIX..];
    let cut = || DecodeError::new("the record ends before its message");
    // No indexes stand for the first message.
    let count = varint(&mut rest).ok_or_else(cut)?;
    let mut indexes = vec![0; usize::from(count == 0)];
    if !(0..=MAX_DEPTH).contains(&count) {
        return Err(DecodeError::new(format!("the record claims {count} indexes of a message")));
    }
    for _ in 0..count {
        indexes.push(varint(&mut rest).ok_or_else(cut)?);
    }
    let none = || DecodeError::new(format!("schema {id} has no message at {indexes:?}"));
    let nth = |index: i64| usize::try_from(index).ok();
    let file = messages.pool.get_file_by_name(MAIN).ok_or_else(none)?;
    let mut found: Option<MessageDescriptor> = None;
    for index in &indexes {
        let index = nth(*index).ok_or_else(none)?;
        let next = match &found {
            None => file.messages().nth(index),
            Some(outer) => outer.child_messages().nth(index),
        };
        found = Some(next.ok_or_else(none)?);
    }
    Ok((found.ok_or_else(none)?, rest))
}

/// A zigzag number of variable length.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// A message as a JSON object: fields that are absent and can tell so are null.
fn object(message: &DynamicMessage) -> Value {
    let mut members = Map::new();
    for field in message.descriptor().fields() {
        let value = match field.supports_presence() && !message.has_field(&field) {
            true => Value::Null,
            false => value(&message.get_field(&field), &field.kind()),
        };
        members.insert(field.name().to_owned(), value);
    }
    Value::Object(members)
}

fn value(of: &Reflected, kind: &Kind) -> Value {
    match of {
        Reflected::Bool(b) => Value::Bool(*b),
        Reflected::I32(n) => Value::from(*n),
        Reflected::I64(n) => Value::from(*n),
        Reflected::U32(n) => Value::from(*n),
        Reflected::U64(n) => Value::from(*n),
        Reflected::F32(n) => float(f64::from(*n), &n.to_string()),
        Reflected::F64(n) => float(*n, &n.to_string()),
        Reflected::String(text) => Value::from(text.as_str()),
        Reflected::Bytes(bytes) => {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            Value::from(format!("\\x{hex}"))
        }
        Reflected::EnumNumber(n) => match kind {
            Kind::Enum(e) => e.get_value(*n).map_or(Value::from(*n), |v| Value::from(v.name())),
            _ => Value::from(*n),
        },
        Reflected::Message(message) => well_known(message).unwrap_or_else(|| object(message)),
        Reflected::List(items) => items.iter().map(|item| value(item, kind)).collect(),
        Reflected::Map(entries) => {
            let inner = match kind {
                Kind::Message(entry) => entry.map_entry_value_field().kind(),
                other => other.clone(),
            };
            let ordered: BTreeMap<String, Value> =
                entries.iter().map(|(key, of)| (key_text(key), value(of, &inner))).collect();
            ordered.into_iter().collect()
        }
    }
}

/// A number that JSON has, or its name.
fn float(number: f64, shortest: &str) -> Value {
    // The shortest text of a single float is not that of the double which it becomes.
    let number = shortest.parse().unwrap_or(number);
    Number::from_f64(number).map_or_else(|| Value::from(shortest), Value::Number)
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(b) => b.to_string(),
        MapKey::I32(n) => n.to_string(),
        MapKey::I64(n) => n.to_string(),
        MapKey::U32(n) => n.to_string(),
        MapKey::U64(n) => n.to_string(),
        MapKey::String(text) => text.clone(),
    }
}

/// Times and wrapped values as what they stand for.
fn well_known(message: &DynamicMessage) -> Option<Value> {
    let descriptor = message.descriptor();
    let field = |name: &str| message.get_field_by_name(name);
    let name = descriptor.full_name().strip_prefix("google.protobuf.")?;
    if name == "Timestamp" {
        let (seconds, nanos) = (field("seconds")?.as_i64()?, field("nanos")?.as_i32()?);
        let micros = seconds.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1_000))?;
        return time_text(micros).map(Value::from);
    }
    let wrapped = name.ends_with("Value") && descriptor.fields().len() == 1;
    let inner = descriptor.get_field_by_name("value").filter(|_| wrapped && name != "ListValue")?;
    Some(value(&message.get_field(&inner), &inner.kind()))
}

/// RFC 3339 in UTC.
fn time_text(micros: i64) -> Option<String> {
    let array = arrow::array::TimestampMicrosecondArray::from(vec![micros]).with_timezone("+00:00");
    arrow::util::display::array_value_to_string(&array, 0).ok()
}
