//! Cases written by hand, as data: each names a trap. A commit is a line of changes, each
//! `+table value|value` (or `-table`, or `+2table`), separated by commas; NULL is NULL.

use crate::case::Case;
use crate::data::{Change, Class, Column, Commit, Table, numbered};
use crate::truth::AS_OF_NOW;
use datafusion::common::ScalarValue;
use kaplan_sql::dialect::arrow_type;

/// One trap.
pub struct Written {
    pub name: &'static str,
    /// `stream name: column type, ..`, `table name: ..` or, with the first column as its key, `keyed name: ..`.
    pub tables: &'static [&'static str],
    pub views: &'static [&'static str],
    pub commits: &'static [&'static str],
}

const S: &str = "stream s: k integer, x integer, f double precision";
const T: &str = "table t: k integer, x integer, f double precision";
const HOT: &[&str] = &[
    "+s 1|1|0.5,+t 1|1|1.5",
    "+s 1|2|0.5,+s 1|3|0.5,+t 1|2|0.5",
    "-t 1|1|1.5",
    "+s 1|4|NULL,+2t 1|2|0.5",
    "+s 2|5|-0.0,+t 2|5|0.0",
    "-t 1|2|0.5,-t 2|5|0.0",
    "",
    "+t 2|7|0.0,+t NULL|7|0.0,+s NULL|1|NaN,+t 3|3|-0.0",
];

const FRONT: &[&str] = &[
    "+s 1|1|0.5,+s 1|1|0.5,+s 2|NULL|0.5,+s NULL|3|1.5",
    "+s 1|2|0.5,+s 1|2|NULL,+s 2|9|NaN,+s NULL|3|0.5,+s NULL|3|1.5",
    "+s 1|0|0.5,+s 3|1|0.0,+s 3|1|-0.0",
    "",
    "+s 1|7|0.5,+s 1|6|0.5,+s 1|5|0.5,+s 2|9|NaN,+s 2|9|1.0,+s 3|1|0.0",
];

/// Events for windows.
const E: &str = "stream e: k integer, at timestamp, x integer, f double precision";
const SEEN: &[&str] = &[
    "+e 1|2024-02-29 09:01:00|1|0.5,+e 2|2024-02-29 09:01:30|2|0.1,\
     +e 1|2024-02-29 09:04:59|3|NaN",
    "+e 1|2024-02-29 09:02:00|1|0.5,+e NULL|2024-02-29 09:00:00|4|-0.0,+e 1|NULL|9|1.0",
    "",
    "+e 2|1969-12-31 23:59:59|7|0.0,+e 2|2024-02-29 09:00:00|NULL|0.0,\
     +e 2|2024-02-29 09:05:00|1|1.5,+e 2|2024-02-29 09:05:00|1|1.5,+e 2|2024-02-29 09:05:00|1|1.5",
];

/// A table with a key, and rows of a stream before, with and after its changes.
const R: &str = "keyed r: k integer, rate integer, name text";
const RATES: &[&str] = &[
    "+s 1|1|0.5,+r 2|20|b",
    "+s 1|2|0.5,+s 2|2|0.5,+r 1|10|a",
    "+s 1|3|0.5,-r 1|10|a,+r 1|11|a",
    "-r 2|20|b",
    "+s 2|4|0.5,+s 1|4|0.5,+s NULL|4|0.5",
    "-r 1|11|a,+r 1|12|c,+r 2|21|b",
    "-r 1|12|c,+s 1|5|0.5,+s 2|5|0.5",
    "",
    "-r 2|21|b,+r 2|2|a,+r 1|1|a",
    "+s 2|1|0.5,+s 1|NULL|0.5,+s 3|3|0.5",
];

