//! Each rule by itself: duplicates, changes of tables, checks, NULLs, watermarks, recovery.

use super::super::Positions;
use super::super::unique::Unique;
use super::*;
use crate::{Ack, Code};
use arrow::array::Float64Array;
use kaplan_circuit::Delta;
use kaplan_speed::Memory;
use kaplan_sql::catalog::{CheckDef, OnViolation};

fn sums(rows: &[(Row, i64)]) -> BTreeMap<Row, i64> {
    rows.iter().cloned().collect()
}

#[test]
fn the_first_row_of_a_key_wins_until_the_interval_is_over() {
    let mut state = state();
    let first = done(&mut state, append(EVENTS, &[row(1, "a", 0), row(1, "a", 5)]), 0);
    assert_eq!(first.ack, Ack { lsn: Lsn(1), rows: 2, duplicates: 1, ..Ack::default() });
    assert_eq!(change(&first.commit.unwrap(), EVENTS), sums(&[(row(1, "a", 0), 1)]));
    done(&mut state, append(EVENTS, &[row(9, "z", 0)]), 1);

    let again = done(&mut state, append(EVENTS, &[row(1, "a", 9)]), WITHIN_US);
    assert_eq!(again.ack, Ack { lsn: Lsn(1), rows: 1, duplicates: 1, ..Ack::default() });
    assert!(again.commit.is_none());

    let mixed = done(&mut state, append(EVENTS, &[row(1, "a", 9), row(2, "a", 9)]), WITHIN_US);
    assert_eq!((mixed.ack.lsn, mixed.ack.duplicates), (Lsn(3), 1));

    let later = done(&mut state, append(EVENTS, &[row(1, "a", 9)]), WITHIN_US + 1);
    assert_eq!((later.ack.lsn, later.ack.duplicates), (Lsn(4), 0));
    let renewed = done(&mut state, append(EVENTS, &[row(1, "a", 9)]), 2 * WITHIN_US);
    assert_eq!((renewed.ack.lsn, renewed.ack.duplicates), (Lsn(4), 1));
}

#[test]
fn a_key_with_null_is_no_duplicate_and_minus_zero_is_zero() {
    let mut state = state();
    let nulls = append(EVENTS, &[(1, None, None), (1, None, None)]);
    assert_eq!(done(&mut state, nulls, 0).ack.duplicates, 0);

    let schema = Arc::new(Schema::new(vec![Field::new("f", DataType::Float64, true)]));
    let floats = Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN, 1.0]);
    let rows = RecordBatch::try_new(schema, vec![Arc::new(floats)]).unwrap();
    let mut unique = Unique::new(vec![0], 1, 10);
    assert_eq!(unique.admit(&rows, Lsn(1), 0).unwrap().duplicates, 2);
}

#[test]
fn remembered_keys_are_bounded_and_expire() {
    let mut unique = Unique::new(vec![0], WITHIN_US, 3);
    assert_eq!(unique.admit(&keys(&[1, 2]), Lsn(1), 0).unwrap().duplicates, 0);
    let full = unique.admit(&keys(&[3, 4]), Lsn(2), 0).err().unwrap();
    assert_eq!(full.code, Code::Overloaded);
    unique.confirm();
    let later = unique.admit(&keys(&[3, 1, 2]), Lsn(2), WITHIN_US + 2 * SECOND_US).unwrap();
    assert_eq!(later.duplicates, 0);
}

#[test]
fn upserts_of_one_key_make_one_net_change() {
    let mut state = state();
    done(&mut state, upsert(&[row(1, "old", 0), row(2, "same", 0)]), 0);
    let next = upsert(&[row(1, "mid", 0), row(2, "same", 0), row(3, "x", 0), row(1, "new", 0)]);
    let commit = done(&mut state, next, 0).commit.unwrap();
    let expected = [(row(1, "old", 0), -1), (row(1, "new", 0), 1), (row(3, "x", 0), 1)];
    assert_eq!(change(&commit, ITEMS), sums(&expected));
    assert_eq!(commit.writes[0].rows, 3);

    let back = upsert(&[row(3, "y", 0), row(3, "x", 0)]);
    let unchanged = done(&mut state, back, 0);
    assert!(unchanged.commit.is_none());
    assert_eq!(unchanged.ack.lsn, commit.lsn);
}

