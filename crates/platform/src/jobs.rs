//! Batch runs whose computing is done by another process: a job with memory and processors of its own,
//! beside a writer that goes on. The two meet in the bucket:
//!
//! ```text
//! jobs/request.json    job     put if absent: a run is wanted, and where its talk is
//! jobs/<id>/cut.json   writer  the LSN at which it cut its circuits, and what to compute
//! jobs/<id>/beat       job     again and again: it is alive
//! jobs/<id>/<n>-<m>.batch job   one view's rows or states, in pieces
//! jobs/<id>/done.json  job     which view is in which files
//! jobs/<id>/result.json writer what was published
//! ```
//!
//! Invariant: only the writer cuts and publishes, as for a run of its own, with the conditional write of
//! its epoch. A job that dies leaves nothing but its folder; a writer that is replaced publishes nothing,
//! and the job says so. Views whose batch view must be the circuit's own output are left to the writer.

use crate::archiver::blocking;
use crate::platform::Inner;
use crate::views::ViewEntry;
use crate::{BatchRequest, BatchRun, Code, Error, Result, RunState, runs};
use bytes::Bytes;
use kaplan_base::Lsn;
use kaplan_batch::compute::{self, Computed};
use kaplan_circuit::{Clocks, Held, decode_batch, encode_batch, environment_fingerprint};
use kaplan_store::Place;
use object_store::PutMode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const REQUEST: &str = "request.json";
const CUT: &str = "cut.json";
const BEAT: &str = "beat";
const DONE: &str = "done.json";
const RESULT: &str = "result.json";

/// How often a writer looks whether a job asks.
const ASKED: Duration = Duration::from_secs(2);
/// How often either looks for the other's next word.
const LOOK: Duration = Duration::from_millis(250);
/// How often a job says that it is alive.
const ALIVE: Duration = Duration::from_secs(5);
/// A job that was not heard of for this long is dead.
const DEAD: Duration = Duration::from_secs(30);
/// How long a job waits for a writer to take its request, or for another job to be taken first.
const TAKEN: Duration = Duration::from_secs(90);
/// How long a job waits for the writer to cut, to archive, and later to publish.
const ANSWERED: Duration = Duration::from_secs(600);

/// What a job asks for.
#[derive(Serialize, Deserialize)]
struct Request {
    id: String,
    fingerprint: String,
    batch: BatchRequest,
}

/// What the writer has the job compute.
#[derive(Serialize, Deserialize)]
struct Cut {
    lsn: Lsn,
    clocks: Clocks,
    views: Vec<Part>,
}

/// One view's part of it.
#[derive(Serialize, Deserialize)]
struct Part {
    stored: String,
    version: u32,
    /// The rows after this.
    after: Lsn,
}

/// What the job has computed.
#[derive(Serialize, Deserialize)]
struct Done {
    views: Vec<DonePart>,
}

#[derive(Serialize, Deserialize)]
struct DonePart {
    stored: String,
    rows: u64,
    /// The files with its content.
    #[serde(default)]
    files: Vec<String>,
    error: Option<String>,
}

/// How a run by a job ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobReport {
    /// The run.
    pub run: BatchRun,
    /// Each view of it.
    pub views: Vec<JobView>,
}

/// One view of such a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobView {
    /// The view's name.
    pub view: String,
    /// Whether it was published.
    pub state: RunState,
    /// The LSN up to which.
    pub lsn: Option<Lsn>,
    /// Rows read from the lake.
    pub rows_read: u64,
    /// Why not.
    pub error: Option<String>,
}

/// What the writer answers at the end.
#[derive(Serialize, Deserialize)]
struct Answer {
    report: Option<JobReport>,
    refused: Option<String>,
}

/// What a job computed of each view, by stored name.
pub(crate) type Parts = BTreeMap<String, Result<Computed>>;

/// Where jobs and the writer meet.
pub(crate) fn desk(place: &Place) -> Place {
    place.below("jobs")
}

fn damaged(name: &str, reason: impl ToString) -> Error {
    Error::new(Code::Corrupted, format!("{name} of a job cannot be read: {}", reason.to_string()))
}

async fn read<T: DeserializeOwned>(place: &Place, name: &str) -> Result<Option<T>> {
    let Some(bytes) = place.get(name).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(name, e))
}

async fn write(place: &Place, name: &str, content: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(content).map_err(|e| damaged(name, e))?;
    Ok(place.put(name, bytes).await?)
}

/// Takes the requests of jobs until the platform stops.
pub(crate) async fn serve(inner: Arc<Inner>, desk: Place) {
    let mut stop = inner.stop.subscribe();
    if let Err(error) = clear(&desk).await {
        tracing::warn!(%error, "what earlier jobs left was not removed");
    }
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(ASKED) => {}
        }
        if let Err(error) = inner.notice(take(&inner, &desk).await) {
            if error.code == Code::Fenced {
                return;
            }
            tracing::warn!(%error, "a job was not taken");
        }
    }
}

