//! `SHOW` and `DESCRIBE`: the catalog as rows, and definitions as the text that makes them again.

use crate::names::{self, Named};
use crate::platform::Inner;
use crate::statements::text_rows;
use crate::{Code, Error, Outcome, Result, Session};
use kaplan_base::Lsn;
use kaplan_sql::catalog::{
    Architecture, BatchMode, IndexDef, OnConflict, OnViolation, PlainViewDef, StreamDef, ViewDef,
};
use kaplan_sql::dialect::{self, Object, Show};
use std::sync::Arc;

/// Batch runs that are shown.
const RUNS: usize = 100;

/// Settings that have a value without being set. Setting one of them is no news to anybody.
const SETTINGS: [(&str, &str); 14] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("extra_float_digits", "1"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("rw_implicit_flush", "true"),
    ("search_path", "public"),
    ("server_version", "15.0 (Kaplan)"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
];

/// Whether a setting is known, so that to set it needs no remark.
pub(crate) fn is_known(setting: &str) -> bool {
    setting.starts_with("kaplan.") || SETTINGS.iter().any(|(name, _)| *name == setting)
}

type Row = Vec<Option<String>>;

fn some(text: impl Into<String>) -> Option<String> {
    Some(text.into())
}

/// Numbers as text, with ranges: `0-3, 7`.
fn ranges(numbers: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let shown = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn workers(inner: &Inner, lsn: Lsn) -> Result<Outcome> {
    let there = inner.workers.as_ref().map(|desk| desk.show().workers).unwrap_or_default();
    let rows = there.into_iter().map(|worker| {
        vec![
            some(worker.name),
            some(ranges(&worker.shares)),
            some(worker.of.to_string()),
            worker.since.map(|since| since.to_string()),
            some(worker.held_bytes.to_string()),
            worker.error,
        ]
    });
    let columns = ["name", "shares", "of", "since_lsn", "held_bytes", "error"];
    text_rows(&columns, rows.collect(), lsn)
}

/// `SHOW ..`.
pub(crate) async fn show(inner: &Inner, session: &Session, show: Show) -> Result<Outcome> {
    let lsn = inner.driver.snapshot().lsn;
    let catalog = Arc::clone(&inner.definitions.read());
    let names = |names: Vec<&str>| names.into_iter().map(|n| vec![some(n)]).collect::<Vec<Row>>();
    match show {
        Show::Streams => streams(catalog.streams.values().filter(|s| s.append_only), lsn),
        Show::Tables => streams(catalog.streams.values(), lsn),
        Show::MaterializedViews => view_rows(materialized(inner), lsn),
        Show::Views => {
            let plain = catalog.plain_views.keys().map(|name| {
                let mut row = vec![some(name), some("query")];
                row.resize(VIEW_COLUMNS.len(), None);
                row
            });
            view_rows(plain.chain(materialized(inner)).collect(), lsn)
        }
        Show::BatchRuns { view } => {
            let view = view.map(|v| names::resolve(&catalog, session, &v));
            batch_runs(inner, view.as_deref(), lsn)
        }
        Show::Sources => crate::sources::show(inner, lsn),
        Show::Sinks => crate::sinks::show(inner, lsn),
        Show::Workers => workers(inner, lsn),
        Show::Schemas => {
            let mut all: Vec<&str> = catalog.schemas.iter().map(String::as_str).collect();
            all.push("public");
            all.sort_unstable();
            text_rows(&["name"], names(all), lsn)
        }
        Show::Databases => {
            let mut all: Vec<&str> = catalog.databases.iter().map(String::as_str).collect();
            all.push("kaplan");
            all.sort_unstable();
            text_rows(&["name"], names(all), lsn)
        }
        Show::Indexes(on) => {
            let on = on.map(|name| names::resolve(&catalog, session, &name));
            let relation = |index: &IndexDef| {
                let on = names::numbered(&catalog, index.on);
                on.map(|named| named.name().to_owned()).unwrap_or_default()
            };
            let rows = catalog
                .indexes
                .values()
                .map(|index| (relation(index), index))
                .filter(|(relation, _)| on.as_ref().is_none_or(|on| on == relation))
                .map(|(relation, index)| {
                    let (key, include) = (index.key.join(", "), index.include.join(", "));
                    vec![some(&index.name), some(relation), some(key), some(include)]
                })
                .collect();
            text_rows(&["name", "on", "key", "include"], rows, lsn)
        }
        Show::Columns(name) => describe(inner, session, &name).await,
        Show::All => {
            let rows =
                session.variables.iter().map(|(k, v)| vec![some(k), some(v)]).collect::<Vec<_>>();
            text_rows(&["name", "setting"], rows, lsn)
        }
        Show::Variable(name) => {
            let default = SETTINGS.iter().find(|(known, _)| *known == name);
            let fixed = ["server_version", "timezone"].contains(&name.as_str());
            let set = session.variables.get(&name).filter(|_| !fixed).cloned();
            match set.or_else(|| default.map(|(_, value)| (*value).to_owned())) {
                Some(value) => text_rows(&[name.as_str()], vec![vec![some(value)]], lsn),
                None => {
                    let message = format!("unrecognized configuration parameter \"{name}\"");
                    Err(Error::new(Code::UnknownObject, message)
                        .hint("SHOW ALL lists what this session has set"))
                }
            }
        }
        Show::Create(object, name) => {
            let name = names::resolve(&catalog, session, &name);
            let text = match object {
                Object::Source => {
                    let unknown = || crate::sources::unknown(&catalog, &name);
                    let def = catalog.sources.get(&name).ok_or_else(unknown)?;
                    crate::sources::create_text(&catalog, def)
                }
                Object::Sink => crate::sinks::create_text(&catalog, &name)?,
                object => create_text(&catalog, object, &name)?,
            };
            text_rows(&["name", "create"], vec![vec![Some(name), Some(text)]], lsn)
        }
    }
}

fn create_text(
    catalog: &kaplan_sql::catalog::Catalog,
    object: Object,
    name: &str,
) -> Result<String> {
    let found = names::find(catalog, name).ok_or_else(|| names::unknown(catalog, name))?;
    match (found, object) {
        (Named::Stream(def), Object::Stream | Object::Table) => {
            let source = catalog.source_of(def.id).filter(|s| s.name == def.name);
            let text = |source| crate::sources::create_text(catalog, source);
            Ok(source.map_or_else(|| stream_text(def), text))
        }
        (Named::View(def), Object::View) => Ok(view_text(def)),
        (Named::Plain(def), Object::View) => Ok(plain_text(def)),
        (Named::Stream(_), _) => {
            let message = format!("{name} is a stream or table");
            Err(Error::new(Code::WrongObject, message).hint("SHOW CREATE TABLE shows it"))
        }
        _ => Err(Error::new(Code::WrongObject, format!("{name} is a view"))
            .hint("SHOW CREATE MATERIALIZED VIEW shows it")),
    }
}

fn streams<'a>(defs: impl Iterator<Item = &'a StreamDef>, lsn: Lsn) -> Result<Outcome> {
    let row = |s: &StreamDef| {
        let kind = if s.append_only { "stream" } else { "table" };
        vec![some(&s.name), some(kind), Some(s.columns.len().to_string())]
    };
    text_rows(&["name", "kind", "columns"], defs.map(row).collect(), lsn)
}

const VIEW_COLUMNS: [&str; 7] =
    ["name", "architecture", "state", "lsn", "batch_lsn", "batch_schedule", "state_rows"];

fn view_rows(rows: Vec<Row>, lsn: Lsn) -> Result<Outcome> {
    text_rows(&VIEW_COLUMNS, rows, lsn)
}

fn materialized(inner: &Inner) -> Vec<Row> {
    let number = |n: Option<Lsn>| n.map(|l| l.to_string());
    let row = |v: &crate::ViewStatus| {
        vec![
            some(&v.name),
            some(&v.architecture),
            some(&v.state),
            number(Some(v.lsn)),
            number(v.batch_lsn),
            v.batch_schedule.clone(),
            Some(v.state_rows.to_string()),
        ]
    };
    crate::status::of(inner).views.iter().map(row).collect()
}

fn batch_runs(inner: &Inner, view: Option<&str>, lsn: Lsn) -> Result<Outcome> {
    let runs = inner.runs.latest(RUNS).into_iter();
    let rows = runs
        .filter(|r| view.is_none_or(|v| r.views.iter().any(|name| name == v)))
        .map(|r| {
            vec![
                Some(r.id),
                Some(r.trigger),
                Some(r.views.join(", ")),
                Some(format!("{:?}", r.state).to_lowercase()),
                r.lsn.map(|l| l.to_string()),
                Some(r.rows_read.to_string()),
                r.error,
            ]
        })
        .collect();
    text_rows(&["id", "trigger", "views", "state", "lsn", "rows_read", "error"], rows, lsn)
}

/// A length of time as an interval is written.
fn interval_text(us: i64) -> String {
    const UNITS: [(i64, &str); 5] = [
        (86_400_000_000, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1, "microsecond"),
    ];
    let mut left = us;
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        let n = left / size;
        left %= size;
        if n != 0 {
            parts.push(format!("{n} {unit}{}", if n == 1 { "" } else { "s" }));
        }
    }
    if parts.is_empty() { "0 seconds".to_owned() } else { parts.join(" ") }
}

