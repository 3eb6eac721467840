-- The views of the flights demo, each text written once. `kaplan demo` runs this file twice, with
-- {architecture} replaced by lambda and by kappa; nothing else differs.

-- Delays per carrier and hour.
CREATE MATERIALIZED VIEW carrier_hours_{architecture} WITH (architecture = '{architecture}') AS
SELECT carrier,
       window_start,
       count(*)       AS departures,
       sum(dep_delay) AS total_delay,
       avg(dep_delay) AS avg_delay,
       min(dep_delay) AS best,
       max(dep_delay) AS worst
FROM TUMBLE(departures, dep_ts, INTERVAL '1 hour')
GROUP BY carrier, window_start;

-- Departures per route in windows of three hours that start every hour: each departure counts in
-- three of them.
CREATE MATERIALIZED VIEW busy_routes_{architecture} WITH (architecture = '{architecture}') AS
SELECT origin, dest, window_start, count(*) AS departures
FROM HOP(departures, dep_ts, INTERVAL '1 hour', INTERVAL '3 hours')
GROUP BY origin, dest, window_start;

-- Each departure with its arrival, and the minutes made up in the air.
CREATE MATERIALIZED VIEW flown_{architecture} WITH (architecture = '{architecture}') AS
SELECT d.flight_id,
       d.carrier,
       d.origin,
       d.dest,
       d.dep_ts,
       a.arr_ts,
       d.dep_delay,
       a.arr_delay,
       d.dep_delay - a.arr_delay AS made_up
FROM departures d
JOIN arrivals a ON d.flight_id = a.flight_id;

-- Quality figures per day (UTC) of arrival. On time means at most 15 minutes late.
CREATE MATERIALIZED VIEW daily_quality_{architecture} WITH (architecture = '{architecture}') AS
SELECT window_start                                AS day,
       count(*)                                    AS arrivals,
       count(arr_delay)                            AS measured,
       count(*) FILTER (WHERE arr_delay <= 15)     AS on_time,
       sum(CASE WHEN arr_delay > 15 THEN arr_delay ELSE 0 END) AS late_minutes,
       sum(arr_delay)                              AS total_delay,
       max(arr_delay)                              AS worst,
       sum(distance)                               AS miles
FROM TUMBLE(arrivals, arr_ts, INTERVAL '1 day')
GROUP BY window_start;

-- Departures and delays per airline, by its name: a stream joined with a table.
CREATE MATERIALIZED VIEW airline_delays_{architecture} WITH (architecture = '{architecture}') AS
SELECT l.name,
       count(*)         AS departures,
       sum(d.dep_delay) AS total_delay,
       avg(d.dep_delay) AS avg_delay
FROM departures d
JOIN airlines l ON d.carrier = l.carrier
GROUP BY l.name;
