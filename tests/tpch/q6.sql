-- TPC-H query 6: forecasting revenue change; the parameters are those of the specification's validation.
SELECT sum(l_extendedprice * l_discount) AS revenue
FROM lineitem
WHERE l_shipdate >= DATE '1994-01-01' AND l_shipdate < DATE '1994-01-01' + INTERVAL '1 year'
  AND l_discount BETWEEN CAST(0.05 AS numeric(15, 2)) AND CAST(0.07 AS numeric(15, 2))
  AND l_quantity < 24