pub const CASES: &[Written] = &[
    Written {
        name: "a global aggregate has a row over empty input",
        tables: &[S],
        views: &["SELECT count(*) AS n, sum(x) AS s, max(f) AS m, count(DISTINCT k) AS d FROM s"],
        commits: &[],
    },
    Written {
        name: "a global aggregate over an empty table, below a join and a union",
        tables: &[S, T],
        views: &[
            "SELECT count(*) AS n, sum(x) AS s FROM t",
            "SELECT n FROM v0 JOIN s ON s.x > v0.n UNION ALL SELECT n FROM v0",
        ],
        commits: &["+s 1|1|1"],
    },
    Written {
        name: "a global aggregate over an empty table",
        tables: &[T],
        views: &["SELECT count(*) AS n, sum(x) AS s, median(x) AS m FROM t"],
        commits: &[],
    },
    Written {
        name: "a step that changes nothing of a global aggregate",
        tables: &[T],
        views: &["SELECT count(*) AS n, sum(x) AS s, avg(x) AS a FROM t"],
        commits: &["+t 1|1|0.5,+t 2|2|0.5", "-t 1|1|0.5,+t 3|1|0.5", "-t 2|2|0.5,+t 2|2|0.5"],
    },
    Written {
        name: "a step without a row for a global aggregate over windows",
        tables: &["stream e: k integer, at timestamp"],
        views: &[
            "SELECT count(*) AS n, max(k) AS m \
             FROM HOP(e, at, INTERVAL '30 minutes', INTERVAL '1 hour') AS h",
            "SELECT k FROM e WHERE (SELECT n FROM v0) > 2",
        ],
        commits: &["+e 1|2024-02-29 10:00:00", "+e 2|2024-02-29 10:10:00", "+e 3|NULL", ""],
    },
    Written {
        name: "a condition over an outer join of columns of one name",
        tables: &[T],
        views: &["SELECT b.k, b.x FROM t AS a RIGHT JOIN t AS b ON a.k = b.x \
             WHERE nullif(a.x IS DISTINCT FROM b.x, b.x <= a.x)"],
        commits: HOT,
    },
    Written {
        name: "rows that leave with time, and rows that come with it",
        tables: &["stream e: k integer, at timestamp", "table d: k integer, at timestamptz"],
        views: &[
            "SELECT k, count(*) AS n FROM d WHERE at > now() - INTERVAL '30 minutes' GROUP BY k",
            "SELECT v0.k, e.at FROM v0 JOIN e ON v0.k = e.k WHERE e.at <= now()",
        ],
        commits: &[
            "+e 1|2024-02-29 09:20:00,+d 1|2024-02-29 09:10:00,+d 1|2024-02-29 08:00:00",
            "+d 2|2024-02-29 09:21:00,+e 2|2024-02-29 12:00:00,+d 2|NULL,+e 2|NULL",
            "",
            "-d 2|2024-02-29 09:21:00,+d 2|2024-02-29 09:22:00",
            "",
            "-d 1|2024-02-29 08:00:00",
            "",
            "+e 1|2024-02-29 09:21:00,-d 1|2024-02-29 09:10:00",
        ],
    },
    Written {
        name: "windows that are put out when they close",
        tables: &["stream e: k integer, at timestamp"],
        views: &[
            "SELECT window_start, count(*) AS n FROM TUMBLE(e, at, INTERVAL '10 minutes') \
             GROUP BY window_start, window_end EMIT ON WINDOW CLOSE",
            "SELECT sum(n) AS s, max(window_start) AS m FROM v0",
        ],
        commits: &[
            "+e 1|2024-02-29 09:01:00,+e 2|2024-02-29 09:31:00",
            "+e 1|2024-02-29 09:02:00,+e 3|NULL",
            "",
            "+e 1|2024-02-29 09:22:00,+e 1|2024-02-29 09:03:00",
            "",
            "",
        ],
    },
    Written {
        name: "closed windows alone",
        tables: &["stream e: k integer, at timestamptz"],
        views: &["SELECT window_end, k, count(*) AS n FROM HOP(e, at, INTERVAL '5 minutes', \
             INTERVAL '10 minutes') GROUP BY k, window_end HAVING count(*) > 1 EMIT ON WINDOW CLOSE"],
        commits: &[
            "+e 1|2024-02-29 09:01:00,+e 1|2024-02-29 09:02:00",
            "+e 2|2024-02-29 09:12:00,+e 2|2024-02-29 09:13:00",
            "",
            "+e 1|2024-02-29 09:03:00",
        ],
    },
    Written {
        name: "sums of floats that another order of rows changes, taken back",
        tables: &[T],
        views: &[
            "SELECT k, sum(f) AS a, avg(f) AS b FROM t GROUP BY k",
            "SELECT sum(f) AS s FROM t",
        ],
        commits: &[
            "+t 1|1|0.1,+t 1|2|0.2,+t 1|3|0.3,+t 2|1|0.7",
            "+t 1|4|1.1,+t 1|5|2.3,+t 2|2|0.1,+t 2|3|0.2",
            "+t 1|6|0.4,+t 1|7|0.9,+t 2|4|0.3",
            "-t 1|2|0.2",
            "-t 2|1|0.7,-t 1|5|2.3",
            "-t 2|2|0.1,-t 2|3|0.2,-t 2|4|0.3",
        ],
    },
    Written {
        name: "the last row of a group goes",
        tables: &[T],
        views: &["SELECT k, count(*) AS n, min(x) AS a, sum(f) AS b FROM t GROUP BY k"],
        commits: &["+t 1|1|0.5,+t 2|2|0.5", "-t 1|1|0.5", "+t 1|3|1.5", "-t 1|3|1.5,-t 2|2|0.5"],
    },
    Written {
        name: "HAVING fails in both parts and holds in their sum",
        tables: &[S],
        views: &["SELECT k, count(*) AS n FROM s GROUP BY k HAVING count(*) > 3"],
        commits: HOT,
    },
    Written {
        name: "HAVING over a table",
        tables: &[T],
        views: &["SELECT k, count(*) AS n FROM t GROUP BY k HAVING count(*) > 1 AND max(x) < 6"],
        commits: HOT,
    },
    Written {
        name: "hot keys in a join of a stream and a table",
        tables: &[S, T],
        views: &["SELECT s.k, s.x, t.x AS y FROM s JOIN t ON s.k = t.k"],
        commits: HOT,
    },
    Written {
        name: "a join whose both sides change in one step, with a self join",
        tables: &[T],
        views: &["SELECT a.k, a.x, b.x AS y FROM t AS a JOIN t AS b ON a.k = b.k AND a.x <= b.x"],
        commits: HOT,
    },
    Written {
        name: "NULL keys join nothing, and group together",
        tables: &[S, T],
        views: &["SELECT s.k, count(*) AS n FROM s JOIN t ON s.k = t.k OR s.x = t.x GROUP BY s.k"],
        commits: HOT,
    },
    Written {
        name: "NULL keys meet under IS NOT DISTINCT FROM",
        tables: &[S, T],
        views: &["SELECT s.x, t.x AS y FROM s JOIN t ON s.k IS NOT DISTINCT FROM t.k"],
        commits: HOT,
    },
    Written {
        name: "-0.0 and 0.0 are one group and one join key",
        tables: &[S, T],
        views: &[
            "SELECT f, count(*) AS n FROM s GROUP BY f",
            "SELECT v0.n, t.f FROM v0 JOIN t ON v0.f = t.f",
        ],
        commits: HOT,
    },
    Written {
        name: "DISTINCT of floats under retraction",
        tables: &[T],
        views: &["SELECT DISTINCT f FROM t"],
        commits: &["+t 1|1|0.0,+t 1|1|-0.0", "-t 1|1|0.0", "+t 1|1|NaN", "-t 1|1|-0.0"],
    },
    Written {
        name: "LIMIT among ties",
        tables: &[T],
        views: &["SELECT k, x FROM t ORDER BY k LIMIT 2"],
        commits: HOT,
    },
    Written {
        name: "LIMIT among ties of a mergeable aggregate",
        tables: &[S],
        views: &["SELECT k, count(*) AS n FROM s GROUP BY k ORDER BY n DESC LIMIT 1"],
        commits: HOT,
    },
    Written {
        name: "a large float comes and goes",
        tables: &[T],
        views: &["SELECT k, sum(f) AS s, avg(f) AS a, stddev(f) AS d FROM t GROUP BY k"],
        commits: &["+t 1|1|1e20", "+t 1|1|1,+t 1|1|NaN", "-t 1|1|1e20", "-t 1|1|NaN"],
    },
    Written {
        name: "division by zero, and casts of text that is no number",
        tables: &["table t: k integer, w text, d numeric(10,2)"],
        views: &[
            "SELECT k / (k - 1) AS q, k % k AS r, d / d AS e, CAST(w AS integer) AS i, \
             CAST(w AS timestamp) AS ts FROM t",
            "SELECT q, count(*) AS n, sum(i) AS s, max(ts) AS m FROM v0 GROUP BY q",
        ],
        commits: &["+t 1|12|0.00,+t 0|x|1.00", "+t 5|2024-02-29|-1.00", "-t 1|12|0.00"],
    },
    Written {
        name: "min and max do not depend on where the NaN stands",
        tables: &[S, T],
        views: &[
            "SELECT k, min(f) AS a, max(f) AS b FROM (SELECT * FROM s UNION ALL SELECT * FROM t) \
             AS u GROUP BY k",
        ],
        commits: &["+s 1|1|NaN,+s 2|1|0.5", "+s 1|1|0.5,+t 2|1|NaN", "-t 2|1|NaN,+s 3|1|NaN"],
    },
    Written {
        name: "NaN of either sign is one group, and both zeros are one value",
        tables: &[S],
        views: &["SELECT f / f AS q, count(*) AS n, count(DISTINCT f) AS d FROM s GROUP BY f / f"],
        commits: &["+s 1|1|NaN", "+s 1|1|0.0,+s 1|1|-0.0", "+s 1|1|2"],
    },
    Written {
        name: "a condition that is never true, above and below a global aggregate",
        tables: &[S, T],
        views: &["SELECT n FROM (SELECT count(*) AS n FROM t WHERE nullif(1 = 0, 1 = 1)) AS a \
             UNION ALL SELECT n FROM (SELECT count(*) AS n FROM s) AS b WHERE nullif(1 = 0, 1 = 1) \
             UNION ALL SELECT n FROM (SELECT count(*) AS n FROM s) AS c JOIN t ON 'z' < 'a'"],
        commits: HOT,
    },
    Written {
        name: "one branch of a UNION makes a column nullable",
        tables: &[S],
        views: &[
            "SELECT TIMESTAMP '2024-02-29 10:00:00' AS ts FROM s UNION ALL \
             SELECT CAST('no time' AS timestamp) FROM s",
            "SELECT ts IS NULL AS unknown, count(*) AS n FROM v0 GROUP BY ts IS NULL",
        ],
        commits: HOT,
    },
    Written {
        name: "times that nanoseconds do not reach",
        tables: &["table t: d date, ts timestamp, tz timestamptz"],
        views: &["SELECT date_trunc('month', ts) AS m, date_trunc('day', tz) AS n, d < ts AS b, \
             CAST(d AS timestamp) AS e, ts > TIMESTAMP '2024-01-01 00:00:00' AS g, count(*) AS c \
             FROM t GROUP BY 1, 2, 3, 4, 5"],
        commits: &[
            "+t 9999-12-31|0001-01-01T00:00:00|9999-12-31T00:00:00",
            "+t 0001-01-01|9999-12-31T23:59:59|2024-02-29T10:00:00,+t NULL|NULL|NULL",
        ],
    },
    Written {
        name: "rows without columns",
        tables: &[S, T],
        views: &["SELECT count(*) AS n FROM (SELECT 1 AS one FROM s CROSS JOIN t) AS p"],
        commits: HOT,
    },
    Written {
        name: "a window in the order of its partition alone",
        tables: &["table t: x integer"],
        views: &["SELECT x, row_number() OVER (PARTITION BY x ORDER BY x) AS n, \
             lag(x) OVER (PARTITION BY x ORDER BY x DESC) AS l FROM (SELECT x FROM t) AS a"],
        commits: &["+t 1,+2t 2", "-t 2,+t NULL", "+t 1"],
    },
    Written {
        name: "a condition on a constant of an outer join, over an aggregate without groups",
        tables: &["table t: x integer"],
        views: &["SELECT count(*) AS n FROM (SELECT max(x) AS m FROM t WHERE 1 > 2) AS a \
                  LEFT JOIN (SELECT x FROM t WHERE 1 > 2) AS b ON b.x = a.m WHERE -2 >= b.x"],
        commits: &["+t 1"],
    },
    Written {
        name: "sets of keys that a join has made equal, below a window",
        tables: &["table t: x integer, y integer"],
        views: &["SELECT p, q, lag(p) OVER (PARTITION BY q ORDER BY s NULLS FIRST) AS l FROM \
                  (SELECT a.x AS p, b.x AS q, a.y AS y, sum(CAST('a' AS bigint)) AS s \
                  FROM t AS b LEFT JOIN t AS a ON a.x = b.x WHERE a.x <= a.x \
                  GROUP BY CUBE (a.x, b.x, a.y)) AS c"],
        commits: &["+t 7|1", "+t 1|1", "+t 2|2"],
    },
    Written {
        name: "a window over what a full join leaves of an aggregate without groups",
        tables: &["table t: x integer"],
        views: &[
            "SELECT count(*) + 7 AS n, count(DISTINCT x) AS d FROM t",
            "SELECT a.n, a.d, lag(b.d) OVER (PARTITION BY b.n ORDER BY a.n NULLS FIRST) AS l, \
             row_number() OVER (PARTITION BY b.n ORDER BY a.n NULLS FIRST) AS r \
             FROM v0 AS a FULL JOIN v0 AS b ON a.n = b.n AND a.d = b.n",
            "SELECT a.d, b.x, row_number() OVER (ORDER BY a.n NULLS FIRST) AS r \
             FROM v0 AS a FULL JOIN t AS b ON a.n = b.x",
        ],
        commits: &["+t 1,+t 2", "-t 2", "+t 8,+t 8"],
    },
    Written {
        name: "one distinct constant over no rows",
        tables: &["table t: x integer"],
        views: &[
            "SELECT sum(DISTINCT 2 - 4) AS s, count(*) AS n FROM (SELECT x FROM t WHERE x > 1) AS a",
        ],
        commits: &["+t 1", "+t 2", "-t 2"],
    },
    Written {
        name: "the sum of a constant over no rows",
        tables: &["table t: x integer"],
        views: &[
            "SELECT sum(y) AS s, count(*) AS n FROM (SELECT CAST(1 AS double precision) AS y FROM t) AS a",
        ],
        commits: &["+t 1", "-t 1"],
    },
    Written {
        name: "a sum of NUMERIC beside one distinct count",
        tables: &["table t: k integer, x numeric(10;2)"],
        views: &["SELECT count(DISTINCT k) AS n, sum(x) AS s FROM t"],
        commits: &["+t 1|1.5,+t 2|2.25", "-t 1|1.5,+t 2|NULL"],
    },
    Written {
        name: "the last row that is not later",
        tables: &[
            "table l: k integer, at timestamp",
            "table r: k integer, at timestamp, x integer",
        ],
        views: &[
            "SELECT l.k, l.at, r.at AS seen, x FROM l ASOF JOIN r ON l.k = r.k AND l.at >= r.at",
            "SELECT l.k, l.at, r.at AS seen, x FROM l ASOF LEFT JOIN r ON r.at > l.at",
            "SELECT v0.k, v0.x, v1.x AS y FROM v0 FULL JOIN v1 ON v0.at = v1.at",
        ],
        commits: &[
            "+2l 1|2024-01-01T10:00:00,+r 1|2024-01-01T09:00:00|1",
            "+r 1|2024-01-01T10:00:00|NULL,+l NULL|NULL,+l 2|2024-01-01T10:00:00",
            "+r 1|2024-01-01T10:00:00|3,+r NULL|2024-01-01T08:00:00|4,+r 2|NULL|5",
            "-r 1|2024-01-01T10:00:00|3,-l 1|2024-01-01T10:00:00",
            "-r 1|2024-01-01T09:00:00|1,-r 1|2024-01-01T10:00:00|NULL",
        ],
    },
    Written {
        name: "the ties of the last row",
        tables: &["table t: k integer, x integer"],
        views: &["SELECT k, x FROM t ORDER BY k DESC OFFSET 1 FETCH FIRST 2 ROWS WITH TIES"],
        commits: &["+t 1|1,+t 2|2", "+2t 1|2,+t NULL|1", "-t 2|2,+t NULL|2", "-t NULL|1"],
    },
    Written {
        name: "a subquery with one row, then two, then none",
        tables: &["table t: k integer, x integer", "table u: k integer, x integer"],
        views: &["SELECT k, (SELECT x FROM u WHERE u.k = t.k) AS x, \
             (SELECT u.x FROM u WHERE u.k = t.k ORDER BY u.x DESC LIMIT 1) AS y, \
             (SELECT x FROM u) AS z FROM t"],
        commits: &["+t 1|1,+t 2|2,+u 1|5", "+u 1|7,+u 2|NULL", "-u 1|5,-u 2|NULL", "-u 1|7"],
    },
    Written {
        name: "aggregates in several orders, also in sets",
        tables: &["table t: k integer, x integer, w text"],
        views: &[
            "SELECT k, string_agg(w, '+' ORDER BY x) AS a, string_agg(w, '-' ORDER BY x DESC) AS b, \
             nth_value(x, 2 ORDER BY w) AS c, array_agg(x ORDER BY w DESC) AS d \
             FROM t GROUP BY ROLLUP (k)",
        ],
        commits: &[
            "+t 1|1|b,+t 1|2|a",
            "+t 2|1|NULL,+t NULL|3|c",
            "-t 1|1|b,-t NULL|3|c",
            "-t 2|1|NULL",
        ],
    },
    Written {
        name: "sets of a floating-point key",
        tables: &[T],
        views: &["SELECT f, k, count(*) AS n, grouping(f) AS g FROM t GROUP BY CUBE (f, k)"],
        commits: HOT,
    },
    Written {
        name: "hopping windows before 1970 and over NULL",
        tables: &["table t: ts timestamp, x integer"],
        views: &["SELECT window_start, window_end, count(*) AS n, sum(x) AS s \
                  FROM HOP(t, ts, INTERVAL '20 minutes', INTERVAL '50 minutes') \
                  GROUP BY window_start, window_end"],
        commits: &[
            "+t 1969-12-31T23:59:59.999999|1,+t NULL|2",
            "+t 1970-01-01T00:00:00|3",
            "-t 1969-12-31T23:59:59.999999|1",
        ],
    },
    Written {
        name: "a subquery compares with a column whose type a union has widened",
        tables: &[S, T],
        views: &[
            "SELECT u.v, u.k FROM (SELECT x AS v, k FROM t UNION ALL SELECT CAST(k AS bigint), x FROM t) AS u \
                  WHERE EXISTS (SELECT 1 FROM s WHERE s.x = u.v)",
        ],
        commits: HOT,
    },
    Written {
        name: "as of processing time: rows of one commit, rows before the table has them, and removed ones",
        tables: &[S, R],
        views: &[
            "SELECT s.k, s.x, r.rate FROM s JOIN r FOR SYSTEM_TIME AS OF PROCTIME() ON s.k = r.k",
        ],
        commits: RATES,
    },
    Written {
        name: "the same, keeping rows that meet nothing, with more of a condition, and counted above",
        tables: &[S, R],
        views: &[
            "SELECT s.k, s.x, r.rate, r.name AS n FROM s LEFT JOIN r FOR SYSTEM_TIME AS OF PROCTIME() \
             ON r.k = s.k AND (r.rate > s.x OR s.x IS NULL)",
            "SELECT n, count(*) AS c, sum(rate) AS s FROM v0 GROUP BY n",
        ],
        commits: RATES,
    },
    Written {
        name: "as of processing time: a condition above may uncover no older row",
        tables: &[S, R],
        views: &["SELECT s.x, r.rate FROM s LEFT JOIN r FOR SYSTEM_TIME AS OF PROCTIME() AS r \
             ON s.k = r.k WHERE r.rate > 15 OR r.name = 'a'"],
        commits: RATES,
    },
    Written {
        name: "as of processing time: a key twice, and a stream put together with itself",
        tables: &[S, R],
        views: &[
            "SELECT u.x, a.rate, b.name FROM (SELECT k, x FROM s WHERE x > 1 UNION ALL SELECT x, k FROM s) AS u \
             LEFT JOIN r FOR SYSTEM_TIME AS OF PROCTIME() AS a ON u.k = a.k \
             JOIN r FOR SYSTEM_TIME AS OF PROCTIME() AS b ON b.k = u.x",
        ],
        commits: RATES,
    },
    Written {
        name: "as of processing time: two streams that are joined first",
        tables: &[S, "stream e: k integer, at timestamp", R],
        views: &[
            "SELECT s.k, s.x, e.at FROM s JOIN e ON s.x = e.k",
            "SELECT v0.x, v0.at, r.rate FROM v0 LEFT JOIN r FOR SYSTEM_TIME AS OF PROCTIME() ON v0.k = r.k",
        ],
        commits: &[
            "+s 1|1|0.5,+r 1|10|a",
            "+e 1|2024-02-29 09:01:00,-r 1|10|a,+r 1|11|a",
            "+s 1|2|0.5,+e 2|2024-02-29 09:02:00",
            "-r 1|11|a",
            "+s 1|2|0.5",
            "+e 1|2024-02-29 09:03:00,+r 1|12|b",
        ],
    },
    Written {
        name: "as of processing time: windows of the stream, put out when they close",
        tables: &["stream e: k integer, at timestamp", R],
        views: &["SELECT window_start, r.name, count(*) AS n, sum(r.rate) AS s \
             FROM HOP(e, at, INTERVAL '5 minutes', INTERVAL '10 minutes') AS h \
             JOIN r FOR SYSTEM_TIME AS OF PROCTIME() ON h.k = r.k \
             GROUP BY window_start, window_end, r.name EMIT ON WINDOW CLOSE"],
        commits: &[
            "+e 1|2024-02-29 09:01:00,+e 2|2024-02-29 09:31:00,+r 1|10|a",
            "+e 1|2024-02-29 09:02:00,+e 3|NULL,+r 2|20|b",
            "-r 1|10|a",
            "+e 1|2024-02-29 09:22:00,+e 2|2024-02-29 09:03:00",
            "",
            "+r 1|11|c,+e 1|2024-02-29 09:23:00",
            "",
            "",
        ],
    },
    Written {
        name: "as of processing time: a floating-point key",
        tables: &[S, "keyed r: f double precision, x integer"],
        views: &["SELECT s.k, r.x FROM s JOIN r FOR SYSTEM_TIME AS OF PROCTIME() ON s.f = r.f"],
        commits: &[
            "+s 1|1|0.0,+s 2|2|NaN,+r 0.0|1,+r NaN|2",
            "+s 3|1|-0.0,+s 4|2|NaN,-r 0.0|1,+r -0.0|5",
            "+s 5|1|0.0,-r -0.0|5,-r NaN|2",
            "+s 6|1|0.0,+s 7|2|NaN,+s 8|3|NULL",
        ],
    },
    Written {
        name: "a value out of grouping sets over one row, which are many rows",
        tables: &[S],
        views: &["SELECT k, x, (SELECT 7 FROM (SELECT sum(x) AS a, count(*) AS n FROM s) AS u \
             GROUP BY CUBE (a, n)) AS y FROM s"],
        commits: &["+s 1|1|0.5", "+s 2|2|0.5"],
    },
    Written {
        name: "the first rows of each key, while better ones come",
        tables: &[S],
        views: &["SELECT k, x, f, n FROM (SELECT *, row_number() OVER \
             (PARTITION BY k ORDER BY x DESC NULLS LAST, f NULLS FIRST) AS n FROM s) AS r WHERE n <= 2"],
        commits: FRONT,
    },
    Written {
        name: "the first row of each key without its number, and what depends on it",
        tables: &[S],
        views: &[
            "SELECT k, f FROM (SELECT *, row_number() OVER (PARTITION BY k % 2, f ORDER BY x) AS n \
             FROM s) AS r WHERE 1 = n",
            "SELECT k, count(*) AS n, sum(f) AS t FROM v0 GROUP BY k",
        ],
        commits: FRONT,
    },
    Written {
        name: "the first rows of all by text with ties, of which some are alike",
        tables: &["stream w: t text, x integer, b boolean"],
        views: &[
            "SELECT t, n, b FROM (SELECT *, row_number() OVER (ORDER BY t DESC NULLS LAST) AS n \
             FROM w) AS r WHERE n < 5 AND n <= 4",
        ],
        commits: &[
            "+w a|1|true,+w a|1|true,+w b|NULL|NULL",
            "+w a|0|false,+w c|1|true,+w NULL|1|true",
            "",
            "+w c|1|NULL,+w c|0|true,+w b|2|false,+w b|NULL|NULL",
        ],
    },
    Written {
        name: "the first rows of a join, and none of them",
        tables: &[S, "stream w: k integer, t text"],
        views: &["SELECT * FROM (SELECT s.k, w.t, s.x, row_number() OVER (PARTITION BY s.k \
             ORDER BY w.t, s.x DESC) AS n FROM s JOIN w ON s.k = w.k) AS r WHERE n <= 2 \
             UNION ALL SELECT * FROM (SELECT k, t, k, row_number() OVER (ORDER BY t) AS n FROM w) AS e \
             WHERE n < 1"],
        commits: &[
            "+s 1|1|1.0,+w 1|b",
            "+w 1|a,+w 2|a",
            "+s 1|5|1.0,+s 2|5|NULL,+s 1|5|1.0",
            "+w 1|",
        ],
    },
    Written {
        name: "any value of a group, of which some go",
        tables: &[S, T],
        views: &[
            "SELECT t.k, any_value(t.x) AS x, any_value(t.f) AS f, any_value(s.x) FILTER (WHERE s.x > 1) AS y \
             FROM t LEFT JOIN s ON s.k = t.k GROUP BY t.k",
        ],
        commits: HOT,
    },
    Written {
        name: "a value out of some of the rows of grouping sets",
        tables: &[S],
        views: &["SELECT k, x, (SELECT 7 FROM (SELECT sum(x) AS a, count(*) AS n FROM s) AS u \
             GROUP BY CUBE (a, n) LIMIT 2) AS y FROM s"],
        commits: &["+s 1|1|0.5", "+s 2|2|0.5"],
    },
    Written {
        name: "by pane: functions and keys of rows and of windows",
        tables: &[E],
        views: &["SELECT window_end, k, count(*) AS n, sum(x) AS s, max(f) AS m, avg(x) AS a, \
             count(DISTINCT x) AS d, count(x) FILTER (WHERE f > 0.2) AS c, date_trunc('hour', window_start) AS h \
             FROM HOP(e, at, INTERVAL '2 minutes', INTERVAL '10 minutes') \
             GROUP BY k, window_end, date_trunc('hour', window_start)"],
        commits: SEEN,
    },
    Written {
        name: "by pane: a slide that does not divide the size, keys that are computed",
        tables: &[E],
        views: &["SELECT window_start, k % 2 AS odd, f, count(*) AS n, min(x + k) AS m \
             FROM HOP(e, at, INTERVAL '4 minutes', INTERVAL '6 minutes') AS h \
             GROUP BY window_start, k % 2, f"],
        commits: SEEN,
    },
    Written {
        name: "by pane: all windows in one group, and none of the window in a key",
        tables: &[E],
        views: &[
            "SELECT k, count(*) AS n, sum(x) AS s \
             FROM HOP(e, at, INTERVAL '1 minutes', INTERVAL '3 minutes') GROUP BY k",
            "SELECT count(*) AS n, sum(s) AS s FROM v0",
        ],
        commits: SEEN,
    },
    Written {
        name: "by pane: an aggregate without groups",
        tables: &[E],
        views: &["SELECT count(*) AS n, sum(x) AS s, max(f) AS m \
             FROM HOP(e, at, INTERVAL '2 minutes', INTERVAL '6 minutes')"],
        commits: SEEN,
    },
    Written {
        name: "not by pane: a key and a function of row and window",
        tables: &[E],
        views: &[
            "SELECT window_start - at AS late, k, count(*) AS n FROM \
             HOP(e, at, INTERVAL '2 minutes', INTERVAL '6 minutes') GROUP BY window_start - at, k",
            "SELECT k, window_start, max(window_end - at) AS late FROM \
             HOP(e, at, INTERVAL '2 minutes', INTERVAL '6 minutes') GROUP BY k, window_start \
             UNION ALL SELECT k, NULL, late FROM v0",
        ],
        commits: SEEN,
    },
    Written {
        name: "by pane below others: the windows with the most rows",
        tables: &[E],
        views: &[
            "SELECT window_start, k, count(*) AS n \
             FROM HOP(e, at, INTERVAL '2 minutes', INTERVAL '10 minutes') GROUP BY window_start, k",
            "SELECT v0.window_start, v0.k, v0.n FROM v0 JOIN (SELECT window_start, max(n) AS most \
             FROM v0 GROUP BY window_start) AS m ON v0.window_start = m.window_start AND v0.n >= m.most",
        ],
        commits: SEEN,
    },
];

