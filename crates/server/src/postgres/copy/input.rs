//! Rows from the client: bytes as they come to fields, fields to columns of text, text to the
//! columns' types. Fields are cut here, values are read by the decoders of `kaplan-connect`, as
//! those of a CSV body over HTTP are.

use super::{COMMIT_BYTES, COMMIT_ROWS, Format, MAX_ROW_BYTES, Options, Plan};
use crate::postgres::{parameters, wire_type};
use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kaplan_connect::formats::typed_text;
use kaplan_platform::{Ack, Code, Error, Platform, Result, Session};
use pgwire::api::Type;
use std::sync::Arc;

/// A COPY FROM STDIN under way.
pub(in crate::postgres) struct CopyIn {
    table: String,
    names: Vec<String>,
    schema: SchemaRef,
    records: Records,
    columns: Vec<StringBuilder>,
    rows: usize,
    bytes: usize,
    /// Number of the next row, from 1.
    next: u64,
    total: Ack,
    /// Whether a transaction keeps the rows until its end.
    kept: bool,
}

fn bad(row: u64, message: impl std::fmt::Display) -> Error {
    Error::new(Code::InvalidValue, format!("row {row}: {message}")).row(row)
}

impl CopyIn {
    pub fn start(platform: &Platform, session: &Session, mut plan: Plan) -> Result<Self> {
        platform.check_writable("COPY FROM")?;
        plan.table = platform.resolve(session, &plan.table);
        let all = platform.stream_schema(&plan.table)?;
        let names = match plan.columns.is_empty() {
            true => all.fields().iter().map(|f| f.name().clone()).collect(),
            false => plan.columns,
        };
        let mut fields = Vec::with_capacity(names.len());
        for name in &names {
            let field = all.field_with_name(name).map_err(|_| {
                let message = format!("column \"{name}\" of \"{}\" does not exist", plan.table);
                Error::new(Code::UnknownColumn, message).stream(&plan.table).field(name)
            })?;
            // Whether NULL may stand there is the sequencer's to say.
            fields.push(field.clone().with_nullable(true));
        }
        let types: Vec<Type> = fields.iter().map(wire_type::type_of).collect();
        let columns = names.iter().map(|_| StringBuilder::new()).collect();
        let records = Records::new(plan.options, types);
        Ok(Self {
            table: plan.table,
            schema: Arc::new(Schema::new(fields)),
            records,
            columns,
            names,
            rows: 0,
            bytes: 0,
            next: 1,
            total: Ack::default(),
            kept: false,
        })
    }

    /// 0 for text and csv, 1 for binary.
    pub fn format(&self) -> i8 {
        i8::from(self.records.options.format == Format::Binary)
    }

    pub fn width(&self) -> usize {
        self.names.len()
    }

    /// Takes a piece of the client's bytes and commits what is enough for a commit.
    pub async fn take(
        &mut self,
        platform: &Platform,
        session: &Session,
        bytes: &[u8],
    ) -> Result<()> {
        self.bytes += bytes.len();
        let mut rest = bytes;
        loop {
            match self.records.next(&mut rest, false) {
                Ok(true) => self.push()?,
                Ok(false) => return Ok(()),
                Err(error) => return Err(self.explained(bad(self.next, error))),
            }
            if self.rows >= COMMIT_ROWS || (self.bytes >= COMMIT_BYTES && self.rows > 0) {
                self.commit(platform, session).await?;
                self.bytes = rest.len();
            }
        }
    }

    /// Commits the rest.
    pub async fn finish(mut self, platform: &Platform, session: &Session) -> Result<Ack> {
        match self.records.next(&mut &b""[..], true) {
            Ok(true) => self.push()?,
            Ok(false) => {}
            Err(error) => return Err(self.explained(bad(self.next, error))),
        }
        self.commit(platform, session).await?;
        Ok(self.total)
    }

    /// Takes the record that was cut last.
    fn push(&mut self) -> Result<()> {
        let fields = std::mem::take(&mut self.records.fields);
        let (has, wants) = (fields.len(), self.columns.len());
        let row = self.next;
        if has != wants {
            let error = match fields.len() < wants {
                true => {
                    let missing = self.names.get(has).cloned().unwrap_or_default();
                    bad(row, format!("missing data for column \"{missing}\"")).field(missing)
                }
                false => bad(row, format!("extra data after the last of {wants} columns")),
            };
            return Err(self.explained(error));
        }
        for (at, value) in fields.into_iter().enumerate() {
            let text = match value.map(String::from_utf8).transpose() {
                Ok(text) => text,
                Err(_) => {
                    let name = self.names[at].clone();
                    let error = bad(row, format!("column \"{name}\" is not valid UTF-8"));
                    return Err(self.explained(error.field(name)));
                }
            };
            self.columns[at].append_option(text);
        }
        self.rows += 1;
        self.next += 1;
        Ok(())
    }

