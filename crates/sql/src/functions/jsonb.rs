//! The functions and operators of `jsonb`. Results are canonical text ([`super::json`]).

use super::arrays::compare;
use super::define::{Def, Kind, Returns, def, strict};
use super::json::Json;
use super::logical::Logical;
use super::value::{Number, Value};
use arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, exec_err};
use std::sync::Arc;

const J: Kind = Kind::Json;
const T: Kind = Kind::Text;
const I: Kind = Kind::Int;
const A: Kind = Kind::Any;
const B: Kind = Kind::Bool;
const TEXTS: Kind = Kind::Texts;

/// `jsonb[]`.
const ELEMENTS: Returns = Returns::By(|_, _| {
    let item = Logical::Jsonb.field(Field::LIST_FIELD_DEFAULT_NAME, true);
    Ok(Field::new("", DataType::List(Arc::new(item)), true))
});

fn parsed(value: &Value) -> Result<Json> {
    Json::parse(value.str()?)
}

/// An item of an array. PostgreSQL takes a value that is neither array nor object for an array of it.
fn item(json: Json, position: i64) -> Option<Json> {
    match json {
        Json::Object(_) => None,
        list @ Json::List(_) => list.at(position).cloned(),
        single => matches!(position, 0 | -1).then_some(single),
    }
}

fn json(value: impl Into<Option<Json>>) -> Value {
    value.into().map_or(Value::Null, |json| Value::Json(json.to_string()))
}

fn names(value: &Value) -> Result<Vec<String>> {
    Ok(value.items()?.iter().filter(|v| **v != Value::Null).map(Value::text).collect())
}

fn walk<'a>(json: &'a Json, path: &[String]) -> Option<&'a Json> {
    path.iter().try_fold(json, |json, key| json.step(key))
}

/// A value as JSON.
pub(super) fn to_json(value: &Value) -> Result<Json> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::Number((*value).into()),
        Value::Number(value) => {
            Json::Number(if value.trimmed { value.trunc(value.min_scale())? } else { *value })
        }
        Value::Real(_) | Value::Float(_) => match Number::parse(&value.text()) {
            Some(number) => Json::Number(number),
            None => Json::Text(value.text()),
        },
        Value::Json(text) => Json::parse(text)?,
        Value::List(items) => Json::List(items.iter().map(to_json).collect::<Result<_>>()?),
        Value::Record(fields) => {
            let fields: Result<Vec<_>> =
                fields.iter().map(|(name, value)| Ok((name.clone(), to_json(value)?))).collect();
            Json::object(fields?)
        }
        Value::Stamp(_) => Json::Text(value.text().replacen(' ', "T", 1)),
        Value::Stamptz(_) => Json::Text(format!("{}:00", value.text().replacen(' ', "T", 1))),
        other => Json::Text(other.text()),
    })
}

