//! The flights of 2013 as two sets of events, departures and arrivals, read from Parquet.
//!
//! Every instant is exact, not estimated. The file has the scheduled departure as an instant, and
//! departure = scheduled departure + delay agrees with the recorded local clock for every flight.
//! An arrival has only a clock reading at its destination: it is the first instant at or after the
//! departure at which a clock there shows that time. Where the file also has the arrival's delay,
//! the tests hold that instant against it.
//!
//! A flight without `dep_time` gives no event; one without `arr_time` gives no arrival.

use super::zones::Zones;
use anyhow::{Context, bail, ensure};
use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, PrimitiveArray, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Int64Type, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Microseconds in a second.
pub const SECOND_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60 * SECOND_US;
const DAY_US: i64 = 24 * 60 * MINUTE_US;
const READ_ROWS: usize = 65_536;

/// Where the data lies below the working directory or the source tree.
const DATA: &str = "examples/flights/data";

/// The four airports that `airports.parquet` lacks: three in Puerto Rico, one in the Virgin
/// Islands, all on Atlantic time without daylight saving.
const ATLANTIC: [&str; 4] = ["SJU", "BQN", "PSE", "STT"];

/// One kind of event: its rows, and when each of them happened.
pub struct Events {
    /// The rows, with the columns of the stream.
    pub rows: RecordBatch,
    /// The event time of each row, microseconds since the Unix epoch.
    pub times_us: Vec<i64>,
}

/// Everything that the demo sends.
pub struct Flights {
    /// Aircraft that left.
    pub departures: Events,
    /// Aircraft that arrived.
    pub arrivals: Events,
    /// Names of carriers.
    pub airlines: RecordBatch,
    /// Names and places of airports.
    pub airports: RecordBatch,
}

/// The directory with the data: the given one, else below the working directory, else in the
/// source tree that the program was built from.
pub fn locate(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        ensure!(
            path.join("flights.parquet").is_file(),
            "--data {} has no flights.parquet",
            path.display()
        );
        return Ok(path.to_owned());
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(DATA);
    for candidate in [PathBuf::from(DATA), source] {
        if candidate.join("flights.parquet").is_file() {
            return Ok(candidate);
        }
    }
    bail!("cannot find {DATA}/flights.parquet: run in the source directory, or give --data DIR")
}

/// Reads the data and turns the first `scale` (0 to 1) of the year's days into events.
pub fn load(data: &Path, scale: f64) -> anyhow::Result<Flights> {
    let flights = read(&data.join("flights.parquet"))?;
    let airports = read(&data.join("airports.parquet"))?;
    let zones = destination_zones(&airports)?;
    let scheduled = Scheduled::of(&flights)?;
    let (departed, departed_us) = scheduled.departed(scale)?;
    let (arrived, arrived_us) = arrived(&flights, &departed, &departed_us, zones)?;
    Ok(Flights {
        departures: departures(&flights, &departed, departed_us, &scheduled.times_us)?,
        arrivals: arrivals(&flights, &arrived, arrived_us)?,
        airlines: read(&data.join("airlines.parquet"))?,
        airports: place_columns(&airports)?,
    })
}

/// One Parquet file as one batch.
pub fn read(path: &Path) -> anyhow::Result<RecordBatch> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .with_context(|| format!("{shown} is not Parquet"))?
        .with_batch_size(READ_ROWS);
    let schema = builder.schema().clone();
    let batches = builder.build()?.collect::<Result<Vec<_>, _>>()?;
    concat_batches(&schema, &batches).with_context(|| format!("cannot read {shown}"))
}

/// A column by name.
pub fn column<'a>(batch: &'a RecordBatch, name: &str) -> anyhow::Result<&'a ArrayRef> {
    batch.column_by_name(name).with_context(|| format!("there is no column `{name}`"))
}

/// A column of one primitive type.
pub fn primitive<'a, T: ArrowPrimitiveType>(
    batch: &'a RecordBatch,
    name: &str,
) -> anyhow::Result<&'a PrimitiveArray<T>> {
    let array = column(batch, name)?;
    array
        .as_primitive_opt::<T>()
        .with_context(|| format!("column `{name}` is {}, not {}", array.data_type(), T::DATA_TYPE))
}

