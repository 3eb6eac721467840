-- Log to file system: what would be written, with the partition's day and minute.
SELECT auction, bidder, price, date_time, extra,
  CAST(date_time AS date) AS dt, date_trunc('minute', date_time) AS hm
FROM bid