fn names_text(columns: &[String]) -> String {
    if columns.is_empty() {
        return String::new();
    }
    format!(" ({})", columns.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", "))
}

fn plain_text(def: &PlainViewDef) -> String {
    format!("CREATE VIEW {}{} AS\n{}", quote(&def.name), names_text(&def.columns), def.query)
}

/// A name as it is written; the dot between a schema and a name stays one.
pub(crate) fn quote(name: &str) -> String {
    let plain = name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_' | '.'));
    if plain { name.into() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// What stands in the parentheses of `CREATE TABLE`.
pub(crate) fn column_parts(def: &StreamDef) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let list = |names: &[String]| names.iter().map(|n| quote(n)).collect::<Vec<_>>().join(", ");
    for column in &def.columns {
        let mut part = format!("{} {}", quote(&column.name), column.sql_type);
        if let Some(expr) = &column.generated {
            part.push_str(&format!(" GENERATED ALWAYS AS ({expr}) STORED"));
        }
        if !column.nullable {
            part.push_str(" NOT NULL");
        }
        if let Some(default) = &column.default {
            part.push_str(&format!(" DEFAULT {default}"));
        }
        parts.push(part);
    }
    if !def.primary_key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", list(&def.primary_key)));
    }
    if let Some(mark) = &def.watermark {
        let column = quote(&mark.column);
        let delay = interval_text(mark.delay_us);
        let mut part = format!("WATERMARK FOR {column} AS {column} - INTERVAL '{delay}'");
        for (words, limit) in [
            ("ALLOWED LATENESS", mark.lateness_us),
            ("FUTURE LIMIT", mark.future_us),
            ("IDLE TIMEOUT", mark.idle_us),
        ] {
            if let Some(us) = limit {
                part.push_str(&format!(" {words} INTERVAL '{}'", interval_text(us)));
            }
        }
        parts.push(part);
    }
    if let Some(unique) = &def.unique {
        let (columns, within) = (list(&unique.columns), interval_text(unique.within_us));
        parts.push(format!("UNIQUE ({columns}) WITHIN INTERVAL '{within}'"));
    }
    for check in &def.checks {
        let action = match check.on_violation {
            OnViolation::Reject => "REJECT",
            OnViolation::Quarantine => "QUARANTINE",
            OnViolation::Drop => "DROP",
        };
        let (name, condition) = (quote(&check.name), &check.condition);
        parts.push(format!("CONSTRAINT {name} CHECK ({condition}) ON VIOLATION {action}"));
    }
    parts
}

