"""One measurement of one peer, in a process of its own: `peers.py ENGINE MEASURE ARGUMENT ..`.

Prints one JSON object: what was measured, in seconds, and the process's peak memory.
Engines: duckdb, datafusion, chdb. Measures: replay QUERY DATA, answer QUERY DATA OUT, check A B,
live DATA VIEWS, full DATA, parse DATA.
"""

import json
import resource
import sys
import time
from pathlib import Path

import queries

TABLES = ["person", "auction", "bid"]
# What chDB keeps up to date while bids are inserted: the aggregates of `bench live`, in its words.
DAY = "toDate(date_time)"
AGGREGATING = {
    "q17": ("auction, day", f"""auction, {DAY} AS day, countState() AS a, countIfState(price < 10000) AS b,
        countIfState(price >= 10000 AND price < 1000000) AS c, countIfState(price >= 1000000) AS d,
        minState(price) AS e, maxState(price) AS f, avgState(price) AS g, sumState(price) AS h""",
        "countMerge(a), countMerge(b), countMerge(c), countMerge(d), minMerge(e), maxMerge(f), avgMerge(g), sumMerge(h)"),
    "q12": ("bidder, w", "bidder, toStartOfInterval(date_time, INTERVAL 10 SECOND) AS w, countState() AS a", "countMerge(a)"),
    "q7": ("w", "toStartOfInterval(date_time, INTERVAL 10 SECOND) AS w, maxState(price) AS a", "maxMerge(a)"),
    "q5": ("auction, w", """auction, arrayJoin(arrayMap(k -> toStartOfInterval(date_time, INTERVAL 2 SECOND) - k * 2,
        [0, 1, 2, 3, 4])) AS w, countState() AS a""", "countMerge(a)"),
}
BLOCK_ROWS = 50_000


def report(**figures):
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


def duckdb_tables(data):
    import duckdb

    connection = duckdb.connect()
    for table in TABLES:
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{data}/{table}.parquet')")
    return connection


def replay_duckdb(sql, data):
    connection = duckdb_tables(data)
    start = time.perf_counter()
    rows = 0
    for batch in connection.execute(sql).to_arrow_reader(1_000_000):
        rows += batch.num_rows
    report(seconds=time.perf_counter() - start, rows=rows)


def replay_datafusion(sql, data):
    import datafusion

    context = datafusion.SessionContext()
    for table in TABLES:
        context.register_parquet(table, f"{data}/{table}.parquet")
    start = time.perf_counter()
    rows = sum(batch.to_pyarrow().num_rows for batch in context.sql(sql).execute_stream())
    report(seconds=time.perf_counter() - start, rows=rows)


def answer(query, data, out):
    """DuckDB's answer with ties in order, to check others by."""
    connection = duckdb_tables(data)
    connection.execute(f"COPY ({queries.checked(query)}) TO '{out}' (FORMAT parquet)")
    report(out=out)


def check(ours, theirs):
    """Whether two files hold the same rows: exact columns by count and sum of hashes, floating ones
    by a join on the exact columns, to 1e-9 of their size."""
    import duckdb

    connection = duckdb.connect()
    kinds = {}
    for name, path in (("a", ours), ("b", theirs)):
        described = connection.execute(f"DESCRIBE SELECT * FROM read_parquet('{path}')").fetchall()
        kinds[name] = [(row[0], row[1]) for row in described]
    if len(kinds["a"]) != len(kinds["b"]):
        return f"{len(kinds['a'])} columns against {len(kinds['b'])}"
    inexact = [i for i in range(len(kinds["a"])) if any(kinds[n][i][1] in ("DOUBLE", "FLOAT") for n in "ab")]
    exact = [i for i in range(len(kinds["a"])) if i not in inexact]
    for name, path in (("a", ours), ("b", theirs)):
        columns = []
        for i, (column, kind) in enumerate(kinds[name]):
            other = kinds["b" if name == "a" else "a"][i][1]
            cast = "DOUBLE" if i in inexact else kind
            if i in exact and kind != other:
                cast = "VARCHAR" if "DECIMAL" not in kind + other else "DECIMAL(38, 6)"
            columns.append(f'CAST("{column}" AS {cast}) AS c{i}')
        connection.execute(f"CREATE VIEW {name} AS SELECT {', '.join(columns)} FROM read_parquet('{path}')")
    hashed = ", ".join(f"c{i}" for i in exact) or "1"
    sums = [connection.execute(f"SELECT count(*), sum(hash({hashed})::HUGEINT) FROM {n}").fetchone() for n in "ab"]
    if sums[0] != sums[1]:
        return f"rows and hashes {sums[0]} against {sums[1]}"
    if not inexact:
        return None
    on = " AND ".join(f"a.c{i} IS NOT DISTINCT FROM b.c{i}" for i in exact) or "true"
    far = " OR ".join(f"abs(a.c{i} - b.c{i}) > 1e-9 * greatest(abs(a.c{i}), abs(b.c{i}), 1) OR (a.c{i} IS NULL) <> (b.c{i} IS NULL)" for i in inexact)
    different = connection.execute(f"SELECT count(*) FROM a JOIN b ON {on} WHERE {far}").fetchone()[0]
    return f"{different} rows differ in floating columns" if different else None