impl Written {
    /// As a case of the same kind as the random ones.
    pub fn case(&self) -> Case {
        let tables: Vec<Table> = self.tables.iter().map(|t| table(t)).collect();
        let last = self.views.len() - 1;
        let name = |n: usize| if n == last { "v".to_string() } else { format!("v{n}") };
        let views =
            self.views.iter().enumerate().map(|(n, sql)| (name(n), (*sql).to_string())).collect();
        let commits = self.commits.iter().map(|line| commit(&tables, line)).collect();
        let commits = numbered(commits);
        let plain = self.views[0].contains(AS_OF_NOW);
        Case { tables, views, commits, plain }
    }
}

fn table(text: &'static str) -> Table {
    let (head, columns) = text.split_once(": ").unwrap();
    let (kind, name) = head.split_once(' ').unwrap();
    let columns = columns
        .split(", ")
        .map(|c| {
            let (name, sql_type) = c.split_once(' ').unwrap();
            // A comma would end the column.
            let sql_type: &'static str = sql_type.replace(';', ",").leak();
            Column { name: name.into(), sql_type, class: Class::Int, nullable: true }
        })
        .collect();
    let mut columns: Vec<Column> = columns;
    columns[0].nullable &= kind != "keyed";
    Table { name: name.into(), columns, append_only: kind == "stream", keyed: kind == "keyed" }
}

fn commit(tables: &[Table], line: &str) -> Commit {
    line.split(',').filter(|c| !c.is_empty()).filter_map(|c| change(tables, c)).collect()
}

/// None: the case has no such table.
fn change(tables: &[Table], text: &str) -> Option<Change> {
    let (head, values) = text.split_once(' ').unwrap();
    let digits: String = head.chars().filter(char::is_ascii_digit).collect();
    let name = head.trim_start_matches(|c: char| !c.is_alphabetic());
    let weight = digits.parse().unwrap_or(1) * if head.starts_with('-') { -1 } else { 1 };
    let table = tables.iter().position(|t| t.name == name)?;
    let row = values
        .split('|')
        .zip(&tables[table].columns)
        .map(|(value, column)| {
            let text = (value != "NULL").then(|| value.to_string());
            ScalarValue::Utf8(text).cast_to(&arrow_type(column.sql_type).unwrap()).unwrap()
        })
        .collect();
    Some(Change { table, row, weight, lsn: 0 })
}
