-- Processing time windows: bids of each user by the time at which they came in.
SELECT bidder, count(*) AS bid_count, window_start AS starttime, window_end AS endtime
FROM TUMBLE(bid, p_time, INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end
