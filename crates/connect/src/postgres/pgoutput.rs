//! Messages of PostgreSQL's logical decoding plugin `pgoutput`, protocol version 1: bytes to data.
//! The format is <https://www.postgresql.org/docs/15/protocol-logicalrep-message-formats.html>.
//!
//! ```text
//! B begin      final lsn u64, commit time i64, xid u32
//! C commit     flags u8, commit lsn u64, end lsn u64, commit time i64
//! O origin     lsn u64, name
//! R relation   id u32, schema, name, replica identity u8, columns u16 x (flags u8, name, type u32, modifier i32)
//! Y type       id u32, schema, name
//! I insert     relation u32, 'N' tuple
//! U update     relation u32, ['K' tuple | 'O' tuple], 'N' tuple
//! D delete     relation u32, 'K' tuple | 'O' tuple
//! T truncate   relations u32, flags u8, relation u32 ..
//! M message    flags u8, lsn u64, prefix, length u32, bytes
//!
//! tuple        columns u16 x ('n' | 'u' | 't' length u32, bytes | 'b' length u32, bytes)
//! ```
//!
//! Refused: messages of streamed transactions (version 2), unknown letters, lengths beyond the end,
//! and bytes after the end. No bytes cost more memory than they are long.

use bytes::{Buf, Bytes};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins.
    Begin(Begin),
    /// A transaction ends.
    Commit(Commit),
    /// The transaction was replicated to the server from another one.
    Origin(String),
    /// A table as the changes after this message have it.
    Relation(Relation),
    /// A type that is not built in.
    Type {
        /// Its number.
        id: u32,
        /// Its name with the schema.
        name: String,
    },
    /// A new row.
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple,
    },
    /// A changed row.
    Update {
        /// The table.
        relation: u32,
        /// The row before, where the table's replica identity gives it.
        old: Option<Old>,
        /// The row after.
        new: Tuple,
    },
    /// A row that is gone.
    Delete {
        /// The table.
        relation: u32,
        /// The row before.
        old: Old,
    },
    /// Tables that were emptied.
    Truncate {
        /// The tables.
        relations: Vec<u32>,
    },
    /// What `pg_logical_emit_message` wrote.
    Logical {
        /// What it is for.
        prefix: String,
        /// What it says.
        content: Bytes,
    },
}

/// The beginning of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where the transaction's commit record begins.
    pub final_lsn: u64,
    /// When it was committed, microseconds since the Unix epoch.
    pub commit_time_us: i64,
    /// Its number.
    pub xid: u32,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record begins.
    pub lsn: u64,
    /// Where it ends: the position after the transaction.
    pub end_lsn: u64,
    /// When it was committed, microseconds since the Unix epoch.
    pub commit_time_us: i64,
}

/// What a table's updates and deletes tell of the row before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of an index.
    Index,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its number.
    pub id: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What changes tell of the row before.
    pub identity: ReplicaIdentity,
    /// Its columns, in the order of tuples.
    pub columns: Vec<Column>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// It is part of the replica identity.
    pub key: bool,
    /// The number of its type.
    pub type_id: u32,
    /// The modifier of its type; -1 without.
    pub modifier: i32,
}

/// The row before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Old {
    /// The columns of the replica identity; the others are NULL.
    Key(Tuple),
    /// All columns.
    Row(Tuple),
}

impl Old {
    /// The values.
    #[must_use]
    pub fn tuple(&self) -> &Tuple {
        match self {
            Old::Key(tuple) | Old::Row(tuple) => tuple,
        }
    }
}

