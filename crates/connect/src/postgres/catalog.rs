//! What PostgreSQL's catalog says about tables, publication and slot; the latter two are made here
//! where they are missing.
//!
//! Refused: tables without a usable key, row filters and column lists of a publication (a copy
//! would not have the same rows), and slots of other plugins or databases.

use super::Options;
use super::session::{SLOT_TIMEOUT, Session, ident, literal, text, truth};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// The oldest server that is read: older ones do not send `pg_logical_emit_message`.
const OLDEST_VERSION: u32 = 140_000;

/// A table as it is upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its number, by which changes name it.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The columns.
    pub columns: Vec<Column>,
    /// The columns of the primary key, in order.
    pub key: Vec<String>,
    /// Changes give the whole row before.
    pub full_identity: bool,
    /// The columns that changes give of the row before.
    pub identity: BTreeSet<String>,
}

/// A column of a table upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as `format_type` spells it; of a domain the type below.
    pub sql_type: String,
    /// It takes NULL.
    pub nullable: bool,
    /// It is computed; its values are not replicated.
    pub generated: bool,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Up to here the server has been told that changes are durable.
    pub confirmed: u64,
    /// The server has removed log that the slot needs.
    pub lost: bool,
}

/// A position of PostgreSQL's log, `16/B374D848`.
pub fn lsn(text: &str) -> Result<u64> {
    let parsed = pgwire_replication::Lsn::parse(text);
    parsed
        .map(|lsn| lsn.0)
        .map_err(|_| Error::unavailable(format!("{text:?} is no position of the log")))
}

/// How PostgreSQL writes a position.
pub fn shown(lsn: u64) -> String {
    pgwire_replication::Lsn(lsn).to_string()
}

/// Refuses a server that cannot be read, and tells where its log ends.
pub async fn check_server(session: &mut Session) -> Result<u64> {
    let sql = "SELECT current_setting('server_version_num'), current_setting('wal_level'), \
               CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
               ELSE pg_current_wal_lsn() END";
    let rows = session.query(sql).await?;
    let row = rows.first().ok_or_else(|| Error::unavailable("PostgreSQL gave no settings"))?;
    let version: u32 = text(row, 0).parse().unwrap_or(0);
    if version < OLDEST_VERSION {
        let message = format!("PostgreSQL is version {}", version / 10_000);
        return Err(Error::unavailable(message).hint("changes are read from version 14 on"));
    }
    if text(row, 1) != "logical" {
        let message = format!("PostgreSQL has wal_level = {}", text(row, 1));
        return Err(Error::unavailable(message)
            .hint("ALTER SYSTEM SET wal_level = logical, and restart the server"));
    }
    lsn(&text(row, 2))
}

/// A table by name; none when there is none.
pub async fn table(session: &mut Session, schema: &str, name: &str) -> Result<Option<Table>> {
    let index = |which: &str| {
        format!(
            "(SELECT array_position(i.indkey::int2[], a.attnum) FROM pg_catalog.pg_index i \
             WHERE i.indrelid = c.oid AND i.{which})"
        )
    };
    let sql = format!(
        "SELECT c.oid, c.relkind, c.relreplident, a.attname, \
         pg_catalog.format_type(coalesce(nullif(t.typbasetype, 0), t.oid), \
           CASE WHEN t.typbasetype <> 0 THEN t.typtypmod ELSE a.atttypmod END), \
         a.attnotnull OR t.typnotnull, a.attgenerated <> '', {}, {}, c.relpersistence \
         FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_attribute a \
           ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         WHERE n.nspname = {} AND c.relname = {} ORDER BY a.attnum",
        index("indisprimary"),
        index("indisreplident"),
        literal(schema),
        literal(name)
    );
    let rows = session.query(&sql).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    if !["r", "p"].contains(&text(first, 1).as_str()) {
        return Err(refused(format!("{schema}.{name} is no table"))
            .hint("views and foreign tables have no changes; name the tables that they read"));
    }
    if text(first, 9) != "p" {
        return Err(refused(format!("{schema}.{name} is an unlogged or temporary table"))
            .hint("its changes are not in the log: ALTER TABLE .. SET LOGGED"));
    }
    let mut key: Vec<(i32, String)> = Vec::new();
    let mut table = Table {
        oid: text(first, 0).parse().unwrap_or(0),
        schema: schema.to_owned(),
        name: name.to_owned(),
        columns: Vec::new(),
        key: Vec::new(),
        full_identity: text(first, 2) == "f",
        identity: BTreeSet::new(),
    };
    let by_index = text(first, 2) == "i";
    for row in &rows {
        let column = text(row, 3);
        if let Ok(place) = text(row, 7).parse() {
            key.push((place, column.clone()));
        }
        let in_identity = match text(first, 2).as_str() {
            "f" => true,
            "n" => false,
            _ => row.get(if by_index { 8 } else { 7 }).is_some_and(Option::is_some),
        };
        if in_identity {
            table.identity.insert(column.clone());
        }
        table.columns.push(Column {
            name: column,
            sql_type: text(row, 4),
            nullable: !truth(row, 5),
            generated: truth(row, 6),
        });
    }
    key.sort();
    table.key = key.into_iter().map(|(_, column)| column).collect();
    Ok(Some(table))
}

