//! The two system schemas as DataFusion sees them. A table is made when a query names it; those of
//! PostgreSQL that Kaplan has nothing for are there and empty.

use super::batch::{Row, Value, batch};
use super::{Identity, relations};
use crate::postgres::settings;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result};
use kaplan_platform::{RelationInfo, RelationKind};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

fn table(columns: &str, rows: &[Row<'_>]) -> Result<Option<Arc<dyn TableProvider>>> {
    let batch = batch(columns, rows).map_err(DataFusionError::from)?;
    Ok(Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)))
}

/// `pg_catalog`: Kaplan's own tables, then the fixed ones.
pub(super) struct PgCatalog {
    fixed: Arc<dyn SchemaProvider>,
    relations: Arc<Vec<RelationInfo>>,
    identity: Identity,
}

impl fmt::Debug for PgCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pg_catalog")
    }
}

const NAMESPACE: &str = "oid:oid nspname nspowner:oid nspacl:texts xmin:int";
const DATABASE: &str = "oid:oid datname datdba:oid encoding:int datlocprovider:char \
    datistemplate:bool datallowconn:bool datconnlimit:int datfrozenxid:int datminmxid:int \
    dattablespace:oid datcollate datctype daticulocale daticurules datcollversion datacl:texts";
const ROLES: &str = "oid:oid rolname rolsuper:bool rolinherit:bool rolcreaterole:bool \
    rolcreatedb:bool rolcanlogin:bool rolreplication:bool rolconnlimit:int rolpassword \
    rolvaliduntil rolbypassrls:bool rolconfig:texts";
const USER: &str = "usename usesysid:oid usecreatedb:bool usesuper:bool userepl:bool \
    usebypassrls:bool passwd valuntil useconfig:texts";
const SETTINGS: &str = "name setting unit category short_desc extra_desc context vartype source \
    min_val max_val enumvals:texts boot_val reset_val sourcefile sourceline:int \
    pending_restart:bool";
const TABLES: &str = "schemaname tablename tableowner tablespace hasindexes:bool hasrules:bool \
    hastriggers:bool rowsecurity:bool";
const MATVIEWS: &str =
    "schemaname matviewname matviewowner tablespace hasindexes:bool ispopulated:bool definition";
const VIEWS: &str = "schemaname viewname viewowner definition";
const INDEXES: &str = "schemaname tablename indexname tablespace indexdef";
const ACTIVITY: &str = "datid:oid datname pid:int leader_pid:int usesysid:oid usename \
    application_name client_addr client_hostname client_port:int backend_start xact_start \
    query_start state_change wait_event_type wait_event state backend_xid:int backend_xmin:int \
    query_id:int8 query backend_type";
const USER_TABLES: &str = "relid:oid schemaname relname seq_scan:int8 seq_tup_read:int8 \
    idx_scan:int8 idx_tup_fetch:int8 n_tup_ins:int8 n_tup_upd:int8 n_tup_del:int8 \
    n_live_tup:int8 n_dead_tup:int8 last_vacuum last_autovacuum last_analyze last_autoanalyze";
const LOCKS: &str = "locktype database:oid relation:oid page:int tuple:int2 virtualxid \
    transactionid:int classid:oid objid:oid objsubid:int2 virtualtransaction pid:int mode \
    granted:bool fastpath:bool waitstart";
const SEQUENCES: &str = "schemaname sequencename sequenceowner data_type start_value:int8 \
    min_value:int8 max_value:int8 increment_by:int8 cycle:bool cache_size:int8 last_value:int8";
const TIMEZONES: &str = "name abbrev utc_offset is_dst:bool";

const OWN: [&str; 22] = [
    "pg_class",
    "pg_attribute",
    "pg_index",
    "pg_constraint",
    "pg_attrdef",
    "pg_namespace",
    "pg_database",
    "pg_roles",
    "pg_authid",
    "pg_user",
    "pg_settings",
    "pg_tables",
    "pg_matviews",
    "pg_views",
    "pg_indexes",
    "pg_stat_activity",
    "pg_stat_user_tables",
    "pg_stat_all_tables",
    "pg_locks",
    "pg_sequences",
    "pg_timezone_names",
    "pg_prepared_xacts",
];

