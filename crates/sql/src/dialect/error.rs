//! Why a SQL text was refused: what is wrong, where, and how to write it instead. Line 0 means that
//! the place is not known. It never carries a panic or a parser's internals.

use datafusion::sql::sqlparser::parser::ParserError;
use std::fmt;

/// What kind of mistake it is; the protocols map it to their own codes (SQLSTATE, HTTP status).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The text does not follow the grammar.
    Syntax,
    /// The grammar knows it, Kaplan does not do it.
    Unsupported,
    /// Well-formed, but contradicts itself or a limit.
    Invalid,
    /// A column that is not among the columns of the definition.
    UnknownColumn,
    /// A column that is defined twice.
    DuplicateColumn,
    /// A type that columns cannot have.
    UnknownType,
    /// Over a limit of length or nesting.
    TooLarge,
}

/// A refused SQL text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// What kind of mistake it is.
    pub kind: Kind,
    /// What is wrong, in one sentence without a final full stop.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// Line in the text, from 1; 0 when unknown.
    pub line: u64,
    /// Column in the line, in characters from 1; 0 when unknown.
    pub column: u64,
    /// The token at that place.
    pub near: Option<String>,
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.line > 0 {
            write!(f, " at line {}, column {}", self.line, self.column)?;
        }
        match &self.near {
            Some(near) => write!(f, ", near {near}"),
            None => Ok(()),
        }
    }
}

impl Error {
    /// An error without a place.
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Error { kind, message, hint: None, line: 0, column: 0, near: None }
    }

    /// A well-formed text that contradicts itself or a limit.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Error::new(Kind::Invalid, message)
    }

    /// Something that Kaplan does not do.
    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Error::new(Kind::Unsupported, message)
    }

    /// The same error with advice.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error at a place, unless it has one already.
    pub(super) fn at(mut self, line: u64, column: u64) -> Self {
        if self.line == 0 {
            (self.line, self.column) = (line, column);
        }
        self
    }
}

impl From<ParserError> for Error {
    /// Takes the parser's text apart: `Expected: x, found: y at Line: 1, Column: 2`.
    fn from(error: ParserError) -> Self {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => {
                return Error::new(Kind::TooLarge, "the statement is nested too deeply")
                    .hint("split it with WITH or into several views");
            }
        };
        let (text, line, column) = split_place(&text);
        let mut error =
            match text.strip_prefix("Expected: ").and_then(|t| t.split_once(", found: ")) {
                Some((expected, found)) => {
                    let found = if found == "EOF" { "end of input" } else { found };
                    let mut error =
                        Error::new(Kind::Syntax, format!("expected {expected}, found {found}"));
                    error.near = Some(found.to_owned());
                    error
                }
                None => Error::new(Kind::Syntax, text),
            };
        (error.line, error.column) = (line, column);
        error
    }
}

/// Cuts ` at Line: 1, Column: 2` off the end of a parser's message.
fn split_place(text: &str) -> (&str, u64, u64) {
    let place = text.rfind(" at Line: ").and_then(|start| {
        let (line, column) = text[start + " at Line: ".len()..].split_once(", Column: ")?;
        Some((&text[..start], line.parse().ok()?, column.trim_end().parse().ok()?))
    });
    place.unwrap_or((text, 0, 0))
}
