//! A store whose writes have an outcome: what failed for a moment is tried again, and a conditional
//! write that finds its own bytes has succeeded.
//!
//! A put whose answer was lost may have taken effect, and a client may have sent it twice. The second
//! one is then told that the object is there (or has changed). Comparing what is stored with what was
//! to be written settles it, provided that no two writers ever write the same bytes under one name;
//! all of Kaplan's conditional writes carry a nonce, an epoch or a fresh identifier.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How often and how slowly failures are tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Most attempts of one operation.
    pub attempts: u32,
    /// The pause after the first failure; it doubles.
    pub pause: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Retry {
    /// About a minute of pauses, besides the client's own retries.
    fn default() -> Self {
        Self { attempts: 12, pause: Duration::from_millis(100), longest: Duration::from_secs(10) }
    }
}

/// A store whose writes have an outcome.
#[derive(Debug)]
pub struct Settled {
    store: Arc<dyn ObjectStore>,
    retry: Retry,
}

/// Whether the same call may succeed in a moment.
fn passes(error: &Error) -> bool {
    matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

impl Settled {
    /// Wraps a store.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, retry: Retry) -> Self {
        Self { store, retry }
    }

    async fn pause(&self, attempt: u32, object: &Path, error: &Error) {
        let doubled = self.retry.pause.saturating_mul(1 << attempt.min(16));
        let pause = doubled.min(self.retry.longest);
        if !pause.is_zero() {
            tracing::warn!(%object, %error, attempt, "the object store failed; trying again");
            tokio::time::sleep(pause).await;
        }
    }

    /// After a conflict: success if what is stored are the very bytes.
    async fn settle(&self, to: &Path, bytes: &PutPayload, conflict: Error) -> Result<PutResult> {
        let found = match self.get_opts(to, GetOptions::default()).await {
            Err(Error::NotFound { .. }) => return Err(conflict),
            found => found?,
        };
        if found.meta.size != bytes.content_length() as u64 {
            return Err(conflict);
        }
        let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        let mut stored = &found.bytes().await?[..];
        for part in bytes.iter() {
            match stored.strip_prefix(&part[..]) {
                Some(rest) => stored = rest,
                None => return Err(conflict),
            }
        }
        Ok(PutResult { e_tag, version })
    }
}

impl std::fmt::Display for Settled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

/// Runs an operation again while its failure may pass.
macro_rules! again {
    ($self:ident, $object:expr, $operation:expr) => {{
        let mut attempt = 1;
        loop {
            match $operation.await {
                Err(error) if passes(&error) && attempt < $self.retry.attempts => {
                    $self.pause(attempt, $object, &error).await;
                    attempt += 1;
                }
                done => break done,
            }
        }
    }};
}

#[async_trait]
impl ObjectStore for Settled {
    async fn put_opts(&self, to: &Path, bytes: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let put = again!(self, to, self.store.put_opts(to, bytes.clone(), opts.clone()));
        match (&opts.mode, put) {
            (PutMode::Create, Err(conflict @ Error::AlreadyExists { .. }))
            | (PutMode::Update(_), Err(conflict @ Error::Precondition { .. })) => {
                self.settle(to, &bytes, conflict).await
            }
            (_, put) => put,
        }
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        again!(self, to, self.store.put_multipart_opts(to, opts.clone()))
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        again!(self, from, self.store.get_opts(from, options.clone()))
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        again!(self, from, self.store.get_ranges(from, ranges))
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = Path::default();
        again!(self, prefix.unwrap_or(&root), self.store.list_with_delimiter(prefix))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty::{Faults, FaultyStore};
    use object_store::ObjectStoreExt;

    /// Whatever fails on the way, exactly one of two creators of a name wins, and it knows.
    #[tokio::test]
    async fn of_two_creators_one_wins_and_knows_it() {
        let retry = Retry { attempts: 50, pause: Duration::ZERO, longest: Duration::ZERO };
        let faults = Faults { before: 0.3, after: 0.3, ..Faults::default() };
        let faulty = Arc::new(FaultyStore::new(7, faults));
        let (one, other) = (Settled::new(faulty.clone(), retry), Settled::new(faulty, retry));
        let mut wins = [0, 0];
        for n in 0..200 {
            let path = Path::from(format!("object-{n}"));
            let put = |store: &'static str| (PutPayload::from(store), PutMode::Create.into());
            let ((first, options), (second, again)) = (put("one"), put("other"));
            let (first, second) = match n % 2 {
                0 => {
                    let first = one.put_opts(&path, first, options).await;
                    (first, other.put_opts(&path, second, again).await)
                }
                _ => {
                    let second = other.put_opts(&path, second, again).await;
                    (one.put_opts(&path, first, options).await, second)
                }
            };
            assert_eq!(first.is_ok() as u8 + second.is_ok() as u8, 1, "{first:?} {second:?}");
            let stored = one.get(&path).await.unwrap().bytes().await.unwrap();
            assert_eq!(stored, if first.is_ok() { "one" } else { "other" });
            wins[usize::from(second.is_ok())] += 1;
        }
        assert_eq!(wins, [100, 100]);
    }
}
