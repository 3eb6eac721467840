//! Number literals with more digits than a double holds, where they stand alone: in `VALUES`, as a
//! column of `SELECT`, under `CAST`. There they become `NUMERIC` and keep their digits, as in
//! PostgreSQL. Inside of calculations literals with a point stay doubles: as decimals they would turn
//! the doubles that they meet into decimals, which end at 15 digits.

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, Query, Select, SelectItem, SetExpr, UnaryOperator,
    Value,
};

/// Digits that a double always keeps.
const DOUBLE_DIGITS: usize = 15;
/// Digits that `NUMERIC` has.
const NUMERIC_DIGITS: usize = 38;

/// Keeps the digits of literals in `VALUES`.
pub(super) fn keep_in_query(query: &mut Query) {
    if let SetExpr::Values(values) = query.body.as_mut() {
        values.rows.iter_mut().flat_map(|row| row.content.iter_mut()).for_each(keep);
    }
}

/// Keeps the digits of literals that are a column of `SELECT`.
pub(super) fn keep_in_select(select: &mut Select) {
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            keep(expr);
        }
    }
}

/// Keeps the digits of a literal under `CAST`.
pub(super) fn keep_in_cast(expr: &mut Expr) {
    if let Expr::Cast { expr, .. } = expr {
        keep(expr);
    }
}

fn keep(expr: &mut Expr) {
    match expr {
        Expr::Nested(inner) => keep(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => keep(expr),
        Expr::Value(value) => {
            let Value::Number(text, _) = &value.value else { return };
            let Some(scale) = scale(text) else { return };
            let digits = text.len() - 1;
            let text = Value::SingleQuotedString(text.clone());
            let info = ExactNumberInfo::PrecisionAndScale(digits as u64, scale as i64);
            *expr = Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(Expr::Value(text.into())),
                data_type: DataType::Numeric(info),
                array: false,
                format: None,
            };
        }
        _ => {}
    }
}

/// The digits after the point, when a double would lose some and `NUMERIC` does not.
fn scale(text: &str) -> Option<usize> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let count = whole.len() + fraction.len();
    let significant = whole.trim_start_matches('0').len() + fraction.len();
    let kept = digits(whole) && digits(fraction) && significant > DOUBLE_DIGITS;
    (kept && count <= NUMERIC_DIGITS).then_some(fraction.len())
}
