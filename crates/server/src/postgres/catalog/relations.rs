//! Kaplan's relations as PostgreSQL's catalogs describe them: streams and tables are relations of
//! kind `r`, materialized views of kind `m`, plain views of kind `v`, a primary key is an index of
//! kind `i`. Object ids are made of the relations' own numbers, so they stay when the server restarts.

use super::Identity;
use super::batch::{Row, Value};
use crate::postgres::wire_type::{length, modifier, type_of};
use arrow::datatypes::{DataType, FieldRef};
use kaplan_platform::{RelationInfo, RelationKind};
use kaplan_sql::dialect::sql_type_name;
use pgwire::api::Type;

/// The namespaces: oid and name.
pub(super) const NAMESPACES: [(i64, &str); 3] =
    [(PG_CATALOG, "pg_catalog"), (PUBLIC, "public"), (INFORMATION_SCHEMA, "information_schema")];
const PG_CATALOG: i64 = 11;
const PUBLIC: i64 = 2200;
const INFORMATION_SCHEMA: i64 = 13_000;
/// The role that owns everything.
pub(super) const OWNER: i64 = 10;
/// The database.
pub(super) const DATABASE: i64 = 5;
/// Access methods `heap` and `btree`.
const HEAP: i64 = 2;
const BTREE: i64 = 403;
/// First oid of user objects. Each relation has a block of oids: itself, its key's index and
/// constraint, then its checks, then its defaults.
const FIRST_OID: i64 = 16_384;
const OIDS_PER_RELATION: i64 = 4_096;
const KEY_INDEX: i64 = 1;
const KEY_CONSTRAINT: i64 = 2;
const CHECKS: i64 = 3;
const DEFAULTS: i64 = 2_048;

pub(super) fn oid(relation: &RelationInfo) -> i64 {
    FIRST_OID + i64::from(relation.id) * OIDS_PER_RELATION
}

/// The number of the namespace of this name: made of it, so that it stays.
pub(super) fn namespace_number(schema: &str) -> i64 {
    const FIRST: i64 = 1_000_000_000;
    if schema == "public" {
        return PUBLIC;
    }
    let step = |sum: u32, byte: u8| (sum ^ u32::from(byte)).wrapping_mul(16_777_619);
    FIRST + i64::from(schema.bytes().fold(2_166_136_261, step)) % FIRST
}

fn namespace(relation: &RelationInfo) -> i64 {
    namespace_number(relation.schema_name())
}

fn key_name(relation: &RelationInfo) -> String {
    format!("{}_pkey", relation.plain_name())
}

/// The well-known oids of the catalogs that clients join by their own oid.
const SYSTEM: [(i64, &str); 12] = [
    (1247, "pg_type"),
    (1249, "pg_attribute"),
    (1255, "pg_proc"),
    (1259, "pg_class"),
    (1262, "pg_database"),
    (2604, "pg_attrdef"),
    (2606, "pg_constraint"),
    (2609, "pg_description"),
    (2610, "pg_index"),
    (2615, "pg_namespace"),
    (3079, "pg_extension"),
    (1260, "pg_authid"),
];

pub(super) const CLASS: &str = "oid:oid relname relnamespace:oid reltype:oid reloftype:oid \
    relowner:oid relam:oid relfilenode:oid reltablespace:oid relpages:int reltuples:real \
    relallvisible:int reltoastrelid:oid relhasindex:bool relisshared:bool relpersistence:char \
    relkind:char relnatts:int2 relchecks:int2 relhasrules:bool relhastriggers:bool \
    relhassubclass:bool relrowsecurity:bool relforcerowsecurity:bool relispopulated:bool \
    relreplident:char relispartition:bool relrewrite:oid relfrozenxid:int relminmxid:int \
    relacl:texts reloptions:texts relpartbound:text relhasoids:bool xmin:int";

