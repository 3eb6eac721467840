//! The settings that clients of PostgreSQL set and show. Most have one value here, whatever is set:
//! the server writes UTF-8, ISO dates and instants in UTC.

use super::sqlstate;
use pgwire::error::PgWireResult;
use std::collections::BTreeMap;
use std::time::Duration;

/// What clients are told to speak to.
pub(super) const SERVER_VERSION: &str = "16.0 (Kaplan)";

/// `version()`.
pub(super) fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("PostgreSQL {SERVER_VERSION} {version} on {}", std::env::consts::ARCH)
}

/// Name and value of the settings that nothing changes; clients may set them.
const FIXED: [(&str, &str); 15] = [
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("integer_datetimes", "on"),
    ("block_size", "8192"),
    ("max_function_args", "100"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "160000"),
    ("standard_conforming_strings", "on"),
    ("transaction_isolation", "read committed"),
];

/// Name and default of the settings that keep what is set.
const KEPT: [(&str, &str); 22] = [
    ("application_name", ""),
    ("check_function_bodies", "on"),
    ("client_min_messages", "notice"),
    ("default_table_access_method", "heap"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("is_superuser", "on"),
    ("jit", "off"),
    ("lc_collate", "C.UTF-8"),
    ("lc_ctype", "C.UTF-8"),
    ("lc_messages", "C.UTF-8"),
    ("lc_monetary", "C.UTF-8"),
    ("lock_timeout", "0"),
    ("row_security", "on"),
    ("search_path", "\"$user\", public"),
    ("session_characteristics", ""),
    ("statement_timeout", "0"),
    ("synchronous_commit", "on"),
    ("transaction", ""),
    ("transaction_read_only", "off"),
];

/// The settings that the client is told of, at the start and when they change.
pub(super) const REPORTED: [&str; 12] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "search_path",
    "server_encoding",
    "server_version",
    "standard_conforming_strings",
    "TimeZone",
];

/// Whether clients set it as a matter of course, so that no remark is due.
pub(super) fn known(name: &str) -> bool {
    let same = |(known, _): &(&str, &str)| known.eq_ignore_ascii_case(name);
    FIXED.iter().any(same) || KEPT.iter().any(same)
}

/// A setting's value in a session.
pub(super) fn value(name: &str, variables: &BTreeMap<String, String>) -> Option<String> {
    if let Some((_, value)) = FIXED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return Some((*value).to_owned());
    }
    if let Some(value) = variables.get(&name.to_lowercase()) {
        return Some(value.clone());
    }
    let kept = KEPT.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    kept.map(|(_, default)| (*default).to_owned())
}

/// Every setting with its value, by name.
pub(super) fn all(variables: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let names = FIXED.iter().chain(&KEPT).map(|(name, _)| (*name).to_owned());
    let own = variables.keys().filter(|name| !known(name)).cloned();
    let mut all: Vec<_> = names
        .chain(own)
        .filter_map(|name| Some((name.clone(), value(&name, variables)?)))
        .collect();
    all.sort();
    all
}

/// Refuses a setting whose value would change what the client reads, and is not followed here.
pub(super) fn check(name: &str, value: &str) -> PgWireResult<()> {
    let plain = value.trim_matches('\'').to_lowercase().replace(['-', '_'], "");
    if name.eq_ignore_ascii_case("client_encoding")
        && !["utf8", "unicode", "auto"].contains(&plain.as_str())
    {
        let what = format!("client_encoding {value} is not supported: texts are UTF8");
        return Err(sqlstate::user("0A000", what));
    }
    if name.eq_ignore_ascii_case("standard_conforming_strings") && plain != "on" && plain != "true"
    {
        return Err(sqlstate::user("0A000", "standard_conforming_strings is always on"));
    }
    if name.eq_ignore_ascii_case("statement_timeout") && timeout(value).is_none() {
        let what = format!("invalid value for parameter \"statement_timeout\": \"{value}\"");
        return Err(sqlstate::user("22023", what));
    }
    Ok(())
}

