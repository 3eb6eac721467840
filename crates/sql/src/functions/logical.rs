//! SQL types that share an Arrow type with another one. A field's metadata under [`KEY`] tells them
//! apart; where it is lost the value stays right and is of the plainer type (`text`, `numeric(p,s)`).
//!
//! | SQL | Arrow | metadata |
//! |---|---|---|
//! | `jsonb`, `json` | Utf8, canonical | `jsonb` |
//! | `uuid` | Utf8, lower case with hyphens | `uuid` |
//! | `varchar(n)`, `char(n)` | Utf8, at most n characters | `varchar(n)`, `char(n)` |
//! | `numeric` without a scale | Decimal128(38, 10) | `numeric` |

use arrow::datatypes::{DataType, Field};

/// The key in a field's metadata.
pub const KEY: &str = "kaplan.type";

/// What a field's metadata says about its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Logical {
    /// `jsonb` and `json`.
    Jsonb,
    /// `uuid`.
    Uuid,
    /// `varchar(n)`.
    Varchar(u32),
    /// `char(n)`.
    Char(u32),
    /// `numeric`: trailing zeros are not shown.
    Numeric,
}

impl Logical {
    /// The logical type of a field, if its Arrow type does not say it all.
    #[must_use]
    pub fn of(field: &Field) -> Option<Self> {
        let name = field.metadata().get(KEY)?;
        let length = |prefix: &str| -> Option<u32> {
            name.strip_prefix(prefix)?.strip_suffix(')')?.parse().ok()
        };
        match name.as_str() {
            "jsonb" => Some(Self::Jsonb),
            "uuid" => Some(Self::Uuid),
            "numeric" => Some(Self::Numeric),
            _ => length("varchar(").map(Self::Varchar).or_else(|| length("char(").map(Self::Char)),
        }
    }

    /// The Arrow type that holds it.
    #[must_use]
    pub fn storage(self) -> DataType {
        match self {
            Self::Numeric => {
                let (precision, scale) = crate::dialect::DEFAULT_NUMERIC;
                DataType::Decimal128(precision, scale)
            }
            _ => DataType::Utf8,
        }
    }

    /// The field with this type.
    #[must_use]
    pub fn field(self, name: &str, nullable: bool) -> Field {
        self.mark(Field::new(name, self.storage(), nullable))
    }

    /// The field with the metadata of this type.
    #[must_use]
    pub fn mark(self, field: Field) -> Field {
        let mut metadata = field.metadata().clone();
        metadata.insert(KEY.to_owned(), self.key());
        field.with_metadata(metadata)
    }

    fn key(self) -> String {
        match self {
            Self::Jsonb => "jsonb".to_owned(),
            Self::Uuid => "uuid".to_owned(),
            Self::Numeric => "numeric".to_owned(),
            Self::Varchar(n) => format!("varchar({n})"),
            Self::Char(n) => format!("char({n})"),
        }
    }

    /// PostgreSQL's name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Varchar(n) => format!("character varying({n})"),
            Self::Char(n) => format!("character({n})"),
            other => other.key(),
        }
    }
}