fn class_row(oid: i64, name: &str, namespace: i64, kind: &str, columns: usize) -> Row<'static> {
    let mut row: Row<'static> = vec![
        ("oid", oid.into()),
        ("relname", name.into()),
        ("relnamespace", namespace.into()),
        ("relowner", OWNER.into()),
        ("relam", if kind == "i" { BTREE } else { HEAP }.into()),
        ("relfilenode", oid.into()),
        ("reltuples", Value::Int(-1)),
        ("relpersistence", "p".into()),
        ("relkind", kind.into()),
        ("relnatts", columns.into()),
        ("relispopulated", true.into()),
        ("relreplident", if kind == "i" { "n" } else { "d" }.into()),
    ];
    let zeros = ["reltype", "reloftype", "reltablespace", "relpages", "relallvisible"];
    let more = ["reltoastrelid", "relchecks", "relrewrite", "relfrozenxid", "relminmxid", "xmin"];
    row.extend(zeros.into_iter().chain(more).map(|name| (name, Value::Int(0))));
    let flags = ["relisshared", "relhasrules", "relhastriggers", "relhassubclass"];
    let more = ["relrowsecurity", "relforcerowsecurity", "relispartition", "relhasoids"];
    row.extend(flags.into_iter().chain(more).map(|name| (name, Value::Bool(false))));
    row
}

fn set(row: &mut Row<'static>, name: &'static str, value: impl Into<Value>) {
    row.retain(|(n, _)| *n != name);
    row.push((name, value.into()));
}

pub(super) fn class(relations: &[RelationInfo]) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for relation in relations {
        let kind = match relation.kind {
            RelationKind::View => "m",
            RelationKind::PlainView => "v",
            RelationKind::Stream | RelationKind::Table => "r",
        };
        let columns = relation.schema.fields().len();
        let mut row =
            class_row(oid(relation), relation.plain_name(), namespace(relation), kind, columns);
        let has_key = !relation.primary_key.is_empty();
        set(&mut row, "relhasindex", has_key);
        set(&mut row, "relchecks", relation.checks.len());
        rows.push(row);
        if has_key {
            let (oid, name) = (oid(relation) + KEY_INDEX, key_name(relation));
            let mut row =
                class_row(oid, &name, namespace(relation), "i", relation.primary_key.len());
            set(&mut row, "relhasindex", false);
            rows.push(row);
        }
    }
    for (oid, name) in SYSTEM {
        let mut row = class_row(oid, name, PG_CATALOG, "r", 0);
        set(&mut row, "relhasindex", false);
        rows.push(row);
    }
    rows
}

pub(super) const ATTRIBUTE: &str = "attrelid:oid attname atttypid:oid attstattarget:int \
    attlen:int2 attnum:int2 attndims:int attcacheoff:int atttypmod:int attbyval:bool \
    attalign:char attstorage:char attcompression:char attnotnull:bool atthasdef:bool \
    atthasmissing:bool attidentity:char attgenerated:char attisdropped:bool attislocal:bool \
    attinhcount:int attcollation:oid attacl:texts attoptions:texts attfdwoptions:texts \
    attmissingval:texts";

fn attribute_row(relation: i64, number: usize, field: &FieldRef) -> Row<'static> {
    let data_type = type_of(field);
    let size = i64::from(length(&data_type));
    let text = data_type == Type::TEXT;
    let array = matches!(field.data_type(), DataType::List(_) | DataType::LargeList(_));
    let mut row: Row<'static> = vec![
        ("attrelid", relation.into()),
        ("attname", field.name().into()),
        ("atttypid", i64::from(data_type.oid()).into()),
        ("attstattarget", Value::Int(-1)),
        ("attlen", size.into()),
        ("attnum", number.into()),
        ("attndims", i64::from(array).into()),
        ("attcacheoff", Value::Int(-1)),
        ("atttypmod", i64::from(modifier(field)).into()),
        ("attbyval", (size > 0 && size <= 8).into()),
        ("attalign", if size == 8 { "d" } else { "i" }.into()),
        ("attstorage", if size > 0 { "p" } else { "x" }.into()),
        ("attcompression", "".into()),
        ("attnotnull", (!field.is_nullable()).into()),
        ("attidentity", "".into()),
        ("attgenerated", "".into()),
        ("attislocal", true.into()),
        ("attinhcount", Value::Int(0)),
        ("attcollation", Value::Int(if text { 100 } else { 0 })),
    ];
    let flags = ["atthasdef", "atthasmissing", "attisdropped"];
    row.extend(flags.into_iter().map(|name| (name, Value::Bool(false))));
    row
}

