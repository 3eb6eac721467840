//! Views split over several processes. A commit's *share* is its LSN modulo the number of shares. For
//! views whose parts add up ([`is_split`]), a *hand* takes in the commits of its shares, from one LSN
//! on, and keeps what they make; the driver takes in the commits of nobody's shares, and all commits
//! for other views.
//!
//! ```text
//! driver   begin(after 7, shares 0 2)   advance(9)  advance(12)   give -> parts of (7, 12]
//! hand     nothing                      .. takes in what is of its shares ..   nothing again
//! ```
//!
//! When such a view is read, and before its state is cut or stored, every hand gives what it has up to
//! the driver's own position, which the driver puts into its own circuits: the sum is the same however
//! the commits were dealt, since partial states are merged when they are read.
//!
//! Invariant: a commit is in a split view once. The commits of a hand's shares since it last gave are
//! the hand's alone; the log keeps them. When a hand is lost, whatever it had is lost with it, and the
//! driver takes those commits in by itself.

use crate::driver::{MAX_STEP_BYTES, step};
use crate::streams::{Streams, last_lsn};
use crate::{Error, Result};
use arrow::array::RecordBatch;
use kaplan_base::{Lsn, StreamId};
use kaplan_circuit::{Circuit, Clocks, Shelf};
use kaplan_log::{Commit, Log};
use kaplan_sql::CompiledView;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Whether a view's commits can be dealt to several circuits that add up, which is so when it keeps
/// nothing below what is merged, and time alone does not change it.
#[must_use]
pub fn is_split(view: &CompiledView) -> bool {
    view.mergeable && view.clocks.is_empty()
}

/// Shares of the commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// How many there are in all.
    pub of: u64,
    /// These.
    pub these: BTreeSet<u64>,
}

impl Shares {
    /// Whether a commit belongs to them.
    #[must_use]
    pub fn have(&self, lsn: Lsn) -> bool {
        lsn.0.checked_rem(self.of).is_some_and(|share| self.these.contains(&share))
    }
}

/// A view and its definition's version.
pub type ViewId = (String, u32);

/// What a hand made of its commits for one view: rows or partial states, to be added.
#[derive(Clone, Debug)]
pub struct Part {
    /// The view.
    pub view: ViewId,
    /// The rows.
    pub rows: RecordBatch,
}

/// Another process that takes in its shares of the commits. Calls come from the driver's thread; only
/// [`Hand::given`] waits.
pub trait Hand: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &str;
    /// The shares that it should have now; None: it is gone, or of no use for a while.
    fn shares(&self) -> Option<Shares>;
    /// Whether it keeps so much that it should give it.
    fn is_full(&self) -> bool;
    /// From here on it takes in the commits after this one, of these shares, for these views; what it
    /// had is forgotten.
    fn begin(&self, after: Lsn, shares: &Shares, views: &[ViewId]);
    /// It may take in commits up to this one.
    fn advance(&self, to: Lsn);
    /// Asks for what the commits up to the last [`Hand::advance`] have made.
    fn give(&self);
    /// Waits for what was asked for. The hand has nothing then, and goes on.
    ///
    /// # Errors
    /// Why it is lost.
    fn given(&self) -> std::result::Result<Vec<Part>, String>;
}

