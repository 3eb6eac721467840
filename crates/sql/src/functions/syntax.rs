//! Forms of PostgreSQL that DataFusion's planner does not know, as calls of functions that it does.
//! Done on the syntax tree, once; doing it twice changes nothing.

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CaseWhen, CastKind, DataType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Interval, ObjectName,
    Subscript, TableAlias, TableFactor, UnaryOperator, Value,
};

/// Functions that give rows, and the function of an array that they unnest.
const ROWS: [(&str, &str); 11] = [
    ("jsonb_array_elements", "kaplan_json_elements"),
    ("json_array_elements", "kaplan_json_elements"),
    ("jsonb_array_elements_text", "kaplan_json_elements_text"),
    ("json_array_elements_text", "kaplan_json_elements_text"),
    ("jsonb_object_keys", "kaplan_json_keys"),
    ("json_object_keys", "kaplan_json_keys"),
    ("regexp_matches", "kaplan_regexp_matches"),
    ("regexp_split_to_table", "regexp_split_to_array"),
    ("string_to_table", "string_to_array"),
    ("generate_series", "generate_series"),
    ("unnest", "unnest"),
];

/// What stands around the lower bound of `BETWEEN SYMMETRIC`.
pub(crate) const SYMMETRIC: &str = "kaplan_symmetric";

/// Aggregates of PostgreSQL under the names that they have here.
const SAME: [(&str, &str); 2] = [("every", "bool_and"), ("variance", "var_samp")];

/// The arguments of `make_interval`, in order.
const INTERVAL_PARTS: [&str; 7] = ["years", "months", "weeks", "days", "hours", "mins", "secs"];

fn name_of(name: &ObjectName) -> String {
    let last = name.0.last().and_then(|p| p.as_ident());
    last.map(|i| i.value.to_lowercase()).unwrap_or_default()
}

fn text(value: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(value.to_owned()).into())
}

/// A call by name.
pub(crate) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|a| FunctionArg::Unnamed(FunctionArgExpr::Expr(a))).collect();
    let list = FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn not(expr: Expr, negated: bool) -> Expr {
    match negated {
        true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) },
        false => expr,
    }
}

/// `CASE WHEN condition THEN value END`.
pub(crate) fn when(condition: Expr, value: Expr) -> Expr {
    let missing = datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken::empty;
    Expr::Case {
        case_token: missing(),
        end_token: missing(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: value }],
        else_result: None,
    }
}

/// Rewrites one expression, not what is in it.
pub(crate) fn rewrite(expr: &mut Expr) {
    if let Some(new) = rewritten(expr) {
        *expr = new;
    }
}

fn rewritten(expr: &Expr) -> Option<Expr> {
    Some(match expr {
        Expr::AtTimeZone { timestamp, time_zone } => {
            call("timezone", vec![time_zone.as_ref().clone(), timestamp.as_ref().clone()])
        }
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let mut args = vec![expr.as_ref().clone(), pattern.as_ref().clone()];
            args.extend(escape_char.iter().map(|e| Expr::Value(e.clone())));
            not(call("kaplan_similar", args), *negated)
        }
        Expr::AnyOp { left, compare_op, right, .. } => {
            quantified("kaplan_any", left, compare_op, right)?
        }
        Expr::AllOp { left, compare_op, right } => {
            quantified("kaplan_all", left, compare_op, right)?
        }
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => number(digits)?,
            _ => return None,
        },
        Expr::Like { negated, any: false, expr, pattern, escape_char: Some(escape) } => {
            let pattern = Box::new(backslashed(pattern, &escape.value)?);
            let (negated, expr) = (*negated, expr.clone());
            Expr::Like { negated, any: false, expr, pattern, escape_char: None }
        }
        Expr::ILike { negated, any: false, expr, pattern, escape_char: Some(escape) } => {
            let pattern = Box::new(backslashed(pattern, &escape.value)?);
            let (negated, expr) = (*negated, expr.clone());
            Expr::ILike { negated, any: false, expr, pattern, escape_char: None }
        }
        Expr::BinaryOp { left, op: BinaryOperator::Overlaps, right } => {
            let (Expr::Tuple(a), Expr::Tuple(b)) = (left.as_ref(), right.as_ref()) else {
                return None;
            };
            call("kaplan_overlaps", a.iter().chain(b).cloned().collect())
        }
        Expr::CompoundFieldAccess { root, access_chain } => bounded(root, access_chain)?,
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            // DataFusion puts the sign before the first part only.
            Expr::Interval(interval) => {
                let expr = Box::new(as_cast(interval)?);
                Expr::UnaryOp { op: UnaryOperator::Minus, expr }
            }
            _ => return None,
        },
        Expr::UnaryOp { op, expr } => {
            let name = match op {
                UnaryOperator::PGSquareRoot => "sqrt",
                UnaryOperator::PGCubeRoot => "cbrt",
                UnaryOperator::PGAbs => "abs",
                UnaryOperator::PGPrefixFactorial => "factorial",
                UnaryOperator::BitwiseNot => "kaplan_bit_not",
                _ => return None,
            };
            call(name, vec![expr.as_ref().clone()])
        }
        Expr::Between { expr, negated, low, high } => symmetric(expr, *negated, low, high)?,
        Expr::Interval(interval) => literal_interval(interval)?,
        Expr::Function(function) => function_call(function)?,
        _ => return None,
    })
}

