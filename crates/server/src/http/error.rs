//! The one error body, `{"error": {"code", "message", "hint", "stream", "row", "field"}}`, and the
//! one place where a [`Code`] becomes an HTTP status.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kaplan_connect::formats::DecodeError;
use kaplan_platform::{Code, Error};
use serde_json::json;

/// Seconds after which a refused request may be tried again.
const RETRY_AFTER_SECONDS: u16 = 1;

/// An error on its way to an HTTP client.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    error: Box<Error>,
}

/// The name and status of each kind.
fn meaning(code: Code) -> (&'static str, StatusCode) {
    match code {
        Code::Syntax => ("syntax", StatusCode::BAD_REQUEST),
        Code::UnknownRelation => ("unknown_relation", StatusCode::NOT_FOUND),
        Code::UnknownColumn => ("unknown_column", StatusCode::BAD_REQUEST),
        Code::UnknownFunction => ("unknown_function", StatusCode::BAD_REQUEST),
        Code::AmbiguousColumn => ("ambiguous_column", StatusCode::BAD_REQUEST),
        Code::DuplicateAlias => ("duplicate_alias", StatusCode::BAD_REQUEST),
        Code::DatatypeMismatch => ("datatype_mismatch", StatusCode::BAD_REQUEST),
        Code::CannotCoerce => ("cannot_coerce", StatusCode::BAD_REQUEST),
        Code::Grouping => ("grouping", StatusCode::BAD_REQUEST),
        Code::Windowing => ("windowing", StatusCode::BAD_REQUEST),
        Code::InvalidColumnReference => ("invalid_column_reference", StatusCode::BAD_REQUEST),
        Code::GeneratedAlways => ("generated_always", StatusCode::BAD_REQUEST),
        Code::OutOfRange => ("out_of_range", StatusCode::BAD_REQUEST),
        Code::InvalidDatetime => ("invalid_datetime", StatusCode::BAD_REQUEST),
        Code::DatetimeOverflow => ("datetime_overflow", StatusCode::BAD_REQUEST),
        Code::StringTruncation => ("string_truncation", StatusCode::BAD_REQUEST),
        Code::InvalidRegex => ("invalid_regex", StatusCode::BAD_REQUEST),
        Code::InvalidLogarithm => ("invalid_logarithm", StatusCode::BAD_REQUEST),
        Code::InvalidPower => ("invalid_power", StatusCode::BAD_REQUEST),
        Code::InvalidLimit => ("invalid_limit", StatusCode::BAD_REQUEST),
        Code::InvalidOffset => ("invalid_offset", StatusCode::BAD_REQUEST),
        Code::Cardinality => ("cardinality", StatusCode::BAD_REQUEST),
        Code::FailedTransaction => ("failed_transaction", StatusCode::CONFLICT),
        Code::ReadOnly => ("read_only", StatusCode::FORBIDDEN),
        Code::NoTransaction => ("no_transaction", StatusCode::CONFLICT),
        Code::UnknownSavepoint => ("unknown_savepoint", StatusCode::BAD_REQUEST),
        Code::DivisionByZero => ("division_by_zero", StatusCode::BAD_REQUEST),
        Code::WrongObject => ("wrong_object", StatusCode::BAD_REQUEST),
        Code::UnknownObject => ("unknown_object", StatusCode::NOT_FOUND),
        Code::UnknownSchema => ("unknown_schema", StatusCode::NOT_FOUND),
        Code::DuplicateRelation => ("duplicate_relation", StatusCode::CONFLICT),
        Code::DuplicateSchema => ("duplicate_schema", StatusCode::CONFLICT),
        Code::DuplicateColumn => ("duplicate_column", StatusCode::CONFLICT),
        Code::Dependency => ("dependency", StatusCode::CONFLICT),
        Code::Unsupported => ("unsupported", StatusCode::BAD_REQUEST),
        Code::InvalidValue => ("invalid_value", StatusCode::BAD_REQUEST),
        Code::ConstraintViolation => ("constraint_violation", StatusCode::UNPROCESSABLE_ENTITY),
        Code::NotNullViolation => ("not_null_violation", StatusCode::UNPROCESSABLE_ENTITY),
        Code::UniqueViolation => ("unique_violation", StatusCode::CONFLICT),
        Code::Conflict => ("conflict", StatusCode::CONFLICT),
        Code::InvalidInput => ("invalid_input", StatusCode::BAD_REQUEST),
        Code::TooLarge => ("too_large", StatusCode::PAYLOAD_TOO_LARGE),
        Code::Overloaded => ("overloaded", StatusCode::TOO_MANY_REQUESTS),
        Code::DiskFull => ("disk_full", StatusCode::INSUFFICIENT_STORAGE),
        Code::OutOfMemory => ("out_of_memory", StatusCode::INSUFFICIENT_STORAGE),
        Code::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
        Code::Fenced => ("fenced", StatusCode::SERVICE_UNAVAILABLE),
        Code::NotReady => ("not_ready", StatusCode::CONFLICT),
        Code::Corrupted => ("corrupted", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let (code, status) = meaning(error.code);
        Self { status, code, error: Box::new(error) }
    }
}

impl ApiError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Error::new(code, message).into()
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::of_wire(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::of_wire(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    pub(super) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::of_wire(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// Who calls is not known.
    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::of_wire(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// Who calls is known, and may not.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::of_wire(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// A refusal that the framework made, with its status.
    pub(super) fn refused(status: StatusCode, message: impl Into<String>) -> Self {
        Self::of_wire(status, "invalid_input", message)
    }

    /// What only HTTP can get wrong; the platform has no code for it.
    fn of_wire(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, error: Box::new(Error::new(Code::InvalidInput, message)) }
    }

    /// Rows of a request body that cannot be taken in.
    pub(super) fn from_rows(stream: &str, error: DecodeError) -> Self {
        let mut wrong = Error::new(Code::InvalidValue, error.message).stream(stream);
        (wrong.hint, wrong.row, wrong.field) = (error.hint, error.row, error.field);
        wrong.into()
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error.hint = Some(hint.into());
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Error { message, hint, stream, row, field, .. } = *self.error;
        if self.status.is_server_error() {
            tracing::error!(code = self.code, %message, "request failed");
        }
        let body = json!({"error": {
            "code": self.code,
            "message": message,
            "hint": hint,
            "stream": stream,
            "row": row,
            "field": field,
        }});
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        let again = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if again.contains(&self.status) {
            let seconds = HeaderValue::from(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    async fn body(response: Response) -> Value {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn the_body_carries_every_fact() {
        let error = Error::new(Code::ConstraintViolation, "row 17: delay is negative")
            .hint("fix it")
            .stream("flights")
            .row(17)
            .field("delay");
        let response = ApiError::from(error).into_response();
        assert_eq!(response.status(), 422);
        assert_eq!(
            body(response).await,
            json!({"error": {
                "code": "constraint_violation",
                "message": "row 17: delay is negative",
                "hint": "fix it",
                "stream": "flights",
                "row": 17,
                "field": "delay"
            }})
        );
    }

    #[test]
    fn statuses_are_the_documented_ones() {
        let documented = [
            (Code::Syntax, 400),
            (Code::UnknownRelation, 404),
            (Code::UnknownColumn, 400),
            (Code::DuplicateRelation, 409),
            (Code::Dependency, 409),
            (Code::Unsupported, 400),
            (Code::InvalidValue, 400),
            (Code::ConstraintViolation, 422),
            (Code::InvalidInput, 400),
            (Code::TooLarge, 413),
            (Code::Overloaded, 429),
            (Code::DiskFull, 507),
            (Code::OutOfMemory, 507),
            (Code::Unavailable, 503),
            (Code::NotReady, 409),
            (Code::Corrupted, 500),
            (Code::Internal, 500),
        ];
        for (code, status) in documented {
            let response = ApiError::new(code, "x").into_response();
            assert_eq!(response.status(), status, "{code:?}");
            let retry = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(retry, [429, 503].contains(&status), "{code:?}");
        }
    }
}
