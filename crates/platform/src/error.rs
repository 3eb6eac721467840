//! The one error that leaves the platform. It says what went wrong, where in the input, and what
//! to do; each wire translates [`Code`] to its own numbers in one file.

use kaplan_base::Remedy;
use std::fmt;

/// The kinds of failure that a client can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The SQL text does not parse. SQLSTATE 42601, HTTP 400.
    Syntax,
    /// No such stream, table or view. 42P01, 404.
    UnknownRelation,
    /// No such column. 42703, 400.
    UnknownColumn,
    /// No such function. 42883, 400.
    UnknownFunction,
    /// No such object of another kind, such as an index. 42704, 404.
    UnknownObject,
    /// No such schema. 3F000, 404.
    UnknownSchema,
    /// It is there, but is of another kind, such as a view where a table must be. 42809, 400.
    WrongObject,
    /// The name is taken. 42P07, 409.
    DuplicateRelation,
    /// The schema is there already. 42P06, 409.
    DuplicateSchema,
    /// The column is there already, or is named twice. 42701, 409.
    DuplicateColumn,
    /// Something depends on it, or it depends on itself. 2BP01, 409.
    Dependency,
    /// A construct that cannot be maintained, or is not there yet. 0A000, 400.
    Unsupported,
    /// A value of the wrong type or shape. 22P02, 400.
    InvalidValue,
    /// A name that several columns have. 42702, 400.
    AmbiguousColumn,
    /// Two tables of one name in `FROM`. 42712, 400.
    DuplicateAlias,
    /// Types that do not go together. 42804, 400.
    DatatypeMismatch,
    /// No cast from the one type to the other. 42846, 400.
    CannotCoerce,
    /// An aggregate, or a column beside one, where it cannot be. 42803, 400.
    Grouping,
    /// A window function where it cannot be. 42P20, 400.
    Windowing,
    /// `ORDER BY` of what is not selected. 42P10, 400.
    InvalidColumnReference,
    /// A value for a generated column. 428C9, 400.
    GeneratedAlways,
    /// A number beyond its type. 22003, 400.
    OutOfRange,
    /// A text that is no date or time. 22007, 400.
    InvalidDatetime,
    /// A date or time that there is not. 22008, 400.
    DatetimeOverflow,
    /// A text that is too long. 22001, 400.
    StringTruncation,
    /// A pattern that is no regular expression. 2201B, 400.
    InvalidRegex,
    /// A logarithm that there is not. 2201E, 400.
    InvalidLogarithm,
    /// A power or root that there is not. 2201F, 400.
    InvalidPower,
    /// A negative `LIMIT`. 2201W, 400.
    InvalidLimit,
    /// A negative `OFFSET`. 2201X, 400.
    InvalidOffset,
    /// More than one row where one may be. 21000, 400.
    Cardinality,
    /// The transaction has failed; only its end is taken. 25P02, 409.
    FailedTransaction,
    /// A write to what is read only. 25006, 403.
    ReadOnly,
    /// There is no transaction to mark. 25P01, 409.
    NoTransaction,
    /// No such savepoint. 3B001, 400.
    UnknownSavepoint,
    /// A division by zero. 22012, 400.
    DivisionByZero,
    /// A `CHECK` was broken. 23514, 422.
    ConstraintViolation,
    /// A NULL where none may be. 23502, 422.
    NotNullViolation,
    /// Two rows with one key. 23505, 409.
    UniqueViolation,
    /// Other writes changed the same rows all the time. 40001, 409.
    Conflict,
    /// Other bad input. 22023, 400.
    InvalidInput,
    /// The input exceeds a limit. 54000, 413.
    TooLarge,
    /// Too many requests under way; nothing was done. 53300, 429.
    Overloaded,
    /// No space left on the device; nothing was acknowledged. 53100, 507.
    DiskFull,
    /// A query needs more memory than queries have, or a table more than state has. 53200, 507.
    OutOfMemory,
    /// Not ready yet, or no longer. 57P03, 503.
    Unavailable,
    /// Another instance has taken the data over; this one neither writes nor reads it any more.
    /// 57P03, 503.
    Fenced,
    /// The data asked for is not there (for instance no batch view yet). 55000, 409.
    NotReady,
    /// The answer would be wrong: stored data is damaged. XX001, 500.
    Corrupted,
    /// A defect. XX000, 500.
    Internal,
}

/// What went wrong, where, and what to do about it.
#[derive(Clone, Debug)]
pub struct Error {
    /// The kind.
    pub code: Code,
    /// One sentence that names the thing.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The stream or view concerned.
    pub stream: Option<String>,
    /// The row of the input, counted from 1.
    pub row: Option<u64>,
    /// The field concerned.
    pub field: Option<String>,
    /// The constraint that was broken.
    pub constraint: Option<String>,
    /// Line and column in the statement, from 1.
    pub place: Option<(u64, u64)>,
}

/// The platform's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a kind, with its sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            stream: None,
            row: None,
            field: None,
            constraint: None,
            place: None,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the stream or view.
    #[must_use]
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.stream = Some(stream.into());
        self
    }

    /// Names the row, counted from 1.
    #[must_use]
    pub fn row(mut self, row: u64) -> Self {
        self.row = Some(row);
        self
    }

    /// Names the field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Names the constraint.
    #[must_use]
    pub fn constraint(mut self, constraint: impl Into<String>) -> Self {
        self.constraint = Some(constraint.into());
        self
    }

    /// What the caller should do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self.code {
            Code::Overloaded | Code::Unavailable | Code::NotReady | Code::Conflict => Remedy::Retry,
            Code::DiskFull | Code::Fenced => Remedy::Reopen,
            Code::Corrupted | Code::Internal => Remedy::Report,
            _ => Remedy::FixInput,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
