//! Dealing the rows of the sources to several circuits of one view whose states add up. Rows may be
//! dealt by a column where all that meet in an operator's state have one value in it; without state
//! below the view they may be dealt at will.
//!
//! What is not a plain column is no way to deal rows: an expression may give two rows of one value to
//! different keys only if it reads something else as well.

use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use std::sync::Arc;

/// One way to deal rows: for each source the column that decides, and where its value is in the
/// output of the operator that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Pairs of a source's position and the column of it.
    pub sources: Vec<(usize, usize)>,
    /// The output's columns that hold the value.
    pub columns: Vec<usize>,
}

/// Key expressions.
type Keys<'a> = &'a [Arc<dyn PhysicalExpr>];

/// How a view's rows can be dealt to circuits that add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// At will.
    Any,
    /// By the hash of one column of each source.
    ByColumn(Vec<usize>),
}

impl Split {
    /// By one column of a source.
    pub(crate) fn of_source(source: usize, column: usize) -> Self {
        Self { sources: vec![(source, column)], columns: vec![column] }
    }

    /// The same with the value in other columns.
    pub(crate) fn moved(&self, to: impl Fn(usize) -> Vec<usize>) -> Self {
        let columns = self.columns.iter().flat_map(|c| to(*c)).collect();
        Self { sources: self.sources.clone(), columns }
    }

    /// Whether one of the keys is a column that holds the value.
    fn decides(&self, key: &Arc<dyn PhysicalExpr>) -> bool {
        column_of(key).is_some_and(|c| self.columns.contains(&c))
    }

    /// Where the value is after a projection to these expressions.
    pub(crate) fn projected(&self, expressions: &[Arc<dyn PhysicalExpr>]) -> Self {
        let held = |column: usize| {
            let same = |e: &Arc<dyn PhysicalExpr>| column_of(e) == Some(column);
            (0..expressions.len()).filter(|i| same(&expressions[*i])).collect()
        };
        self.moved(held)
    }

    /// Those that keep together the rows of every key; `output` says where a key is in the output.
    pub(crate) fn by_keys(
        below: Vec<Self>,
        keys: &[Arc<dyn PhysicalExpr>],
        output: impl Fn(usize) -> Option<usize>,
    ) -> Vec<Self> {
        let keyed = |split: Self| {
            let held: Vec<usize> = (0..keys.len()).filter(|k| split.decides(&keys[*k])).collect();
            let columns = held.iter().filter_map(|k| output(*k)).collect();
            (!held.is_empty()).then_some(Self { sources: split.sources, columns })
        };
        below.into_iter().filter_map(keyed).collect()
    }

    /// Those that keep together pairs of equal keys. The output's columns are left to the caller:
    /// each result comes with those of the left and of the right side.
    pub(crate) fn joined(
        left: &[Self],
        right: &[Self],
        keys: (Keys<'_>, Keys<'_>),
    ) -> Vec<(Self, Self)> {
        let mut found = Vec::new();
        for (l, r) in keys.0.iter().zip(keys.1) {
            for ours in left.iter().filter(|split| split.decides(l)) {
                for theirs in right.iter().filter(|split| split.decides(r)) {
                    found.push((ours.clone(), theirs.clone()));
                }
            }
        }
        found
    }
}

/// The column that an expression is.
pub(crate) fn column_of(expression: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expression.downcast_ref::<Column>().map(Column::index)
}
