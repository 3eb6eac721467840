//! Functions of SQL: `CREATE FUNCTION`, `DROP FUNCTION`. A view keeps what it was planned with, and
//! plans its text again on a restart: so a function that a view calls is neither replaced nor
//! dropped. The other functions have its body in theirs and do not depend on it.

use crate::platform::Inner;
use crate::{Code, Error, Result};
use kaplan_sql::catalog::{Catalog, FunctionDef};
use kaplan_sql::dialect;
use std::collections::BTreeMap;

/// The view that calls a function.
fn caller(stored: &Catalog, def: &FunctionDef) -> Result<Option<String>> {
    let known = BTreeMap::from([(def.name.clone(), def.clone())]);
    let views = stored.views.values().map(|view| (&view.name, &view.query));
    let plain = stored.plain_views.values().map(|view| (&view.name, &view.query));
    for (name, query) in views.chain(plain) {
        let mut query = dialect::parse_query(query)?;
        if !dialect::called(query.as_mut(), &known).is_empty() {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

fn in_use(name: &str, view: &str) -> Error {
    Error::new(Code::InvalidInput, format!("the function {name} is used by view {view}"))
        .hint(format!("drop the view first, or give the new function another name than {name}"))
}

/// Stores the catalog and lets the planner know its functions.
async fn publish(inner: &Inner, stored: &mut Catalog, next: Catalog) -> Result<()> {
    inner.keep(stored, next).await?;
    inner.planner.define(stored.functions.clone());
    Ok(())
}

/// `CREATE [OR REPLACE] FUNCTION`.
pub(crate) async fn create(inner: &Inner, or_replace: bool, def: FunctionDef) -> Result<()> {
    let mut stored = inner.catalog.lock().await;
    let known = stored.functions.get(&def.name);
    if inner.planner.has_function(&def.name) {
        let message = format!("the function {} is built in", def.name);
        return Err(Error::new(Code::InvalidInput, message).hint("choose another name"));
    }
    if known.is_some() && !or_replace {
        let message = format!("the function {} exists already", def.name);
        return Err(Error::new(Code::InvalidInput, message).hint("use CREATE OR REPLACE FUNCTION"));
    }
    if let Some(known) = known
        && let Some(view) = caller(&stored, known)?
    {
        return Err(in_use(&def.name, &view));
    }
    let mut next = stored.clone();
    next.functions.remove(&def.name);
    let def = dialect::closed(def, &next.functions)?;
    inner.planner.check_function(&def).await?;
    next.functions.insert(def.name.clone(), def);
    publish(inner, &mut stored, next).await
}

/// `DROP FUNCTION [IF EXISTS] name, ..`.
pub(crate) async fn drop(inner: &Inner, if_exists: bool, names: &[String]) -> Result<()> {
    let mut stored = inner.catalog.lock().await;
    let mut next = stored.clone();
    for name in names {
        let Some(def) = next.functions.remove(name) else {
            if if_exists {
                continue;
            }
            let message = format!("there is no function {name}");
            return Err(Error::new(Code::UnknownFunction, message));
        };
        if let Some(view) = caller(&stored, &def)? {
            return Err(in_use(name, &view));
        }
    }
    publish(inner, &mut stored, next).await
}
