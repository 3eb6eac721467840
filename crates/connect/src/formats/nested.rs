//! Arrays and objects inside of JSON rows, for columns that take them. Arrow's decoder reads every
//! column as text, and has no text of nested values; so they become strings that hold their JSON
//! before it sees them. Everything else passes unchanged, damage included.

use arrow::datatypes::{DataType, Field, SchemaRef};
use kaplan_sql::functions::Logical;
use std::collections::BTreeSet;
use std::io::{BufRead, Read};

/// Whether a column takes nested values.
pub(super) fn takes(field: &Field) -> bool {
    matches!(field.data_type(), DataType::List(_) | DataType::Struct(_))
        || Logical::of(field) == Some(Logical::Jsonb)
}

/// The input with the nested values of such columns as strings.
pub(super) fn quoted<'a>(
    input: Box<dyn BufRead + Send + 'a>,
    schema: &SchemaRef,
) -> Box<dyn BufRead + Send + 'a> {
    let columns: BTreeSet<Vec<u8>> = schema
        .fields()
        .iter()
        .filter(|field| takes(field))
        .map(|field| field.name().as_bytes().to_vec())
        .collect();
    if columns.is_empty() {
        return input;
    }
    let quoting = Quoting { input, columns, out: Vec::new(), read: 0, state: State::default() };
    Box::new(std::io::BufReader::new(quoting))
}

#[derive(Default)]
struct State {
    /// Brackets that are open.
    depth: usize,
    in_text: bool,
    escaped: bool,
    /// The text that was read last in a row's object.
    key: Vec<u8>,
    /// The next value is that of `key`.
    value: bool,
    /// The depth at which the nested value began that is being quoted.
    quoting: Option<usize>,
}

struct Quoting<'a> {
    input: Box<dyn BufRead + Send + 'a>,
    columns: BTreeSet<Vec<u8>>,
    out: Vec<u8>,
    read: usize,
    state: State,
}

impl Quoting<'_> {
    fn take(&mut self, byte: u8) {
        let state = &mut self.state;
        let began = state.quoting.is_none()
            && !state.in_text
            && state.depth == 1
            && state.value
            && matches!(byte, b'[' | b'{')
            && self.columns.contains(&state.key);
        if began {
            state.quoting = Some(state.depth);
            self.out.push(b'"');
        }
        match (state.quoting, byte) {
            (Some(_), b'"' | b'\\') => self.out.extend([b'\\', byte]),
            (Some(_), b'\n' | b'\r' | b'\t') => self.out.push(b' '),
            _ => self.out.push(byte),
        }
        state.step(byte);
        if state.quoting == Some(state.depth) {
            state.quoting = None;
            self.out.push(b'"');
        }
    }
}

impl State {
    fn step(&mut self, byte: u8) {
        if self.in_text {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            if self.in_text && self.depth == 1 && !self.value {
                self.key.push(byte);
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_text = true;
                if self.depth == 1 && !self.value {
                    self.key.clear();
                }
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' if self.depth == 1 => self.value = true,
            b',' if self.depth == 1 => self.value = false,
            _ => {}
        }
        if self.depth == 0 {
            self.value = false;
        }
    }
}

impl Read for Quoting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.read == self.out.len() {
            self.out.clear();
            self.read = 0;
            let chunk = self.input.fill_buf()?.to_vec();
            if chunk.is_empty() {
                return Ok(0);
            }
            for byte in &chunk {
                self.take(*byte);
            }
            self.input.consume(chunk.len());
        }
        let length = buffer.len().min(self.out.len() - self.read);
        buffer[..length].copy_from_slice(&self.out[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}