#[test]
fn deletes_count_what_was_there() {
    let mut state = state();
    done(&mut state, upsert(&[row(1, "a", 0)]), 0);
    let delete = write(ITEMS, WriteKind::Delete, vec![keys(&[1, 7, 1])]);
    let gone = done(&mut state, request(vec![delete.clone()]), 0);
    assert_eq!(gone.ack.rows, 1);
    assert_eq!(change(&gone.commit.unwrap(), ITEMS), sums(&[(row(1, "a", 0), -1)]));
    let absent = done(&mut state, request(vec![delete]), 0);
    assert_eq!((absent.ack.rows, absent.ack.lsn, absent.commit), (0, Lsn(2), None));

    let twice = batch(&[row(5, "b", 0), row(5, "b", 0), row(6, "b", 0)]);
    let added = done(&mut state, request(vec![write(BAG, WriteKind::Append, vec![twice])]), 0);
    let expected = [(row(5, "b", 0), 2), (row(6, "b", 0), 1)];
    assert_eq!(change(&added.commit.unwrap(), BAG), sums(&expected));
    let one = write(BAG, WriteKind::Delete, vec![batch(&[row(5, "b", 0), row(8, "b", 0)])]);
    let left = done(&mut state, request(vec![one]), 0);
    assert_eq!(left.ack.rows, 1);
    assert_eq!(change(&left.commit.unwrap(), BAG), sums(&[(row(5, "b", 0), -1)]));
}

#[test]
fn rows_are_replaced_only_as_they_are_now() {
    let mut state = state();
    done(&mut state, upsert(&[row(1, "a", 0), row(2, "b", 0)]), 0);
    let replace = |old: &[Row], new: &[Row]| {
        request(vec![
            write(ITEMS, WriteKind::Remove, vec![batch(old)]),
            write(ITEMS, WriteKind::Insert, vec![batch(new)]),
        ])
    };
    // Keys may change places within one statement.
    let swap = replace(&[row(1, "a", 0), row(2, "b", 0)], &[row(2, "a", 0), row(1, "b", 0)]);
    let commit = done(&mut state, swap, 0).commit.unwrap();
    let expected =
        [(row(1, "a", 0), -1), (row(2, "b", 0), -1), (row(2, "a", 0), 1), (row(1, "b", 0), 1)];
    assert_eq!(change(&commit, ITEMS), sums(&expected));
    for (old, new, code) in [
        (row(1, "a", 0), row(1, "c", 0), Code::Conflict),
        (row(7, "a", 0), row(7, "c", 0), Code::Conflict),
        (row(1, "b", 0), row(2, "c", 0), Code::UniqueViolation),
    ] {
        assert_eq!(state.decide(replace(&[old], &[new]), 0).unwrap_err().code, code);
    }
    let twice = replace(&[row(1, "b", 0), row(1, "b", 0)], &[]);
    assert_eq!(state.decide(twice, 0).unwrap_err().code, Code::Conflict);
    // Nothing of what was refused stays.
    let unchanged = replace(&[row(1, "b", 0)], &[row(1, "b", 0)]);
    assert!(done(&mut state, unchanged, 0).commit.is_none());
}

#[test]
fn a_row_of_a_bag_is_taken_away_as_often_as_it_is_there() {
    let mut state = state();
    done(&mut state, append(BAG, &[row(1, "a", 0), row(1, "a", 0)]), 0);
    let remove = |n: usize| {
        request(vec![write(BAG, WriteKind::Remove, vec![batch(&vec![row(1, "a", 0); n])])])
    };
    assert_eq!(state.decide(remove(3), 0).unwrap_err().code, Code::Conflict);
    let commit = done(&mut state, remove(2), 0).commit.unwrap();
    assert_eq!(change(&commit, BAG), sums(&[(row(1, "a", 0), -2)]));
    assert_eq!(state.decide(remove(1), 0).unwrap_err().code, Code::Conflict);
}