/// Removes the talks of earlier jobs, whose other side has ended.
async fn clear(desk: &Place) -> Result<()> {
    for name in desk.places().await? {
        desk.listed(&name).clear().await?;
    }
    Ok(())
}

async fn take(inner: &Arc<Inner>, desk: &Place) -> Result<()> {
    let Some(asked) = desk.get(REQUEST).await? else { return Ok(()) };
    // Who was replaced leaves the request to who has the data now.
    let log = Arc::clone(&inner.log);
    blocking(move || Ok(log.mark_durable()?)).await?;
    desk.remove([REQUEST.to_owned()]).await?;
    let request: Request = serde_json::from_slice(&asked).map_err(|e| damaged(REQUEST, e))?;
    let talk = desk.below(&request.id);
    let performed = match request.fingerprint == environment_fingerprint() {
        true => runs::for_job(inner, request.batch, &talk).await,
        false => Err(Error::new(Code::InvalidInput, "the job runs another version")
            .hint("run the job with the image that the writer has")),
    };
    let answer = match performed {
        Ok(report) => Answer { report: Some(report), refused: None },
        Err(error) => Answer { report: None, refused: Some(error.to_string()) },
    };
    write(&talk, RESULT, &answer).await
}

/// The writer's side of the computing: tells the job the cut, and waits for its files. Views are
/// missing in the answer that the writer computes by itself.
pub(crate) async fn computed(
    inner: &Inner,
    talk: &Place,
    run: &BatchRun,
    views: &[Arc<ViewEntry>],
    (lsn, clocks): (Lsn, &Clocks),
) -> Result<Parts> {
    let mut parts = Vec::new();
    for view in views {
        let current = inner.batches.get(view.def.stored_name(), view.def.version);
        let after = runs::range_of(run, view, current.as_deref(), lsn);
        if let Some(after) = after {
            let (stored, version) = (view.def.stored_name().to_owned(), view.def.version);
            parts.push(Part { stored, version, after: after.unwrap_or(Lsn::ZERO) });
        }
    }
    write(talk, CUT, &Cut { lsn, clocks: clocks.clone(), views: parts }).await?;
    let done = done(inner, talk).await?;
    let mut found = Parts::new();
    for part in done.views {
        let Some(view) = views.iter().find(|v| v.def.stored_name() == part.stored) else {
            continue;
        };
        let computed = match part.error {
            None => load(inner, talk, view, &part).await,
            Some(reason) => Err(Error::new(Code::Unavailable, reason)),
        };
        found.insert(part.stored.clone(), computed);
    }
    Ok(found)
}

