//! Holds what the platform answers against what the data says: counts and totals of every stream
//! and view, Lambda against Kappa row by row, and each view against its SQL over the lake.
//!
//! What is expected is computed here from the arrays that were sent, never by the engine under
//! test. A check passes only when both numbers are equal.

use super::play::Played;
use super::report::{Answer, Check, Replay, ViewRow};
use super::source::{Flights, primitive};
use anyhow::{Context, bail, ensure};
use arrow::array::{Array, AsArray, Int32Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use kaplan_platform::{Outcome, Platform, RowSet, RunState, Session, ViewStatus};
use std::time::{Duration, Instant};

/// Wait between looks at a view that replays, and the most looks.
const REPLAY_PAUSE: Duration = Duration::from_millis(10);
const MAX_REPLAY_LOOKS: u32 = 60_000;
/// An arrival counts as on time up to this many minutes of delay (see views.sql).
const ON_TIME_MINUTES: i32 = 15;

/// One total of one view, and what it must be.
struct Total {
    view: &'static str,
    expression: &'static str,
    expected: i64,
}

/// The views, by the streams that they read.
struct View {
    name: &'static str,
    reads_departures: bool,
    reads_arrivals: bool,
}

const VIEWS: [View; 5] = [
    View { name: "carrier_hours", reads_departures: true, reads_arrivals: false },
    View { name: "busy_routes", reads_departures: true, reads_arrivals: false },
    View { name: "flown", reads_departures: true, reads_arrivals: true },
    View { name: "daily_quality", reads_departures: false, reads_arrivals: true },
    View { name: "airline_delays", reads_departures: true, reads_arrivals: false },
];

/// Questions that people ask of a year of flights.
const QUESTIONS: [(&str, &str); 5] = [
    (
        "Busiest routes of the year",
        "SELECT r.origin, r.dest, max(a.name) AS destination, sum(r.departures) / 3 AS departures
         FROM busy_routes_lambda r LEFT JOIN airports a ON r.dest = a.faa
         GROUP BY r.origin, r.dest ORDER BY departures DESC, r.origin, r.dest LIMIT 5",
    ),
    (
        "Busiest three hours of any route",
        "SELECT origin, dest, window_start, departures FROM busy_routes_kappa
         ORDER BY departures DESC, window_start, origin, dest LIMIT 5",
    ),
    (
        "Carriers with the longest mean delay at departure",
        "SELECT name, departures, round(avg_delay, 1) AS mean_delay_minutes
         FROM airline_delays_lambda ORDER BY avg_delay DESC, name LIMIT 5",
    ),
    (
        "Worst days for punctual arrival",
        "SELECT day, arrivals, round(100.0 * on_time / measured, 1) AS on_time_percent
         FROM daily_quality_kappa WHERE measured > 100
         ORDER BY on_time_percent, day LIMIT 5",
    ),
    (
        "Routes that make up most in the air",
        "SELECT origin, dest, count(*) AS flights, round(avg(made_up), 1) AS minutes_made_up
         FROM flown_lambda GROUP BY origin, dest HAVING count(*) >= 300
         ORDER BY minutes_made_up DESC, origin, dest LIMIT 5",
    ),
];

/// Reads of the platform.
pub struct Checker<'a> {
    platform: &'a Platform,
    flights: &'a Flights,
    session: Session,
}

impl<'a> Checker<'a> {
    /// A checker of what `flights` should have become.
    pub fn new(platform: &'a Platform, flights: &'a Flights) -> Self {
        Self { platform, flights, session: Session::default() }
    }

    /// Counts of both streams, what was deduplicated, and the totals of every view.
    pub async fn counts(&mut self, played: &Played) -> anyhow::Result<Vec<Check>> {
        let acknowledged = &played.acknowledged;
        let failed = || played.runs.iter().filter(|run| run.state == RunState::Failed);
        let error = failed().find_map(|run| run.error.as_deref());
        let failures = error.map_or("batch runs that failed".to_owned(), |error| {
            format!("batch runs that failed ({error})")
        });
        let mut checks = vec![
            Check::new("duplicates dropped", played.duplicates_sent, acknowledged.duplicates),
            Check::new("late rows merged", played.late_sent, acknowledged.late),
            Check::new("rows refused", 0, acknowledged.dropped + acknowledged.quarantined),
            Check::new(&failures, 0, failed().count() as u64),
        ];
        let streams = [
            ("departures", &self.flights.departures.times_us),
            ("arrivals", &self.flights.arrivals.times_us),
        ];
        for (stream, times) in streams {
            let rows = self.number(&format!("SELECT count(*) FROM {stream}")).await?;
            checks.push(Check::signed(&format!("rows of {stream}"), times.len() as i64, rows));
        }
        for Total { view, expression, expected } in totals(self.flights)? {
            for architecture in super::ARCHITECTURES {
                let name = format!("{view}_{architecture}");
                let sql = format!("SELECT {expression} FROM {name}");
                let actual = self.number(&sql).await?;
                checks.push(Check::signed(&format!("{name}: {expression}"), expected, actual));
            }
        }
        Ok(checks)
    }

