//! A bucket in memory that fails, for tests of anything that stands on an `ObjectStore`.
//!
//! Everything is decided by a seed: errors before a write took effect and after it did, writes that
//! take effect late (any time until [`FaultyStore::settle`], and a second time after they were
//! retried), failed reads and removals, and listings in any order. Conditional writes are honest, as
//! those of S3 and Google Cloud Storage are: of writes under one condition one wins.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

const STORE: &str = "FaultyStore";
/// Writes that may be on the way at once; the oldest takes effect when there are more.
const MAX_LATE: usize = 8;

/// How often what goes wrong: parts of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A write fails before it took effect.
    pub before: f64,
    /// A write takes effect, and its answer is lost.
    pub after: f64,
    /// A write fails, and takes effect later.
    pub late: f64,
    /// A read, a listing or a removal fails.
    pub other: f64,
    /// A listing comes in another order.
    pub reorder: bool,
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Writes that failed before they took effect.
    pub before: u64,
    /// Writes whose answer was lost.
    pub after: u64,
    /// Writes that took effect late.
    pub late: u64,
    /// Reads, listings and removals that failed.
    pub other: u64,
}

/// The store. Clones are the same bucket.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    memory: Arc<InMemory>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    rng: ChaCha8Rng,
    faults: Faults,
    late: Vec<(Path, PutPayload, PutOptions)>,
    seen: Seen,
}

enum Fate {
    Works,
    Before,
    After,
    Late,
}

impl FaultyStore {
    /// An empty bucket.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let inner = Inner { rng, faults, late: Vec::new(), seen: Seen::default() };
        Self { memory: Arc::default(), inner: Arc::new(Mutex::new(inner)) }
    }

    /// Changes what goes wrong from now on.
    pub fn set(&self, faults: Faults) {
        self.inner.lock().faults = faults;
    }

    /// What went wrong so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.inner.lock().seen
    }

    /// Lets some of the writes that are on their way take effect, in any order.
    pub async fn settle(&self) {
        let landing: Vec<_> = {
            let mut inner = self.inner.lock();
            let Inner { rng, late, .. } = &mut *inner;
            late.shuffle(rng);
            let count = rng.random_range(0..=late.len());
            late.drain(..count).collect()
        };
        for (path, bytes, options) in landing {
            self.land(&path, bytes, options).await;
        }
    }

    async fn land(&self, path: &Path, bytes: PutPayload, options: PutOptions) {
        if self.memory.put_opts(path, bytes, options).await.is_ok() {
            self.inner.lock().seen.late += 1;
        }
    }

    /// Decides what becomes of a write, and which late one lands now.
    fn fate(
        &self,
        write: (&Path, &PutPayload, &PutOptions),
    ) -> (Fate, Option<(Path, PutPayload, PutOptions)>) {
        let mut inner = self.inner.lock();
        let (faults, roll) = (inner.faults, inner.rng.random::<f64>());
        let fate = if roll < faults.before {
            inner.seen.before += 1;
            Fate::Before
        } else if roll < faults.before + faults.after {
            inner.seen.after += 1;
            Fate::After
        } else if roll < faults.before + faults.after + faults.late {
            let (path, bytes, options) = write;
            inner.late.push((path.clone(), bytes.clone(), options.clone()));
            Fate::Late
        } else {
            Fate::Works
        };
        let landing = (inner.late.len() > MAX_LATE).then(|| inner.late.remove(0));
        (fate, landing)
    }

    fn fails(&self) -> Result<()> {
        let mut inner = self.inner.lock();
        let other = inner.faults.other;
        if inner.rng.random::<f64>() < other {
            inner.seen.other += 1;
            return Err(lost());
        }
        Ok(())
    }
}

fn lost() -> Error {
    Error::Generic { store: STORE, source: "injected: the connection was lost".into() }
}

impl std::fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(STORE)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, to: &Path, bytes: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (fate, landing) = self.fate((to, &bytes, &opts));
        if let Some((path, bytes, options)) = landing {
            self.land(&path, bytes, options).await;
        }
        match fate {
            Fate::Works => self.memory.put_opts(to, bytes, opts).await,
            Fate::Before | Fate::Late => Err(lost()),
            Fate::After => {
                // What the bucket said does not arrive, whatever it was.
                let _ = self.memory.put_opts(to, bytes, opts).await;
                Err(lost())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.fails()?;
        self.memory.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>> {
        self.fails()?;
        self.memory.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let checked = locations.map(move |path| this.fails().and(path));
        self.memory.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.fails()?;
        let mut listed = self.memory.list_with_delimiter(prefix).await?;
        let mut inner = self.inner.lock();
        if inner.faults.reorder {
            listed.objects.shuffle(&mut inner.rng);
        }
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}
