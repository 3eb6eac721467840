"""The queries of the benchmark as peers run them, and as answers are checked.

Kaplan runs examples/nexmark/queries/*.sql. Peers run the same text where their SQL has it; windows
are written out for them. `checked` orders ties by the whole row, as Kaplan does: it is run once, for
the answer, and not timed.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUERIES = ["q1", "q2", "q4", "q5", "q7", "q9", "q15", "q17", "q18", "q19"]

# What is kept in much less memory than it takes.
LIMITED = "winners"

# Kaplan's rates beside DuckDB's on one machine on one day (M events/s of 10 M events), from which the
# rows of engines that are not run here are derived: Rust dbsp 0.337, 2 workers; Flink 2.3, parallelism 2.
DUCKDB_RATE = {"q1": 6.4, "q2": 47, "q4": 18.2, "q5": 13.6, "q7": 8.9, "q9": 1.28, "q15": 5.0, "q17": 17.3, "q18": 2.8, "q19": 2.7}
DBSP_RATE = {"q1": 1.08, "q2": 1.26, "q4": 0.77, "q5": 0.77, "q7": 0.40, "q9": 0.26, "q15": 0.42, "q17": 0.31, "q18": 0.51, "q19": 0.51}
FLINK_RATE = {"q1": 0.89, "q2": 0.90, "q4": 0.23, "q5": 0.43, "q7": 0.18, "q9": 0.14, "q15": 0.35, "q17": 0.57, "q18": 0.37, "q19": 0.29}

HOP = {
    "duckdb": """(SELECT bid.*, time_bucket(INTERVAL '2 seconds', date_time) - INTERVAL '2 seconds' * k AS window_start
        FROM bid, (SELECT unnest([0, 1, 2, 3, 4]) AS k) AS starts) AS bid""",
    "datafusion": """(SELECT bid.*, date_bin(INTERVAL '2 seconds', date_time) - k AS window_start
        FROM bid, (SELECT unnest([INTERVAL '0 seconds', INTERVAL '2 seconds', INTERVAL '4 seconds',
          INTERVAL '6 seconds', INTERVAL '8 seconds']) AS k) AS starts) AS bid""",
}
TUMBLE = {
    "duckdb": """(SELECT bid.*, time_bucket(INTERVAL '10 seconds', date_time) + INTERVAL '10 seconds' AS window_end
        FROM bid) AS bid""",
    "datafusion": """(SELECT bid.*, date_bin(INTERVAL '10 seconds', date_time) + INTERVAL '10 seconds' AS window_end
        FROM bid) AS bid""",
}
# The order of ties: the rest of the row. What follows is replaced by what comes after it.
TIES = {
    "q9": ("ORDER BY b.price DESC, b.date_time ASC", ", b.auction, b.bidder, b.channel, b.url, b.extra"),
    "q18": ("ORDER BY date_time DESC", ", price, channel, url, extra"),
    "q19": ("ORDER BY price DESC, date_time", ", bidder, channel, url, extra"),
}


def path(query):
    """Where Kaplan's text of a query is."""
    if query == LIMITED:
        return ROOT / "bench" / f"{query}.sql"
    return ROOT / "examples" / "nexmark" / "queries" / f"{query}.sql"


def of(query, engine):
    """The query in an engine's words."""
    sql = path(query).read_text()
    sql = sql.replace("HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')", HOP[engine])
    return sql.replace("TUMBLE(bid, date_time, INTERVAL '10 seconds')", TUMBLE[engine])


def checked(query):
    """The query with one answer, for DuckDB."""
    sql = of(query, "duckdb")
    if query not in TIES:
        return sql
    order, rest = TIES[query]
    if order not in sql:
        raise SystemExit(f"{query}: there is no {order!r} to make total")
    return sql.replace(order, order + rest)