    async fn commit(&mut self, platform: &Platform, session: &Session) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        self.kept = session.transaction.is_open();
        let first = self.next - self.rows as u64;
        let arrays = self.columns.iter_mut().map(|c| Arc::new(c.finish()) as ArrayRef).collect();
        let fields = self.names.iter().map(|n| Field::new(n, DataType::Utf8, true));
        let text = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let text = RecordBatch::try_new(text, arrays)?;
        let typed = typed_text(&text, &self.schema, first).map_err(Error::from);
        let rows = typed.map_err(|e| self.explained(e))?;
        let ack = platform.insert_rows(session, &self.table, &self.names, &rows, first).await;
        let ack = ack.map_err(|e| self.explained(e))?;
        self.total.lsn = self.total.lsn.max(ack.lsn);
        self.total.rows += ack.rows;
        self.total.duplicates += ack.duplicates;
        self.total.dropped += ack.dropped;
        self.total.quarantined += ack.quarantined;
        self.rows = 0;
        Ok(())
    }

    /// An error that also says what is committed already.
    fn explained(&self, error: Error) -> Error {
        let error = error.stream(&self.table);
        if self.total.rows == 0 || self.kept {
            return error;
        }
        let done = format!(
            "the first {} rows are committed (COPY commits {COMMIT_ROWS} rows at a time): go on \
             behind them",
            self.total.rows
        );
        let hint = match &error.hint {
            Some(hint) => format!("{hint}; {done}"),
            None => done,
        };
        error.hint(hint)
    }
}

/// Where the cutting of fields stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the beginning of a field.
    Start,
    Plain,
    /// Between quotes.
    Quoted,
    /// Behind a quote that may be the end or the first of two.
    QuoteSeen,
    /// Behind the escape character between quotes.
    Escaped,
    /// Behind a backslash (text format).
    Backslash,
}

/// Cuts bytes into records of fields.
struct Records {
    options: Options,
    types: Vec<Type>,
    state: State,
    field: Vec<u8>,
    was_quoted: bool,
    /// The fields of the record; complete when `next` says so.
    fields: Vec<Option<Vec<u8>>>,
    size: usize,
    skip_header: bool,
    carriage_return: bool,
    /// Whether the record's only field is the mark of the end, `\.`.
    end_mark: bool,
    over: bool,
    /// Bytes of a binary record that is not complete, and whether the header was read.
    binary: Vec<u8>,
    /// How much of them has been read.
    read: usize,
    signed: bool,
}

impl Records {
    fn new(options: Options, types: Vec<Type>) -> Self {
        let skip_header = options.header;
        Self {
            options,
            types,
            state: State::Start,
            field: Vec::new(),
            was_quoted: false,
            fields: Vec::new(),
            size: 0,
            skip_header,
            carriage_return: false,
            end_mark: false,
            over: false,
            binary: Vec::new(),
            read: 0,
            signed: false,
        }
    }