impl PgCatalog {
    pub fn new(
        fixed: Arc<dyn SchemaProvider>,
        relations: &Arc<Vec<RelationInfo>>,
        identity: &Identity,
    ) -> Self {
        Self { fixed, relations: Arc::clone(relations), identity: identity.clone() }
    }

    fn own(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let all = &self.relations[..];
        match name {
            "pg_class" => table(relations::CLASS, &relations::class(all)),
            "pg_attribute" => table(relations::ATTRIBUTE, &relations::attributes(all)),
            "pg_index" => table(relations::INDEX, &relations::indexes(all)),
            "pg_constraint" => table(relations::CONSTRAINT, &relations::constraints(all)),
            "pg_attrdef" => table(relations::ATTRDEF, &relations::defaults(all)),
            "pg_namespace" => table(NAMESPACE, &namespaces(&self.relations)),
            "pg_database" => table(DATABASE, &[self.database()]),
            "pg_roles" | "pg_authid" => table(ROLES, &[self.role()]),
            "pg_user" => table(USER, &[self.user()]),
            "pg_settings" => table(SETTINGS, &self.settings()),
            "pg_tables" => table(TABLES, &self.tables()),
            "pg_matviews" => table(MATVIEWS, &self.views()),
            "pg_views" => table(VIEWS, &self.plain_views()),
            "pg_indexes" => table(INDEXES, &self.indexes()),
            "pg_stat_activity" => table(ACTIVITY, &[self.activity()]),
            "pg_stat_user_tables" | "pg_stat_all_tables" => table(USER_TABLES, &self.statistics()),
            "pg_locks" => table(LOCKS, &[]),
            "pg_sequences" => table(SEQUENCES, &[]),
            "pg_prepared_xacts" => table("transaction:int gid prepared owner database", &[]),
            "pg_timezone_names" => {
                let utc: Row<'_> = vec![
                    ("name", "UTC".into()),
                    ("abbrev", "UTC".into()),
                    ("utc_offset", "00:00:00".into()),
                    ("is_dst", false.into()),
                ];
                table(TIMEZONES, &[utc])
            }
            _ => Ok(None),
        }
    }

    fn database(&self) -> Row<'static> {
        vec![
            ("oid", relations::DATABASE.into()),
            ("datname", (&self.identity.database).into()),
            ("datdba", relations::OWNER.into()),
            ("encoding", Value::Int(6)),
            ("datlocprovider", "c".into()),
            ("datistemplate", false.into()),
            ("datallowconn", true.into()),
            ("datconnlimit", Value::Int(-1)),
            ("dattablespace", Value::Int(1663)),
            ("datcollate", "C.UTF-8".into()),
            ("datctype", "C.UTF-8".into()),
        ]
    }

    fn role(&self) -> Row<'static> {
        let mut row: Row<'static> = vec![
            ("oid", relations::OWNER.into()),
            ("rolname", (&self.identity.user).into()),
            ("rolconnlimit", Value::Int(-1)),
        ];
        let yes = ["rolsuper", "rolinherit", "rolcreaterole", "rolcreatedb", "rolcanlogin"];
        row.extend(yes.map(|name| (name, Value::Bool(true))));
        row.extend(["rolreplication", "rolbypassrls"].map(|name| (name, Value::Bool(false))));
        row
    }

    fn user(&self) -> Row<'static> {
        vec![
            ("usename", (&self.identity.user).into()),
            ("usesysid", relations::OWNER.into()),
            ("usecreatedb", true.into()),
            ("usesuper", true.into()),
            ("userepl", false.into()),
            ("usebypassrls", false.into()),
        ]
    }

    fn settings(&self) -> Vec<Row<'static>> {
        let all = settings::all(&self.identity.variables);
        let rows = all.into_iter().map(|(name, value)| {
            vec![
                ("name", name.into()),
                ("setting", (&value).into()),
                ("category", "Kaplan".into()),
                ("context", "user".into()),
                ("vartype", "string".into()),
                ("source", "default".into()),
                ("boot_val", (&value).into()),
                ("reset_val", (&value).into()),
                ("pending_restart", false.into()),
            ]
        });
        rows.collect()
    }

    fn of_kind(&self, view: bool) -> impl Iterator<Item = &RelationInfo> {
        self.relations.iter().filter(move |r| match r.kind {
            RelationKind::View => view,
            RelationKind::PlainView => false,
            RelationKind::Stream | RelationKind::Table => !view,
        })
    }

    fn plain_views(&self) -> Vec<Row<'static>> {
        let plain = self.relations.iter().filter(|r| r.kind == RelationKind::PlainView);
        let rows = plain.map(|relation| {
            vec![
                ("schemaname", relation.schema_name().into()),
                ("viewname", relation.plain_name().into()),
                ("viewowner", (&self.identity.user).into()),
                ("definition", relation.query.as_ref().into()),
            ]
        });
        rows.collect()
    }

    fn tables(&self) -> Vec<Row<'static>> {
        let rows = self.of_kind(false).map(|relation| {
            vec![
                ("schemaname", relation.schema_name().into()),
                ("tablename", relation.plain_name().into()),
                ("tableowner", (&self.identity.user).into()),
                ("hasindexes", (!relation.primary_key.is_empty()).into()),
                ("hasrules", false.into()),
                ("hastriggers", false.into()),
                ("rowsecurity", false.into()),
            ]
        });
        rows.collect()
    }

    fn views(&self) -> Vec<Row<'static>> {
        let rows = self.of_kind(true).map(|relation| {
            vec![
                ("schemaname", relation.schema_name().into()),
                ("matviewname", relation.plain_name().into()),
                ("matviewowner", (&self.identity.user).into()),
                ("hasindexes", false.into()),
                ("ispopulated", true.into()),
                ("definition", relation.query.as_ref().into()),
            ]
        });
        rows.collect()
    }

    fn indexes(&self) -> Vec<Row<'static>> {
        let keyed = self.of_kind(false).filter(|r| !r.primary_key.is_empty());
        let rows = keyed.map(|relation| {
            let oid = relations::oid(relation) + 1;
            vec![
                ("schemaname", relation.schema_name().into()),
                ("tablename", relation.plain_name().into()),
                ("indexname", format!("{}_pkey", relation.plain_name()).into()),
                ("indexdef", relations::index_text(&self.relations, oid, 0).into()),
            ]
        });
        rows.collect()
    }

    fn activity(&self) -> Row<'static> {
        vec![
            ("datid", relations::DATABASE.into()),
            ("datname", (&self.identity.database).into()),
            ("pid", i64::from(self.identity.pid).into()),
            ("usesysid", relations::OWNER.into()),
            ("usename", (&self.identity.user).into()),
            ("state", "active".into()),
            ("backend_type", "client backend".into()),
        ]
    }

    fn statistics(&self) -> Vec<Row<'static>> {
        let rows = self.of_kind(false).map(|relation| {
            vec![
                ("relid", relations::oid(relation).into()),
                ("schemaname", relation.schema_name().into()),
                ("relname", relation.plain_name().into()),
            ]
        });
        rows.collect()
    }
}

