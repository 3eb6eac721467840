"""Runs queries with DuckDB over Parquet files and prints one JSON object per query.

Usage: run_duckdb.py <directory of TABLE.parquet> <file with an object of name: SQL>

A value is null or text whose first letter says what it is: n an integer or decimal, f a double,
b a boolean, d days and t microseconds since 1970, s text.
"""

import datetime
import decimal
import json
import pathlib
import sys

import duckdb

EPOCH = datetime.datetime(1970, 1, 1)


def text(value):
    if value is None:
        return None
    if isinstance(value, bool):
        return f"b{str(value).lower()}"
    if isinstance(value, int):
        return f"n{value}"
    if isinstance(value, decimal.Decimal):
        return f"n{value:f}"
    if isinstance(value, float):
        return f"f{value!r}"
    if isinstance(value, datetime.datetime):
        return f"t{(value - EPOCH) // datetime.timedelta(microseconds=1)}"
    if isinstance(value, datetime.date):
        return f"d{(value - EPOCH.date()).days}"
    return f"s{value}"


def main():
    directory, queries = sys.argv[1:]
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for path in pathlib.Path(directory).glob("*.parquet"):
        connection.execute(f"CREATE TABLE {path.stem} AS SELECT * FROM '{path}'")
    with open(queries, encoding="utf-8") as file:
        queries = json.load(file)
    for name, sql in queries.items():
        try:
            rows = connection.execute(sql).fetchall()
            answer = {"name": name, "rows": [[text(v) for v in row] for row in rows], "error": None}
        except duckdb.Error as error:
            answer = {"name": name, "rows": [], "error": str(error)}
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
