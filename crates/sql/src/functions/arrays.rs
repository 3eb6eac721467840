//! Functions over arrays that DataFusion lacks or computes otherwise than PostgreSQL. Positions
//! count from 1.

use super::define::{Def, Kind, Returns, def, strict};
use super::value::Value;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, exec_err, plan_err};
use std::cmp::Ordering;
use std::sync::Arc;

const L: Kind = Kind::List;
const T: Kind = Kind::Text;
const I: Kind = Kind::Int;
const I4: Kind = Kind::Int4;
const A: Kind = Kind::Any;
const B: Kind = Kind::Bool;

/// Most elements that a row can ask for.
const MAX_ELEMENTS: i64 = 1_000_000;

/// The element's type of an array argument.
fn element(at: usize, fields: &[FieldRef]) -> Result<Field> {
    match fields[at].data_type() {
        DataType::List(item) => Ok(item.as_ref().clone().with_nullable(true)),
        DataType::Null => Ok(Field::new("", DataType::Null, true)),
        other => plan_err!("{other} has no elements"),
    }
}

fn list_of(item: &Field) -> Field {
    let item = item.clone().with_name(Field::LIST_FIELD_DEFAULT_NAME).with_nullable(true);
    Field::new("", DataType::List(Arc::new(item)), true)
}

/// An array of the type of an array argument, or of an element's.
const SAME: Returns = Returns::By(|fields, _| {
    let array = fields.iter().find(|f| matches!(f.data_type(), DataType::List(_)));
    match array {
        Some(array) => Ok(array.as_ref().clone()),
        None => Ok(list_of(&fields[0])),
    }
});

