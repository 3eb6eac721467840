//! The thread that makes the large merges of all views, one after the other.

use kaplan_circuit::Beside;
use std::sync::mpsc::{Sender, channel};

/// What a step merges by itself, at most: some ten milliseconds of work.
const LEAST_BYTES: usize = 4 << 20;

type Work = Box<dyn FnOnce() + Send>;

/// Gives merges to the thread, which ends with the last of its handles.
#[derive(Debug)]
pub(crate) struct Merger(Sender<Work>);

impl Merger {
    pub fn start() -> std::io::Result<Self> {
        let (sender, work) = channel::<Work>();
        let run = move || work.into_iter().for_each(|work| work());
        std::thread::Builder::new().name("merges".into()).spawn(run)?;
        Ok(Self(sender))
    }
}

impl Beside for Merger {
    fn least_bytes(&self) -> usize {
        LEAST_BYTES
    }

    fn run(&self, work: Work) {
        // Dropped where the thread is gone: a step does it.
        let _ = self.0.send(work);
    }
}