#[test]
fn conflicts_of_keys_are_decided_as_the_table_says() {
    for (on_conflict, expected) in [
        (OnConflict::Overwrite, Some((2, None))),
        (OnConflict::Ignore, None),
        (OnConflict::UpdateIfNotNull, Some((2, Some("a")))),
    ] {
        let mut items = definition(ITEMS, "items");
        items.def.append_only = false;
        items.def.primary_key = vec!["k".to_owned()];
        items.def.on_conflict = on_conflict;
        items.schema = nullable_but_key();
        let mut state = State::new();
        state.add_stream(items).unwrap();
        let rows = |at, s: Option<&str>| {
            let columns = batch(&[row(1, s.unwrap_or_default(), at)]).columns().to_vec();
            let text = Arc::new(arrow::array::StringArray::from(vec![s]));
            let columns = columns.into_iter().map(|c| match c.data_type() {
                arrow::datatypes::DataType::Utf8 => text.clone() as arrow::array::ArrayRef,
                _ => c,
            });
            RecordBatch::try_new(nullable_but_key(), columns.collect()).unwrap()
        };
        let put = |batch| request(vec![write(ITEMS, WriteKind::Upsert, vec![batch])]);
        done(&mut state, put(rows(1, Some("a"))), 0);
        let commit = done(&mut state, put(rows(2, None)), 0).commit;
        let now = expected.map(|(at, s)| put(rows(at, s)));
        match now {
            // The row is what was expected: to set it again changes nothing.
            Some(now) => {
                assert!(commit.is_some(), "{on_conflict:?}");
                let again = WriteKind::Remove;
                let same = now.writes.into_iter().map(|w| StreamWrite { kind: again, ..w });
                assert!(state.decide(request(same.collect()), 0).is_ok(), "{on_conflict:?}");
            }
            None => assert!(commit.is_none(), "{on_conflict:?}"),
        }
    }
}

/// The test columns, all but the key with NULL.
fn nullable_but_key() -> SchemaRef {
    let schema = schema();
    let fields = schema.fields().iter().map(|f| {
        let nullable = f.name() != "k";
        f.as_ref().clone().with_nullable(nullable)
    });
    Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
}

#[test]
fn columns_are_added_under_rows_that_are_there() {
    let mut state = state();
    done(&mut state, upsert(&[row(1, "a", 0)]), 0);
    done(&mut state, append(BAG, &[row(1, "a", 0), row(1, "a", 0)]), 0);
    let mut fields: Vec<_> = schema().fields().iter().cloned().collect();
    let added = arrow::datatypes::Field::new("more", arrow::datatypes::DataType::Int64, true);
    fields.push(Arc::new(added));
    let wide: SchemaRef = Arc::new(arrow::datatypes::Schema::new(fields));
    for mut definition in definitions().into_iter().skip(1) {
        definition.schema = SchemaRef::clone(&wide);
        state.redefine_stream(definition).unwrap();
    }
    // Rows that were made before still find theirs.
    let remove = |stream| write(stream, WriteKind::Remove, vec![batch(&[row(1, "a", 0)])]);
    let commit = done(&mut state, request(vec![remove(ITEMS), remove(BAG)]), 0).commit.unwrap();
    let delta = kaplan_circuit::decode_delta(&wide, &commit.writes[0].payload).unwrap();
    assert_eq!((delta.len(), delta.rows.column(3).logical_null_count()), (1, 1));
    let bag = state.decide(request(vec![remove(BAG), remove(BAG)]), 0);
    assert_eq!(bag.unwrap_err().code, Code::Conflict);
    assert!(state.decide(request(vec![remove(BAG)]), 0).is_ok());
}

#[test]
fn a_write_of_the_wrong_kind_or_shape_leaves_nothing() {
    let mut state = state();
    let refused = |state: &mut State, stream, kind, rows| {
        let first = write(BAG, WriteKind::Append, vec![batch(&[row(1, "a", 0)])]);
        let both = request(vec![first, write(stream, kind, vec![rows])]);
        state.decide(both, 0).unwrap_err().code
    };
    let one = batch(&[row(1, "a", 0)]);
    for (stream, kind, code) in [
        (ITEMS, WriteKind::Append, Code::InvalidInput),
        (EVENTS, WriteKind::Upsert, Code::InvalidInput),
        (BAG, WriteKind::Upsert, Code::InvalidInput),
        (EVENTS, WriteKind::Delete, Code::InvalidInput),
        (StreamId(99), WriteKind::Append, Code::UnknownRelation),
        (ITEMS, WriteKind::Delete, Code::InvalidValue),
    ] {
        assert_eq!(refused(&mut state, stream, kind, one.clone()), code, "{kind:?}");
    }
    assert_eq!(refused(&mut state, EVENTS, WriteKind::Append, keys(&[1])), Code::InvalidValue);
    let gone = write(BAG, WriteKind::Delete, vec![one]);
    assert_eq!(done(&mut state, request(vec![gone]), 0).ack.rows, 0);
    assert_eq!(state.counters()[&BAG], super::super::Counters::default());
}