/// A table that cannot be followed, as it is.
fn refused(message: String) -> Error {
    Error::new(crate::Kind::Refused, message)
}

/// The slot; none when there is none.
pub async fn slot(session: &mut Session, options: &Options) -> Result<Option<Slot>> {
    let sql = format!(
        "SELECT plugin, database = current_database(), confirmed_flush_lsn, wal_status \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        literal(&options.slot)
    );
    let rows = session.query(&sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if text(row, 0) != "pgoutput" || !truth(row, 1) {
        let message = format!("the slot {} is for another plugin or database", options.slot);
        return Err(Error::unavailable(message).hint("choose another slot.name"));
    }
    Ok(Some(Slot { confirmed: lsn(&text(row, 2)).unwrap_or(0), lost: text(row, 3) == "lost" }))
}

/// Makes the slot and tells where it begins.
pub async fn make_slot(session: &mut Session, options: &Options) -> Result<u64> {
    let sql = format!(
        "CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT",
        ident(&options.slot)
    );
    let rows = session.query_within(&sql, SLOT_TIMEOUT).await?;
    let row = rows.first().ok_or_else(|| Error::unavailable("PostgreSQL made no slot"))?;
    lsn(&text(row, 1))
}

/// Drops the slot, if there is one that nobody uses.
pub async fn drop_slot(session: &mut Session, name: &str) -> Result<()> {
    let sql = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = {}",
        literal(name)
    );
    session.query(&sql).await.map(|_| ())
}

/// Tables by number, as the publication has them.
pub struct Published {
    /// It has every table, now and later.
    pub all: bool,
    /// The tables.
    pub tables: BTreeSet<u32>,
    /// Tables with a row filter or a list of columns.
    pub partial: BTreeSet<u32>,
}

/// What the publication has; none when there is none.
pub async fn published(session: &mut Session, options: &Options) -> Result<Option<Published>> {
    let sql = format!(
        "SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate \
         FROM pg_catalog.pg_publication WHERE pubname = {}",
        literal(&options.publication)
    );
    let rows = session.query(&sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if !truth(row, 1) {
        let message = format!("the publication {} leaves out some changes", options.publication);
        return Err(Error::unavailable(message)
            .hint("ALTER PUBLICATION .. SET (publish = 'insert, update, delete, truncate')"));
    }
    let all = truth(row, 0);
    let sql = format!(
        "SELECT c.oid, to_jsonb(p)->>'rowfilter' IS NOT NULL OR coalesce(jsonb_array_length(\
           nullif(to_jsonb(p)->'attnames', 'null'::jsonb)) < (SELECT count(*) \
           FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
           AND NOT a.attisdropped AND a.attgenerated = ''), false) \
         FROM pg_catalog.pg_publication_tables p \
         JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
         WHERE p.pubname = {}",
        literal(&options.publication)
    );
    let (mut tables, mut partial) = (BTreeSet::new(), BTreeSet::new());
    for row in session.query(&sql).await? {
        let oid = text(&row, 0).parse().unwrap_or(0);
        tables.insert(oid);
        if truth(&row, 1) {
            partial.insert(oid);
        }
    }
    Ok(Some(Published { all, tables, partial }))
}