/// The schemas that there are relations in, besides PostgreSQL's own.
fn schemas(relations: &[RelationInfo]) -> Vec<(i64, String)> {
    let fixed = relations::NAMESPACES.map(|(oid, name)| (oid, name.to_owned()));
    let own: BTreeSet<&str> = relations.iter().map(RelationInfo::schema_name).collect();
    let own = own.into_iter().filter(|name| *name != "public");
    let own = own.map(|name| (relations::namespace_number(name), name.to_owned()));
    fixed.into_iter().chain(own).collect()
}

fn namespaces(relations: &[RelationInfo]) -> Vec<Row<'static>> {
    let rows = schemas(relations).into_iter().map(|(oid, name)| {
        vec![
            ("oid", oid.into()),
            ("nspname", name.into()),
            ("nspowner", relations::OWNER.into()),
            ("xmin", Value::Int(0)),
        ]
    });
    rows.collect()
}

#[async_trait]
impl SchemaProvider for PgCatalog {
    fn table_names(&self) -> Vec<String> {
        let mut names = self.fixed.table_names();
        names.extend(OWN.map(str::to_owned));
        names
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.own(name)? {
            Some(table) => Ok(Some(table)),
            None => self.fixed.table(name).await,
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        OWN.contains(&name) || self.fixed.table_exist(name)
    }
}

/// `information_schema`.
pub(super) struct InformationSchema {
    relations: Arc<Vec<RelationInfo>>,
    identity: Identity,
}

impl fmt::Debug for InformationSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("information_schema")
    }
}

const SCHEMATA: &str = "catalog_name schema_name schema_owner default_character_set_catalog \
    default_character_set_schema default_character_set_name sql_path";
