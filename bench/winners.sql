-- Winning bids of each category: the state is both sides of a join and the first row of each auction,
-- the answer a few rows.
SELECT category, count(*) AS auctions, sum(price) AS total, max(description) AS last
FROM (
  SELECT a.category, a.description, b.price,
    row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time ASC) AS rownum
  FROM auction a, bid b
  WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires AND b.url <> b.extra
) AS ranked
WHERE rownum <= 1
GROUP BY category
