-- The streams and tables of the flights demo. Run by `kaplan demo`, or by hand with any client.

CREATE TABLE airlines (
  carrier TEXT PRIMARY KEY,
  name    TEXT NOT NULL
);

CREATE TABLE airports (
  faa  TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  lat  DOUBLE PRECISION,
  lon  DOUBLE PRECISION,
  tz   TEXT
);

-- One row per aircraft that left New York. A scheduled flight that was cancelled has none.
CREATE STREAM departures (
  event_id  BIGINT NOT NULL,
  flight_id BIGINT NOT NULL,
  carrier   TEXT NOT NULL,
  flight    INT NOT NULL,
  tailnum   TEXT,
  origin    TEXT NOT NULL,
  dest      TEXT NOT NULL,
  sched_ts  TIMESTAMPTZ NOT NULL,
  dep_ts    TIMESTAMPTZ NOT NULL,
  dep_delay INT NOT NULL,
  WATERMARK FOR dep_ts AS dep_ts - INTERVAL '1 hour',
  UNIQUE (event_id) WITHIN INTERVAL '7 days'
);

-- One row per aircraft that reached its destination; flight_id names its departure. A diverted
-- flight has none, and some arrivals lack delay and air time.
CREATE STREAM arrivals (
  event_id  BIGINT NOT NULL,
  flight_id BIGINT NOT NULL,
  carrier   TEXT NOT NULL,
  dest      TEXT NOT NULL,
  arr_ts    TIMESTAMPTZ NOT NULL,
  arr_delay INT,
  air_time  INT,
  distance  INT NOT NULL,
  WATERMARK FOR arr_ts AS arr_ts - INTERVAL '1 hour',
  UNIQUE (event_id) WITHIN INTERVAL '7 days'
);