fn stream_text(def: &StreamDef) -> String {
    let parts = column_parts(def);
    let kind = if def.append_only { "STREAM" } else { "TABLE" };
    let end = match def.on_conflict {
        OnConflict::Overwrite => "",
        OnConflict::Ignore => " ON CONFLICT IGNORE",
        OnConflict::UpdateIfNotNull => " ON CONFLICT DO UPDATE IF NOT NULL",
    };
    format!("CREATE {kind} {} (\n  {}\n){end}", quote(&def.name), parts.join(",\n  "))
}

fn view_text(def: &ViewDef) -> String {
    let architecture = match def.architecture {
        Architecture::Lambda => "lambda",
        Architecture::Kappa => "kappa",
    };
    let mut options = vec![format!("architecture = '{architecture}'")];
    if let Some(schedule) = &def.batch_schedule {
        options.push(format!("batch_schedule = '{schedule}'"));
    }
    match def.batch_mode {
        BatchMode::Auto => {}
        BatchMode::Full => options.push("batch_mode = 'full'".into()),
        BatchMode::Incremental => options.push("batch_mode = 'incremental'".into()),
    }
    let columns = names_text(&def.columns);
    format!(
        "CREATE MATERIALIZED VIEW {}{columns}\nWITH ({}) AS\n{}",
        quote(&def.name),
        options.join(", "),
        def.query
    )
}

