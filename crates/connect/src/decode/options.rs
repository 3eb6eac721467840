//! How records are laid out, read from `FORMAT .. ENCODE ..` and `WITH (..)`. What does not fit the
//! target is refused before anything is read.

use super::protobuf::Protobuf;
use super::registry::{Language, Registry};
use crate::source::{Spec, Target};
use crate::{Error, Result};
use arrow::datatypes::DataType;
use kaplan_sql::catalog::{Include, IncludeDef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a record means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A row.
    #[default]
    Plain,
    /// The row of a key, or without a value that it is gone.
    Upsert,
    /// A change in Debezium's envelope.
    Debezium,
}

/// How a record is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encode {
    /// One JSON object.
    #[default]
    Json,
    /// Avro, with a schema registry's number before it.
    Avro,
    /// A message of Protobuf.
    Protobuf,
    /// Values in the order of the columns.
    Csv,
    /// One column, as it is.
    Bytes,
}

/// What becomes of a field that is no column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// It is passed over.
    #[default]
    Ignore,
    /// The record goes to the ledger.
    Error,
    /// It becomes a column of the table; where it cannot, the record goes to the ledger.
    Evolve,
}

/// What a column has whose field is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// NULL.
    #[default]
    Null,
    /// The record goes to the ledger.
    Error,
}

/// How records are laid out.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// `FORMAT`.
    pub form: Form,
    /// `ENCODE`.
    pub encode: Encode,
    /// `INCLUDE`.
    pub include: Vec<IncludeDef>,
    /// `unknown_fields`.
    pub unknown: Unknown,
    /// `missing_fields`.
    pub missing: Missing,
    /// `unknown_fields_column`: the jsonb column that takes unknown fields.
    pub capture: Option<String>,
    /// Where schemas are.
    pub registry: Option<Arc<Registry>>,
    /// How messages are read.
    pub protobuf: Option<Protobuf>,
}

/// The options in `WITH (..)` that are read here.
pub const OPTIONS: [&str; 3] = ["unknown_fields", "unknown_fields_column", "missing_fields"];

impl Layout {
    /// The layout that a definition asks for.
    ///
    /// # Errors
    /// It makes no sense, or does not fit the target.
    pub fn of(spec: &Spec, target: Option<&Target>) -> Result<Layout> {
        let name = &spec.def.name;
        let Some(format) = &spec.def.format else {
            return Err(Error::config(format!("source {name} has no FORMAT"))
                .hint("write FORMAT PLAIN ENCODE JSON behind WITH (..)"));
        };
        let form = match format.form.as_str() {
            "plain" => Form::Plain,
            "upsert" => Form::Upsert,
            "debezium" => Form::Debezium,
            other => {
                return Err(Error::config(format!("FORMAT {} is not supported", upper(other)))
                    .hint("the formats are PLAIN, UPSERT, DEBEZIUM"));
            }
        };
        let encode = match format.encode.as_str() {
            "json" => Encode::Json,
            "avro" => Encode::Avro,
            "protobuf" => Encode::Protobuf,
            "csv" => Encode::Csv,
            "bytes" => Encode::Bytes,
            other => {
                return Err(Error::config(format!("ENCODE {} is not supported", upper(other)))
                    .hint("the encodings are JSON, AVRO, PROTOBUF, CSV, BYTES"));
            }
        };
        let (unknown, capture, missing) = policy(&spec.def.options)?;
        let include = spec.def.include.clone();
        let registry = match encode {
            Encode::Avro => Some(Registry::new(&format.options, Language::Avro)?),
            Encode::Protobuf if format.options.contains_key("schema.registry") => {
                Some(Registry::new(&format.options, Language::Protobuf)?)
            }
            _ => None,
        };
        let registry = registry.map(Arc::new);
        let protobuf = match encode {
            Encode::Protobuf => Some(Protobuf::new(&format.options, registry.clone())?),
            _ => None,
        };
        let layout =
            Layout { form, encode, include, unknown, missing, capture, registry, protobuf };
        layout.check_options(spec)?;
        if let Some(target) = target {
            layout.check(target)?;
        }
        Ok(layout)
    }

    fn check_options(&self, spec: &Spec) -> Result<()> {
        let Some(format) = &spec.def.format else { return Ok(()) };
        for (option, value) in &format.options {
            let known = match (self.encode, option.as_str(), value.as_str()) {
                (Encode::Csv, "without_header", value) => value.eq_ignore_ascii_case("true"),
                (Encode::Csv, "delimiter", value) => value == ",",
                (
                    Encode::Avro | Encode::Protobuf,
                    "schema.registry" | "schema.registry.username" | "schema.registry.password",
                    _,
                ) => true,
                (Encode::Protobuf, "message" | "schema.location", _) => true,
                _ => false,
            };
            if !known {
                let encode = upper(&format.encode);
                let error = Error::config(format!("ENCODE {encode} has no {option} = '{value}'"));
                return Err(match self.encode {
                    Encode::Csv => error.hint("there is without_header = 'true', delimiter = ','"),
                    _ => error.hint("leave it out"),
                });
            }
        }
        Ok(())
    }

