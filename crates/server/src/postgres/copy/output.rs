//! Rows to the client, in text, csv and binary format.

use super::{Format, Options, Plan};
use crate::postgres::cell::{cell_text, encode_row};
use crate::postgres::connection::fit;
use crate::postgres::prepared::without_null;
use crate::postgres::wire_type;
use arrow::array::RecordBatch;
use bytes::{BufMut, Bytes, BytesMut};
use kaplan_platform::RowSet;
use pgwire::api::portal::Format as WireFormat;
use pgwire::api::results::FieldInfo;
use pgwire::error::PgWireResult;
use pgwire::messages::copy::CopyData;

/// How a COPY in binary format begins: its signature, no flags, no extension.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The messages: in text and csv first the header, if there is one, then one for each row; in binary
/// format one for each row, the first behind the signature, then the mark of the end.
pub(in crate::postgres) struct Out {
    options: Options,
    start: Option<Bytes>,
    batches: std::vec::IntoIter<RecordBatch>,
    /// The batch under way and its next row.
    current: Option<(RecordBatch, usize)>,
    fields: Vec<FieldInfo>,
    ended: bool,
}

impl Out {
    pub fn new(plan: &Plan, rows: RowSet) -> PgWireResult<Self> {
        let schema = without_null(&rows.schema);
        let options = plan.options.clone();
        let names = schema.fields().iter().map(|f| Some(f.name().clone())).collect();
        let start = match options.format {
            Format::Binary => Bytes::from_static(SIGNATURE),
            _ if options.header => line(&options, names),
            _ => Bytes::new(),
        };
        let batches = rows.batches.iter().map(|batch| fit(batch, &schema));
        Ok(Self {
            start: Some(start),
            batches: batches.collect::<PgWireResult<Vec<_>>>()?.into_iter(),
            current: None,
            fields: wire_type::described(&schema, &WireFormat::UnifiedBinary),
            ended: options.format != Format::Binary,
            options,
        })
    }

    /// 0 for text and csv, 1 for binary.
    pub fn format(&self) -> i8 {
        i8::from(self.options.format == Format::Binary)
    }

    /// The data, behind the signature where it has not been sent: readers expect both in one message.
    fn behind_signature(&mut self, data: Bytes) -> CopyData {
        match self.start.take() {
            Some(start) => CopyData::new([start, data].concat().into()),
            None => CopyData::new(data),
        }
    }

    fn row(&self, batch: &RecordBatch, row: usize) -> PgWireResult<Bytes> {
        if self.options.format == Format::Binary {
            let encoded = encode_row(batch, row, &self.fields)?;
            let mut out = BytesMut::with_capacity(2 + encoded.data.len());
            out.put_i16(encoded.field_count);
            out.put_slice(&encoded.data);
            return Ok(out.freeze());
        }
        let schema = batch.schema();
        let columns = batch.columns().iter().zip(schema.fields());
        let values = columns.map(|(array, field)| cell_text(array, field, row));
        Ok(line(&self.options, values.collect::<PgWireResult<Vec<_>>>()?))
    }
}

/// One line of text or csv.
fn line(options: &Options, values: Vec<Option<String>>) -> Bytes {
    let alone = values.len() == 1;
    let mut out = String::new();
    for (at, value) in values.into_iter().enumerate() {
        if at > 0 {
            out.push(options.delimiter());
        }
        match value {
            None => out.push_str(options.null()),
            Some(value) if options.format == Format::Csv => {
                push_csv(&mut out, options, &value, alone);
            }
            Some(value) => push_text(&mut out, options, &value),
        }
    }
    out.push('\n');
    Bytes::from(out)
}

fn push_text(out: &mut String, options: &Options, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c == options.delimiter() => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
}

/// Quoted where a reader would else take the value for something different: NULL, the end of the
/// data, or several values.
fn push_csv(out: &mut String, options: &Options, value: &str, alone: bool) {
    let (quote, escape) = (options.quote, options.escape());
    let special = |c| c == options.delimiter() || c == quote || c == '\n' || c == '\r';
    let quoted = value == options.null() || value.contains(special) || (alone && value == "\\.");
    if !quoted {
        return out.push_str(value);
    }
    out.push(quote);
    for c in value.chars() {
        if c == quote || c == escape {
            out.push(escape);
        }
        out.push(c);
    }
    out.push(quote);
}

impl Iterator for Out {
    /// How many rows the message has, and the message.
    type Item = PgWireResult<(usize, CopyData)>;

    fn next(&mut self) -> Option<Self::Item> {
        let binary = self.options.format == Format::Binary;
        if !binary && let Some(start) = self.start.take() {
            return Some(Ok((0, CopyData::new(start))));
        }
        loop {
            match self.current.take() {
                Some((batch, row)) if row < batch.num_rows() => {
                    let data = self.row(&batch, row);
                    self.current = Some((batch, row + 1));
                    return Some(data.map(|data| (1, self.behind_signature(data))));
                }
                _ => match self.batches.next() {
                    Some(batch) => self.current = Some((batch, 0)),
                    None if self.ended => return None,
                    None => {
                        self.ended = true;
                        let end = Bytes::copy_from_slice(&(-1_i16).to_be_bytes());
                        return Some(Ok((0, self.behind_signature(end))));
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::copy::{Copy, parse};

    fn written(copy: &str, values: &[Option<&str>]) -> String {
        let Some(Copy::Out(plan)) = parse(copy).unwrap() else { panic!("not a COPY TO STDOUT") };
        let values = values.iter().map(|v| v.map(str::to_owned)).collect();
        String::from_utf8(line(&plan.options, values).to_vec()).unwrap()
    }

    #[test]
    fn values_are_told_from_marks() {
        let values = [Some("a\tb\\"), None, Some(""), Some("c\nd")];
        assert_eq!(written("COPY t TO STDOUT", &values), "a\\tb\\\\\t\\N\t\tc\\nd\n");
        let values = [Some("a,b"), None, Some(""), Some("say \"x\"")];
        assert_eq!(written("COPY t TO STDOUT CSV", &values), "\"a,b\",,\"\",\"say \"\"x\"\"\"\n");
    }
}
