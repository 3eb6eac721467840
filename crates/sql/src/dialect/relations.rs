//! Which streams and views a query reads. Names that WITH defines are left out, but only where they
//! are visible: in `WITH t AS (SELECT * FROM t)` the inner `t` is a stream.

use super::cursor::{folded, folded_name};
use super::window::window_input;
use datafusion::sql::sqlparser::ast::{Query, TableFactor, Visit, Visitor};
use std::ops::ControlFlow;

/// The names that `query` reads, folded, dotted when they have two parts (`batch.v`), each once,
/// in order of appearance. Works before and after [`super::rewrite`].
#[must_use]
pub fn relations(query: &Query) -> Vec<String> {
    let mut reader = Reader::default();
    let _ = query.visit(&mut reader);
    reader.found
}

/// Where a query's WITH is being read.
struct Scope {
    /// The names that are visible by now.
    visible: Vec<String>,
    /// The definitions that are still to come: address of the query, name.
    pending: Vec<(usize, String)>,
}

#[derive(Default)]
struct Reader {
    scopes: Vec<Scope>,
    found: Vec<String>,
}

impl Reader {
    fn add(&mut self, name: String) {
        let defined = self.scopes.iter().any(|scope| scope.visible.contains(&name));
        if !defined && !self.found.contains(&name) {
            self.found.push(name);
        }
    }
}

/// The address tells a definition's query from the queries inside it.
fn address(query: &Query) -> usize {
    std::ptr::from_ref(query).addr()
}

impl Visitor for Reader {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let mut scope = Scope { visible: Vec::new(), pending: Vec::new() };
        if let Some(with) = &query.with {
            for cte in &with.cte_tables {
                let name = folded(&cte.alias.name);
                if with.recursive {
                    scope.visible.push(name);
                } else {
                    scope.pending.push((address(&cte.query), name));
                }
            }
        }
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.scopes.pop();
        if let Some(outer) = self.scopes.last_mut() {
            let at = address(query);
            let name = outer.pending.iter().find(|(query, _)| *query == at);
            outer.visible.extend(name.map(|(_, name)| name.clone()));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args, .. } = factor {
            match args {
                None => self.add(folded_name(name)),
                Some(args) => {
                    if let Some(name) = window_input(name, args) {
                        self.add(name);
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }
}
