//! Number literals with a point and more digits than a double surely holds keep them where they stand
//! alone, as in PostgreSQL: in the `VALUES` of an `INSERT`, under a cast to `NUMERIC`, as a column of
//! `SELECT`. Inside of calculations they stay doubles: as decimals they would turn the doubles that
//! they meet into decimals, which end at 15 digits after the point.

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, Select, SelectItem, UnaryOperator, Value, Values,
};

/// Digits that a double always keeps.
const DOUBLE_DIGITS: usize = 15;
/// Digits that a double may need to be written: more of them mean a decimal.
const WRITTEN_DOUBLE_DIGITS: usize = 17;
/// Digits that `NUMERIC` has.
const NUMERIC_DIGITS: usize = 38;

/// Quotes the literals of a column of `VALUES` that has a long one; the stream's type reads them.
pub(super) fn keep_in_insert(values: &mut Values) {
    let width = values.rows.iter().map(|row| row.content.len()).min().unwrap_or(0);
    for column in 0..width {
        let cells = || values.rows.iter().map(|row| &row.content[column]);
        let long = cells().any(|c| is_long(c, DOUBLE_DIGITS));
        if long && cells().all(|c| literal(c).is_some() || is_other_constant(c)) {
            values.rows.iter_mut().for_each(|row| quote(&mut row.content[column]));
        }
    }
}

/// Quotes a long literal under a cast to `NUMERIC`.
pub(super) fn keep_in_cast(expr: &mut Expr) {
    if let Expr::Cast { expr, data_type, .. } = expr
        && matches!(data_type, DataType::Numeric(_) | DataType::Decimal(_) | DataType::Dec(_))
        && is_long(expr, DOUBLE_DIGITS)
    {
        quote(expr);
    }
}

/// Makes long literals `NUMERIC` that are a column of `SELECT`.
pub(super) fn keep_in_select(select: &mut Select) {
    for item in &mut select.projection {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            continue;
        };
        let Some(digits) = literal(expr).filter(|_| is_long(expr, WRITTEN_DOUBLE_DIGITS)) else {
            continue;
        };
        let digits = digits.trim_start_matches(['-', '+']);
        let scale = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let precision = digits.len() - 1;
        if precision > NUMERIC_DIGITS {
            continue;
        }
        let info = ExactNumberInfo::PrecisionAndScale(precision as u64, scale as i64);
        quote(expr);
        *expr = Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(expr.clone()),
            data_type: DataType::Numeric(info),
            array: false,
            format: None,
        };
    }
}

/// The text of a number, with its sign.
fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner) => literal(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Value(_) => literal(expr).map(|text| format!("-{text}")),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } => literal(expr),
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// NULL, a text or DEFAULT.
fn is_other_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => {
            matches!(value.value, Value::Null | Value::SingleQuotedString(_))
        }
        Expr::Identifier(name) => name.value.eq_ignore_ascii_case("default"),
        _ => false,
    }
}

/// A number with a point, without an exponent, with more digits than these.
fn is_long(expr: &Expr, than: usize) -> bool {
    let Some(text) = literal(expr) else { return false };
    let Some((whole, fraction)) = text.trim_start_matches('-').split_once('.') else {
        return false;
    };
    let plain = whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    plain && whole.trim_start_matches('0').len() + fraction.len() > than
}

fn quote(expr: &mut Expr) {
    if let Some(text) = literal(expr) {
        *expr = Expr::Value(Value::SingleQuotedString(text).into());
    }
}
