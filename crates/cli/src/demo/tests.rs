//! The events and the plan held against the facts of the data.

use super::plan::{Batch, Disorder, Plan};
use super::source::{Flights, load, locate, primitive, read};
use arrow::array::Array;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use std::collections::HashMap;
use std::sync::OnceLock;

const MINUTE_US: i64 = 60_000_000;

fn flights() -> &'static Flights {
    static YEAR: OnceLock<Flights> = OnceLock::new();
    YEAR.get_or_init(|| load(&locate(None).unwrap(), 1.0).unwrap())
}

fn disorder(seed: u64) -> Disorder {
    Disorder { seed, late: 0.01, out_of_order: 0.05, duplicates: 0.02, retries: 0.1 }
}

fn plan(seed: u64) -> (Plan, Vec<Batch>) {
    let plan = Plan::new(flights(), disorder(seed));
    let batches = plan.batches(flights(), 2_000).collect();
    (plan, batches)
}

fn flight_ids(rows: &arrow::array::RecordBatch) -> &[i64] {
    primitive::<Int64Type>(rows, "flight_id").unwrap().values()
}

#[test]
fn every_departure_and_arrival_is_an_event_and_no_other() {
    let flights = flights();
    assert_eq!(flights.departures.rows.num_rows(), 328_521);
    assert_eq!(flights.arrivals.rows.num_rows(), 328_063);
    assert_eq!(flights.airlines.num_rows(), 16);
    assert_eq!(flights.airports.num_rows(), 1_458);
    let all = [&flights.departures, &flights.arrivals];
    let events = all.iter().flat_map(|events| {
        primitive::<Int64Type>(&events.rows, "event_id").unwrap().values().iter()
    });
    let distinct: std::collections::HashSet<_> = events.collect();
    assert_eq!(distinct.len(), 328_521 + 328_063);
}

#[test]
fn no_flight_arrives_before_it_departs_or_faster_than_it_flies() {
    let flights = flights();
    let departed: HashMap<i64, i64> = flight_ids(&flights.departures.rows)
        .iter()
        .copied()
        .zip(flights.departures.times_us.iter().copied())
        .collect();
    let air_times = primitive::<arrow::datatypes::Int32Type>(&flights.arrivals.rows, "air_time");
    let air_times = air_times.unwrap();
    for (row, flight) in flight_ids(&flights.arrivals.rows).iter().enumerate() {
        let elapsed = flights.arrivals.times_us[row] - departed[flight];
        let in_air = if air_times.is_valid(row) { air_times.value(row) } else { 1 };
        assert!(elapsed >= i64::from(in_air) * MINUTE_US, "flight {flight}");
        assert!(elapsed < 24 * 60 * MINUTE_US, "flight {flight}");
    }
}

/// Both delays of the file, which event times do not come from in the case of arrivals, agree
/// with the event times to the minute.
#[test]
fn event_times_agree_with_the_recorded_delays_and_clocks() {
    let year = read(&locate(None).unwrap().join("flights.parquet")).unwrap();
    let of = |name: &str| primitive::<Int64Type>(&year, name).unwrap().clone();
    let (planned, clocks, delays) = (of("sched_arr_time"), of("arr_time"), of("arr_delay"));
    let minutes = |hhmm: i64| hhmm / 100 * 60 + hhmm % 100;
    let flights = flights();
    let scheduled: HashMap<i64, i64> = flight_ids(&flights.departures.rows)
        .iter()
        .copied()
        .zip(
            primitive::<TimestampMicrosecondType>(&flights.departures.rows, "sched_ts")
                .unwrap()
                .values()
                .iter()
                .copied(),
        )
        .collect();
    let mut compared = 0;
    for (row, flight) in flight_ids(&flights.arrivals.rows).iter().enumerate() {
        let at = usize::try_from(*flight).unwrap() - 1;
        if delays.is_null(at) {
            continue;
        }
        // The planned arrival by its own clock reading: as far from the real arrival as the two
        // clocks are, modulo a day, in the day after the planned departure.
        let apart = (minutes(clocks.value(at)) - minutes(planned.value(at))) * MINUTE_US;
        let day = 24 * 60 * MINUTE_US;
        let left = scheduled[flight];
        let due = left + (flights.arrivals.times_us[row] - apart - left).rem_euclid(day);
        let delay = (flights.arrivals.times_us[row] - due) / MINUTE_US;
        assert_eq!(delay, delays.value(at), "flight {flight}");
        compared += 1;
    }
    assert_eq!(compared, 327_346);
}

#[test]
fn a_part_of_the_year_is_its_first_days() {
    let week = load(&locate(None).unwrap(), 7.0 / 365.0).unwrap();
    let rows = week.departures.rows.num_rows();
    assert!((5_000..7_000).contains(&rows), "{rows}");
    assert_eq!(week.departures.times_us[..], flights().departures.times_us[..rows]);
}

#[test]
fn a_seed_gives_one_plan() {
    let (first, batches) = plan(7);
    let (second, again) = plan(7);
    assert_eq!(first.planted, second.planted);
    assert_eq!(batches, again);
    let (_, other) = plan(8);
    assert_ne!(batches, other);
}

#[test]
fn planted_disorder_is_counted() {
    let (plan, batches) = plan(7);
    let events = 328_521 + 328_063;
    let sent: u64 = batches.iter().map(Batch::len).sum();
    assert_eq!(sent, plan.len());
    assert_eq!(sent, events + plan.planted.duplicates);
    let parts = || batches.iter().flat_map(|batch| [&batch.departures, &batch.arrivals]);
    assert_eq!(parts().map(|part| part.duplicates).sum::<u64>(), plan.planted.duplicates);
    let near = |count: u64, share: f64| {
        let expected = events as f64 * share;
        (count as f64 - expected).abs() < expected * 0.1
    };
    assert!(near(plan.planted.duplicates, 0.02), "{:?}", plan.planted);
    assert!(near(plan.planted.late, 0.01), "{:?}", plan.planted);
    assert!(near(plan.planted.out_of_order, 0.05), "{:?}", plan.planted);
    assert!(batches.iter().any(|batch| batch.retried));
    assert!(parts().map(|part| part.late).sum::<u64>() > 0);
}

#[test]
fn without_disorder_every_event_is_sent_once_and_in_time() {
    let calm = Disorder { seed: 1, late: 0.0, out_of_order: 0.0, duplicates: 0.0, retries: 0.0 };
    let plan = Plan::new(flights(), calm);
    let mut sent = vec![0_u8; 328_521];
    for batch in plan.batches(flights(), 1_000) {
        assert!(!batch.retried);
        assert_eq!((batch.departures.late, batch.arrivals.late), (0, 0));
        batch.departures.rows.iter().for_each(|&row| sent[row as usize] += 1);
    }
    assert!(sent.iter().all(|&times| times == 1));
}