    /// Cuts the next record off the bytes: whether there is one.
    fn next(&mut self, bytes: &mut &[u8], end: bool) -> Result<bool, String> {
        if self.options.format == Format::Binary {
            return self.next_binary(bytes, end);
        }
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            if self.over {
                continue;
            }
            self.size += 1;
            if self.size > MAX_ROW_BYTES {
                return Err(format!("the row has more than {MAX_ROW_BYTES} bytes"));
            }
            if self.byte(byte)? {
                return Ok(true);
            }
        }
        if !end || self.over {
            return Ok(false);
        }
        match self.state {
            State::Quoted | State::Escaped => Err("unterminated CSV quoted field".to_owned()),
            State::Start if self.fields.is_empty() => Ok(false),
            _ => {
                self.end_field();
                Ok(self.end_record())
            }
        }
    }

    /// Takes one byte: whether it ends a record.
    fn byte(&mut self, byte: u8) -> Result<bool, String> {
        let csv = self.options.format == Format::Csv;
        let is = |c: char| byte == u8::try_from(c).unwrap_or_default();
        let was_return = std::mem::take(&mut self.carriage_return);
        match self.state {
            State::Quoted
                if self.options.escape() != self.options.quote && is(self.options.escape()) =>
            {
                self.state = State::Escaped;
            }
            State::Quoted if is(self.options.quote) => self.state = State::QuoteSeen,
            State::Quoted => self.field.push(byte),
            State::Escaped => {
                self.field.push(byte);
                self.state = State::Quoted;
            }
            State::QuoteSeen
                if is(self.options.quote) && self.options.escape() == self.options.quote =>
            {
                self.field.push(byte);
                self.state = State::Quoted;
            }
            State::Backslash => {
                self.field.extend([b'\\', byte]);
                self.state = State::Plain;
            }
            State::Start | State::Plain | State::QuoteSeen => match byte {
                b'\n' if was_return && self.state == State::Start && self.fields.is_empty() => {
                    self.size = 0;
                }
                b'\n' | b'\r' => {
                    self.carriage_return = byte == b'\r';
                    self.end_field();
                    return Ok(self.end_record());
                }
                _ if is(self.options.delimiter()) => self.end_field(),
                b'\\' if !csv => self.state = State::Backslash,
                _ if csv && is(self.options.quote) && self.state == State::Start => {
                    (self.state, self.was_quoted) = (State::Quoted, true);
                }
                _ => {
                    self.field.push(byte);
                    self.state = State::Plain;
                }
            },
        }
        Ok(false)
    }

    fn end_field(&mut self) {
        let raw = std::mem::take(&mut self.field);
        let quoted = std::mem::take(&mut self.was_quoted);
        self.end_mark = !quoted && self.fields.is_empty() && raw == b"\\.";
        self.state = State::Start;
        let null = !quoted && raw == self.options.null().as_bytes();
        let value = match self.options.format {
            Format::Text if !null => unescaped(&raw),
            _ => raw,
        };
        self.fields.push((!null).then_some(value));
    }

    /// Whether the fields are a record: not the header line, nor the end mark.
    fn end_record(&mut self) -> bool {
        self.size = 0;
        if std::mem::take(&mut self.skip_header) {
            self.fields.clear();
            return false;
        }
        self.over = std::mem::take(&mut self.end_mark) && self.fields.len() == 1;
        if self.over {
            self.fields.clear();
        }
        !self.over
    }

    /// Like `next` for binary format, whose values become their text here.
    fn next_binary(&mut self, bytes: &mut &[u8], end: bool) -> Result<bool, String> {
        if !bytes.is_empty() {
            self.binary.drain(..std::mem::take(&mut self.read));
            self.binary.extend_from_slice(bytes);
            *bytes = &[];
        }
        if self.over {
            (self.binary, self.read) = (Vec::new(), 0);
            return Ok(false);
        }
        let mut at = Reader { bytes: &self.binary, at: self.read };
        if !self.signed {
            let Some(header) = at.header()? else {
                return incomplete(&self.binary[self.read..], end);
            };
            self.signed = header;
        }
        let (start, count) = (at.at, at.number(2));
        let Some(count) = count else {
            self.read = start;
            return incomplete(&self.binary[start..], end);
        };
        if count == -1 {
            self.over = true;
            (self.binary, self.read) = (Vec::new(), 0);
            return Ok(false);
        }
        let mut fields = Vec::new();
        for field in 0..count {
            let size = at.number(4);
            let value = match size {
                Some(-1) => Some(None),
                Some(size) => at.take(usize::try_from(size).unwrap_or(usize::MAX)).map(Some),
                None => None,
            };
            let Some(value) = value else {
                self.read = start;
                return incomplete(&self.binary[start..], end);
            };
            let index = usize::try_from(field).unwrap_or(usize::MAX);
            let data_type = self.types.get(index).unwrap_or(&Type::TEXT);
            fields.push(match value {
                Some(bytes) => {
                    let text = parameters::text_of(data_type, bytes).map_err(|e| e.message)?;
                    Some(text.into_bytes())
                }
                None => None,
            });
        }
        self.read = at.at;
        self.fields = fields;
        Ok(true)
    }
}

/// More bytes are needed; at the end there are none.
fn incomplete(rest: &[u8], end: bool) -> Result<bool, String> {
    if end && !rest.is_empty() {
        return Err("the binary data end within a row".to_owned());
    }
    if rest.len() > MAX_ROW_BYTES {
        return Err(format!("the row has more than {MAX_ROW_BYTES} bytes"));
    }
    Ok(false)
}