/// A relation's column, by name: its number from 1 and itself.
fn column<'a>(relation: &'a RelationInfo, name: &str) -> Option<(usize, &'a FieldRef)> {
    let (at, field) = relation.schema.fields().find(name)?;
    Some((at + 1, field))
}

fn numbers(relation: &RelationInfo) -> Vec<i16> {
    let key = relation.primary_key.iter().filter_map(|name| column(relation, name));
    key.filter_map(|(number, _)| i16::try_from(number).ok()).collect()
}

pub(super) fn attributes(relations: &[RelationInfo]) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for relation in relations {
        for (at, field) in relation.schema.fields().iter().enumerate() {
            let mut row = attribute_row(oid(relation), at + 1, field);
            let in_key = relation.primary_key.contains(field.name());
            let view = relation.is_view();
            set(&mut row, "atthasdef", relation.defaults.contains_key(field.name()));
            set(&mut row, "attnotnull", !view && (in_key || !field.is_nullable()));
            rows.push(row);
        }
        let index = oid(relation) + KEY_INDEX;
        let key = relation.primary_key.iter().filter_map(|name| column(relation, name));
        rows.extend(key.enumerate().map(|(at, (_, field))| attribute_row(index, at + 1, field)));
    }
    rows
}

pub(super) const INDEX: &str = "indexrelid:oid indrelid:oid indnatts:int2 indnkeyatts:int2 \
    indisunique:bool indnullsnotdistinct:bool indisprimary:bool indisexclusion:bool \
    indimmediate:bool indisclustered:bool indisvalid:bool indcheckxmin:bool indisready:bool \
    indislive:bool indisreplident:bool indkey:int2s indcollation:int2s indclass:int2s \
    indoption:int2s indexprs indpred";

pub(super) fn indexes(relations: &[RelationInfo]) -> Vec<Row<'static>> {
    let keyed = relations.iter().filter(|r| !r.primary_key.is_empty());
    let rows = keyed.map(|relation| {
        let key = numbers(relation);
        let zeros = vec![0; key.len()];
        let mut row: Row<'static> = vec![
            ("indexrelid", (oid(relation) + KEY_INDEX).into()),
            ("indrelid", oid(relation).into()),
            ("indnatts", key.len().into()),
            ("indnkeyatts", key.len().into()),
            ("indkey", Value::Ints(key)),
            ("indcollation", Value::Ints(zeros.clone())),
            ("indclass", Value::Ints(zeros.clone())),
            ("indoption", Value::Ints(zeros)),
        ];
        let yes = ["indisunique", "indisprimary", "indimmediate", "indisvalid", "indisready"];
        row.extend(yes.into_iter().chain(["indislive"]).map(|n| (n, Value::Bool(true))));
        let no = ["indnullsnotdistinct", "indisexclusion", "indisclustered", "indcheckxmin"];
        row.extend(no.into_iter().chain(["indisreplident"]).map(|n| (n, Value::Bool(false))));
        row
    });
    rows.collect()
}

pub(super) const CONSTRAINT: &str = "oid:oid conname connamespace:oid contype:char \
    condeferrable:bool condeferred:bool convalidated:bool conrelid:oid contypid:oid conindid:oid \
    conparentid:oid confrelid:oid confupdtype:char confdeltype:char confmatchtype:char \
    conislocal:bool coninhcount:int connoinherit:bool conkey:int2s confkey:int2s conpfeqop:int2s \
    conppeqop:int2s conffeqop:int2s confdelsetcols:int2s conexclop:int2s conbin";

fn constraint_row(relation: &RelationInfo, oid_in: i64, name: &str, kind: &str) -> Row<'static> {
    let mut row: Row<'static> = vec![
        ("oid", (oid(relation) + oid_in).into()),
        ("conname", name.into()),
        ("connamespace", namespace(relation).into()),
        ("contype", kind.into()),
        ("convalidated", true.into()),
        ("conrelid", oid(relation).into()),
        ("conislocal", true.into()),
        ("confupdtype", " ".into()),
        ("confdeltype", " ".into()),
        ("confmatchtype", " ".into()),
    ];
    let zeros = ["contypid", "conindid", "conparentid", "confrelid", "coninhcount"];
    row.extend(zeros.into_iter().map(|name| (name, Value::Int(0))));
    let no = ["condeferrable", "condeferred", "connoinherit"];
    row.extend(no.into_iter().map(|name| (name, Value::Bool(false))));
    row
}