    /// Recomputes each Kappa view from the whole log while it serves, and times it.
    pub async fn replays(&mut self) -> anyhow::Result<Vec<Replay>> {
        let mut replays = Vec::new();
        for view in &VIEWS {
            let name = format!("{}_kappa", view.name);
            let target = self.platform.status()?.durable_lsn;
            let start = Instant::now();
            self.run(&format!("REPLAY MATERIALIZED VIEW {name}")).await?;
            for look in 0.. {
                let status = self.status(&name)?;
                ensure!(status.state != "failed", "replay of {name} failed: {:?}", status.error);
                if status.state == "running" && status.lsn >= target {
                    break;
                }
                ensure!(look < MAX_REPLAY_LOOKS, "the replay of {name} does not end");
                tokio::time::sleep(REPLAY_PAUSE).await;
            }
            let seconds = start.elapsed().as_secs_f64();
            replays.push(Replay { view: name, events: self.events(view), seconds });
        }
        Ok(replays)
    }

    /// Compares Lambda with Kappa, and each with its SQL over the lake.
    pub async fn agreement(&mut self) -> anyhow::Result<(Vec<ViewRow>, Vec<Check>)> {
        let (mut rows, mut checks) = (Vec::new(), Vec::new());
        for View { name, .. } in &VIEWS {
            let (lambda, kappa) = (format!("{name}_lambda"), format!("{name}_kappa"));
            for (one, other) in [(&lambda, &kappa), (&kappa, &lambda)] {
                let sql = format!(
                    "SELECT count(*) FROM (SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other})"
                );
                let extra = self.number(&sql).await?;
                checks.push(Check::signed(&format!("rows of {one} not in {other}"), 0, extra));
            }
            for view in [&lambda, &kappa] {
                let differences = self.verify(view).await?;
                checks.push(Check::signed(&format!("VERIFY {view}"), 0, differences));
                rows.push(self.row(view).await?);
            }
        }
        Ok((rows, checks))
    }

    /// Answers the questions.
    pub async fn answers(&mut self) -> anyhow::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for (title, sql) in QUESTIONS {
            let rows = self.rows(sql).await?;
            answers.push(Answer {
                title: title.to_owned(),
                sql: sql.split_whitespace().collect::<Vec<_>>().join(" "),
                columns: rows.schema.fields().iter().map(|f| f.name().clone()).collect(),
                rows: texts(&rows.batches)?,
            });
        }
        Ok(answers)
    }

    fn events(&self, view: &View) -> u64 {
        let of = |reads: bool, times: &[i64]| if reads { times.len() as u64 } else { 0 };
        of(view.reads_departures, &self.flights.departures.times_us)
            + of(view.reads_arrivals, &self.flights.arrivals.times_us)
    }

    async fn verify(&mut self, view: &str) -> anyhow::Result<i64> {
        let rows = self.rows(&format!("VERIFY MATERIALIZED VIEW {view}")).await?;
        let mut differences = None;
        for batch in &rows.batches {
            let column = batch
                .column_by_name("differences")
                .context("VERIFY answered without a column `differences`")?;
            let column = cast(column, &DataType::Int64)?;
            let sum: i64 = column.as_primitive::<Int64Type>().iter().flatten().sum();
            differences = Some(differences.unwrap_or(0) + sum);
        }
        differences.with_context(|| format!("VERIFY of {view} answered without a row"))
    }

    async fn row(&mut self, name: &str) -> anyhow::Result<ViewRow> {
        let rows = self.number(&format!("SELECT count(*) FROM {name}")).await?;
        let status = self.status(name)?;
        Ok(ViewRow {
            view: name.to_owned(),
            rows,
            lsn: status.lsn.0,
            batch_lsn: status.batch_lsn.map(|lsn| lsn.0),
            batch_age_seconds: status
                .batch_published_us
                .map(|us| (chrono::Utc::now().timestamp_micros() - us) as f64 / 1e6),
            state_bytes: status.state_bytes,
        })
    }

    fn status(&self, view: &str) -> anyhow::Result<ViewStatus> {
        let status = self.platform.status()?;
        let found = status.views.into_iter().find(|status| status.name == view);
        found.with_context(|| format!("the status has no view {view}"))
    }

    /// A query that answers with one number.
    async fn number(&mut self, sql: &str) -> anyhow::Result<i64> {
        let rows = self.rows(sql).await?;
        let batch = rows.batches.iter().find(|batch| batch.num_rows() > 0);
        let column = batch.with_context(|| format!("no rows: {sql}"))?.column(0);
        let column = cast(column, &DataType::Int64)?;
        // A sum over nothing is NULL.
        Ok(column.as_primitive::<Int64Type>().iter().next().flatten().unwrap_or(0))
    }

    async fn rows(&mut self, sql: &str) -> anyhow::Result<RowSet> {
        match self.run(sql).await?.pop() {
            Some(Outcome::Rows(rows)) => Ok(rows),
            _ => bail!("no rows were answered to: {sql}"),
        }
    }

    async fn run(&mut self, sql: &str) -> anyhow::Result<Vec<Outcome>> {
        self.platform.execute(&mut self.session, sql).await.with_context(|| sql.to_owned())
    }
}

