//! Rows to the client, in text and csv.

use super::{Format, Options, Plan};
use crate::postgres::cell::encode_cell;
use crate::postgres::connection::{fields, fit};
use crate::postgres::prepared::without_null;
use crate::postgres::sqlstate;
use arrow::array::RecordBatch;
use bytes::Bytes;
use kaplan_platform::RowSet;
use pgwire::api::portal::Format as WireFormat;
use pgwire::api::results::{CopyCsvOptions, CopyEncoder, CopyTextOptions, FieldInfo};
use pgwire::error::PgWireResult;
use pgwire::messages::copy::CopyData;
use std::sync::Arc;

/// The messages: first one without a row (empty, or the header), then one for each row.
pub(in crate::postgres) struct Out {
    header: Option<CopyData>,
    batches: std::vec::IntoIter<RecordBatch>,
    /// The batch under way and its next row.
    current: Option<(RecordBatch, usize)>,
    fields: Arc<Vec<FieldInfo>>,
    encoder: CopyEncoder,
}

impl Out {
    pub fn new(plan: &Plan, rows: RowSet) -> PgWireResult<Self> {
        let schema = without_null(&rows.schema);
        let fields = Arc::new(fields(&schema, &WireFormat::UnifiedText)?);
        let options = &plan.options;
        let encoder = encoder(options, &fields)?;
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let header = if options.header { line(options, &names) } else { String::new() };
        let batches = rows.batches.iter().map(|batch| fit(batch, &schema));
        Ok(Self {
            header: Some(CopyData::new(Bytes::from(header))),
            batches: batches.collect::<PgWireResult<Vec<_>>>()?.into_iter(),
            current: None,
            fields,
            encoder,
        })
    }

    fn row(&mut self, batch: &RecordBatch, row: usize) -> PgWireResult<CopyData> {
        let schema = batch.schema();
        for (at, array) in batch.columns().iter().enumerate() {
            encode_cell(&mut self.encoder, array, row, schema.field(at), &self.fields[at])?;
        }
        Ok(self.encoder.take_copy())
    }
}

fn encoder(options: &Options, fields: &Arc<Vec<FieldInfo>>) -> PgWireResult<CopyEncoder> {
    let (delimiter, null) = (options.delimiter().to_string(), options.null());
    match options.format {
        Format::Text => {
            let mut text = CopyTextOptions::default();
            (text.delimiter, text.null_string) = (delimiter.into(), null.into());
            Ok(CopyEncoder::new_text(Arc::clone(fields), text))
        }
        Format::Csv => {
            let mut csv = CopyCsvOptions::default();
            (csv.delimiter, csv.null_string) = (delimiter.into(), null.into());
            csv.quote = options.quote.to_string().into();
            csv.escape = options.escape().to_string().into();
            Ok(CopyEncoder::new_csv(Arc::clone(fields), csv))
        }
        Format::Binary => {
            let text = "COPY TO STDOUT in binary format is not supported: use text or csv";
            Err(sqlstate::user("0A000", text))
        }
    }
}

/// The header line.
fn line(options: &Options, names: &[&str]) -> String {
    let delimiter = options.delimiter();
    let name = |name: &&str| {
        let plain = !name.contains([delimiter, options.quote, '\n', '\r']);
        if plain || options.format == Format::Text {
            return (*name).to_owned();
        }
        let (quote, escape) = (options.quote, options.escape());
        let inner = name.replace(quote, &format!("{escape}{quote}"));
        format!("{quote}{inner}{quote}")
    };
    let names: Vec<String> = names.iter().map(name).collect();
    format!("{}\n", names.join(&delimiter.to_string()))
}

impl Iterator for Out {
    /// How many rows the message has, and the message.
    type Item = PgWireResult<(usize, CopyData)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(header) = self.header.take() {
            return Some(Ok((0, header)));
        }
        loop {
            match self.current.take() {
                Some((batch, row)) if row < batch.num_rows() => {
                    let data = self.row(&batch, row);
                    self.current = Some((batch, row + 1));
                    return Some(data.map(|data| (1, data)));
                }
                _ => self.current = Some((self.batches.next()?, 0)),
            }
        }
    }
}