pub(super) fn all() -> Vec<Def> {
    vec![
        def(
            "kaplan_subscript",
            &[strict(&[L, I], A, |v| {
                let at = usize::try_from(v[1].int()? - 1).ok();
                Ok(at.and_then(|at| v[0].items().ok()?.get(at).cloned()).unwrap_or(Value::Null))
            })
            .returning(Returns::By(|fields, _| element(0, fields)))],
        ),
        def(
            "kaplan_slice",
            &[strict(&[L, I, I], L, |v| {
                let (items, from, to) = (v[0].items()?, v[1].int()?.max(1), v[2].int()?);
                let to = usize::try_from(to).unwrap_or(0).min(items.len());
                let from = usize::try_from(from - 1).unwrap_or(0);
                Ok(Value::List(items.get(from..to).unwrap_or_default().to_vec()))
            })
            .returning(SAME)],
        ),
        def(
            "array_length",
            &[
                strict(&[L, I], I4, |v| {
                    Ok(extent(&v[0], v[1].int()?).map_or(Value::Null, |n| Value::Int(n as i64)))
                }),
                // RisingWave's: of the first dimension.
                strict(&[L], I4, |v| {
                    Ok(extent(&v[0], 1).map_or(Value::Null, |n| Value::Int(n as i64)))
                }),
            ],
        ),
        def(
            "array_upper",
            &[strict(&[L, I], I4, |v| {
                Ok(extent(&v[0], v[1].int()?).map_or(Value::Null, |n| Value::Int(n as i64)))
            })],
        ),
        def(
            "array_lower",
            &[strict(&[L, I], I4, |v| {
                Ok(extent(&v[0], v[1].int()?).map_or(Value::Null, |_| Value::Int(1)))
            })],
        ),
        def(
            "array_ndims",
            &[strict(&[L], I4, |v| {
                let dims = (1..).take_while(|d| extent(&v[0], *d).is_some()).count();
                Ok(if dims == 0 { Value::Null } else { Value::Int(dims as i64) })
            })],
        ),
        def(
            "array_dims",
            &[strict(&[L], T, |v| {
                let dims: Vec<usize> = (1..).map_while(|d| extent(&v[0], d)).collect();
                let text: String = dims.iter().map(|n| format!("[1:{n}]")).collect();
                Ok(if text.is_empty() { Value::Null } else { text.into() })
            })],
        ),
        def("cardinality", &[strict(&[L], I4, |v| Ok(Value::Int(count(&v[0]))))]),
        def(
            "array_position",
            &[
                strict(&[L, A], I4, |v| position(v, 1)).takes_null(),
                strict(&[L, A, I], I4, |v| position(v, v[2].int()?)).takes_null(),
            ],
        ),
        def(
            "array_positions",
            &[strict(&[L, A], Kind::Ints, |v| {
                if v[0] == Value::Null {
                    return Ok(Value::Null);
                }
                let found = v[0].items()?.iter().enumerate().filter(|(_, item)| same(item, &v[1]));
                Ok(Value::List(found.map(|(at, _)| Value::Int(at as i64 + 1)).collect()))
            })
            .takes_null()],
        ),
        def(
            "array_append",
            &[strict(&[L, A], L, |v| Ok(joined(&v[0], &[v[1].clone()])))
                .takes_null()
                .returning(SAME)],
        ),
        def(
            "array_prepend",
            &[strict(&[A, L], L, |v| {
                Ok(joined(&Value::List(vec![v[0].clone()]), v[1].items().unwrap_or_default()))
            })
            .takes_null()
            .returning(SAME)],
        ),
        def(
            "array_cat",
            &[strict(&[L, L], L, |v| match (&v[0], &v[1]) {
                (Value::Null, other) => Ok(other.clone()),
                (array, other) => Ok(joined(array, other.items().unwrap_or_default())),
            })
            .takes_null()
            .returning(SAME)],
        )
        .alias(&["array_concat"]),
        def(
            "array_remove",
            &[strict(&[L, A], L, |v| {
                if v[0] == Value::Null {
                    return Ok(Value::Null);
                }
                let kept = v[0].items()?.iter().filter(|item| !same(item, &v[1]));
                Ok(Value::List(kept.cloned().collect()))
            })
            .takes_null()
            .returning(SAME)],
        ),
        def(
            "array_replace",
            &[strict(&[L, A, A], L, |v| {
                if v[0] == Value::Null {
                    return Ok(Value::Null);
                }
                let put =
                    |item: &Value| if same(item, &v[1]) { v[2].clone() } else { item.clone() };
                Ok(Value::List(v[0].items()?.iter().map(put).collect()))
            })
            .takes_null()
            .returning(SAME)],
        ),
        def(
            "array_fill",
            &[strict(&[A, L], L, |v| {
                let [length] = v[1].items()? else {
                    return exec_err!("array_fill takes one dimension here");
                };
                match length.int()? {
                    n @ 0..=MAX_ELEMENTS => Ok(Value::List(vec![v[0].clone(); n as usize])),
                    n => exec_err!("array size exceeds the maximum allowed: {n}"),
                }
            })
            .takes_null()
            .returning(Returns::By(|fields, _| Ok(list_of(&fields[0]))))],
        ),
        def(
            "trim_array",
            &[strict(&[L, I], L, |v| {
                let items = v[0].items()?;
                let keep =
                    usize::try_from(v[1].int()?).ok().and_then(|n| items.len().checked_sub(n));
                match keep {
                    Some(keep) => Ok(Value::List(items[..keep].to_vec())),
                    None => exec_err!(
                        "number of elements to trim must be between 0 and {}",
                        items.len()
                    ),
                }
            })
            .returning(SAME)],
        ),
        def(
            "string_to_array",
            &[
                strict(&[T, T], Kind::Texts, |v| string_to_array(&v[0], &v[1], None)).takes_null(),
                strict(&[T, T, T], Kind::Texts, |v| {
                    let null = if v[2] == Value::Null { None } else { Some(v[2].str()?) };
                    string_to_array(&v[0], &v[1], null)
                })
                .takes_null(),
            ],
        ),
        def(
            "array_to_string",
            &[
                strict(&[L, T], T, |v| Ok(array_to_string(&v[0], v[1].str()?, None).into())),
                strict(&[L, T, T], T, |v| {
                    if v[0] == Value::Null || v[1] == Value::Null {
                        return Ok(Value::Null);
                    }
                    let null = if v[2] == Value::Null { None } else { Some(v[2].str()?) };
                    Ok(array_to_string(&v[0], v[1].str()?, null).into())
                })
                .takes_null(),
            ],
        )
        .alias(&["array_join"]),
        def(
            "kaplan_array_contains",
            &[strict(&[L, L], B, |v| {
                let (mine, theirs) = (v[0].items()?, v[1].items()?);
                let has = |item: &Value| *item != Value::Null && mine.iter().any(|m| same(m, item));
                Ok(Value::Bool(theirs.iter().all(has)))
            })],
        ),
        def(
            "kaplan_array_overlaps",
            &[strict(&[L, L], B, |v| {
                let (mine, theirs) = (v[0].items()?, v[1].items()?);
                let has = |item: &Value| *item != Value::Null && mine.iter().any(|m| same(m, item));
                Ok(Value::Bool(theirs.iter().any(has)))
            })],
        ),
        def("kaplan_any", &[strict(&[A, T, L], B, |v| quantified(v, true)).takes_null()]),
        def("kaplan_all", &[strict(&[A, T, L], B, |v| quantified(v, false)).takes_null()]),
    ]
}