def chdb_session():
    import chdb.session

    session = chdb.session.Session()
    session.query("SET max_threads = 2")
    session.query("CREATE DATABASE k ENGINE = Atomic")
    return session


def chdb_keep(session, data, views):
    session.query("CREATE TABLE k.bid (auction Int64, bidder Int64, price Int64, date_time DateTime64(6)) ENGINE = Null")
    for name in views:
        key, select, _ = AGGREGATING[name]
        groups = [part.strip() for part in key.split(",")]
        session.query(f"CREATE MATERIALIZED VIEW k.{name} ENGINE = AggregatingMergeTree ORDER BY ({key}) AS SELECT {select} FROM k.bid GROUP BY {', '.join(groups)}")
    settings = f"max_insert_block_size = {BLOCK_ROWS}, min_insert_block_size_rows = {BLOCK_ROWS}, min_insert_block_size_bytes = 0, max_block_size = {BLOCK_ROWS}"
    return f"INSERT INTO k.bid SELECT * FROM k.source SETTINGS {settings}"


def chdb_read(session, view):
    key, _, merged = AGGREGATING[view]
    result = session.query(f"SELECT {key}, {merged} FROM k.{view} GROUP BY {key}", "ArrowStream")
    return len(result.bytes())


def live_chdb(data, count):
    views = list(AGGREGATING)[:count]
    session = chdb_session()
    # In memory first, as Kaplan's input is.
    session.query(f"CREATE TABLE k.source ENGINE = Memory AS SELECT auction, bidder, price, date_time FROM file('{data}/bid.parquet', Parquet)")
    rows = int(str(session.query("SELECT count() FROM k.source", "CSV")))
    insert = chdb_keep(session, data, views)
    start = time.perf_counter()
    session.query(insert)
    for view in views:
        chdb_read(session, view)
    seconds = time.perf_counter() - start
    report(seconds=seconds, rate=rows / seconds)


def full_chdb(data):
    session = chdb_session()
    session.query(f"CREATE TABLE k.source ENGINE = Memory AS SELECT auction, bidder, price, date_time FROM file('{data}/bid.parquet', Parquet)")
    session.query(chdb_keep(session, data, ["q17"]))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        chdb_read(session, "q17")
        seconds.append(time.perf_counter() - start)
    report(seconds=sorted(seconds)[2])


def parse(data):
    """How fast simdjson alone reads the bids as NDJSON."""
    import duckdb
    import simdjson

    lines = duckdb.execute(f"SELECT to_json(b) FROM (SELECT * FROM read_parquet('{data}/bid.parquet') LIMIT 200000) AS b").fetchall()
    lines = [line[0].encode() for line in lines]
    parser = simdjson.Parser()
    start = time.perf_counter()
    for line in lines:
        parser.parse(line)
    seconds = time.perf_counter() - start
    report(seconds=seconds, rate=len(lines) / seconds)


def main(engine, measure, *arguments):
    if measure == "replay":
        query, data = arguments
        {"duckdb": replay_duckdb, "datafusion": replay_datafusion}[engine](queries.of(query, engine), data)
    elif measure == "answer":
        answer(*arguments)
    elif measure == "check":
        report(difference=check(*arguments))
    elif measure == "live":
        live_chdb(arguments[0], int(arguments[1]))
    elif measure == "full":
        full_chdb(*arguments)
    elif measure == "parse":
        parse(*arguments)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
