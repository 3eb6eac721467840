//! Which trace a request belongs to, as its caller or the load balancer in front of it says:
//! `traceparent` (W3C) or `X-Cloud-Trace-Context` (Google Cloud). What is malformed is ignored.

use axum::http::HeaderMap;
use tracing::Span;

/// A span whose fields `trace`, `span_id` and `trace_sampled` are in every log line of the request;
/// none without a trace.
pub(super) fn span(headers: &HeaderMap) -> Span {
    match of(headers) {
        Some((trace, span_id, trace_sampled)) => {
            tracing::info_span!("http", trace, span_id, trace_sampled)
        }
        None => Span::none(),
    }
}

/// Trace (32 hexadecimal digits), span (16) and whether it is sampled.
fn of(headers: &HeaderMap) -> Option<(String, String, bool)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    text("traceparent").and_then(w3c).or_else(|| text("x-cloud-trace-context").and_then(cloud))
}

fn hex(text: &str, digits: usize) -> bool {
    let valid = text.bytes().all(|b| b.is_ascii_hexdigit());
    text.len() == digits && valid && text.bytes().any(|b| b != b'0')
}

/// `version-trace-span-flags`.
fn w3c(value: &str) -> Option<(String, String, bool)> {
    let mut parts = value.split('-').skip(1);
    let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let valid = hex(trace, 32) && hex(span, 16);
    valid.then(|| (trace.to_ascii_lowercase(), span.to_ascii_lowercase(), flags & 1 == 1))
}

/// `TRACE/SPAN;o=OPTIONS`, the span a decimal number; all but the trace may be absent.
fn cloud(value: &str) -> Option<(String, String, bool)> {
    let (ids, options) = value.split_once(';').unwrap_or((value, ""));
    let (trace, span) = ids.split_once('/').unwrap_or((ids, "0"));
    let span: u64 = span.parse().ok()?;
    hex(trace, 32).then(|| (trace.to_ascii_lowercase(), format!("{span:016x}"), options == "o=1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "105445aa7843bc8bf206b12000100000";

    #[test]
    fn both_headers_are_read_and_malformed_ones_ignored() {
        let found = |name: &'static str, value: &str| {
            of(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
        };
        let expected = Some((TRACE.to_owned(), "00f067aa0ba902b7".to_owned(), true));
        let w3c = format!("00-{TRACE}-00f067aa0ba902b7-01");
        assert_eq!(found("traceparent", &w3c), expected);
        let cloud = format!("{TRACE}/{};o=1", 0x00f067aa0ba902b7u64);
        assert_eq!(found("x-cloud-trace-context", &cloud), expected);
        let alone = found("x-cloud-trace-context", TRACE).unwrap();
        assert_eq!((alone.0.as_str(), alone.2), (TRACE, false));
        for bad in ["", "00", "00-x-y-01", &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32))] {
            assert_eq!(found("traceparent", bad), None, "{bad}");
        }
        assert_eq!(found("x-cloud-trace-context", "abc/1"), None);
    }
}