/// Reads binary COPY data; nothing where there are not enough bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(size)?)?;
        self.at += size;
        Some(taken)
    }

    fn number(&mut self, size: usize) -> Option<i32> {
        let bytes = self.take(size)?;
        let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
        let start = if negative { -1 } else { 0 };
        Some(bytes.iter().fold(start, |value: i32, byte| (value << 8) | i32::from(*byte)))
    }

    /// Whether the header is complete.
    fn header(&mut self) -> Result<Option<bool>, String> {
        const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
        let Some(signature) = self.take(SIGNATURE.len()) else { return Ok(None) };
        if signature != SIGNATURE {
            return Err("COPY file signature not recognized".to_owned());
        }
        let (flags, extension) = (self.number(4), self.number(4));
        let (Some(0), Some(length)) = (flags, extension) else {
            return match flags {
                None | Some(0) => Ok(None),
                Some(_) => Err("unrecognized critical flags in COPY file header".to_owned()),
            };
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        Ok(self.take(length).map(|_| true))
    }
}

/// A field of text format without its backslashes.
fn unescaped(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    let digits = |from: usize, most: usize, radix: u32| {
        let valid = |b: &&u8| char::from(**b).is_digit(radix);
        let count = raw.get(from..).unwrap_or_default().iter().take(most).take_while(valid).count();
        let text = std::str::from_utf8(&raw[from..from + count]).unwrap_or_default();
        (count, u32::from_str_radix(text, radix).ok())
    };
    while let Some(&byte) = raw.get(at) {
        at += 1;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some(&escaped) = raw.get(at) else {
            out.push(b'\\');
            break;
        };
        at += 1;
        out.push(match escaped {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'x' if digits(at, 2, 16).0 > 0 => {
                let (count, value) = digits(at, 2, 16);
                at += count;
                u8::try_from(value.unwrap_or_default()).unwrap_or_default()
            }
            b'0'..=b'7' => {
                let (count, value) = digits(at - 1, 3, 8);
                at += count - 1;
                u8::try_from(value.unwrap_or_default() & 0xff).unwrap_or_default()
            }
            other => other,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Copy, parse};
    use super::*;

    fn options(text: &str) -> Options {
        match parse(&format!("COPY t FROM STDIN {text}")).unwrap() {
            Some(Copy::In(plan)) => plan.options,
            _ => panic!("not a COPY FROM STDIN"),
        }
    }

    /// The records of bytes that come in pieces of every size.
    fn records(with: &str, bytes: &[u8], types: &[Type]) -> Vec<Vec<Option<String>>> {
        let mut all = Vec::new();
        for size in [1, 2, 3, 7, bytes.len().max(1)] {
            let mut records = Records::new(options(with), types.to_vec());
            let mut found = Vec::new();
            let mut take = |records: &mut Records| {
                let text = |f: Option<Vec<u8>>| f.map(|f| String::from_utf8(f).unwrap());
                found.push(std::mem::take(&mut records.fields).into_iter().map(text).collect());
            };
            for mut piece in bytes.chunks(size) {
                while records.next(&mut piece, false).unwrap() {
                    take(&mut records);
                }
            }
            if records.next(&mut &b""[..], true).unwrap() {
                take(&mut records);
            }
            assert!(all.is_empty() || all == found, "pieces of {size}");
            all = found;
        }
        all
    }

    fn some(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|v| Some((*v).to_owned())).collect()
    }

    #[test]
    fn text_is_cut_at_tabs_and_lines() {
        let found = records("", b"1\ta\\tb\\\\\n\\N\t\\x41\\102\r\n.\tx\n\\.\nrest\n", &[]);
        assert_eq!(found[0], some(&["1", "a\tb\\"]));
        assert_eq!(found[1], [None, Some("AB".to_owned())]);
        assert_eq!(found[2], some(&[".", "x"]));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn csv_is_cut_outside_of_quotes() {
        let bytes = b"h1,h2\n1,\"a \"\"b\"\"\nc,\"\n\"\",\nlast,\"\"";
        let found = records("(FORMAT csv, HEADER)", bytes, &[]);
        assert_eq!(found[0], some(&["1", "a \"b\"\nc,"]));
        assert_eq!(found[1], [Some(String::new()), None]);
        assert_eq!(found[2], some(&["last", ""]));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn binary_rows_become_text() {
        let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend([0, 2, 0, 0, 0, 4, 0, 0, 0, 7, 255, 255, 255, 255, 255, 255]);
        let found = records("(FORMAT binary)", &bytes, &[Type::INT4, Type::TEXT]);
        assert_eq!(found, [[Some("7".to_owned()), None]]);
    }

    #[test]
    fn an_open_quote_is_an_error_at_the_end() {
        let mut records = Records::new(options("CSV"), Vec::new());
        let mut bytes: &[u8] = b"1,\"a\n";
        assert_eq!(records.next(&mut bytes, false), Ok(false));
        assert!(records.next(&mut &b""[..], true).is_err());
    }
}
