//! `GET /v1/views/{name}`: one view without SQL, filtered by equality on its columns. Parameters
//! that are not columns begin with `_`; one that is not known is refused, not ignored.

use super::App;
use super::error::ApiError;
use super::sql::{accept, rows_response};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use kaplan_base::Lsn;
use kaplan_platform::{Code, Layer, ViewRead};
use serde_json::{Value, json};

pub(super) async fn read(
    State(app): State<App>,
    Path(view): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let rows = app.platform.read_view(request(view, parameters)?).await?;
    rows_response(accept(&headers), rows).await
}

fn request(view: String, parameters: Vec<(String, String)>) -> Result<ViewRead, ApiError> {
    let mut read = ViewRead { view, ..ViewRead::default() };
    for (name, value) in parameters {
        match name.as_str() {
            "_layer" => read.layer = layer(&value)?,
            "_limit" => read.limit = Some(number(&name, &value)?),
            "_at" => read.at = Some(Lsn(number(&name, &value)?)),
            unknown if unknown.starts_with('_') => {
                let what = format!("there is no parameter {unknown}");
                return Err(ApiError::new(Code::InvalidInput, what)
                    .hint("the parameters are _layer, _limit and _at; others name columns"));
            }
            _ => read.filters.push((name, value)),
        }
    }
    Ok(read)
}

fn layer(value: &str) -> Result<Layer, ApiError> {
    match value {
        "served" => Ok(Layer::Served),
        "batch" => Ok(Layer::Batch),
        "speed" => Ok(Layer::Speed),
        _ => Err(ApiError::new(Code::InvalidInput, format!("there is no layer \"{value}\""))
            .hint("_layer is served, batch or speed")),
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, ApiError> {
    value.parse().map_err(|_| {
        ApiError::new(Code::InvalidInput, format!("{name} is not a whole number: \"{value}\""))
            .hint(format!("send {name}=1 or a larger number"))
    })
}

/// `GET /v1/views`.
pub(super) async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"views": app.platform.status()?.views})))
}

/// `GET /v1/streams`.
pub(super) async fn streams(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"streams": app.platform.status()?.streams})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn parameters_and_filters_are_told_apart() {
        let given = pairs(&[("carrier", "UA"), ("_layer", "batch"), ("_limit", "5"), ("_at", "9")]);
        let read = request("v".to_owned(), given).unwrap();
        assert_eq!(read.filters, pairs(&[("carrier", "UA")]));
        assert_eq!((read.layer, read.limit, read.at), (Layer::Batch, Some(5), Some(Lsn(9))));
        for wrong in [("_layer", "fast"), ("_limit", "-1"), ("_at", "now"), ("_limits", "1")] {
            assert!(request("v".to_owned(), pairs(&[wrong])).is_err(), "{wrong:?}");
        }
    }
}