/// Makes the publication, without a table.
pub async fn make_publication(session: &mut Session, options: &Options) -> Result<()> {
    let name = ident(&options.publication);
    if !options.create_publication {
        let message = format!("there is no publication {}", options.publication);
        return Err(
            Error::unavailable(message).hint(format!("CREATE PUBLICATION {name} FOR TABLE .."))
        );
    }
    // Changes of partitions come as changes of their table.
    let sql = format!("CREATE PUBLICATION {name} WITH (publish_via_partition_root = true)");
    session.query(&sql).await.map(|_| ())
}

/// Adds a table to the publication.
pub async fn publish(session: &mut Session, options: &Options, table: &Table) -> Result<()> {
    let (publication, schema, name) =
        (ident(&options.publication), ident(&table.schema), ident(&table.name));
    let sql = format!("ALTER PUBLICATION {publication} ADD TABLE {schema}.{name}");
    if !options.create_publication {
        let message = format!(
            "the publication {} does not have {}.{}",
            options.publication, table.schema, table.name
        );
        return Err(Error::unavailable(message).hint(sql));
    }
    session.query(&sql).await.map(|_| ())
}

/// The type that a column of a PostgreSQL type has here; types that are not here are text.
#[must_use]
pub fn type_here(format_type: &str) -> String {
    if let Some(item) = format_type.strip_suffix("[]") {
        return format!("{}[]", type_here(item));
    }
    let (base, arguments) = match (format_type.find('('), format_type.find(')')) {
        (Some(open), Some(close)) if open < close => {
            let base = format!("{}{}", &format_type[..open], &format_type[close + 1..]);
            (base, Some(&format_type[open + 1..close]))
        }
        _ => (format_type.to_owned(), None),
    };
    match (base.as_str(), arguments) {
        ("json", _) => "jsonb".to_owned(),
        ("oid", _) => "bigint".to_owned(),
        ("character varying", Some(n)) => format!("varchar({n})"),
        ("character", Some(n)) => format!("char({n})"),
        ("numeric", Some(arguments)) if fits_numeric(arguments) => format!("numeric({arguments})"),
        (
            "smallint"
            | "integer"
            | "bigint"
            | "real"
            | "double precision"
            | "boolean"
            | "bytea"
            | "date"
            | "uuid"
            | "jsonb"
            | "numeric"
            | "interval"
            | "time without time zone"
            | "timestamp without time zone"
            | "timestamp with time zone",
            _,
        ) => base,
        (other, _) if other.starts_with("interval ") => "interval".to_owned(),
        _ => "text".to_owned(),
    }
}

fn fits_numeric(arguments: &str) -> bool {
    let numbers: Vec<i32> = arguments.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    matches!(numbers.as_slice(), [p, s] if *p <= 38 && (0..=*p).contains(s))
}

#[cfg(test)]
mod tests {
    use super::type_here;
    use kaplan_sql::dialect::column_field;

    #[test]
    fn every_type_has_one_here() {
        for (there, here) in [
            ("integer", "integer"),
            ("character varying(20)", "varchar(20)"),
            ("character varying", "text"),
            ("character(3)[]", "char(3)[]"),
            ("numeric(10,2)", "numeric(10,2)"),
            ("numeric(50,2)", "numeric"),
            ("numeric(3,-2)", "numeric"),
            ("timestamp(3) with time zone", "timestamp with time zone"),
            ("interval day to second", "interval"),
            ("time with time zone", "text"),
            ("json", "jsonb"),
            ("inet", "text"),
            ("public.mood", "text"),
            ("int4range[]", "text[]"),
        ] {
            assert_eq!(type_here(there), here, "{there}");
            column_field("c", here, true).unwrap();
        }
    }
}