/// The values of a row, one a column.
pub type Tuple = Vec<Cell>;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// NULL.
    Null,
    /// A large value stored apart that the update did not touch; it is not sent.
    Unchanged,
    /// The value in its text form.
    Text(Bytes),
    /// The value in its binary form.
    Binary(Bytes),
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends within a part.
    #[error("the message ends within its {0}")]
    Truncated(&'static str),
    /// A letter that stands for nothing.
    #[error("unknown {what} {found:?}")]
    Unknown {
        /// What it should stand for.
        what: &'static str,
        /// The letter.
        found: char,
    },
    /// A text that is not UTF-8.
    #[error("the {0} is not UTF-8")]
    NotUtf8(&'static str),
    /// Bytes after the end of the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const EPOCH_US: i64 = 946_684_800_000_000;

/// A time of PostgreSQL's in microseconds since the Unix epoch.
#[must_use]
pub fn unix_us(postgres_us: i64) -> i64 {
    postgres_us.saturating_add(EPOCH_US)
}

/// Reads one message.
///
/// # Errors
/// The bytes are no message of version 1.
pub fn decode(message: Bytes) -> Result<Message> {
    let mut reader = Reader(message);
    let decoded = reader.message()?;
    match reader.0.len() {
        0 => Ok(decoded),
        more => Err(DecodeError::Trailing(more)),
    }
}

struct Reader(Bytes);

impl Reader {
    fn message(&mut self) -> Result<Message> {
        Ok(match self.u8("kind")? {
            b'B' => Message::Begin(self.begin()?),
            b'C' => Message::Commit(self.commit()?),
            b'O' => {
                self.u64("origin")?;
                Message::Origin(self.text("name of the origin")?)
            }
            b'R' => Message::Relation(self.relation()?),
            b'Y' => {
                let id = self.u32("type")?;
                let schema = self.text("schema of the type")?;
                Message::Type { id, name: format!("{schema}.{}", self.text("name of the type")?) }
            }
            b'I' => {
                let relation = self.u32("table")?;
                self.letter("part of an insert", b'N')?;
                Message::Insert { relation, new: self.tuple()? }
            }
            b'U' => self.update()?,
            b'D' => {
                let relation = self.u32("table")?;
                let old = match self.u8("part of a delete")? {
                    b'K' => Old::Key(self.tuple()?),
                    b'O' => Old::Row(self.tuple()?),
                    other => return Err(unknown("part of a delete", other)),
                };
                Message::Delete { relation, old }
            }
            b'T' => self.truncate()?,
            b'M' => {
                self.u8("flags")?;
                self.u64("position")?;
                let prefix = self.text("prefix")?;
                Message::Logical { prefix, content: self.sized("content")? }
            }
            other => return Err(unknown("kind of message", other)),
        })
    }

    fn begin(&mut self) -> Result<Begin> {
        Ok(Begin {
            final_lsn: self.u64("position")?,
            commit_time_us: unix_us(self.u64("time")?.cast_signed()),
            xid: self.u32("transaction")?,
        })
    }

    fn commit(&mut self) -> Result<Commit> {
        self.u8("flags")?;
        Ok(Commit {
            lsn: self.u64("position")?,
            end_lsn: self.u64("end position")?,
            commit_time_us: unix_us(self.u64("time")?.cast_signed()),
        })
    }

    fn relation(&mut self) -> Result<Relation> {
        let id = self.u32("table")?;
        let schema = match self.text("schema")? {
            // Tables of pg_catalog come with an empty name.
            none if none.is_empty() => "pg_catalog".to_owned(),
            schema => schema,
        };
        let name = self.text("name of the table")?;
        let identity = match self.u8("replica identity")? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            other => return Err(unknown("replica identity", other)),
        };
        let mut columns = Vec::new();
        for _ in 0..self.u16("number of columns")? {
            let flags = self.u8("flags of a column")?;
            columns.push(Column {
                name: self.text("name of a column")?,
                key: flags & 1 == 1,
                type_id: self.u32("type of a column")?,
                modifier: self.u32("modifier of a column")?.cast_signed(),
            });
        }
        Ok(Relation { id, schema, name, identity, columns })
    }

    fn update(&mut self) -> Result<Message> {
        let relation = self.u32("table")?;
        let old = match self.u8("part of an update")? {
            b'K' => Some(Old::Key(self.tuple()?)),
            b'O' => Some(Old::Row(self.tuple()?)),
            b'N' => None,
            other => return Err(unknown("part of an update", other)),
        };
        if old.is_some() {
            self.letter("part of an update", b'N')?;
        }
        Ok(Message::Update { relation, old, new: self.tuple()? })
    }

    fn truncate(&mut self) -> Result<Message> {
        let count = self.u32("number of tables")?;
        self.u8("flags")?;
        let mut relations = Vec::new();
        for _ in 0..count {
            relations.push(self.u32("table")?);
        }
        Ok(Message::Truncate { relations })
    }

    fn tuple(&mut self) -> Result<Tuple> {
        let count = self.u16("number of values")?;
        let mut cells = Vec::with_capacity(usize::from(count).min(self.0.len()));
        for _ in 0..count {
            cells.push(match self.u8("kind of a value")? {
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                b't' => Cell::Text(self.sized("value")?),
                b'b' => Cell::Binary(self.sized("value")?),
                other => return Err(unknown("kind of a value", other)),
            });
        }
        Ok(cells)
    }

    fn need(&self, bytes: usize, what: &'static str) -> Result<()> {
        if self.0.len() < bytes { Err(DecodeError::Truncated(what)) } else { Ok(()) }
    }

    fn u8(&mut self, what: &'static str) -> Result<u8> {
        self.need(1, what)?;
        Ok(self.0.get_u8())
    }

    fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.need(2, what)?;
        Ok(self.0.get_u16())
    }

    fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.need(4, what)?;
        Ok(self.0.get_u32())
    }

    fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.need(8, what)?;
        Ok(self.0.get_u64())
    }

    fn letter(&mut self, what: &'static str, expected: u8) -> Result<()> {
        match self.u8(what)? {
            found if found == expected => Ok(()),
            found => Err(unknown(what, found)),
        }
    }

    /// Bytes after their length.
    fn sized(&mut self, what: &'static str) -> Result<Bytes> {
        let length = self.u32(what)? as usize;
        self.need(length, what)?;
        Ok(self.0.split_to(length))
    }

    /// A text that ends with a zero.
    fn text(&mut self, what: &'static str) -> Result<String> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.0.split_to(end.ok_or(DecodeError::Truncated(what))?);
        self.0.advance(1);
        String::from_utf8(text.to_vec()).map_err(|_| DecodeError::NotUtf8(what))
    }
}

fn unknown(what: &'static str, found: u8) -> DecodeError {
    DecodeError::Unknown { what, found: char::from(found) }
}
