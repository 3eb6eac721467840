//! Storage for threads that wait, and the threads that all traffic with buckets runs on.
//!
//! One small runtime for the whole process: a connection to a bucket belongs to the runtime that
//! opened it, and would stall while that one computes, or die with it.

use crate::{Error, Result};
use std::future::Future;
use std::sync::LazyLock;
use std::sync::mpsc;
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads for traffic with buckets; they only move bytes.
const THREADS: usize = 2;

static TRAFFIC: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("kaplan-store")
        .enable_all()
        .build()
});

/// The runtime of all traffic with buckets.
pub(crate) fn traffic() -> Result<&'static Handle> {
    TRAFFIC.as_ref().map(Runtime::handle).map_err(failed)
}

fn failed(reason: impl ToString) -> Error {
    Error::Open { place: "runtime".to_owned(), reason: reason.to_string() }
}

/// Runs storage work to its end while this thread waits. May be called from any thread, also from
/// one that runs asynchronous tasks, which it then holds up.
///
/// # Errors
/// The system has no threads left, or the work panicked.
pub fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let (done, result) = mpsc::sync_channel(1);
    traffic()?.spawn(async move {
        // Nobody may be waiting any more.
        let _ = done.send(work.await);
    });
    result.recv().map_err(|_| failed("the storage task was lost"))
}