/// `x BETWEEN SYMMETRIC a AND b`: between a and b, or between b and a.
fn symmetric(x: &Expr, negated: bool, low: &Expr, high: &Expr) -> Option<Expr> {
    let Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = low else {
        return None;
    };
    if name_of(name) != SYMMETRIC {
        return None;
    }
    let low = list.args.first().and_then(unnamed)?;
    let between = |low: &Expr, high: &Expr| {
        let (expr, low, high) =
            (Box::new(x.clone()), Box::new(low.clone()), Box::new(high.clone()));
        Expr::Nested(Box::new(Expr::Between { expr, negated: false, low, high }))
    };
    let (left, right) = (between(&low, high), between(high, &low));
    let (left, right, op) = (Box::new(left), Box::new(right), BinaryOperator::Or);
    Some(not(Expr::Nested(Box::new(Expr::BinaryOp { left, op, right })), negated))
}

fn quantified(name: &str, left: &Expr, op: &BinaryOperator, right: &Expr) -> Option<Expr> {
    if matches!(right, Expr::Subquery(_)) {
        return None;
    }
    let op = match op {
        BinaryOperator::Eq => "=",
        BinaryOperator::NotEq => "<>",
        BinaryOperator::Lt => "<",
        BinaryOperator::LtEq => "<=",
        BinaryOperator::Gt => ">",
        BinaryOperator::GtEq => ">=",
        _ => return None,
    };
    Some(call(name, vec![left.clone(), text(op), right.clone()]))
}

/// Numbers with an exponent, whose scale DataFusion takes the wrong way, without one.
fn number(digits: &str) -> Option<Expr> {
    if !digits.contains(['e', 'E']) {
        return None;
    }
    Some(match super::value::Number::parse(digits) {
        Some(number) => Expr::Value(Value::Number(number.to_string(), false).into()),
        None => cast(text(digits), DataType::DoublePrecision),
    })
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    let kind = CastKind::Cast;
    Expr::Cast { kind, expr: Box::new(expr), data_type, array: false, format: None }
}

/// A constant pattern with a backslash in the place of its escape.
fn backslashed(pattern: &Expr, escape: &Value) -> Option<Expr> {
    let Expr::Value(written) = pattern else { return None };
    let (Value::SingleQuotedString(written), Value::SingleQuotedString(escape)) =
        (&written.value, escape)
    else {
        return None;
    };
    let (mut out, mut chars) = (String::new(), written.chars());
    while let Some(c) = chars.next() {
        if escape.starts_with(c) {
            out.push('\\');
            out.extend(chars.next());
        } else if c == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
    Some(text(&out))
}

/// Slices with both bounds, and fields by the text of their names.
fn bounded(root: &Expr, chain: &[AccessExpr]) -> Option<Expr> {
    let open = |access: &AccessExpr| {
        matches!(access, AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, .. })
            if lower_bound.is_none() || upper_bound.is_none())
            || matches!(access, AccessExpr::Dot(Expr::Identifier(_)))
    };
    if !chain.iter().any(open) {
        return None;
    }
    let bound = |value: i64| Expr::Value(Value::Number(value.to_string(), false).into());
    let access_chain = chain
        .iter()
        .map(|access| match access {
            AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                AccessExpr::Subscript(Subscript::Slice {
                    lower_bound: Some(lower_bound.clone().unwrap_or_else(|| bound(1))),
                    upper_bound: Some(upper_bound.clone().unwrap_or_else(|| bound(i64::MAX))),
                    stride: stride.clone(),
                })
            }
            AccessExpr::Dot(Expr::Identifier(name)) => {
                AccessExpr::Dot(text(&match name.quote_style {
                    Some(_) => name.value.clone(),
                    None => name.value.to_lowercase(),
                }))
            }
            other => other.clone(),
        })
        .collect();
    Some(Expr::CompoundFieldAccess { root: Box::new(root.clone()), access_chain })
}

