//! Statements of the extended protocol: one statement, the types of its parameters and the columns
//! of its result, known before it runs.

use super::catalog::{Catalog, Identity};
use super::{parameters, session, settings, sqlstate, wire_type};
use crate::statements::{keyword, parameters as count, split};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use kaplan_base::limits::MAX_SQL_BYTES;
use kaplan_platform::{Code, Error, Platform};
use kaplan_sql::dialect::{self, PointRead};
use pgwire::api::portal::Format;
use pgwire::api::results::FieldInfo;
use pgwire::api::stmt::QueryParser;
use pgwire::api::{ClientInfo, METADATA_DATABASE, METADATA_USER, Type};
use pgwire::error::PgWireResult;
use std::sync::Arc;

/// A statement that was parsed.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub sql: String,
    pub types: Vec<Type>,
    /// The result's columns; none when the statement has none, or only running it tells.
    pub columns: Option<SchemaRef>,
    /// What it is if it is a read by value, which needs no second look at its text.
    pub point: Option<Arc<PointRead>>,
}

/// What all connections share.
pub(super) struct Shared {
    pub platform: Platform,
    pub catalog: Catalog,
}

pub(super) struct Parser(pub Arc<Shared>);

/// Who the client is, as the system catalogs show it.
pub(super) fn identity<C: ClientInfo>(client: &C, platform: &Platform) -> Identity {
    let named = |key: &str| client.metadata().get(key).cloned();
    let user = named(METADATA_USER).unwrap_or_else(|| "kaplan".to_owned());
    let mut variables = settings::at_startup(client.metadata().iter()).unwrap_or_default();
    let replica = platform.is_replica();
    if replica {
        variables.insert("transaction_read_only".to_owned(), "on".to_owned());
    }
    Identity {
        replica,
        database: named(METADATA_DATABASE).unwrap_or_else(|| user.clone()),
        user,
        pid: client.pid_and_secret_key().0,
        variables,
    }
}

/// The extended protocol takes one statement at a time.
pub(super) fn only_statement(sql: &str) -> PgWireResult<&str> {
    match split(sql).as_slice() {
        [] => Ok(""),
        [one] => Ok(one),
        _ => {
            let text = "cannot insert multiple commands into a prepared statement";
            Err(sqlstate::error(Error::new(Code::Syntax, text).hint("prepare each one by itself")))
        }
    }
}

pub(super) fn too_large(sql: &str) -> Result<(), Error> {
    if sql.len() <= MAX_SQL_BYTES {
        return Ok(());
    }
    let what = format!("the statement has more than {MAX_SQL_BYTES} bytes");
    Err(Error::new(Code::TooLarge, what).hint("use COPY .. FROM STDIN, or send rows over HTTP"))
}

/// PostgreSQL has no columns without a type: those of NULL alone are text.
pub(super) fn without_null(schema: &SchemaRef) -> SchemaRef {
    if schema.fields().iter().all(|f| *f.data_type() != DataType::Null) {
        return Arc::clone(schema);
    }
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Null => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The types of a statement's parameters and the columns of its result.
type Types = (Vec<Option<Type>>, Option<SchemaRef>);

impl Parser {
    async fn describe(&self, sql: &str, identity: &Identity) -> Result<Types, Error> {
        let Shared { platform, catalog } = &*self.0;
        if let Some(question) = catalog.question(sql)? {
            let (parameters, columns) = catalog.describe(platform, identity, question).await?;
            return Ok((parameters, Some(columns)));
        }
        let described = platform.describe(sql).await?;
        let known = |t: Option<DataType>| {
            t.filter(|t| *t != DataType::Null).map(|t| wire_type::of_data_type(&t))
        };
        Ok((described.parameters.into_iter().map(known).collect(), described.columns))
    }

    /// The statement's types; where the planner cannot do with untyped parameters, those of the
    /// statement with NULLs in their place.
    async fn described(
        &self,
        sql: &str,
        given: &[Option<Type>],
        identity: &Identity,
    ) -> Result<Types, Error> {
        let direct = self.describe(sql, identity).await;
        let Err(error) = direct else { return direct };
        if count(sql) == 0 {
            return Err(error);
        }
        let typed = parameters::typed_nulls(sql, given);
        match self.describe(&typed, identity).await {
            Ok((_, columns)) => Ok((Vec::new(), columns)),
            Err(_) => Err(error),
        }
    }
}

#[async_trait]
impl QueryParser for Parser {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let sql = only_statement(sql)?;
        too_large(sql).map_err(sqlstate::error)?;
        if sql.is_empty() {
            return Ok(None);
        }
        let (known, columns) = match keyword(sql).as_str() {
            _ if session::transaction(sql).is_some() => Types::default(),
            "SELECT" | "WITH" | "VALUES" | "TABLE" | "INSERT" | "UPDATE" | "DELETE" => {
                let described =
                    self.described(sql, types, &identity(client, &self.0.platform)).await;
                described.map_err(|e| sqlstate::of_statement(e, sql))?
            }
            _ => Types::default(),
        };
        let asks = self.0.catalog.question(sql).map_err(sqlstate::error)?.is_some();
        let point = dialect::parse_query(sql).ok().filter(|_| !asks);
        let point = point.and_then(|query| dialect::point_read(&query));
        Ok(Some(Prepared {
            sql: sql.to_owned(),
            point: point.map(Arc::new),
            types: parameters::types(sql, types, &known),
            columns: columns.as_ref().map(without_null),
        }))
    }

    fn get_parameter_types(&self, statement: &Prepared) -> PgWireResult<Vec<Type>> {
        Ok(statement.types.clone())
    }

    fn get_result_schema(&self, _: &Prepared, _: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_is_prepared_at_a_time() {
        assert_eq!(only_statement(" select 1 ; ").unwrap(), "select 1");
        assert_eq!(only_statement("-- nothing").unwrap(), "");
        assert!(only_statement("select 1; select 2").is_err());
    }
}
