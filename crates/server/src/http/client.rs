//! Whose request it is, for the log. Behind proxies the connection is the last proxy's, and each proxy
//! adds to `X-Forwarded-For` whom it was called by. What the caller wrote there itself stands in front of
//! that and is not believed: only as many entries count, from the right, as there are trusted proxies.

use axum::extract::{ConnectInfo, Request};
use axum::http::HeaderMap;
use std::net::{IpAddr, SocketAddr};

/// The caller's address; None where neither the connection nor a trusted proxy tells it.
pub(super) fn of(request: &Request, trusted_proxies: usize) -> Option<IpAddr> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    forwarded(request.headers(), trusted_proxies).or(peer)
}

fn forwarded(headers: &HeaderMap, trusted_proxies: usize) -> Option<IpAddr> {
    let lines = headers.get_all("x-forwarded-for").iter();
    let entries: Vec<&str> =
        lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).collect();
    let at = entries.len().checked_sub(trusted_proxies)?;
    address(entries.get(at)?.trim())
}

/// An address as proxies write it: alone, with a port, or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let alone = || text.trim_start_matches('[').trim_end_matches(']').parse().ok();
    alone().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn found(lines: &[&str], trusted: usize) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_str(line).unwrap());
        }
        forwarded(&headers, trusted).map(|address| address.to_string())
    }

    #[test]
    fn only_what_trusted_proxies_added_is_believed() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found(&["6.6.6.6, 9.9.9.9"], 0), None);
        assert_eq!(found(&["6.6.6.6, 9.9.9.9"], 1), some("9.9.9.9"));
        assert_eq!(found(&["6.6.6.6, 9.9.9.9", "10.0.0.1"], 2), some("9.9.9.9"));
        assert_eq!(found(&["9.9.9.9"], 2), None);
        assert_eq!(found(&[], 1), None);
        assert_eq!(found(&["6.6.6.6, nonsense"], 1), None);
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        for (text, expected) in [
            ("9.9.9.9:4711", "9.9.9.9"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), expected);
        }
    }
}