/// Intervals with a clock or in ISO 8601, which DataFusion's own reading does not know.
fn literal_interval(interval: &Interval) -> Option<Expr> {
    let Expr::Value(value) = interval.value.as_ref() else { return None };
    let Value::SingleQuotedString(written) = &value.value else { return None };
    let known = !written.contains(':') && !written.trim_start().starts_with(['P', '@']);
    if known { None } else { as_cast(interval) }
}

fn as_cast(interval: &Interval) -> Option<Expr> {
    let Expr::Value(value) = interval.value.as_ref() else { return None };
    let Value::SingleQuotedString(written) = &value.value else { return None };
    let text_of = match &interval.leading_field {
        None => text(written),
        Some(unit) => text(&format!("{written} {unit}")),
    };
    Some(cast(text_of, DataType::Interval { fields: None, precision: None }))
}

fn function_call(function: &Function) -> Option<Expr> {
    let name = name_of(&function.name);
    let FunctionArguments::List(list) = &function.args else { return None };
    if let Some((_, ours)) = SAME.iter().find(|(theirs, _)| *theirs == name) {
        let name = ObjectName::from(vec![Ident::new(*ours)]);
        return Some(Expr::Function(Function { name, ..function.clone() }));
    }
    if function.over.is_some() {
        return None;
    }
    if matches!(name.as_str(), "json_agg" | "jsonb_agg") {
        let name = ObjectName::from(vec![Ident::new("array_agg")]);
        let items = Expr::Function(Function { name, ..function.clone() });
        return Some(call("to_jsonb", vec![items]));
    }
    if function.filter.is_some() {
        return None;
    }
    if name == "make_interval" {
        return make_interval(&list.args);
    }
    let args: Option<Vec<Expr>> = list.args.iter().map(unnamed).collect();
    match name.as_str() {
        "row" => Some(call("struct", args?)),
        "unnest" => None,
        _ => {
            let (_, array) = ROWS.iter().find(|(rows, _)| *rows == name)?;
            Some(call("unnest", vec![call(array_name(array), args?)]))
        }
    }
}

/// The function of arrays under a name that is not rewritten again.
fn array_name(array: &str) -> &str {
    if array == "generate_series" { "kaplan_series" } else { array }
}

fn unnamed(arg: &FunctionArg) -> Option<Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

fn make_interval(args: &[FunctionArg]) -> Option<Expr> {
    let zero = || Expr::Value(Value::Number("0".to_owned(), false).into());
    let mut parts: Vec<Expr> = INTERVAL_PARTS.iter().map(|_| zero()).collect();
    for (at, arg) in args.iter().enumerate() {
        let (at, expr) = match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => (at, expr),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                (INTERVAL_PARTS.iter().position(|p| name.value.eq_ignore_ascii_case(p))?, expr)
            }
            FunctionArg::ExprNamed {
                name: Expr::Identifier(name),
                arg: FunctionArgExpr::Expr(expr),
                ..
            } => (INTERVAL_PARTS.iter().position(|p| name.value.eq_ignore_ascii_case(p))?, expr),
            _ => return None,
        };
        *parts.get_mut(at)? = expr.clone();
    }
    Some(call("kaplan_make_interval", parts))
}

/// A function in FROM that gives rows, as UNNEST of an array.
pub(crate) fn rewrite_table(factor: &mut TableFactor) {
    let (name, args, alias) = match factor {
        TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
        TableFactor::Function { name, args, alias, with_ordinality: false, .. } => {
            (name, &*args, alias)
        }
        _ => return,
    };
    let name = name_of(name);
    let Some((_, array)) = ROWS.iter().find(|(rows, _)| *rows == name) else { return };
    let Some(args) = args.iter().map(unnamed).collect::<Option<Vec<_>>>() else { return };
    let array = if *array == "unnest" {
        match <[Expr; 1]>::try_from(args) {
            Ok([array]) => array,
            Err(_) => return,
        }
    } else {
        call(array_name(array), args)
    };
    let alias = alias.take().map(named_column).or_else(|| {
        let alias =
            TableAlias { explicit: true, name: Ident::new(name), columns: Vec::new(), at: None };
        Some(named_column(alias))
    });
    *factor = TableFactor::UNNEST {
        alias,
        array_exprs: vec![array],
        with_offset: false,
        with_offset_alias: None,
        with_ordinality: false,
    };
}

/// The alias of a function in FROM names its column as well.
fn named_column(mut alias: TableAlias) -> TableAlias {
    if alias.columns.is_empty() {
        let column = datafusion::sql::sqlparser::ast::TableAliasColumnDef {
            name: alias.name.clone(),
            data_type: None,
        };
        alias.columns.push(column);
    }
    alias
}
