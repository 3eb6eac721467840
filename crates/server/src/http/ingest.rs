//! `POST /v1/streams/{name}/events`: rows in, acknowledged when they are durable.
//!
//! The number of requests under way is bounded, and so is each body after decompression. Decoding
//! runs on the blocking threads; a body that does not decode changes nothing.

use super::App;
use super::error::ApiError;
use crate::execute::detached;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use kaplan_connect::formats::{CONTENT_TYPES, Format, decode};
use kaplan_platform::{Ack, Code, Producer};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most bytes of a body that is too large that are read and thrown away, so that a client that
/// sends first and listens later sees the answer and not a closed connection.
const MAX_DRAINED_BYTES: usize = 256 << 20;
/// How long a client may be silent within a body: a place among the requests under way is not kept
/// for one that is gone.
const MAX_SILENCE: Duration = Duration::from_secs(60);

pub(super) async fn events(
    State(app): State<App>,
    Path(stream): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Ack>, ApiError> {
    let _permit = app.ingest.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(Code::Overloaded, "too many events requests are under way")
            .hint("send again in a moment, with more rows in fewer requests")
    })?;
    let format = format(&headers)?;
    let producer = producer(&headers)?;
    let schema = app.platform.stream_schema(&stream)?;
    let buffers = Some(&app.buffers);
    let body = read(&headers, body, app.max_body_bytes, buffers).await?;
    let decoded = tokio::task::spawn_blocking(move || decode(format, &schema, &body.bytes)).await;
    let batches = decoded
        .map_err(|e| ApiError::new(Code::Internal, format!("the decoder stopped: {e}")))?
        .map_err(|e| ApiError::from_rows(&stream, e))?;
    let (platform, name) = (app.platform.clone(), stream.clone());
    let ack = detached(async move { platform.append(&name, batches, producer).await }).await?;
    app.metrics.ingested(&stream, ack.rows);
    Ok(Json(ack))
}

fn format(headers: &HeaderMap) -> Result<Format, ApiError> {
    let given = text(headers, header::CONTENT_TYPE.as_str())?.unwrap_or_default();
    Format::from_content_type(given).ok_or_else(|| {
        let known: Vec<_> = CONTENT_TYPES.iter().map(|(name, _)| *name).collect();
        let what = match given {
            "" => "the request has no Content-Type".to_owned(),
            given => format!("rows cannot be read from Content-Type {given}"),
        };
        ApiError::unsupported_media_type(what).hint(format!("send one of: {}", known.join(", ")))
    })
}

fn producer(headers: &HeaderMap) -> Result<Option<Producer>, ApiError> {
    let id = text(headers, "x-kaplan-producer")?;
    let sequence = text(headers, "x-kaplan-sequence")?;
    let wrong = |message: &str| {
        ApiError::new(Code::InvalidInput, message).hint(
            "send X-Kaplan-Producer (a name) and X-Kaplan-Sequence (a number that grows with each \
             new request) together, or neither",
        )
    };
    match (id, sequence) {
        (None, None) => Ok(None),
        (Some(""), _) => Err(wrong("X-Kaplan-Producer is empty")),
        (Some(id), Some(sequence)) => {
            let sequence = sequence.trim().parse().map_err(|_| {
                wrong(&format!("X-Kaplan-Sequence is not a whole number: \"{sequence}\""))
            })?;
            Ok(Some(Producer { id: id.to_owned(), sequence }))
        }
        (Some(_), None) => Err(wrong("X-Kaplan-Producer comes without X-Kaplan-Sequence")),
        (None, Some(_)) => Err(wrong("X-Kaplan-Sequence comes without X-Kaplan-Producer")),
    }
}

/// A header's text; an error if it has bytes that are not text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| {
        ApiError::new(Code::InvalidInput, format!("the header {name} is not plain text"))
    })
}

/// A whole body, and its share of the memory for bodies.
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Reads a whole body of at most `limit` bytes, counted after decompression. With `buffers`, one
/// permit a byte, bodies that do not fit beside the others are refused.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    buffers: Option<&Arc<Semaphore>>,
) -> Result<Whole, ApiError> {
    // The decompression layer takes the header away from what it has decompressed.
    if let Some(encoding) = text(headers, header::CONTENT_ENCODING.as_str())?
        && !encoding.trim().eq_ignore_ascii_case("identity")
    {
        let what = format!("the Content-Encoding {encoding} is not supported");
        return Err(ApiError::unsupported_media_type(what).hint("send gzip, zstd or none"));
    }
    let waits = headers.contains_key(header::EXPECT);
    let announced = text(headers, header::CONTENT_LENGTH.as_str())?.and_then(|n| n.parse().ok());
    if waits && announced.is_some_and(|length: usize| length > limit) {
        return Err(too_large(limit));
    }
    let mut chunks = body.into_data_stream();
    let (mut bytes, mut read, mut share) = (Vec::new(), 0, None);
    loop {
        let next = tokio::time::timeout(MAX_SILENCE, chunks.next()).await.map_err(|_| {
            let what = format!("nothing of the body came for {} s", MAX_SILENCE.as_secs());
            ApiError::new(Code::InvalidInput, what).hint("send the request again")
        })?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|e| {
            ApiError::new(Code::InvalidInput, format!("the body cannot be read: {e}"))
                .hint("the connection broke, or the body is not in its Content-Encoding")
        })?;
        read += chunk.len();
        if read > MAX_DRAINED_BYTES {
            break;
        }
        if read > limit {
            (bytes, share) = (Vec::new(), None);
            continue;
        }
        if let Some(buffers) = buffers {
            reserve(buffers, chunk.len(), &mut share)?;
        }
        bytes.extend_from_slice(&chunk);
    }
    match read > limit {
        true => Err(too_large(limit)),
        false => Ok(Whole { bytes: Bytes::from(bytes), _share: share }),
    }
}

fn reserve(
    buffers: &Arc<Semaphore>,
    bytes: usize,
    share: &mut Option<OwnedSemaphorePermit>,
) -> Result<(), ApiError> {
    let more =
        u32::try_from(bytes).ok().and_then(|n| buffers.clone().try_acquire_many_owned(n).ok());
    let Some(more) = more else {
        return Err(ApiError::new(
            Code::Overloaded,
            "the bodies under way fill the memory for them",
        )
        .hint("send again in a moment, or fewer bytes at once"));
    };
    match share {
        Some(share) => share.merge(more),
        None => *share = Some(more),
    }
    Ok(())
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(Code::TooLarge, format!("the body has more than {limit} bytes"))
        .hint("split it over several requests; the limit counts after decompression")
}