pub(super) fn all() -> Vec<Def> {
    let mut defs = vec![
        def(
            "kaplan_json_get",
            &[
                strict(&[J, T], J, |v| {
                    Ok(json(match parsed(&v[0])? {
                        object @ Json::Object(_) => object.step(v[1].str()?).cloned(),
                        _ => None,
                    }))
                }),
                strict(&[J, I], J, |v| Ok(json(item(parsed(&v[0])?, v[1].int()?)))),
            ],
        ),
        def(
            "kaplan_json_get_text",
            &[
                strict(&[J, T], T, |v| {
                    Ok(Value::opt(match parsed(&v[0])? {
                        object @ Json::Object(_) => object.step(v[1].str()?).and_then(Json::plain),
                        _ => None,
                    }))
                }),
                strict(&[J, I], T, |v| {
                    let found = item(parsed(&v[0])?, v[1].int()?);
                    Ok(Value::opt(found.as_ref().and_then(Json::plain)))
                }),
            ],
        ),
        def(
            "kaplan_json_path",
            &[strict(&[J, TEXTS], J, |v| Ok(json(walk(&parsed(&v[0])?, &names(&v[1])?).cloned())))],
        ),
        def(
            "kaplan_json_path_text",
            &[strict(&[J, TEXTS], T, |v| {
                Ok(Value::opt(walk(&parsed(&v[0])?, &names(&v[1])?).and_then(Json::plain)))
            })],
        ),
        def(
            "jsonb_extract_path",
            &[strict(&[J, T], J, |v| {
                let path: Vec<String> = v[1..].iter().map(Value::text).collect();
                Ok(json(walk(&parsed(&v[0])?, &path).cloned()))
            })
            .variadic()],
        )
        .alias(&["json_extract_path"]),
        def(
            "jsonb_extract_path_text",
            &[strict(&[J, T], T, |v| {
                let path: Vec<String> = v[1..].iter().map(Value::text).collect();
                Ok(Value::opt(walk(&parsed(&v[0])?, &path).and_then(Json::plain)))
            })
            .variadic()],
        )
        .alias(&["json_extract_path_text"]),
        def(
            "jsonb_contains",
            &[strict(&[J, J], B, |v| Ok(Value::Bool(parsed(&v[0])?.contains(&parsed(&v[1])?))))],
        ),
        def(
            "jsonb_contained",
            &[strict(&[J, J], B, |v| Ok(Value::Bool(parsed(&v[1])?.contains(&parsed(&v[0])?))))],
        ),
        def(
            "jsonb_exists",
            &[strict(&[J, T], B, |v| Ok(Value::Bool(parsed(&v[0])?.has(v[1].str()?))))],
        ),
        def(
            "jsonb_exists_any",
            &[strict(&[J, TEXTS], B, |v| {
                let json = parsed(&v[0])?;
                Ok(Value::Bool(names(&v[1])?.iter().any(|key| json.has(key))))
            })],
        ),
        def(
            "jsonb_exists_all",
            &[strict(&[J, TEXTS], B, |v| {
                let json = parsed(&v[0])?;
                Ok(Value::Bool(names(&v[1])?.iter().all(|key| json.has(key))))
            })],
        ),
        def(
            "jsonb_concat",
            &[strict(&[J, J], J, |v| Ok(json(parsed(&v[0])?.concat(parsed(&v[1])?))))],
        ),
        def(
            "jsonb_delete",
            &[
                strict(&[J, T], J, |v| {
                    let key = v[1].str()?;
                    Ok(json(match parsed(&v[0])? {
                        Json::Object(fields) => {
                            Json::Object(fields.into_iter().filter(|(k, _)| k != key).collect())
                        }
                        Json::List(items) => Json::List(
                            items
                                .into_iter()
                                .filter(|i| !matches!(i, Json::Text(t) if t == key))
                                .collect(),
                        ),
                        _ => return exec_err!("cannot delete from scalar"),
                    }))
                }),
                strict(&[J, I], J, |v| match parsed(&v[0])? {
                    list @ Json::List(_) => Ok(json(list.remove(&[v[1].int()?.to_string()]))),
                    Json::Object(_) => exec_err!("cannot delete from object using integer index"),
                    _ => exec_err!("cannot delete from scalar"),
                }),
                strict(&[J, TEXTS], J, |v| {
                    let keys = names(&v[1])?;
                    Ok(json(keys.into_iter().fold(parsed(&v[0])?, |json, key| json.remove(&[key]))))
                }),
            ],
        ),
        def(
            "jsonb_delete_path",
            &[strict(&[J, TEXTS], J, |v| Ok(json(parsed(&v[0])?.remove(&names(&v[1])?))))],
        ),
        def(
            "jsonb_set",
            &[
                strict(&[J, TEXTS, J], J, |v| {
                    Ok(json(parsed(&v[0])?.set(&names(&v[1])?, &parsed(&v[2])?, true)))
                }),
                strict(&[J, TEXTS, J, B], J, |v| {
                    Ok(json(parsed(&v[0])?.set(&names(&v[1])?, &parsed(&v[2])?, v[3].bool()?)))
                }),
            ],
        ),
        def("jsonb_typeof", &[strict(&[J], T, |v| Ok(parsed(&v[0])?.kind().into()))])
            .alias(&["json_typeof"]),
        def(
            "jsonb_array_length",
            &[strict(&[J], Kind::Int4, |v| match parsed(&v[0])? {
                Json::List(items) => Ok(Value::Int(items.len() as i64)),
                _ => exec_err!("cannot get array length of a non-array"),
            })],
        )
        .alias(&["json_array_length"]),
        def("jsonb_strip_nulls", &[strict(&[J], J, |v| Ok(json(parsed(&v[0])?.strip_nulls())))])
            .alias(&["json_strip_nulls"]),
        def("jsonb_pretty", &[strict(&[J], T, |v| Ok(parsed(&v[0])?.pretty().into()))]),
        def("to_jsonb", &[strict(&[A], J, |v| Ok(json(to_json(&v[0])?)))]).alias(&[
            "to_json",
            "array_to_json",
            "row_to_json",
        ]),
    ];
    defs.extend(builders());
    defs
}

