//! Parameters of the extended protocol, written into the statement as literals. The types whose
//! text or bytes are plain are taken; others are refused.

use super::sqlstate;
use crate::statements::{parameters, substitute};
use kaplan_platform::{Code, Error};
use pgwire::api::Type;
use pgwire::api::portal::Portal;
use pgwire::error::{PgWireError, PgWireResult};

/// The statement of a portal with its values in it.
pub(super) fn bound(portal: &Portal<String>) -> PgWireResult<String> {
    substitute(&portal.statement.statement, |number| {
        let at = number.wrapping_sub(1);
        if at >= portal.parameter_len() {
            let what = format!("the statement uses ${number}, but it was not given");
            return Err(sqlstate::error(Error::new(Code::InvalidInput, what)));
        }
        literal(portal, at)
    })
}

/// The statement with NULL for each parameter: for looking at its columns.
pub(super) fn unbound(statement: &str) -> String {
    let nulls = substitute::<std::convert::Infallible>(statement, |_| Ok("NULL".to_owned()));
    match nulls {
        Ok(text) => text,
        Err(never) => match never {},
    }
}

/// The types of the parameters: what the client said, else text.
pub(super) fn types(statement: &str, given: &[Option<Type>]) -> Vec<Type> {
    let of = |at: usize| given.get(at).cloned().flatten().unwrap_or(Type::TEXT);
    (0..parameters(statement)).map(of).collect()
}

fn literal(portal: &Portal<String>, at: usize) -> PgWireResult<String> {
    let given = portal.statement.parameter_types.get(at).cloned().flatten();
    let given = given.filter(|t| *t != Type::UNKNOWN).unwrap_or(Type::TEXT);
    Ok(match given {
        Type::BOOL => plain(portal.parameter::<bool>(at, &given)?),
        Type::INT2 => plain(portal.parameter::<i16>(at, &given)?),
        Type::INT4 => plain(portal.parameter::<i32>(at, &given)?),
        Type::INT8 => plain(portal.parameter::<i64>(at, &given)?),
        Type::FLOAT4 => float(portal.parameter::<f32>(at, &given)?.map(f64::from)),
        Type::FLOAT8 => float(portal.parameter::<f64>(at, &given)?),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => {
            quoted(portal.parameter::<String>(at, &given)?)
        }
        // In text format the text is the value, and its type is named by a cast.
        _ if portal.parameter_format.is_text(at) => {
            let Some(value) = portal.parameters.get(at).and_then(Option::as_ref) else {
                return Ok("NULL".to_owned());
            };
            let text = std::str::from_utf8(value).map_err(|_| refused(at, &given))?;
            let text = quoted(Some(text.to_owned()));
            match given {
                Type::DATE => format!("DATE {text}"),
                Type::TIMESTAMP => format!("TIMESTAMP {text}"),
                Type::TIMESTAMPTZ => format!("CAST({text} AS TIMESTAMP WITH TIME ZONE)"),
                Type::NUMERIC => format!("CAST({text} AS NUMERIC(38, 10))"),
                _ => return Err(refused(at, &given)),
            }
        }
        _ => return Err(refused(at, &given)),
    })
}

fn refused(at: usize, given: &Type) -> PgWireError {
    let what = format!("parameter ${} of type {given} is not supported", at + 1);
    sqlstate::error(
        Error::new(Code::Unsupported, what)
            .hint("send a boolean, number or text, or write the value into the statement"),
    )
}

fn plain(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |v| v.to_string())
}

fn float(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:e}"),
        Some(value) => format!("CAST('{value}' AS DOUBLE PRECISION)"),
        None => "NULL".to_owned(),
    }
}

fn quoted(value: Option<String>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |v| format!("'{}'", v.replace('\'', "''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_leave_their_quotes() {
        assert_eq!(quoted(Some("a'; drop table t --".to_owned())), "'a''; drop table t --'");
        assert_eq!(quoted(None), "NULL");
        assert_eq!(float(Some(f64::NAN)), "CAST('NaN' AS DOUBLE PRECISION)");
        assert_eq!(float(Some(-1.5)), "-1.5e0");
    }

    #[test]
    fn parameters_have_the_given_types() {
        let given = [None, Some(Type::INT4)];
        assert_eq!(types("select $1, $2, $3", &given), [Type::TEXT, Type::INT4, Type::TEXT]);
        assert_eq!(unbound("select $1"), "select NULL");
    }
}