#[test]
fn nulls_are_refused_by_field_and_row() {
    let mut state = state();
    let nullable = Schema::new(
        schema()
            .fields()
            .iter()
            .map(|f| f.as_ref().clone().with_nullable(true))
            .collect::<Vec<_>>(),
    );
    let mut columns = batch(&[row(1, "a", 0), row(2, "b", 0)]).columns().to_vec();
    columns[0] = Arc::new(Int64Array::from(vec![Some(1), None]));
    let bad = RecordBatch::try_new(Arc::new(nullable), columns).unwrap();
    for (stream, kind) in [(EVENTS, WriteKind::Append), (ITEMS, WriteKind::Upsert)] {
        let rows = vec![batch(&[row(7, "c", 0)]), bad.clone()];
        let error = state.decide(request(vec![write(stream, kind, rows)]), 0).unwrap_err();
        assert_eq!(error.code, Code::NotNullViolation);
        assert_eq!((error.row, error.field.as_deref()), (Some(3), Some("k")));
    }
    let fits = state.decide(append(EVENTS, &[row(7, "c", 0)]), 0).unwrap();
    assert_eq!(fits.ack.duplicates, 0, "the refused request left its keys behind");
}

/// Checks `k < 10` (reject), `k < 5` (quarantine), `s <> 'drop'` (drop); fails on `k = 99`.
struct Small;

impl Checks for Small {
    fn evaluate(&self, batch: &RecordBatch) -> Result<Vec<BooleanArray>, String> {
        let rows = rows(batch);
        if rows.iter().any(|r| r.0 == 99) {
            return Err("division by zero".to_owned());
        }
        Ok(vec![
            rows.iter().map(|r| Some(r.0 < 10)).collect(),
            rows.iter().map(|r| Some(r.0 < 5)).collect(),
            rows.iter().map(|r| r.1.as_ref().map(|s| s != "drop")).collect(),
        ])
    }
}

fn checked() -> State {
    let [events, ..] = definitions();
    with_checks(events)
}

fn with_checks(mut checked: Definition) -> State {
    const QUARANTINE: StreamId = StreamId(4);
    let check = |name: &str, condition: &str, on_violation| CheckDef {
        name: name.to_owned(),
        condition: condition.to_owned(),
        on_violation,
    };
    checked.def.checks = vec![
        check("bounded", "k < 10", OnViolation::Reject),
        check("small", "k < 5", OnViolation::Quarantine),
        check("wanted", "s <> 'drop'", OnViolation::Drop),
    ];
    checked.checks = Some(Box::new(Small));
    checked.quarantine = Some(QUARANTINE);
    let mut quarantine = definition(QUARANTINE, "events_quarantine");
    quarantine.schema = quarantine_schema();
    let mut state = State::new();
    state.add_stream(checked).unwrap();
    state.add_stream(quarantine).unwrap();
    state
}

fn quarantine_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("reason", DataType::Utf8, true),
        Field::new("constraint_name", DataType::Utf8, true),
        Field::new("row_number", DataType::Int64, true),
        Field::new("row", DataType::Utf8, true),
    ]))
}