/// Waits until the job is done, as long as it lives.
async fn done(inner: &Inner, talk: &Place) -> Result<Done> {
    let (mut beat, mut heard) = (Bytes::new(), Instant::now());
    loop {
        if let Some(done) = read(talk, DONE).await? {
            return Ok(done);
        }
        if let Some(now) = talk.get(BEAT).await?.filter(|now| *now != beat) {
            (beat, heard) = (now, Instant::now());
        }
        if heard.elapsed() > DEAD {
            let message = format!("the job was not heard of for {} s", DEAD.as_secs());
            return Err(Error::new(Code::Unavailable, message).hint("start the job again"));
        }
        if *inner.stop.borrow() {
            return Err(Error::new(Code::Unavailable, "the platform is stopping"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn load(inner: &Inner, talk: &Place, view: &ViewEntry, part: &DonePart) -> Result<Computed> {
    let key = {
        let circuit = view.compiled.circuit(Lsn::ZERO)?;
        circuit.generations()[0].trace.order().cloned()
    };
    let mut held = Held::on(Some(Arc::clone(&inner.memory.state) as _));
    let mut batches = Vec::with_capacity(part.files.len());
    for file in &part.files {
        let bytes = talk.get(file).await?.ok_or_else(|| damaged(file, "it is missing"))?;
        let batch = decode_batch(0, &bytes, key.as_ref()).map_err(|e| damaged(file, e))?;
        batches.push(Arc::new(batch));
        held.settle(&mut batches);
    }
    Ok(Computed { batches, rows: part.rows })
}

/// The job's side: asks, computes, and waits for the publication.
pub(crate) async fn run(
    inner: &Arc<Inner>,
    place: &Place,
    batch: BatchRequest,
) -> Result<JobReport> {
    let desk = desk(place);
    let id = uuid::Uuid::new_v4().simple().to_string();
    let talk = desk.below(&id);
    // Before it asks, so that the writer hears it from the first.
    talk.put(BEAT, "0").await?;
    let beating = inner.task(beat(talk.clone()))?;
    let fingerprint = environment_fingerprint();
    let asked = ask(&desk, &Request { id, fingerprint, batch }).await;
    let report = match asked {
        Ok(()) => converse(inner, &talk).await,
        Err(error) => Err(error),
    };
    beating.abort();
    if let Err(error) = talk.clear().await {
        tracing::warn!(%error, "the job's files were left behind");
    }
    report
}

async fn beat(talk: Place) {
    for n in 1_u64.. {
        tokio::time::sleep(ALIVE).await;
        if let Err(error) = talk.put(BEAT, n.to_string()).await {
            tracing::warn!(%error, "the writer may take this job for dead");
        }
    }
}

/// Puts the request down and waits until the writer has taken it.
async fn ask(desk: &Place, request: &Request) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(request).map_err(|e| damaged(REQUEST, e))?;
    let path = desk.object(REQUEST);
    let (mut until, mut other) = (Instant::now() + TAKEN, None);
    loop {
        let put = desk.store().put_opts(&path, bytes.clone().into(), PutMode::Create.into()).await;
        match put {
            Ok(_) => break,
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(Error::new(Code::Unavailable, error.to_string())),
        }
        let there = desk.get(REQUEST).await?;
        if there != other {
            (until, other) = (Instant::now() + TAKEN, there);
        } else if Instant::now() > until {
            // Nobody took the other one either: it must not stand there for ever.
            desk.remove([REQUEST.to_owned()]).await?;
            return Err(not_taken());
        }
        tokio::time::sleep(LOOK).await;
    }
    let until = Instant::now() + TAKEN;
    while desk.get(REQUEST).await?.is_some_and(|there| there == bytes) {
        if Instant::now() > until {
            desk.remove([REQUEST.to_owned()]).await?;
            return Err(not_taken());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn not_taken() -> Error {
    let message = format!("no writer took the job within {} s", TAKEN.as_secs());
    Error::new(Code::Unavailable, message)
        .hint("none runs on this bucket, or it is busy with another job: start the job again later")
}

async fn converse(inner: &Arc<Inner>, talk: &Place) -> Result<JobReport> {
    let answer: Answer = tokio::select! {
        answer = answer::<Answer>(talk, RESULT) => answer?,
        cut = answer::<Cut>(talk, CUT) => {
            let done = compute_all(inner, talk, cut?).await?;
            write(talk, DONE, &done).await?;
            answer(talk, RESULT).await?
        }
    };
    let refused = || Error::new(Code::Unavailable, answer.refused.unwrap_or_default());
    answer.report.ok_or_else(refused)
}

/// The writer's next word.
async fn answer<T: DeserializeOwned>(talk: &Place, name: &str) -> Result<T> {
    let until = Instant::now() + ANSWERED;
    while Instant::now() < until {
        if let Some(answer) = read(talk, name).await? {
            return Ok(answer);
        }
        tokio::time::sleep(LOOK).await;
    }
    let message = format!("the writer has said nothing for {} s", ANSWERED.as_secs());
    Err(Error::new(Code::Unavailable, message)
        .hint("it may have been replaced, and then nothing was published: start the job again"))
}

async fn compute_all(inner: &Arc<Inner>, talk: &Place, cut: Cut) -> Result<Done> {
    let mut views = Vec::with_capacity(cut.views.len());
    for (n, part) in cut.views.iter().enumerate() {
        let (task, clocks) = (Arc::clone(inner), cut.clocks.clone());
        let (lsn, after) = (cut.lsn, part.after);
        let (stored, version) = (part.stored.clone(), part.version);
        let computed = inner
            .on_query_threads(async move {
                let view = view_of(&task, &stored, version)?;
                let inputs = runs::inputs(&task);
                let compiled = &view.compiled;
                Ok(compute::compute(&inputs, compiled, after, (lsn, &clocks)).await?)
            })
            .await;
        let stored = part.stored.clone();
        views.push(match computed {
            Ok(made) => {
                let mut files = Vec::with_capacity(made.batches.len());
                for (piece, batch) in made.batches.iter().enumerate() {
                    let file = format!("{n}-{piece}.batch");
                    talk.put(&file, encode_batch(batch)?).await?;
                    files.push(file);
                }
                DonePart { stored, rows: made.rows, files, error: None }
            }
            Err(error) => {
                let (rows, files, error) = (0, Vec::new(), Some(error.to_string()));
                DonePart { stored, rows, files, error }
            }
        });
    }
    Ok(Done { views })
}

fn view_of(inner: &Inner, stored: &str, version: u32) -> Result<Arc<ViewEntry>> {
    let views = inner.views.read();
    let same = |v: &&Arc<ViewEntry>| v.def.stored_name() == stored && v.def.version == version;
    views.values().find(same).cloned().ok_or_else(|| {
        Error::new(Code::Unavailable, format!("view {stored} was defined after the job began"))
            .hint("start the job again")
    })
}