fn strings(batch: &RecordBatch, name: &str) -> anyhow::Result<StringArray> {
    Ok(cast(column(batch, name)?, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// The columns that say when a flight was to leave and when it left.
struct Scheduled<'a> {
    times_us: Vec<i64>,
    departed: &'a Int64Array,
    delay: &'a Int64Array,
}

impl<'a> Scheduled<'a> {
    fn of(flights: &'a RecordBatch) -> anyhow::Result<Self> {
        let hours = primitive::<TimestampMicrosecondType>(flights, "time_hour")?;
        let minutes = primitive::<Int64Type>(flights, "minute")?;
        let times_us = std::iter::zip(hours.values(), minutes.values())
            .map(|(hour, minute)| hour + minute * MINUTE_US)
            .collect();
        let departed = primitive(flights, "dep_time")?;
        Ok(Self { times_us, departed, delay: primitive(flights, "dep_delay")? })
    }

    /// The flights that left within the first `scale` of the year, with the instants.
    fn departed(&self, scale: f64) -> anyhow::Result<(Vec<u32>, Vec<i64>)> {
        let first = self.times_us.iter().min().copied().context("flights.parquet is empty")?;
        let last = self.times_us.iter().max().copied().unwrap_or(first);
        let days = ((last - first) / DAY_US + 1) as f64;
        let end = first + (days * scale).ceil() as i64 * DAY_US;
        let (mut rows, mut times) = (Vec::new(), Vec::new());
        for (row, &scheduled) in (0_u32..).zip(&self.times_us) {
            let at = row as usize;
            if scheduled < end && self.departed.is_valid(at) {
                ensure!(self.delay.is_valid(at), "flight {at} departed but has no dep_delay");
                rows.push(row);
                times.push(scheduled + self.delay.value(at) * MINUTE_US);
            }
        }
        Ok((rows, times))
    }
}

/// Of the departed flights those that arrived, with the instants.
fn arrived(
    flights: &RecordBatch,
    departed: &[u32],
    departed_us: &[i64],
    mut zones: Zones,
) -> anyhow::Result<(Vec<u32>, Vec<i64>)> {
    let clocks = primitive::<Int64Type>(flights, "arr_time")?;
    let destinations = strings(flights, "dest")?;
    let (mut rows, mut times) = (Vec::new(), Vec::new());
    for (&row, &departure) in departed.iter().zip(departed_us) {
        let at = row as usize;
        if clocks.is_valid(at) {
            let (hhmm, dest) = (clocks.value(at), destinations.value(at));
            let minute = hhmm / 100 * 60 + hhmm % 100;
            rows.push(row);
            times.push(zones.first_at_or_after(dest, departure, minute)?);
        }
    }
    Ok((rows, times))
}

fn destination_zones(airports: &RecordBatch) -> anyhow::Result<Zones> {
    let (codes, names) = (strings(airports, "faa")?, strings(airports, "tzone")?);
    let mut zones = Zones::default();
    for (code, name) in codes.iter().zip(names.iter()) {
        if let (Some(code), Some(name)) = (code, name) {
            zones.assign(code, name);
        }
    }
    for code in ATLANTIC {
        zones.assign(code, "America/Puerto_Rico");
    }
    Ok(zones)
}

fn departures(
    flights: &RecordBatch,
    rows: &[u32],
    times_us: Vec<i64>,
    scheduled_us: &[i64],
) -> anyhow::Result<Events> {
    let at = UInt32Array::from(rows.to_vec());
    let planned = rows.iter().map(|&row| scheduled_us[row as usize]).collect();
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("event_id", ids(rows, 0, 2), false),
        ("flight_id", ids(rows, 0, 1), false),
        ("carrier", taken(flights, "carrier", &at)?, false),
        ("flight", integers(flights, "flight", &at)?, false),
        ("tailnum", taken(flights, "tailnum", &at)?, true),
        ("origin", taken(flights, "origin", &at)?, false),
        ("dest", taken(flights, "dest", &at)?, false),
        ("sched_ts", instants(planned), false),
        ("dep_ts", instants(times_us.clone()), false),
        ("dep_delay", integers(flights, "dep_delay", &at)?, false),
    ])?;
    Ok(Events { rows, times_us })
}

fn arrivals(flights: &RecordBatch, rows: &[u32], times_us: Vec<i64>) -> anyhow::Result<Events> {
    let at = UInt32Array::from(rows.to_vec());
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("event_id", ids(rows, 1, 2), false),
        ("flight_id", ids(rows, 0, 1), false),
        ("carrier", taken(flights, "carrier", &at)?, false),
        ("dest", taken(flights, "dest", &at)?, false),
        ("arr_ts", instants(times_us.clone()), false),
        ("arr_delay", integers(flights, "arr_delay", &at)?, true),
        ("air_time", integers(flights, "air_time", &at)?, true),
        ("distance", integers(flights, "distance", &at)?, false),
    ])?;
    Ok(Events { rows, times_us })
}

/// Numbers from the flight's place in the file, counted from 1: departures of `event_id` are even,
/// arrivals odd, and both of one flight share `flight_id`.
fn ids(rows: &[u32], plus: i64, times: i64) -> ArrayRef {
    Arc::new(rows.iter().map(|&row| (i64::from(row) + 1) * times + plus).collect::<Int64Array>())
}

fn taken(flights: &RecordBatch, name: &str, rows: &UInt32Array) -> anyhow::Result<ArrayRef> {
    Ok(take(column(flights, name)?, rows, None)?)
}

fn integers(flights: &RecordBatch, name: &str, rows: &UInt32Array) -> anyhow::Result<ArrayRef> {
    Ok(cast(&taken(flights, name, rows)?, &DataType::Int32)?)
}

fn instants(times_us: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times_us).with_timezone("UTC"))
}

fn place_columns(airports: &RecordBatch) -> anyhow::Result<RecordBatch> {
    let names = [("faa", "faa"), ("name", "name"), ("lat", "lat"), ("lon", "lon"), ("tz", "tzone")];
    let mut columns = Vec::new();
    for (to, from) in names {
        columns.push((to, column(airports, from)?.clone(), true));
    }
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// The rows in the types that the stream wants, column by column of the same name.
pub fn conform(rows: &RecordBatch, schema: &SchemaRef) -> anyhow::Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| {
        let from = column(rows, field.name())?;
        cast(from, field.data_type()).with_context(|| format!("column `{}`", field.name()))
    });
    let columns = columns.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