pub(super) fn constraints(relations: &[RelationInfo]) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for relation in relations {
        if !relation.primary_key.is_empty() {
            let mut row = constraint_row(relation, KEY_CONSTRAINT, &key_name(relation), "p");
            set(&mut row, "conindid", oid(relation) + KEY_INDEX);
            set(&mut row, "conkey", Value::Ints(numbers(relation)));
            rows.push(row);
        }
        for (at, (name, condition)) in (CHECKS..).zip(&relation.checks) {
            let mut row = constraint_row(relation, at, name, "c");
            set(&mut row, "conbin", condition);
            rows.push(row);
        }
    }
    rows
}

/// The text of a constraint, as `pg_get_constraintdef` gives it.
pub(super) fn constraint_text(relations: &[RelationInfo], wanted: i64) -> Option<String> {
    for relation in relations {
        let key = relation.primary_key.join(", ");
        match wanted - oid(relation) {
            KEY_CONSTRAINT if !key.is_empty() => return Some(format!("PRIMARY KEY ({key})")),
            check @ CHECKS..DEFAULTS => {
                let (_, condition) = relation.checks.get(usize::try_from(check - CHECKS).ok()?)?;
                return Some(format!("CHECK ({condition})"));
            }
            _ => {}
        }
    }
    None
}

/// The text of an index, or of its column `number` when that is above 0.
pub(super) fn index_text(relations: &[RelationInfo], wanted: i64, number: i64) -> Option<String> {
    let relation = relations.iter().find(|r| oid(r) + KEY_INDEX == wanted)?;
    if number > 0 {
        return relation.primary_key.get(usize::try_from(number - 1).ok()?).cloned();
    }
    let (name, table, key) = (key_name(relation), &relation.name, relation.primary_key.join(", "));
    Some(format!("CREATE UNIQUE INDEX {name} ON public.{table} USING btree ({key})"))
}

pub(super) const ATTRDEF: &str = "oid:oid adrelid:oid adnum:int2 adbin";

pub(super) fn defaults(relations: &[RelationInfo]) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for relation in relations {
        for (name, default) in &relation.defaults {
            let Some((number, _)) = column(relation, name) else { continue };
            let own = DEFAULTS + i64::try_from(number).unwrap_or(0);
            rows.push(vec![
                ("oid", (oid(relation) + own).into()),
                ("adrelid", oid(relation).into()),
                ("adnum", number.into()),
                ("adbin", default.into()),
            ]);
        }
    }
    rows
}

pub(super) const TABLES: &str = "table_catalog table_schema table_name table_type \
    self_referencing_column_name reference_generation user_defined_type_catalog \
    user_defined_type_schema user_defined_type_name is_insertable_into is_typed commit_action";

/// `information_schema.tables`: a materialized view counts as a view there, so that clients that
/// know nothing else than tables and views see it.
pub(super) fn tables(relations: &[RelationInfo], identity: &Identity) -> Vec<Row<'static>> {
    let rows = relations.iter().map(|relation| {
        let view = relation.is_view();
        vec![
            ("table_catalog", (&identity.database).into()),
            ("table_schema", relation.schema_name().into()),
            ("table_name", relation.plain_name().into()),
            ("table_type", if view { "VIEW" } else { "BASE TABLE" }.into()),
            ("is_insertable_into", if view { "NO" } else { "YES" }.into()),
            ("is_typed", "NO".into()),
        ]
    });
    rows.collect()
}

pub(super) const COLUMNS: &str = "table_catalog table_schema table_name column_name \
    ordinal_position:int column_default is_nullable data_type character_maximum_length:int \
    character_octet_length:int numeric_precision:int numeric_precision_radix:int \
    numeric_scale:int datetime_precision:int interval_type interval_precision:int \
    character_set_catalog character_set_schema character_set_name collation_catalog \
    collation_schema collation_name domain_catalog domain_schema domain_name udt_catalog \
    udt_schema udt_name scope_catalog scope_schema scope_name maximum_cardinality:int \
    dtd_identifier is_self_referencing is_identity identity_generation identity_start \
    identity_increment identity_maximum identity_minimum identity_cycle is_generated \
    generation_expression is_updatable";

