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

# Columns of further types, as their text at least.
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
