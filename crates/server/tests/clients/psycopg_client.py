"""psycopg 3 against Kaplan: parameters in text and binary, COPY in every format, errors."""
import datetime
import decimal
import sys

import psycopg

connection = psycopg.connect(host="127.0.0.1", port=sys.argv[1], user="ann", dbname="dev")
cursor = connection.cursor()
utc = datetime.timezone.utc
stamp = datetime.datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=utc)
row = (1, "a'b", decimal.Decimal("1.50"), stamp, True, 0.25, b"\x00\xff", datetime.date(2024, 2, 29))

cursor.execute(
    "CREATE TABLE things (id BIGINT PRIMARY KEY, name TEXT NOT NULL, price NUMERIC(10,2),"
    " at TIMESTAMPTZ, flag BOOLEAN, ratio DOUBLE PRECISION, raw BYTEA, day DATE)"
)
cursor.execute("INSERT INTO things VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", row)
assert cursor.statusmessage == "INSERT 0 1", cursor.statusmessage
connection.commit()

for binary in (False, True):
    reader = connection.cursor(binary=binary)
    mark = "%b" if binary else "%s"
    reader.execute(f"SELECT * FROM things WHERE id = {mark}", (1,))
    assert reader.fetchall() == [row], binary
    reader.execute(
        f"SELECT id FROM things WHERE price = {mark} AND at = {mark} AND raw = {mark}"
        f" AND day = {mark} AND flag = {mark} AND name = {mark}",
        (row[2], row[3], row[6], row[7], row[4], row[1]),
    )
    assert reader.fetchall() == [(1,)], binary
cursor.execute("SELECT id FROM things WHERE id = ANY(%s)", ([1, 2],))
assert cursor.fetchall() == [(1,)]

# A statement is prepared on the server when it has been run some times.
for n in range(10):
    cursor.execute("SELECT count(*) FROM things WHERE id <= %s", (n,))
    assert cursor.fetchone() == (min(n, 1),)

with cursor.copy("COPY things (id, name) FROM STDIN") as copy:
    for n in range(10, 13):
        copy.write_row((n, f"tab\tline\n{n}"))
with cursor.copy("COPY things (id, name, day) FROM STDIN (FORMAT binary)") as copy:
    copy.set_types(["int8", "text", "date"])
    copy.write_row((20, "binary", row[7]))
assert cursor.rowcount == 1, cursor.rowcount
with cursor.copy("COPY things (id, name) FROM STDIN WITH (FORMAT csv, HEADER)") as copy:
    copy.write('id,name\n30,"a ""quoted"", one"\n31,plain\n')
connection.commit()
with cursor.copy("COPY (SELECT id, name, day FROM things WHERE id > 1 ORDER BY id) TO STDOUT") as copy:
    rows = list(copy.rows())
assert rows[0] == ("10", "tab\tline\n10", None), rows
assert [r[0] for r in rows] == ["10", "11", "12", "20", "30", "31"], rows
assert rows[3] == ("20", "binary", "2024-02-29"), rows
assert rows[4][1] == 'a "quoted", one', rows
with cursor.copy("COPY things (id, name) TO STDOUT (FORMAT csv, HEADER)") as copy:
    text = b"".join(copy).decode()
assert text.startswith("id,name\n") and '"a ""quoted"", one"' in text, text

# An error names row and column, and the connection goes on after ROLLBACK.
try:
    with cursor.copy("COPY things (id, name) FROM STDIN (FORMAT csv)") as copy:
        copy.write("40,ok\nforty-one,bad\n")
    raise AssertionError("a wrong value was copied")
except psycopg.errors.InvalidTextRepresentation as error:
    assert "row 2" in str(error) and error.diag.column_name == "id", str(error)
connection.rollback()
for statement, state in (
    ("SELECT nothing FROM things", "42703"),
    ("SELECT * FROM nowhere", "42P01"),
    ("SELECT nothing(1)", "42883"),
    ("SELEC 1", "42601"),
    ("SELECT 1 / 0", "22012"),
    ("SELECT CAST('x' AS INT)", "22P02"),
    ("SELECT CAST('x' AS DATE)", "22007"),
    ("SELECT 70000::smallint", "22003"),
    ("SELECT name FROM things GROUP BY id", "42803"),
    ("INSERT INTO things (id) VALUES (70)", "23502"),
    ("LISTEN somewhere", "0A000"),
):
    try:
        cursor.execute(statement)
        raise AssertionError(f"{statement} succeeded")
    except psycopg.Error as error:
        assert error.sqlstate == state, (statement, error.sqlstate, str(error))
    try:
        cursor.execute("SELECT 1")
        raise AssertionError("a failed transaction went on")
    except psycopg.errors.InFailedSqlTransaction:
        connection.rollback()