pub(super) fn columns(relations: &[RelationInfo], identity: &Identity) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for relation in relations {
        let view = relation.is_view();
        for (at, field) in relation.schema.fields().iter().enumerate() {
            let name = sql_type_name(field.data_type());
            let array = name.ends_with("[]");
            let spelled = name.split('(').next().unwrap_or_default().to_owned();
            let required =
                !view && (!field.is_nullable() || relation.primary_key.contains(field.name()));
            let (precision, scale) = precision(field.data_type());
            rows.push(vec![
                ("table_catalog", (&identity.database).into()),
                ("table_schema", relation.schema_name().into()),
                ("table_name", relation.plain_name().into()),
                ("column_name", field.name().into()),
                ("ordinal_position", (at + 1).into()),
                ("column_default", relation.defaults.get(field.name()).into()),
                ("is_nullable", if required { "NO" } else { "YES" }.into()),
                ("data_type", if array { "ARRAY".into() } else { spelled.into() }),
                ("numeric_precision", precision.into()),
                ("numeric_precision_radix", precision.map(|p| radix(p, scale)).into()),
                ("numeric_scale", scale.into()),
                ("udt_catalog", (&identity.database).into()),
                ("udt_schema", "pg_catalog".into()),
                ("udt_name", type_of(field).name().into()),
                ("dtd_identifier", (at + 1).to_string().into()),
                ("is_self_referencing", "NO".into()),
                ("is_identity", "NO".into()),
                ("is_generated", "NEVER".into()),
                ("is_updatable", if view { "NO" } else { "YES" }.into()),
            ]);
        }
    }
    rows
}

/// Precision and scale of numbers, in bits but for numeric.
fn precision(data_type: &DataType) -> (Option<i64>, Option<i64>) {
    match data_type {
        DataType::Int16 => (Some(16), Some(0)),
        DataType::Int32 => (Some(32), Some(0)),
        DataType::Int64 => (Some(64), Some(0)),
        DataType::Float32 => (Some(24), None),
        DataType::Float64 => (Some(53), None),
        DataType::Decimal128(p, s) => (Some(i64::from(*p)), Some(i64::from(*s))),
        _ => (None, None),
    }
}

fn radix(precision: i64, scale: Option<i64>) -> i64 {
    let binary = matches!((precision, scale), (16 | 32 | 64, Some(0)) | (24 | 53, None));
    if binary { 2 } else { 10 }
}

pub(super) const TABLE_CONSTRAINTS: &str = "constraint_catalog constraint_schema constraint_name \
    table_catalog table_schema table_name constraint_type is_deferrable initially_deferred \
    enforced nulls_distinct";
pub(super) const KEY_COLUMNS: &str = "constraint_catalog constraint_schema constraint_name \
    table_catalog table_schema table_name column_name ordinal_position:int \
    position_in_unique_constraint:int";

fn key_row(relation: &RelationInfo, identity: &Identity, name: &str) -> Row<'static> {
    vec![
        ("constraint_catalog", (&identity.database).into()),
        ("constraint_schema", relation.schema_name().into()),
        ("constraint_name", name.into()),
        ("table_catalog", (&identity.database).into()),
        ("table_schema", relation.schema_name().into()),
        ("table_name", relation.plain_name().into()),
    ]
}

pub(super) fn table_constraints(
    relations: &[RelationInfo],
    identity: &Identity,
) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for relation in relations {
        let key = (!relation.primary_key.is_empty()).then(|| (key_name(relation), "PRIMARY KEY"));
        let checks = relation.checks.iter().map(|(name, _)| (name.clone(), "CHECK"));
        for (name, kind) in key.into_iter().chain(checks) {
            let mut row = key_row(relation, identity, &name);
            set(&mut row, "constraint_type", kind);
            set(&mut row, "is_deferrable", "NO");
            set(&mut row, "initially_deferred", "NO");
            set(&mut row, "enforced", "YES");
            rows.push(row);
        }
    }
    rows
}

pub(super) fn key_columns(relations: &[RelationInfo], identity: &Identity) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for relation in relations {
        for (at, name) in relation.primary_key.iter().enumerate() {
            let mut row = key_row(relation, identity, &key_name(relation));
            set(&mut row, "column_name", name);
            set(&mut row, "ordinal_position", at + 1);
            rows.push(row);
        }
    }
    rows
}
