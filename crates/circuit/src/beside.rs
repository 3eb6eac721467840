//! Merges beside the steps. A large merge would hold up the step that happens to begin it; its inputs
//! never change, so that another thread may make it meanwhile, and a later step takes the result.
//!
//! ```text
//! batches   [ 400 MiB ][ 90 MiB ][ 80 MiB ]  [ 3 MiB ][ 20 KiB ]
//!           '---- being merged elsewhere --'  small ones are merged in the steps
//! ```
//!
//! Invariant: a trace has at most one such merge, and its result takes the place of exactly the batches that it
//! was made of, or is thrown away if one of them is not there any more. A step that would begin a second one
//! waits for the first, so that what is unmerged stays bounded.

use crate::{Batch, Result};
use std::fmt::Debug;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Runs merges somewhere else than in the step.
pub trait Beside: Debug + Send + Sync {
    /// Merges of at least so many bytes are worth it.
    fn least_bytes(&self) -> usize;
    /// Runs this soon. Dropping it instead is as good: the merge is made in a step then.
    fn run(&self, work: Box<dyn FnOnce() + Send>);
}

/// A merge that was given away.
#[derive(Clone, Debug)]
pub(crate) struct Merging {
    inputs: Vec<u64>,
    outcome: Arc<Outcome>,
}

#[derive(Debug, Default)]
struct Outcome {
    made: Mutex<Option<Made>>,
    ended: Condvar,
}

/// What a merge has made; None: it failed, or was not run.
type Made = Option<Vec<Arc<Batch>>>;

/// Says that a merge has ended, however it did.
struct Ends(Arc<Outcome>);

impl Ends {
    fn with(&self, made: Made) {
        let mut there = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        if there.is_none() {
            *there = Some(made);
        }
        self.0.ended.notify_all();
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.with(None);
    }
}

impl Merging {
    /// Gives a merge of these batches away.
    pub fn begin(
        beside: &dyn Beside,
        inputs: Vec<Arc<Batch>>,
        merge: impl FnOnce(&[Arc<Batch>]) -> Result<Vec<Arc<Batch>>> + Send + 'static,
    ) -> Self {
        let outcome = Arc::<Outcome>::default();
        let ids = inputs.iter().map(|batch| batch.id).collect();
        let ends = Ends(Arc::clone(&outcome));
        beside.run(Box::new(move || ends.with(merge(&inputs).ok())));
        Self { inputs: ids, outcome }
    }

    /// What was made; None: it has not ended.
    pub fn made(&self) -> Option<Made> {
        self.outcome.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has ended.
    pub fn wait(&self) {
        let mut made = self.outcome.made.lock().unwrap_or_else(PoisonError::into_inner);
        while made.is_none() {
            made = self.outcome.ended.wait(made).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Where its inputs are; None: they are not all there, one after the other.
    pub fn place(&self, batches: &[Arc<Batch>]) -> Option<usize> {
        let first = self.inputs.first()?;
        let at = batches.iter().position(|batch| batch.id == *first)?;
        let there = batches.get(at..at + self.inputs.len())?;
        there.iter().map(|batch| &batch.id).eq(&self.inputs).then_some(at)
    }

    /// How many batches it takes the place of.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }
}