/// What the views must add up to, from the arrays that were sent.
fn totals(flights: &Flights) -> anyhow::Result<Vec<Total>> {
    let (departures, arrivals) = (&flights.departures.rows, &flights.arrivals.rows);
    let left = departures.num_rows() as i64;
    let arrived = arrivals.num_rows() as i64;
    let delays = primitive::<Int32Type>(departures, "dep_delay")?;
    let arrival_delays = primitive::<Int32Type>(arrivals, "arr_delay")?;
    let on_time = arrival_delays.iter().flatten().filter(|&d| d <= ON_TIME_MINUTES).count() as i64;
    let total = |view, expression, expected| Total { view, expression, expected };
    Ok(vec![
        total("carrier_hours", "sum(departures)", left),
        total("carrier_hours", "sum(total_delay)", sum(delays)),
        total("carrier_hours", "max(worst)", delays.iter().flatten().max().unwrap_or(0).into()),
        total("busy_routes", "sum(departures)", 3 * left),
        total("flown", "count(*)", arrived),
        total("flown", "sum(made_up)", made_up(flights)?),
        total("daily_quality", "sum(arrivals)", arrived),
        total("daily_quality", "sum(on_time)", on_time),
        total("daily_quality", "sum(total_delay)", sum(arrival_delays)),
        total("daily_quality", "sum(miles)", sum(primitive(arrivals, "distance")?)),
        total("airline_delays", "sum(departures)", left),
        total("airline_delays", "sum(total_delay)", sum(delays)),
    ])
}

fn sum(values: &Int32Array) -> i64 {
    values.iter().flatten().map(i64::from).sum()
}

/// Minutes made up by all flights whose arrival delay is known.
fn made_up(flights: &Flights) -> anyhow::Result<i64> {
    let (departures, arrivals) = (&flights.departures.rows, &flights.arrivals.rows);
    let left = primitive::<Int64Type>(departures, "flight_id")?.values();
    let before = primitive::<Int32Type>(departures, "dep_delay")?;
    let arrived = primitive::<Int64Type>(arrivals, "flight_id")?.values();
    let after = primitive::<Int32Type>(arrivals, "arr_delay")?;
    let mut minutes = 0;
    for (row, flight) in arrived.iter().enumerate() {
        if after.is_valid(row) {
            let at = left.binary_search(flight);
            let at = at.map_err(|_| anyhow::anyhow!("flight {flight} arrived but never left"))?;
            minutes += i64::from(before.value(at)) - i64::from(after.value(row));
        }
    }
    Ok(minutes)
}

/// The cells as text.
fn texts(batches: &[RecordBatch]) -> anyhow::Result<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_timestamp_tz_format(Some("%Y-%m-%d %H:%M"));
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::source::{load, locate};
    use super::super::{ARCHITECTURES, VIEWS_SQL};
    use super::*;

    /// The figures were computed from the same files with another engine.
    #[test]
    fn the_totals_of_the_year_are_known() {
        let flights = load(&locate(None).unwrap(), 1.0).unwrap();
        let totals: Vec<_> =
            totals(&flights).unwrap().iter().map(|t| (t.view, t.expression, t.expected)).collect();
        for expected in [
            ("carrier_hours", "sum(total_delay)", 4_152_200),
            ("busy_routes", "sum(departures)", 985_563),
            ("flown", "count(*)", 328_063),
            ("daily_quality", "sum(on_time)", 249_716),
            ("daily_quality", "sum(total_delay)", 2_257_174),
        ] {
            assert!(totals.contains(&expected), "{expected:?} in {totals:?}");
        }
    }

    #[test]
    fn every_view_of_the_example_is_checked() {
        let created = VIEWS_SQL.matches("CREATE MATERIALIZED VIEW").count();
        assert_eq!(created, VIEWS.len());
        let flights = load(&locate(None).unwrap(), 0.01).unwrap();
        let totals = totals(&flights).unwrap();
        for architecture in ARCHITECTURES {
            let sql = VIEWS_SQL.replace("{architecture}", architecture);
            for view in &VIEWS {
                assert!(sql.contains(&format!(" {}_{architecture} WITH (", view.name)));
                assert!(totals.iter().any(|total| total.view == view.name));
            }
        }
    }
}