    /// Refuses a target that records of this layout cannot fill.
    fn check(&self, target: &Target) -> Result<()> {
        let name = &target.name;
        if self.form != Form::Plain && target.primary_key.is_empty() {
            let form = format!("{:?}", self.form).to_uppercase();
            return Err(Error::config(format!("FORMAT {form} needs a PRIMARY KEY on {name}"))
                .hint("CREATE TABLE with a PRIMARY KEY; with INCLUDE KEY AS k it can be k"));
        }
        if self.form == Form::Debezium && !matches!(self.encode, Encode::Json | Encode::Avro) {
            return Err(Error::config("FORMAT DEBEZIUM needs ENCODE JSON or ENCODE AVRO"));
        }
        let named = matches!(self.encode, Encode::Json | Encode::Protobuf);
        if self.unknown == Unknown::Evolve && self.encode != Encode::Json {
            let encode = format!("{:?}", self.encode).to_uppercase();
            return Err(Error::config(format!("unknown_fields = 'evolve' is not of {encode}"))
                .hint(
                    "records of JSON and files add columns; here ALTER TABLE .. ADD COLUMN does",
                ));
        }
        let fields = self.unknown == Unknown::Error || self.missing == Missing::Error;
        if fields && !named {
            return Err(Error::config(
                "unknown_fields and missing_fields need ENCODE JSON or ENCODE PROTOBUF",
            ));
        }
        let around: BTreeSet<&str> = self.include.iter().map(|i| i.column.as_str()).collect();
        if around.len() < self.include.len() {
            return Err(Error::config("two INCLUDE have one column").hint("name them with AS"));
        }
        if let Some(include) = self.include.iter().find(|i| i.what == Include::File) {
            let what = include.what.word();
            return Err(Error::config(format!("INCLUDE {what} is not of this connector")));
        }
        let body = target.schema.fields().iter().filter(|f| !around.contains(f.name().as_str()));
        let body: Vec<_> = body.collect();
        if self.encode == Encode::Bytes {
            let fits = |t: &DataType| matches!(t, DataType::Binary) || matches!(t, DataType::Utf8);
            if body.len() != 1 || !fits(body[0].data_type()) {
                return Err(Error::config("ENCODE BYTES needs one column of bytea or text").hint(
                    "CREATE SOURCE name (payload bytea) WITH (..) FORMAT PLAIN ENCODE BYTES",
                ));
            }
        }
        if self.capture.is_some() && !named {
            return Err(Error::config("unknown_fields_column needs ENCODE JSON or PROTOBUF"));
        }
        self.check_capture(target)
    }

    /// Refuses a column for unknown fields that cannot hold them.
    ///
    /// # Errors
    /// It is no column of `jsonb`.
    pub fn check_capture(&self, target: &Target) -> Result<()> {
        let Some(column) = &self.capture else { return Ok(()) };
        let field = target.schema.field_with_name(column).ok();
        let logical = field.and_then(kaplan_sql::functions::Logical::of);
        if logical == Some(kaplan_sql::functions::Logical::Jsonb) {
            return Ok(());
        }
        let name = &target.name;
        let message = format!("unknown_fields_column = '{column}' is not a jsonb column of {name}");
        Err(Error::config(message).hint(format!("declare it: {column} jsonb")))
    }
}

/// What `WITH (..)` says of fields and columns that are not on both sides: `unknown_fields`,
/// `unknown_fields_column`, `missing_fields`.
///
/// # Errors
/// A value means nothing.
pub fn policy(options: &BTreeMap<String, String>) -> Result<(Unknown, Option<String>, Missing)> {
    let option = |name: &str| options.get(name).map(String::as_str);
    let (unknown, capture) = match (option("unknown_fields"), option("unknown_fields_column")) {
        (None | Some("ignore"), None) => (Unknown::Ignore, None),
        (None | Some("capture"), Some(column)) => (Unknown::Ignore, Some(column.to_owned())),
        (Some("error"), None) => (Unknown::Error, None),
        (Some("evolve"), column) => (Unknown::Evolve, column.map(str::to_owned)),
        _ => {
            return Err(Error::config("unknown_fields makes no sense").hint(
                "write unknown_fields = 'ignore', 'error', 'evolve', or 'capture' with \
                 unknown_fields_column = 'a column of jsonb'",
            ));
        }
    };
    let missing = match option("missing_fields") {
        None | Some("null") => Missing::Null,
        Some("error") => Missing::Error,
        Some(other) => {
            return Err(Error::config(format!("missing_fields = '{other}' is not possible"))
                .hint("missing_fields is one of 'null', 'error'"));
        }
    };
    Ok((unknown, capture, missing))
}

fn upper(text: &str) -> String {
    text.to_uppercase()
}
