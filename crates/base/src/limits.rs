//! The named limits that are not settings. Every queue, buffer, batch and retry has one, here or
//! in the settings.

/// Largest body of one ingest request, in bytes, after decompression.
pub const MAX_BODY_BYTES: usize = 64 << 20;
/// Largest encoded commit, in bytes.
pub const MAX_COMMIT_BYTES: usize = 128 << 20;
/// Largest SQL text, in bytes.
pub const MAX_SQL_BYTES: usize = 1 << 20;
/// Longest name of a stream, view or column, in bytes (as PostgreSQL's NAMEDATALEN - 1).
pub const MAX_NAME_BYTES: usize = 63;
/// Most columns of a stream.
pub const MAX_COLUMNS: usize = 1_600;
/// Most windows that one row may fall into under HOP.
pub const MAX_WINDOWS_PER_ROW: i64 = 10_000;