cursor.execute("SELECT 1")
assert cursor.fetchone() == (1,)

cursor.execute("SET statement_timeout = '1s'")
cursor.execute("SHOW statement_timeout")
assert cursor.fetchone() == ("1s",)
cursor.executemany("INSERT INTO things (id, name) VALUES (%s, %s)", [(50, "a"), (51, "b")])
connection.commit()
cursor.execute("DELETE FROM things WHERE id >= %s", (50,))
assert cursor.rowcount == 2, cursor.rowcount

# What is written between two commits is all or nothing, seen by its own transaction alone.
with psycopg.connect(connection.info.dsn, autocommit=True) as other:
    cursor.execute("INSERT INTO things (id, name) VALUES (60, 'mine')")
    with cursor.copy("COPY things (id, name) FROM STDIN") as copy:
        copy.write_row((61, "copied"))
    cursor.execute("UPDATE things SET name = upper(name) WHERE id >= 60")
    cursor.execute("SELECT name FROM things WHERE id >= 60 ORDER BY id")
    assert cursor.fetchall() == [("MINE",), ("COPIED",)]
    count = "SELECT count(*) FROM things WHERE id >= 60"
    assert other.execute(count).fetchone() == (0,)
    try:
        with connection.transaction():
            cursor.execute("INSERT INTO things (id, name) VALUES (62, NULL)")
        raise AssertionError("a NULL was taken")
    except psycopg.errors.NotNullViolation as error:
        assert error.diag.column_name == "name", error.diag.column_name
        assert error.diag.table_name == "things", error.diag.table_name
    connection.commit()
    assert other.execute(count).fetchone() == (2,)
    cursor.execute("DELETE FROM things WHERE id >= 60")
    connection.rollback()
    assert other.execute(count).fetchone() == (2,)
cursor.execute("DELETE FROM things WHERE id >= 60")
connection.commit()

# Every type in both formats, and out by binary COPY.
every = (
    "SELECT true, 1::smallint, 2, 3::bigint, 1.5::real, 0.1::double precision,"
    " 12345678901234567890123456789.50::numeric(38,2), 'x'::text, 'y'::varchar(3),"
    " date '2024-02-29', time '01:02:03.5', timestamp '2024-02-29 01:02:03',"
    " timestamptz '2024-02-29 01:02:03+00', interval '1 day 02:00:00',"
    " '\\x00ff'::bytea, array[1, null, 3], array['a', 'b,c'], '{\"a\": [1, null]}'::jsonb,"
    " '0b2f9c1e-7d3a-4b8e-9a43-111122223333'::uuid, array[array[1, 2], array[3, 4]]"
)
shown = {}
for binary in (False, True):
    shown[binary] = connection.cursor(binary=binary).execute(every).fetchone()
assert shown[False] == shown[True], shown
assert shown[True][6] == decimal.Decimal("12345678901234567890123456789.50"), shown
assert shown[True][13] == datetime.timedelta(days=1, hours=2), shown
assert shown[True][15:18] == ([1, None, 3], ["a", "b,c"], {"a": [1, None]}), shown
assert str(shown[True][18]) == "0b2f9c1e-7d3a-4b8e-9a43-111122223333", shown
assert shown[True][19] == [[1, 2], [3, 4]], shown
cursor.execute("SELECT count(*), sum(id), id + 1, name::text, 1, 2 FROM things GROUP BY id, name")
names = [column.name for column in cursor.description]
assert names == ["count", "sum", "?column?", "name", "?column?", "?column?"], names
with cursor.copy("COPY (SELECT 1::int, 'x', null::text) TO STDOUT (FORMAT binary)") as copy:
    copy.set_types(["int4", "text", "text"])
    assert list(copy.rows()) == [(1, "x", None)]
connection.commit()

# Columns of further types.
cursor.execute("CREATE TABLE more (id BIGINT PRIMARY KEY, uid UUID, doc JSONB, tags TEXT[], t TIME)")
uid = "0b2f9c1e-7d3a-4b8e-9a43-111122223333"
cursor.execute(
    "INSERT INTO more VALUES (%s, %s, %s, %s, %s)",
    (1, uid, '{"a": 1}', ["x", "y,z"], datetime.time(1, 2, 3)),
)
cursor.execute("SELECT id, uid::text, doc::text, tags, t FROM more WHERE id = %s", (1,))
found = cursor.fetchone()
assert found[0] == 1 and str(found[1]) == uid and "a" in str(found[2]), found
assert found[3] == ["x", "y,z"] and found[4] == datetime.time(1, 2, 3), found
connection.commit()
connection.close()
print("ok")
