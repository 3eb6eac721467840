"""Reads one lake table with deltalake, DuckDB and Polars; each must see the expected rows.

Usage: read_lake.py <table directory> <file with the lines id|label|lsn, sorted by lsn>

Prints one line of totals per reader; exits with an error at the first difference.
"""

import sys

import duckdb
import polars
from deltalake import DeltaTable

COLUMNS = ["id", "label", "_lsn", "_seq", "_ingested_at", "_wm"]


def by_deltalake(path):
    table = DeltaTable(path).to_pyarrow_table(columns=COLUMNS)
    return list(zip(*(table[name].to_pylist() for name in COLUMNS)))


def by_duckdb(path):
    # DuckDB's own Delta extension is a download; the Arrow data set needs none.
    lake = DeltaTable(path).to_pyarrow_dataset()
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("lake", lake)
    names = ", ".join(COLUMNS[:4])
    times = "epoch_us(_ingested_at), epoch_us(_wm)"
    return connection.execute(f"SELECT {names}, {times} FROM lake").fetchall()


def by_polars(path):
    return polars.scan_delta(path).select(COLUMNS).collect().rows()


def microseconds(time):
    if time is None or isinstance(time, int):
        return time
    return round(time.timestamp() * 1_000_000)


def check(reader, rows, expected):
    rows = sorted(rows, key=lambda row: row[2])
    lines = []
    for id_, label, lsn, seq, ingested_at, watermark in rows:
        assert seq == 0, (reader, lsn, seq)
        assert microseconds(ingested_at) == lsn * 1000, (reader, lsn, ingested_at)
        assert microseconds(watermark) == (lsn * 900 if lsn > 1 else None), (reader, lsn, watermark)
        lines.append(f"{id_}|{'NULL' if label is None else label}|{lsn}")
    assert lines == expected, f"{reader} sees {len(lines)} rows, expected {len(expected)}"
    ids = [row[0] for row in rows]
    print(f"{reader}: {len(ids)} rows, sum {sum(ids)}, min {min(ids)}, max {max(ids)}")


def main():
    path, expected = sys.argv[1:]
    with open(expected, encoding="utf-8") as lines:
        expected = lines.read().splitlines()
    for reader in (by_deltalake, by_duckdb, by_polars):
        check(reader.__name__.removeprefix("by_"), reader(path), expected)


if __name__ == "__main__":
    main()
