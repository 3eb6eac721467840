-- Pass through: the cost of a view that does nothing.
SELECT auction, bidder, price, date_time, extra FROM bid