#[test]
fn checks_reject_quarantine_and_drop() {
    let mut state = checked();
    let rows = [
        vec![row(1, "a", 0), row(7, "drop", 0)],
        vec![row(2, "drop", 0), (3, None, None), row(8, "b", 1), row(1, "a", 3)],
    ];
    let rows = rows.iter().map(|r| batch(r)).collect();
    let made = done(&mut state, request(vec![write(EVENTS, WriteKind::Append, rows)]), 0);
    let ack = Ack { lsn: Lsn(1), rows: 6, duplicates: 1, late: 0, quarantined: 2, dropped: 1 };
    assert_eq!(made.ack, ack);
    let commit = made.commit.unwrap();
    assert_eq!(change(&commit, EVENTS), sums(&[(row(1, "a", 0), 1), ((3, None, None), 1)]));

    let held = &state.streams[&StreamId(4)].definition.schema;
    let bad = decode_delta(held, &commit.writes[1].payload).unwrap().rows;
    assert_eq!(bad.column(0).as_string::<i32>().value(0), "k < 5 is false");
    assert_eq!(bad.column(1).as_string::<i32>().value(1), "small");
    assert_eq!(bad.column(2).as_primitive::<Int64Type>().values(), &[2, 5]);
    let json = bad.column(3).as_string::<i32>().value(0);
    assert_eq!(json, r#"{"k":7,"s":"drop","at":"1970-01-01T00:00:00"}"#);
    let counters = state.counters();
    assert_eq!((counters[&EVENTS].rows, counters[&StreamId(4)].rows), (2, 2));

    let error = state.decide(append(EVENTS, &[row(4, "n", 0), row(10, "n", 0)]), 0).unwrap_err();
    assert_eq!((error.code, error.row), (Code::ConstraintViolation, Some(2)));
    assert!(error.message.contains("bounded") && error.hint.is_some(), "{error}");
    assert_eq!(done(&mut state, append(EVENTS, &[row(4, "n", 0)]), 0).ack.duplicates, 0);

    let error = state.decide(append(EVENTS, &[row(4, "m", 0), row(99, "m", 0)]), 0).unwrap_err();
    assert_eq!((error.code, error.row), (Code::InvalidValue, Some(2)));
}

#[test]
fn a_request_without_admitted_rows_makes_no_commit() {
    let mut state = checked();
    let nothing = done(&mut state, append(EVENTS, &[row(1, "drop", 0)]), 0);
    assert_eq!((nothing.commit, nothing.ack.dropped, nothing.ack.lsn), (None, 1, Lsn::ZERO));
    assert!(done(&mut state, append(EVENTS, &[]), 0).commit.is_none());
}

#[test]
fn the_watermark_is_the_one_before_the_commit() {
    let mut state = state();
    let next = |state: &mut State, k, at| {
        let made = done(state, append(EVENTS, &[row(k, "a", at), row(k, "b", at + 1)]), 0);
        (made.commit.unwrap().writes[0].watermark_us, made.ack.late)
    };
    assert_eq!(next(&mut state, 1, 100), (None, 0));
    assert_eq!(next(&mut state, 2, 100 - DELAY_US), (Some(101 - DELAY_US), 1));
    assert_eq!(next(&mut state, 3, 500), (Some(101 - DELAY_US), 0));
    assert_eq!(state.counters()[&EVENTS].watermark_us, Some(501 - DELAY_US));
    assert_eq!(state.counters()[&EVENTS].late, 1);
}

#[test]
fn commit_time_never_goes_back() {
    let mut state = state();
    let time = |made: Decision| made.commit.unwrap().time_us;
    assert_eq!(time(done(&mut state, append(BAG, &[row(1, "a", 0)]), 50)), 50);
    assert_eq!(time(done(&mut state, append(BAG, &[row(1, "a", 0)]), 40)), 50);
}

#[test]
fn a_producers_retry_changes_nothing() {
    let mut state = state();
    done(&mut state, from(append(BAG, &[row(1, "a", 0)]), "p", 3), 0);
    for sequence in [3, 2] {
        let retry = done(&mut state, from(append(BAG, &[row(1, "a", 0)]), "p", sequence), 0);
        assert_eq!(retry.ack, Ack { lsn: Lsn(1), rows: 1, duplicates: 1, ..Ack::default() });
        assert!(retry.commit.is_none());
    }
    assert_eq!(done(&mut state, from(append(BAG, &[row(1, "a", 0)]), "p", 4), 0).ack.lsn, Lsn(2));
    let long = from(append(BAG, &[row(1, "a", 0)]), &"p".repeat(1_025), 1);
    assert_eq!(state.decide(long, 0).unwrap_err().code, Code::InvalidInput);
}

#[test]
fn damaged_history_is_refused() {
    let one = Positions::One { lsn: Lsn(1), time_us: 0 };
    for rows in [
        vec![(row(1, "a", 0), 1), (row(1, "b", 0), 1)],
        vec![(row(1, "a", 0), -1)],
        vec![(row(1, "a", 0), 2)],
    ] {
        let mut state = state();
        let weights = Int64Array::from_iter_values(rows.iter().map(|r| r.1));
        let rows: Vec<Row> = rows.into_iter().map(|r| r.0).collect();
        state.absorb_history(ITEMS, one, &Delta::weighted(batch(&rows), weights)).unwrap();
        assert_eq!(state.open(Lsn(1)).unwrap_err().code, Code::Corrupted);
    }
    let mut state = state();
    let commit = |lsn| Commit { lsn: Lsn(lsn), time_us: 0, producer: None, writes: Vec::new() };
    state.absorb_commit(&commit(4)).unwrap();
    assert_eq!(state.absorb_commit(&commit(6)).unwrap_err().code, Code::Corrupted);
    assert_eq!(state.open(Lsn(5)).unwrap_err().code, Code::Corrupted);
    state.open(Lsn(4)).unwrap();
}

#[test]
fn rows_out_of_time_are_quarantined() {
    let mut state = State::new();
    let mut limited = definition(EVENTS, "events");
    limited.def.watermark = Some(WatermarkDef {
        column: "at".to_owned(),
        delay_us: 10,
        lateness_us: Some(5),
        future_us: Some(100),
        idle_us: None,
    });
    limited.quarantine = Some(StreamId(4));
    let mut held = definition(StreamId(4), "events_quarantine");
    held.schema = quarantine_schema();
    state.add_stream(held).unwrap();
    state.add_stream(limited).unwrap();

    // The first commit has no watermark before it; what is ahead of the clock moves none.
    let made = done(&mut state, append(EVENTS, &[row(1, "a", 50), row(2, "b", 151)]), 50);
    assert_eq!((made.ack.quarantined, made.ack.late), (1, 0));
    assert_eq!(state.counters()[&EVENTS].watermark_us, Some(40));
    // 39 is late and 35 as late as can be; 34 is too late, in the same commit as what is new.
    let rows =
        [row(3, "c", 39), row(4, "d", 34), row(5, "e", 90), row(6, "f", 35), (7, None, None)];
    let made = done(&mut state, append(EVENTS, &rows), 60);
    assert_eq!((made.ack.quarantined, made.ack.late), (1, 2));
    let commit = made.commit.unwrap();
    let kept = [row(3, "c", 39), row(5, "e", 90), row(6, "f", 35), (7, None, None)];
    assert_eq!(change(&commit, EVENTS), sums(&kept.map(|row| (row, 1))));
    let bad = decode_delta(&quarantine_schema(), &commit.writes[1].payload).unwrap().rows;
    let reason = bad.column(0).as_string::<i32>().value(0).to_owned();
    assert!(reason.contains("ALLOWED LATENESS behind the watermark"), "{reason}");
    assert_eq!(bad.column(1).as_string::<i32>().value(0), "events_allowed_lateness");
    assert_eq!(bad.column(2).as_primitive::<Int64Type>().value(0), 2);

    // A tick moves the watermark of a quiet stream, never back; one that fails moves nothing.
    let tick = |us| WriteRequest { tick: Some([(EVENTS, us)].into()), ..WriteRequest::default() };
    state.decide(tick(500), 61).unwrap();
    state.revert();
    assert_eq!(state.counters()[&EVENTS].watermark_us, Some(80));
    let told = done(&mut state, tick(85), 62).commit.unwrap();
    assert_eq!((told.writes[0].rows, told.writes[0].watermark_us), (0, Some(85)));
    done(&mut state, tick(82), 62);
    let made = done(&mut state, append(EVENTS, &[row(8, "g", 79), row(9, "h", 80)]), 63);
    assert_eq!((made.ack.quarantined, made.ack.late), (1, 1));
}

#[test]
fn what_is_too_much_for_one_commit_is_removed_in_pieces() {
    const ROWS: i64 = 400;
    let mut state = state();
    state.limit_commits(64 << 10);
    let text = "x".repeat(1_000);
    let bag = |rows: &[Row]| request(vec![write(BAG, WriteKind::Append, vec![batch(rows)])]);
    for from in (0..ROWS).step_by(40) {
        let rows: Vec<Row> = (from..from + 40).map(|k| row(k, &text, k)).collect();
        done(&mut state, upsert(&rows), 1);
        done(&mut state, bag(&rows), 1);
    }
    for stream in [ITEMS, BAG] {
        let all = |kind| request(vec![write(stream, kind, Vec::new())]);
        let error = state.decide(all(WriteKind::Truncate), 1).unwrap_err();
        assert_eq!(error.code, Code::TooLarge);
        let (mut removed, mut pieces) = (0, 0);
        loop {
            let piece = done(&mut state, all(WriteKind::Clear), 1);
            removed += piece.ack.rows;
            match piece.commit {
                Some(commit) => assert!(change(&commit, stream).values().all(|w| *w == -1)),
                None => break,
            }
            pieces += 1;
        }
        assert_eq!(removed, ROWS as u64);
        assert!(pieces > 4, "{pieces}");
        assert_eq!(done(&mut state, all(WriteKind::Truncate), 1).ack.rows, 0);
    }
    let error = state.decide(request(vec![write(EVENTS, WriteKind::Clear, Vec::new())]), 1);
    assert_eq!(error.unwrap_err().code, Code::InvalidInput);
}

#[test]
fn rows_and_keys_beyond_the_memory_are_refused() {
    let mut state = state();
    let memory = Arc::new(Memory::new(200 << 10, None));
    state.count_in(Arc::clone(&memory));
    let text = "x".repeat(1_000);
    let rows = |from: i64, to: i64, text: &str| -> Vec<Row> {
        (from..to).map(|k| row(k, text, k)).collect()
    };
    done(&mut state, upsert(&rows(0, 100, &text)), 1);
    assert!((100 << 10..200 << 10).contains(&memory.held()), "{}", memory.held());
    let error = state.decide(upsert(&rows(100, 200, &text)), 1).unwrap_err();
    assert_eq!(error.code, Code::OutOfMemory);
    let held = memory.held();
    // What needs no more is taken; what was refused has left nothing, not even a gap.
    let second = done(&mut state, upsert(&rows(0, 100, &text.replace('x', "y"))), 1);
    assert_eq!(second.ack.lsn, Lsn(2));
    assert_eq!(memory.held(), held);
    done(&mut state, upsert(&rows(0, 100, "short")), 1);
    done(&mut state, upsert(&rows(100, 200, &text)), 1);
    // Keys that are remembered count too, and are forgotten.
    let events: Vec<Row> = (0..1_000).map(|k| row(k, "e", k)).collect();
    let held = memory.held();
    done(&mut state, append(EVENTS, &events), 1);
    assert!(memory.held() >= held + 64 * 1_000);
    let error = state.decide(append(EVENTS, &rows(1_000, 3_000, "e")), 1).unwrap_err();
    assert_eq!(error.code, Code::OutOfMemory);
    done(&mut state, append(EVENTS, &[row(1, "late", 1)]), 10 * WITHIN_US);
    assert_eq!(memory.held(), held + 64);
    // What is not confirmed is not counted.
    state.decide(request(vec![write(ITEMS, WriteKind::Truncate, Vec::new())]), 1).unwrap();
    state.revert();
    assert_eq!(memory.held(), held + 64);
    state.forget_stream(ITEMS).unwrap();
    assert_eq!(memory.held(), 64);
}

#[test]
fn checks_judge_what_a_patch_makes_of_a_row() {
    let [_, items, _] = definitions();
    let mut state = with_checks(items);
    let patch = |k: i64, s: &str| {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("k", Arc::new(Int64Array::from(vec![1]))),
            ("k", Arc::new(Int64Array::from(vec![k]))),
            ("s", Arc::new(StringArray::from(vec![s]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        request(vec![write(ITEMS, WriteKind::Patch, vec![rows])])
    };
    done(&mut state, upsert(&[row(1, "a", 7)]), 1);
    let error = state.decide(patch(12, "a"), 1).unwrap_err();
    assert_eq!((error.code, error.row), (Code::ConstraintViolation, Some(1)));
    for (k, s, moved) in [(7, "a", (1, 0)), (1, "drop", (0, 1))] {
        let decision = done(&mut state, patch(k, s), 1);
        assert_eq!((decision.ack.quarantined, decision.ack.dropped), moved);
        assert!(decision.commit.iter().all(|c| change(c, ITEMS).is_empty()));
    }
    let commit = done(&mut state, patch(2, "b"), 1).commit.unwrap();
    assert_eq!(change(&commit, ITEMS), sums(&[(row(1, "a", 7), -1), (row(2, "b", 7), 1)]));
}
