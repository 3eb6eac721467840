//! `SHOW SOURCES` and `SHOW CREATE SOURCE`. Secrets are masked.

use super::errors_name;
use crate::platform::Inner;
use crate::show::{column_parts, quote};
use crate::statements::text_rows;
use crate::{ConnectorStatus, Outcome, Result};
use kaplan_base::Lsn;
use kaplan_sql::catalog::{self, Catalog, FormatDef, SourceDef};
use std::collections::BTreeMap;

/// Splits that are shown one by one.
const SHOWN_SPLITS: usize = 20;

/// How every source fares.
pub(crate) fn statuses(inner: &Inner) -> Vec<ConnectorStatus> {
    let catalog = inner.definitions.read().clone();
    let counters = inner.sequencer.counters();
    let status = |def: &SourceDef| {
        let status = inner.sources.status(def.id).unwrap_or_default();
        ConnectorStatus {
            name: def.name.clone(),
            connector: def.connector.clone(),
            state: status.state.word().to_owned(),
            since_us: status.since_us,
            lag: status.lag.map(|lag| lag.amount),
            lag_unit: status.lag.map(|lag| lag.unit.to_owned()),
            rows: status.rows,
            message: status.message(),
            errors: counters.get(&def.errors).map_or(0, |c| c.rows),
        }
    };
    catalog.sources.values().map(status).collect()
}

/// One row a source.
pub(crate) fn rows(inner: &Inner, lsn: Lsn) -> Result<Outcome> {
    let catalog = inner.definitions.read().clone();
    let statuses = statuses(inner).into_iter();
    let rows = catalog.sources.values().zip(statuses).map(|(def, status)| {
        let at = inner.source_positions(def);
        let mut position: Vec<String> =
            at.iter().take(SHOWN_SPLITS).map(|(s, p)| format!("{s}:{p}")).collect();
        if at.len() > SHOWN_SPLITS {
            position.push("..".into());
        }
        let lag = status.lag.zip(status.lag_unit);
        vec![
            Some(status.name),
            Some(status.connector),
            Some(status.state),
            Some(position.join(", ")),
            lag.map(|(amount, unit)| format!("{amount} {unit}")),
            Some(status.rows.to_string()),
            Some(status.errors.to_string()),
            status.message,
            time_text(status.since_us),
        ]
    });
    let columns =
        ["name", "connector", "state", "position", "lag", "rows", "errors", "last_error", "since"];
    text_rows(&columns, rows.collect(), lsn)
}

/// A time as `SHOW` has it.
pub(crate) fn time_text(us: i64) -> Option<String> {
    let at = chrono::DateTime::from_timestamp_micros(us).filter(|_| us > 0)?;
    Some(at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// `WITH (..)`, secrets masked.
pub(crate) fn options_text(options: &BTreeMap<String, String>) -> String {
    let option = |(name, value): (&String, &String)| {
        format!("{name} = '{}'", catalog::shown(name, value).replace('\'', "''"))
    };
    options.iter().map(option).collect::<Vec<_>>().join(",\n  ")
}

/// `FORMAT .. ENCODE ..`, secrets masked.
pub(crate) fn format_text(format: Option<&FormatDef>) -> String {
    let Some(format) = format else { return String::new() };
    let (form, encode) = (format.form.to_uppercase(), format.encode.to_uppercase());
    let options = match format.options.is_empty() {
        true => String::new(),
        false => format!(" (\n  {}\n)", options_text(&format.options)),
    };
    format!("\nFORMAT {form} ENCODE {encode}{options}")
}

/// The text that makes a source again, once its secrets are put in.
pub(crate) fn create_text(catalog: &Catalog, def: &SourceDef) -> String {
    let stream = def.targets.first().filter(|t| t.upstream.is_none());
    let stream = stream.and_then(|t| catalog.streams.values().find(|s| s.id == t.stream));
    let columns = match stream {
        Some(stream) => format!(" (\n  {}\n)", column_parts(stream).join(",\n  ")),
        None => String::new(),
    };
    let mut include = String::new();
    for i in &def.include {
        let header = i.header.as_ref().map(|h| format!(" '{}'", h.replace('\'', "''")));
        let (word, header) = (i.what.word(), header.unwrap_or_default());
        include.push_str(&format!("\nINCLUDE {word}{header} AS {}", quote(&i.column)));
    }
    let kind = if def.table { "TABLE" } else { "SOURCE" };
    let (name, options) = (quote(&def.name), options_text(&def.options));
    let format = format_text(def.format.as_ref());
    let errors = quote(&errors_name(&def.name));
    format!(
        "-- what cannot be read is in {errors}\n\
         CREATE {kind} {name}{columns}{include}\nWITH (\n  {options}\n){format}"
    )
}
