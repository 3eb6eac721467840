-- The three streams of Nexmark, and the side input that query 13 joins.
CREATE STREAM person (
  id            bigint NOT NULL,
  name          text NOT NULL,
  email_address text NOT NULL,
  credit_card   text NOT NULL,
  city          text NOT NULL,
  state         text NOT NULL,
  date_time     timestamp NOT NULL,
  extra         text NOT NULL,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
);

CREATE STREAM auction (
  id          bigint NOT NULL,
  item_name   text NOT NULL,
  description text NOT NULL,
  initial_bid bigint NOT NULL,
  reserve     bigint NOT NULL,
  date_time   timestamp NOT NULL,
  expires     timestamp NOT NULL,
  seller      bigint NOT NULL,
  category    bigint NOT NULL,
  extra       text NOT NULL,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
);

CREATE STREAM bid (
  auction   bigint NOT NULL,
  bidder    bigint NOT NULL,
  price     bigint NOT NULL,
  channel   text NOT NULL,
  url       text NOT NULL,
  date_time timestamp NOT NULL,
  extra     text NOT NULL,
  p_time    timestamp AS proctime(),
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
);

CREATE TABLE side_input (
  key   bigint PRIMARY KEY,
  value text NOT NULL
);