fn builders() -> Vec<Def> {
    vec![
        def(
            "jsonb_build_object",
            &[strict(&[A], J, |v| {
                if v.len() % 2 != 0 {
                    return exec_err!("argument list must have even number of elements");
                }
                let mut fields = Vec::with_capacity(v.len() / 2);
                for pair in v.chunks(2) {
                    if pair[0] == Value::Null {
                        return exec_err!("a key of a json object must not be null");
                    }
                    fields.push((pair[0].text(), to_json(&pair[1])?));
                }
                Ok(json(Json::object(fields)))
            })
            .variadic()
            .takes_null()],
        )
        .alias(&["json_build_object"]),
        def(
            "jsonb_build_array",
            &[strict(&[A], J, |v| {
                Ok(json(Json::List(v.iter().map(to_json).collect::<Result<_>>()?)))
            })
            .variadic()
            .takes_null()],
        )
        .alias(&["json_build_array"]),
        def(
            "kaplan_json_elements",
            &[strict(&[J], A, |v| match parsed(&v[0])? {
                Json::List(items) => Ok(Value::List(items.into_iter().map(json).collect())),
                _ => exec_err!("cannot extract elements from a non-array"),
            })
            .returning(ELEMENTS)],
        ),
        def(
            "kaplan_json_elements_text",
            &[strict(&[J], TEXTS, |v| match parsed(&v[0])? {
                Json::List(items) => {
                    Ok(Value::List(items.iter().map(|i| Value::opt(i.plain())).collect()))
                }
                _ => exec_err!("cannot extract elements from a non-array"),
            })],
        ),
        def(
            "kaplan_json_keys",
            &[strict(&[J], TEXTS, |v| match parsed(&v[0])? {
                Json::Object(fields) => {
                    Ok(Value::List(fields.into_iter().map(|(k, _)| k.into()).collect()))
                }
                other => exec_err!("cannot call jsonb_object_keys on a {}", other.kind()),
            })],
        ),
        def(
            "num_nulls",
            &[strict(&[A], Kind::Int4, |v| {
                Ok(Value::Int(v.iter().filter(|v| **v == Value::Null).count() as i64))
            })
            .variadic()
            .takes_null()],
        ),
        def(
            "num_nonnulls",
            &[strict(&[A], Kind::Int4, |v| {
                Ok(Value::Int(v.iter().filter(|v| **v != Value::Null).count() as i64))
            })
            .variadic()
            .takes_null()],
        ),
        def(
            "kaplan_same",
            &[strict(&[A, A], B, |v| {
                Ok(compare(&v[0], &v[1]).map_or(Value::Null, |order| Value::Bool(order.is_eq())))
            })],
        ),
    ]
}
