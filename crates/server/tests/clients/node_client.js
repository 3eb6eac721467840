// node-postgres against Kaplan: text format, named statements, several statements, errors.
const assert = require("assert");
const { Client, Pool } = require("pg");

const where = { host: "127.0.0.1", port: Number(process.argv[2]), user: "ann", database: "dev" };

async function main() {
  const client = new Client(where);
  await client.connect();
  await client.query("CREATE TABLE nodes (id BIGINT PRIMARY KEY, name TEXT, flag BOOLEAN)");
  const inserted = await client.query("INSERT INTO nodes VALUES ($1, $2, $3)", [1, "it's", true]);
  assert.deepStrictEqual([inserted.command, inserted.rowCount], ["INSERT", 1]);
  const found = await client.query("SELECT * FROM nodes WHERE id = $1", [1]);
  assert.deepStrictEqual(found.rows, [{ id: "1", name: "it's", flag: true }]);
  assert.deepStrictEqual(found.fields.map((f) => f.dataTypeID), [20, 25, 16]);
  for (let n = 0; n < 3; n++) {
    const named = { name: "by-name", text: "SELECT id FROM nodes WHERE name = $1", values: ["it's"] };
    assert.strictEqual((await client.query(named)).rows.length, 1);
  }
  const several = await client.query("SELECT 1 AS a; SELECT 'x' AS b");
  assert.deepStrictEqual(several.map((r) => r.rows[0]), [{ a: "1" }, { b: "x" }]);
  await assert.rejects(client.query("SELECT * FROM nowhere"), { code: "42P01" });
  await assert.rejects(client.query("SELECT nothing FROM nodes WHERE id = $1", [1]), { code: "42703" });
  await assert.rejects(client.query("INSERT INTO nodes (id) VALUES ($1)", ["x"]), { code: "22P02" });
  const list = await client.query("SELECT id FROM nodes WHERE name = ANY($1::text[])", [["it's", "b"]]);
  assert.strictEqual(list.rows.length, 1);
  await client.end();
  const pool = new Pool({ ...where, max: 2 });
  const counts = await Promise.all([1, 2, 3].map(() => pool.query("SELECT count(*) AS n FROM nodes")));
  assert.deepStrictEqual(counts.map((c) => c.rows[0].n), ["1", "1", "1"]);
  await pool.end();
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
