"""SQLAlchemy 2 against Kaplan: reflection, then rows through the reflected tables."""
import sys

import sqlalchemy as sa
from sqlalchemy import orm

engine = sa.create_engine(f"postgresql+psycopg://ann@127.0.0.1:{sys.argv[1]}/dev")
with engine.connect() as connection:
    connection.execute(sa.text(
        "CREATE TABLE stations (id BIGINT PRIMARY KEY, name TEXT NOT NULL, height NUMERIC(8,2),"
        " opened TIMESTAMPTZ, size INTEGER DEFAULT 3, CONSTRAINT positive CHECK (id > 0))"))
    connection.execute(sa.text("CREATE STREAM visits (station BIGINT NOT NULL, who TEXT)"))
    connection.execute(sa.text(
        "CREATE MATERIALIZED VIEW per_station AS SELECT station, count(*) AS n FROM visits"
        " GROUP BY station"))
inspector = sa.inspect(engine)
assert {"stations", "visits"} <= set(inspector.get_table_names()), inspector.get_table_names()
assert inspector.get_view_names() == []
assert "per_station" in inspector.get_materialized_view_names()
assert "public" in inspector.get_schema_names()
assert inspector.default_schema_name == "public"
assert inspector.has_table("stations") and not inspector.has_table("nowhere")
columns = {c["name"]: c for c in inspector.get_columns("stations")}
assert list(columns) == ["id", "name", "height", "opened", "size"], columns
assert isinstance(columns["id"]["type"], sa.BIGINT) and not columns["id"]["nullable"]
assert isinstance(columns["height"]["type"], sa.NUMERIC), columns
assert (columns["height"]["type"].precision, columns["height"]["type"].scale) == (8, 2)
assert columns["opened"]["type"].timezone and columns["opened"]["nullable"]
assert columns["size"]["default"] == "3", columns["size"]
assert [c["name"] for c in inspector.get_columns("per_station")] == ["station", "n"]
assert inspector.get_pk_constraint("stations")["constrained_columns"] == ["id"]
assert inspector.get_pk_constraint("visits")["constrained_columns"] == []
assert inspector.get_foreign_keys("stations") == []
assert inspector.get_indexes("stations") == []
assert inspector.get_unique_constraints("stations") == []
assert inspector.get_check_constraints("stations")[0]["name"] == "positive"
assert inspector.get_table_comment("stations") == {"text": None}
assert "GROUP BY station" in inspector.get_view_definition("per_station")

metadata = sa.MetaData()
metadata.reflect(engine, views=True)
stations, visits = metadata.tables["stations"], metadata.tables["visits"]
with engine.begin() as connection:
    connection.execute(stations.insert(), [
        {"id": 1, "name": "one", "height": None}, {"id": 2, "name": "two", "height": 1.5}])
    connection.execute(visits.insert(), [{"station": s, "who": "x"} for s in (1, 1, 2)])
with engine.connect() as connection:
    query = sa.select(stations.c.name, sa.func.count(visits.c.who).label("n"))
    query = query.join(visits, visits.c.station == stations.c.id)
    query = query.where(stations.c.id > 0).group_by(stations.c.name).order_by("name").limit(5)
    assert connection.execute(query).fetchall() == [("one", 2), ("two", 1)]
    view = metadata.tables["per_station"]
    found = connection.execute(sa.select(view.c.n).where(view.c.station == 1)).scalar_one()
    assert found == 2, found

# The unit of work: rows are read back inside it, and a failed one leaves nothing.
class Base(orm.DeclarativeBase):
    pass


class Station(Base):
    __table__ = stations


with orm.Session(engine) as session:
    session.add(Station(id=3, name="three"))
    session.flush()
    three = session.get(Station, 3)
    three.name = "drei"
    session.commit()
    assert session.scalar(sa.select(stations.c.name).where(stations.c.id == 3)) == "drei"
    with session.begin_nested() as nested:
        session.add(Station(id=4, name="four"))
        session.flush()
        nested.rollback()
    session.add(Station(id=-1, name="none"))
    try:
        session.flush()
        raise AssertionError("a CHECK was passed over")
    except sa.exc.IntegrityError as error:
        assert error.orig.sqlstate == "23514", error.orig.sqlstate
    session.rollback()
    assert session.scalar(sa.select(sa.func.count()).select_from(stations)) == 3
# A data frame is made of the names and values of a result.
with engine.connect() as connection:
    result = connection.execute(sa.text("SELECT name, count(*), avg(height) FROM stations GROUP BY name"))
    assert list(result.keys()) == ["name", "count", "avg"], result.keys()
print("ok")