/// What is said when a setting was taken that has another value here.
pub(super) fn remark(name: &str, value: &str) -> Option<String> {
    let plain = value.trim_matches('\'');
    let zone = name.eq_ignore_ascii_case("timezone");
    let utc = ["UTC", "Etc/UTC", "GMT", "Z", "0", "+00", "+00:00"];
    (zone && !utc.iter().any(|u| u.eq_ignore_ascii_case(plain)))
        .then(|| "timestamps are computed and shown in UTC, whatever TimeZone says".to_owned())
}

/// A time such as `500`, `500ms`, `2s` or `1min`; zero is no limit.
fn timeout(value: &str) -> Option<Duration> {
    let value = value.trim_matches('\'').trim();
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = value[..digits].parse().ok()?;
    match value[digits..].trim() {
        "" | "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3_600).map(Duration::from_secs),
        _ => None,
    }
}

/// The session's `statement_timeout`.
pub(super) fn statement_timeout(variables: &BTreeMap<String, String>) -> Option<Duration> {
    timeout(variables.get("statement_timeout")?).filter(|limit| !limit.is_zero())
}

/// The settings of a start-up message: its own parameters, and `-c name=value` in `options`.
pub(super) fn at_startup<'a>(
    parameters: impl Iterator<Item = (&'a String, &'a String)>,
) -> PgWireResult<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    let mut take = |name: &str, value: &str| -> PgWireResult<()> {
        check(name, value)?;
        variables.insert(name.to_lowercase(), value.to_owned());
        Ok(())
    };
    for (name, value) in parameters {
        match name.as_str() {
            "user" | "database" | "replication" => {}
            "options" => {
                for word in value.split_whitespace() {
                    let word = word.trim_start_matches("-c").trim_start_matches("--");
                    if let Some((name, value)) = word.split_once('=') {
                        take(name, value)?;
                    }
                }
            }
            name if name.starts_with("_pq_.") => {}
            name => take(name, value)?,
        }
    }
    Ok(variables)
}

/// The setting that a `SHOW` asks for, when it is one of these.
pub(super) fn shown(statement: &str) -> Option<String> {
    let words: Vec<String> = statement
        .split_whitespace()
        .skip(1)
        .map(|w| w.trim_matches(['"', ';']).to_lowercase())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let name = match words.as_slice() {
        ["time", "zone"] => "TimeZone",
        ["transaction", "isolation", "level"] => "transaction_isolation",
        ["session", "authorization"] => "session_authorization",
        [one] => one,
        _ => return None,
    };
    let fixed = FIXED.iter().chain(&KEPT).find(|(known, _)| known.eq_ignore_ascii_case(name));
    fixed.map(|(name, _)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_their_values() {
        let mut variables = BTreeMap::from([("application_name".to_owned(), "me".to_owned())]);
        variables.insert("timezone".to_owned(), "Europe/Berlin".to_owned());
        assert_eq!(value("application_name", &variables).as_deref(), Some("me"));
        assert_eq!(value("timezone", &variables).as_deref(), Some("UTC"));
        assert_eq!(value("jit", &variables).as_deref(), Some("off"));
        assert_eq!(value("nothing", &variables), None);
        assert_eq!(
            shown("SHOW transaction isolation level").as_deref(),
            Some("transaction_isolation")
        );
        assert_eq!(shown("show TIMEZONE").as_deref(), Some("TimeZone"));
        assert_eq!(shown("SHOW STREAMS"), None);
    }

    #[test]
    fn settings_that_would_garble_are_refused() {
        assert!(check("client_encoding", "LATIN1").is_err());
        assert!(check("client_encoding", "'utf-8'").is_ok());
        assert!(check("statement_timeout", "soon").is_err());
        assert_eq!(timeout("'2s'"), Some(Duration::from_secs(2)));
        assert_eq!(timeout("250"), Some(Duration::from_millis(250)));
        assert!(remark("TimeZone", "Europe/Berlin").is_some());
    }

    #[test]
    fn startup_options_are_settings() {
        let given =
            [("options".to_owned(), "-c statement_timeout=5s -c search_path=public".to_owned())];
        let variables = at_startup(given.iter().map(|(a, b)| (a, b))).unwrap();
        assert_eq!(variables["statement_timeout"], "5s");
        assert_eq!(statement_timeout(&variables), Some(Duration::from_secs(5)));
    }
}
