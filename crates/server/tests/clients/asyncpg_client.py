"""asyncpg against Kaplan: binary format throughout, cursors, binary COPY, pools."""
import asyncio
import datetime
import decimal
import sys

import asyncpg

WHERE = dict(host="127.0.0.1", port=int(sys.argv[1]), user="ann", database="dev")


async def main():
    c = await asyncpg.connect(**WHERE)
    assert c.get_server_version().major == 16
    await c.execute(
        "CREATE TABLE goods (id BIGINT PRIMARY KEY, name TEXT, price NUMERIC(10,2),"
        " at TIMESTAMPTZ, n INTEGER)")
    stamp = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    row = (1, "one", decimal.Decimal("12345.60"), stamp, -7)
    done = await c.execute("INSERT INTO goods VALUES ($1, $2, $3, $4, $5)", *row)
    assert done == "INSERT 0 1", done
    assert tuple(await c.fetchrow("SELECT * FROM goods WHERE id = $1", 1)) == row
    assert await c.fetchval("SELECT $1::int + 1", 4) == 5
    assert await c.fetchval("SELECT id FROM goods WHERE price = $1", row[2]) == 1
    found = await c.fetch("SELECT id FROM goods WHERE id = ANY($1::bigint[])", [1, 2])
    assert [r["id"] for r in found] == [1]
    async with c.transaction():
        await c.executemany("INSERT INTO goods (id, name) VALUES ($1, $2)",
                            [(n, f"n{n}") for n in range(10, 20)])
        ids = [r["id"] async for r in c.cursor("SELECT id FROM goods ORDER BY id", prefetch=3)]
    assert ids == [1, *range(10, 20)], ids
    done = await c.copy_records_to_table("goods", records=[(30, "c"), (31, None)],
                                         columns=["id", "name"])
    assert done == "COPY 2", done
    statement = await c.prepare("SELECT id, name, price, at, n FROM goods WHERE id = $1 LIMIT $2")
    names = [a.type.name for a in statement.get_attributes()]
    assert names == ["int8", "text", "numeric", "timestamptz", "int4"], names
    assert [p.name for p in statement.get_parameters()] == ["int8", "int8"]
    try:
        await c.fetch("SELECT nothing()")
        raise AssertionError("an unknown function was called")
    except asyncpg.UndefinedFunctionError:
        pass
    # An error ends its own statement and no more.
    assert await c.fetchval("SELECT count(*) FROM goods") == 13
    try:
        await c.fetch("SELECT count(*) FROM generate_series(1, 100000000) AS a(x)"
                      " JOIN generate_series(1, 100000000) AS b(y)"
                      " ON x + y > x * y", timeout=0.5)
        raise AssertionError("a long query ended")
    except asyncio.TimeoutError:
        pass
    assert await c.fetchval("SELECT 1") == 1
    await c.reset()
    await c.close()
    async with asyncpg.create_pool(**WHERE, min_size=1, max_size=2) as pool:
        for _ in range(3):
            async with pool.acquire() as c:
                assert await c.fetchval("SELECT count(*) FROM goods") == 13


asyncio.run(main())
print("ok")