/// The hands that are there.
pub trait Crew: Send + Sync {
    /// All of them, in a fixed order.
    fn hands(&self) -> Vec<Arc<dyn Hand>>;
    /// What each of them has, for people to see: said when it changes.
    fn dealt(&self, dealt: &[Dealt<'_>]);
}

/// What a hand has.
pub struct Dealt<'a> {
    /// Its name.
    pub name: &'a str,
    /// The shares.
    pub shares: &'a Shares,
    /// It has commits after this one.
    pub since: Lsn,
}

/// A hand at work, as the driver knows it.
pub(crate) struct Taken {
    pub hand: Arc<dyn Hand>,
    pub range: Range,
    /// How far it may go.
    pub told: Lsn,
}

/// Commits that are a hand's, or were one's.
pub(crate) struct Range {
    pub shares: Shares,
    pub since: Lsn,
    /// Where they end, once the hand is lost.
    pub through: Lsn,
    /// The views that have them from nobody else.
    pub views: Arc<[ViewId]>,
}

impl Taken {
    /// Whether it has commits that nobody else has.
    pub fn has_some(&self) -> bool {
        self.told > self.range.since
    }
}

/// The circuits of a hand: what it does with its commits.
pub struct Share {
    views: Vec<(Arc<CompiledView>, u32, Circuit)>,
    needed: BTreeSet<StreamId>,
    streams: Streams,
    shares: Shares,
    shelf: Option<Arc<dyn Shelf>>,
    lsn: Lsn,
}

impl Share {
    /// Nothing, after this commit.
    pub fn new(
        (after, shares): (Lsn, Shares),
        views: Vec<(Arc<CompiledView>, u32)>,
        streams: Streams,
        shelf: Option<Arc<dyn Shelf>>,
    ) -> Result<Self> {
        let mut needed = BTreeSet::new();
        for source in views.iter().flat_map(|(view, _)| &view.sources) {
            // Without it the view would lack its rows, and nobody would know.
            let unknown = || kaplan_sql::Error::Unsupported {
                construct: format!("stream {}", source.stream),
                hint: "it is not among the definitions".into(),
            };
            needed.insert(streams.named(&source.stream).ok_or_else(unknown)?.id);
        }
        let mut share = Self {
            views: Vec::with_capacity(views.len()),
            needed,
            streams,
            shares,
            shelf,
            lsn: after,
        };
        for (view, version) in views {
            let circuit = share.empty(&view)?;
            share.views.push((view, version, circuit));
        }
        Ok(share)
    }

    fn empty(&self, view: &CompiledView) -> Result<Circuit> {
        Ok(view.circuit(self.lsn)?.on_shelf(self.shelf.as_ref())?)
    }

    /// The last commit that it has seen.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Bytes of what it keeps.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let sizes = self.views.iter().flat_map(|(_, _, circuit)| circuit.sizes());
        sizes.map(|(_, bytes)| bytes).sum()
    }

    /// Takes in the next commits, in order; those of other shares are passed over.
    pub fn take(&mut self, commits: Vec<Commit>) -> Result<()> {
        let last = last_lsn(&commits, self.lsn);
        let mut own = commits;
        own.retain(|commit| self.shares.have(commit.lsn));
        for commit in &mut own {
            commit.writes.retain(|write| self.needed.contains(&write.stream));
        }
        let deltas = self.streams.decode(&own)?;
        let clocks = Clocks::default();
        for (view, _, circuit) in &mut self.views {
            if view.sources.iter().any(|source| deltas.contains_key(&source.stream)) {
                step(circuit, view, &deltas, (last, &clocks))?;
            }
        }
        self.lsn = last;
        Ok(())
    }

    /// What its commits have made; it has nothing afterwards.
    pub fn give(&mut self) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for at in 0..self.views.len() {
            let (view, version, circuit) = &self.views[at];
            let id = (view.name.clone(), *version);
            for batch in circuit.generations().iter().flat_map(|g| g.trace.batches()) {
                let rows = batch.deltas()?.into_iter().map(|delta| delta.rows);
                parts.extend(rows.map(|rows| Part { view: id.clone(), rows }));
            }
            let empty = self.empty(view)?;
            self.views[at].2 = empty;
        }
        Ok(parts)
    }
}

/// The commits of some shares out of the log: after `after`, up to `to`, as many as make a step. The
/// second is how far they go.
pub(crate) fn missed(
    log: &dyn Log,
    shares: &Shares,
    (after, to): (Lsn, Lsn),
) -> Result<(Vec<Commit>, Lsn)> {
    let mut commits = log.read(after, MAX_STEP_BYTES)?;
    commits.retain(|commit| commit.lsn <= to);
    let last = last_lsn(&commits, after);
    if last == after {
        return Err(Error::Behind { start: log.start() });
    }
    commits.retain(|commit| shares.have(commit.lsn));
    Ok((commits, last))
}

#[cfg(test)]
mod tests;