const VIEW_ROWS: &str = "table_catalog table_schema table_name view_definition check_option \
    is_updatable is_insertable_into is_trigger_updatable is_trigger_deletable \
    is_trigger_insertable_into";

/// The views that are always empty, with the columns that clients ask for.
const EMPTY: [(&str, &str); 14] = [
    (
        "referential_constraints",
        "constraint_catalog constraint_schema constraint_name unique_constraint_catalog \
         unique_constraint_schema unique_constraint_name match_option update_rule delete_rule",
    ),
    (
        "constraint_column_usage",
        "table_catalog table_schema table_name column_name constraint_catalog constraint_schema \
         constraint_name",
    ),
    ("check_constraints", "constraint_catalog constraint_schema constraint_name check_clause"),
    (
        "routines",
        "specific_catalog specific_schema specific_name routine_catalog routine_schema \
         routine_name routine_type data_type type_udt_name routine_body routine_definition \
         external_language",
    ),
    (
        "parameters",
        "specific_catalog specific_schema specific_name ordinal_position:int parameter_mode \
         parameter_name data_type udt_name",
    ),
    (
        "triggers",
        "trigger_catalog trigger_schema trigger_name event_manipulation event_object_catalog \
         event_object_schema event_object_table action_statement action_orientation action_timing",
    ),
    (
        "sequences",
        "sequence_catalog sequence_schema sequence_name data_type start_value minimum_value \
         maximum_value increment cycle_option",
    ),
    (
        "table_privileges",
        "grantor grantee table_catalog table_schema table_name privilege_type is_grantable \
         with_hierarchy",
    ),
    (
        "role_table_grants",
        "grantor grantee table_catalog table_schema table_name privilege_type is_grantable \
         with_hierarchy",
    ),
    (
        "column_privileges",
        "grantor grantee table_catalog table_schema table_name column_name privilege_type \
         is_grantable",
    ),
    ("enabled_roles", "role_name"),
    ("applicable_roles", "grantee role_name is_grantable"),
    ("domains", "domain_catalog domain_schema domain_name data_type"),
    ("character_sets", "character_set_catalog character_set_schema character_set_name"),
];

const FILLED: [&str; 6] =
    ["schemata", "tables", "columns", "views", "table_constraints", "key_column_usage"];

impl InformationSchema {
    pub fn new(relations: &Arc<Vec<RelationInfo>>, identity: &Identity) -> Self {
        Self { relations: Arc::clone(relations), identity: identity.clone() }
    }

    fn schemata(&self) -> Vec<Row<'static>> {
        let rows = schemas(&self.relations).into_iter().map(|(_, name)| {
            vec![
                ("catalog_name", (&self.identity.database).into()),
                ("schema_name", name.into()),
                ("schema_owner", (&self.identity.user).into()),
            ]
        });
        rows.collect()
    }

    fn views(&self) -> Vec<Row<'static>> {
        let views = self.relations.iter().filter(|r| r.is_view());
        let rows = views.map(|relation| {
            vec![
                ("table_catalog", (&self.identity.database).into()),
                ("table_schema", relation.schema_name().into()),
                ("table_name", relation.plain_name().into()),
                ("view_definition", relation.query.as_ref().into()),
                ("check_option", "NONE".into()),
                ("is_updatable", "NO".into()),
                ("is_insertable_into", "NO".into()),
            ]
        });
        rows.collect()
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        let empty = EMPTY.iter().map(|(name, _)| *name);
        FILLED.into_iter().chain(empty).map(str::to_owned).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let (all, who) = (&self.relations[..], &self.identity);
        match name {
            "schemata" => table(SCHEMATA, &self.schemata()),
            "tables" => table(relations::TABLES, &relations::tables(all, who)),
            "columns" => table(relations::COLUMNS, &relations::columns(all, who)),
            "views" => table(VIEW_ROWS, &self.views()),
            "table_constraints" => {
                table(relations::TABLE_CONSTRAINTS, &relations::table_constraints(all, who))
            }
            "key_column_usage" => table(relations::KEY_COLUMNS, &relations::key_columns(all, who)),
            other => match EMPTY.iter().find(|(name, _)| *name == other) {
                Some((_, columns)) => table(columns, &[]),
                None => Ok(None),
            },
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        FILLED.contains(&name) || EMPTY.iter().any(|(known, _)| *known == name)
    }
}
