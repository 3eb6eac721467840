-- setup
CREATE STREAM s (k bigint, a bigint, b text, l bigint[], m bigint[], at timestamp, WATERMARK FOR at AS at - INTERVAL '1 minute');
CREATE TABLE t (id bigint PRIMARY KEY, k bigint, n bigint, at timestamp);
CREATE TABLE u (k bigint, n bigint);
CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS n FROM s GROUP BY k;

-- WITH RECURSIVE
CREATE MATERIALIZED VIEW r AS WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x WHERE n < 9) SELECT n FROM x;

-- a join as of the time of a row
CREATE MATERIALIZED VIEW r AS SELECT s.a, t.n FROM s JOIN t FOR SYSTEM_TIME AS OF s.at ON s.k = t.id;

-- a join as of processing time of a table
CREATE MATERIALIZED VIEW r AS SELECT u.n FROM u JOIN t FOR SYSTEM_TIME AS OF PROCTIME() ON u.k = t.id;

-- a join as of processing time of an aggregate
CREATE MATERIALIZED VIEW r AS SELECT v.n FROM v JOIN t FOR SYSTEM_TIME AS OF PROCTIME() ON v.k = t.id;

-- a join as of processing time with a table without a key
CREATE MATERIALIZED VIEW r AS SELECT u.n FROM s JOIN u FOR SYSTEM_TIME AS OF PROCTIME() ON s.k = u.k;

-- a join as of processing time by other columns than the key
CREATE MATERIALIZED VIEW r AS SELECT t.n FROM s JOIN t FOR SYSTEM_TIME AS OF PROCTIME() ON s.k = t.k;

-- a right join as of processing time
CREATE MATERIALIZED VIEW r AS SELECT t.n FROM s RIGHT JOIN t FOR SYSTEM_TIME AS OF PROCTIME() ON s.k = t.id;

-- a join as of processing time in a query
SELECT t.n FROM s JOIN t FOR SYSTEM_TIME AS OF PROCTIME() ON s.k = t.id;

-- CROSS APPLY
CREATE MATERIALIZED VIEW r AS SELECT s.a FROM s CROSS APPLY (SELECT n FROM t) AS x;

-- ASOF without a condition
CREATE MATERIALIZED VIEW r AS SELECT s.a FROM s ASOF JOIN t USING (k);

-- ASOF of two times
CREATE MATERIALIZED VIEW r AS SELECT s.a FROM s ASOF JOIN t ON s.at >= t.at AND s.a >= t.n;

-- a value that depends on the outer row by an inequality
CREATE MATERIALIZED VIEW r AS SELECT k, (SELECT count(*) FROM t WHERE t.n < s.a) AS n FROM s;

-- a subquery in the argument of an aggregate
CREATE MATERIALIZED VIEW r AS SELECT sum((SELECT max(n) FROM t)) AS x FROM s;

-- CUMULATE
CREATE MATERIALIZED VIEW r AS SELECT window_end, count(*) AS n FROM CUMULATE(s, at, INTERVAL '1 minute', INTERVAL '1 hour') GROUP BY window_end;

-- windows of months
CREATE MATERIALIZED VIEW r AS SELECT window_end, count(*) AS n FROM TUMBLE(s, at, INTERVAL '1 month') GROUP BY window_end;

-- now() as a column
CREATE MATERIALIZED VIEW r AS SELECT k, now() AS at FROM s;

-- EMIT ON WINDOW CLOSE without a window
CREATE MATERIALIZED VIEW r AS SELECT k, count(*) AS n FROM s GROUP BY k EMIT ON WINDOW CLOSE;

-- EMIT ON WINDOW CLOSE without a watermark
CREATE MATERIALIZED VIEW r AS SELECT window_start, window_end, count(*) AS n FROM TUMBLE(t, at, INTERVAL '1 hour') GROUP BY window_start, window_end EMIT ON WINDOW CLOSE;

-- random()
CREATE MATERIALIZED VIEW r AS SELECT k, random() AS x FROM s;

-- last_value over peers
CREATE MATERIALIZED VIEW r AS SELECT k, last_value(a) OVER (PARTITION BY k ORDER BY at) AS x FROM s;

-- unnest of several columns
CREATE MATERIALIZED VIEW r AS SELECT unnest(l) AS x, unnest(m) AS y FROM s;

-- one layer of a view
CREATE MATERIALIZED VIEW r AS SELECT k FROM batch.v;

-- two columns of one name
CREATE MATERIALIZED VIEW r AS SELECT k, a AS k FROM s;

-- an aggregate that no view keeps
CREATE MATERIALIZED VIEW r AS SELECT approx_percentile_cont_with_weight(a, k, 0.5) AS x FROM s;

-- TABLESAMPLE
CREATE MATERIALIZED VIEW r AS SELECT k FROM s TABLESAMPLE BERNOULLI (10);

-- WITH ORDINALITY
SELECT * FROM generate_series(1, 3) WITH ORDINALITY;

-- FOR UPDATE
SELECT k FROM u FOR UPDATE;

-- DROP COLUMN
ALTER TABLE u DROP COLUMN n;

-- a change of a column's type
ALTER TABLE u ALTER COLUMN n TYPE text;

-- a constraint added later
ALTER TABLE u ADD CONSTRAINT c UNIQUE (k);

-- UNIQUE of a table
CREATE TABLE r (k bigint UNIQUE);

-- FOREIGN KEY
CREATE TABLE r (k bigint REFERENCES t (id));

-- IDENTITY
CREATE TABLE r (k bigint GENERATED ALWAYS AS IDENTITY);

-- WITH VERSION COLUMN
CREATE TABLE r (k bigint PRIMARY KEY, n bigint) ON CONFLICT OVERWRITE WITH VERSION COLUMN (n);

-- CREATE OR REPLACE of a materialized view
CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT k FROM s;

-- a partial index
CREATE INDEX i ON u (k) WHERE k > 1;

-- UPDATE .. FROM of a table without a key
UPDATE u SET n = t.n FROM t WHERE t.k = u.k;

-- a subquery in RETURNING
INSERT INTO u VALUES (1, 2) RETURNING (SELECT max(n) FROM t);

-- MERGE
MERGE INTO u USING t ON u.k = t.k WHEN MATCHED THEN DELETE;

-- COPY TO a file
COPY u TO '/tmp/u.csv';

-- DECLARE
DECLARE c CURSOR FOR SELECT 1;

-- SUBSCRIBE
SUBSCRIBE v;

-- LISTEN
LISTEN channel;

-- CREATE SEQUENCE
CREATE SEQUENCE q;

-- CREATE TYPE
CREATE TYPE mood AS ENUM ('sad', 'glad');

-- GRANT
GRANT SELECT ON u TO somebody;

-- CALL
CALL p();

-- MySQL
CREATE SOURCE r WITH (connector = 'mysql-cdc', hostname = 'localhost');