/// The length of a dimension; None where there is none.
fn extent(array: &Value, dimension: i64) -> Option<usize> {
    let Value::List(items) = array else { return None };
    match dimension {
        1 => Some(items.len()).filter(|n| *n > 0),
        2.. => extent(items.first()?, dimension - 1),
        _ => None,
    }
}

fn count(value: &Value) -> i64 {
    match value {
        Value::List(items) if items.iter().any(|i| matches!(i, Value::List(_))) => {
            items.iter().map(count).sum()
        }
        Value::List(items) => items.len() as i64,
        _ => 0,
    }
}

/// Equal, NULL to NULL.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        _ => compare(a, b).is_some_and(Ordering::is_eq),
    }
}

/// The order of two values of comparable types; None where one is NULL.
pub(super) fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    Some(match (a, b) {
        (Value::Null, _) | (_, Value::Null) => return None,
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Int(_) | Value::Number(_), Value::Int(_) | Value::Number(_)) => {
            a.number().ok()?.compare(b.number().ok()?).ok()?
        }
        (
            Value::Int(_) | Value::Number(_) | Value::Real(_) | Value::Float(_),
            Value::Int(_) | Value::Number(_) | Value::Real(_) | Value::Float(_),
        ) => {
            let (a, b) = (a.float().ok()?, b.float().ok()?);
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
        (Value::Text(a) | Value::Json(a), Value::Text(b) | Value::Json(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Span(a), Value::Span(b)) => a.micros_in_all().cmp(&b.micros_in_all()),
        (Value::List(a), Value::List(b)) => {
            for (a, b) in a.iter().zip(b) {
                // Inside of arrays NULL is the largest value.
                let order = match (a, b) {
                    (Value::Null, Value::Null) => Ordering::Equal,
                    (Value::Null, _) => Ordering::Greater,
                    (_, Value::Null) => Ordering::Less,
                    (a, b) => compare(a, b)?,
                };
                if order != Ordering::Equal {
                    return Some(order);
                }
            }
            a.len().cmp(&b.len())
        }
        (a, b) => a.micros().ok()?.cmp(&b.micros().ok()?),
    })
}

fn position(v: &[Value], from: i64) -> Result<Value> {
    if v[0] == Value::Null {
        return Ok(Value::Null);
    }
    let skip = usize::try_from(from - 1).unwrap_or(0);
    let found = v[0].items()?.iter().skip(skip).position(|item| same(item, &v[1]));
    Ok(found.map_or(Value::Null, |at| Value::Int((at + skip) as i64 + 1)))
}

fn joined(array: &Value, more: &[Value]) -> Value {
    let mut items = array.items().unwrap_or_default().to_vec();
    items.extend_from_slice(more);
    Value::List(items)
}

fn string_to_array(text: &Value, delimiter: &Value, null: Option<&str>) -> Result<Value> {
    if *text == Value::Null {
        return Ok(Value::Null);
    }
    let text = text.str()?;
    let item = |part: &str| if null == Some(part) { Value::Null } else { part.into() };
    if text.is_empty() {
        return Ok(Value::List(Vec::new()));
    }
    Ok(Value::List(match delimiter {
        Value::Null => text.chars().map(|c| item(&c.to_string())).collect(),
        delimiter if delimiter.str()?.is_empty() => vec![item(text)],
        delimiter => text.split(delimiter.str()?).map(item).collect(),
    }))
}

fn array_to_string(array: &Value, delimiter: &str, null: Option<&str>) -> String {
    let mut parts = Vec::new();
    flatten(array, null, &mut parts);
    parts.join(delimiter)
}

fn flatten(array: &Value, null: Option<&str>, parts: &mut Vec<String>) {
    for item in array.items().unwrap_or_default() {
        match item {
            Value::Null => parts.extend(null.map(str::to_owned)),
            Value::List(_) => flatten(item, null, parts),
            other => parts.push(other.text()),
        }
    }
}

/// `a op ANY (array)`, `a op ALL (array)`.
fn quantified(v: &[Value], any: bool) -> Result<Value> {
    if v[2] == Value::Null {
        return Ok(Value::Null);
    }
    let op = v[1].str()?;
    let mut unknown = false;
    for item in v[2].items()? {
        let holds = compare(&v[0], item).map(|order| match op {
            "=" => order.is_eq(),
            "<>" => order.is_ne(),
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            _ => order.is_ge(),
        });
        match holds {
            Some(holds) if holds == any => return Ok(Value::Bool(any)),
            None => unknown = true,
            _ => {}
        }
    }
    Ok(if unknown { Value::Null } else { Value::Bool(!any) })
}
