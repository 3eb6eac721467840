-- Sessions as islands: a bid more than ten seconds after the one before it begins a new one.
SELECT bidder, count(*) AS bid_count, min(date_time) AS starttime,
  max(date_time) + INTERVAL '10 seconds' AS endtime
FROM (
  SELECT bidder, date_time, sum(begins) OVER (PARTITION BY bidder ORDER BY date_time) AS session
  FROM (
    SELECT bidder, date_time, CASE
      WHEN date_time > lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time)
        + INTERVAL '10 seconds' THEN 1 ELSE 0 END AS begins
    FROM bid
  ) AS gaps
) AS sessions
GROUP BY bidder, session