/// `DESCRIBE name`: the columns of a relation.
pub(crate) async fn describe(inner: &Inner, session: &Session, name: &str) -> Result<Outcome> {
    let lsn = inner.driver.snapshot().lsn;
    let catalog = Arc::clone(&inner.definitions.read());
    let full = names::resolve(&catalog, session, name);
    let named = names::find(&catalog, &full).ok_or_else(|| names::unknown(&catalog, &full))?;
    let columns = ["column", "type", "nullable", "default", "note"];
    let row = |f: &arrow::datatypes::Field| {
        let data_type = dialect::sql_type_of(f);
        let nullable = if f.is_nullable() { "yes" } else { "no" };
        vec![some(f.name()), some(data_type), some(nullable), None, None]
    };
    let rows = match named {
        Named::View(def) => {
            let schema = Arc::clone(&inner.view(&def.name)?.compiled.schema);
            schema.fields().iter().map(|f| row(f)).collect()
        }
        Named::Plain(def) => {
            let plan = inner.plain_plan(&catalog, def).await?;
            plan.schema().fields().iter().map(|f| row(f)).collect()
        }
        Named::Stream(def) => stream_columns(def),
    };
    text_rows(&columns, rows, lsn)
}

fn stream_columns(def: &StreamDef) -> Vec<Row> {
    let note = |column: &kaplan_sql::catalog::ColumnDef| {
        let (mut notes, name) = (Vec::new(), &column.name);
        if def.primary_key.contains(name) {
            notes.push("primary key".to_owned());
        }
        if def.watermark.as_ref().is_some_and(|w| w.column == *name) {
            notes.push("watermark".to_owned());
        }
        if def.unique.as_ref().is_some_and(|u| u.columns.contains(name)) {
            notes.push("unique within interval".to_owned());
        }
        notes.extend(column.generated.as_ref().map(|e| format!("generated as {e}")));
        (!notes.is_empty()).then(|| notes.join(", "))
    };
    let row = |c: &kaplan_sql::catalog::ColumnDef| {
        let nullable = if c.nullable { "yes" } else { "no" };
        let default = c.default.clone();
        vec![some(&c.name), some(&c.sql_type), some(nullable), default, note(c)]
    };
    def.columns.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::interval_text;

    #[test]
    fn intervals_are_readable() {
        assert_eq!(interval_text(300_000_000), "5 minutes");
        assert_eq!(interval_text(90_061_000_001), "1 day 1 hour 1 minute 1 second 1 microsecond");
        assert_eq!(interval_text(0), "0 seconds");
    }
}
