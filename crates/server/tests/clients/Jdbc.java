// The JDBC driver against Kaplan: metadata (what DBeaver, Metabase and others begin with), prepared
// statements, fetch sizes, batches, COPY, cancelling.

import java.io.StringReader;
import java.math.BigDecimal;
import java.sql.*;
import java.util.*;
import org.postgresql.PGConnection;

public class Jdbc {
    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(String.valueOf(what));
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> values = new ArrayList<>();
        while (rows.next()) values.add(rows.getString(name));
        return values;
    }

    public static void main(String[] args) throws Exception {
        String url = "jdbc:postgresql://127.0.0.1:" + args[0] + "/dev?user=ann";
        try (Connection c = DriverManager.getConnection(url)) {
            statements(c);
            metadata(c);
            transactions(c);
            cancel(c);
        }
        System.out.println("ok");
    }

    static void statements(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            s.execute("CREATE TABLE parts (id BIGINT PRIMARY KEY, name TEXT NOT NULL,"
                + " price NUMERIC(10,2), at TIMESTAMPTZ, n INTEGER)");
            s.execute("CREATE STREAM sold (part BIGINT, n INTEGER)");
            s.execute("CREATE MATERIALIZED VIEW per_part AS SELECT part, count(*) AS c FROM sold GROUP BY part");
        }
        Timestamp at = Timestamp.valueOf("2024-01-02 03:04:05.5");
        try (PreparedStatement p = c.prepareStatement("INSERT INTO parts VALUES (?, ?, ?, ?, ?)")) {
            for (int n = 1; n <= 20; n++) {
                p.setLong(1, n);
                p.setString(2, "it's " + n);
                p.setBigDecimal(3, new BigDecimal("1.50"));
                p.setTimestamp(4, at);
                p.setNull(5, Types.INTEGER);
                p.addBatch();
            }
            check(p.executeBatch().length == 20, "batch");
        }
        try (PreparedStatement p = c.prepareStatement("SELECT * FROM parts WHERE id = ? AND price = ?")) {
            // The driver changes to binary format and a named statement after some runs.
            for (int n = 1; n <= 12; n++) {
                p.setLong(1, n);
                p.setBigDecimal(2, new BigDecimal("1.5"));
                ResultSet r = p.executeQuery();
                check(r.next() && r.getString("name").equals("it's " + n), n);
                check(r.getBigDecimal("price").equals(new BigDecimal("1.50")), r.getBigDecimal("price"));
                check(r.getTimestamp("at").equals(at), r.getTimestamp("at"));
                r.getInt("n");
                check(r.wasNull(), "null");
            }
            check(p.getMetaData().getColumnCount() == 5, "columns");
            check(p.getMetaData().getColumnTypeName(3).equals("numeric"), p.getMetaData().getColumnTypeName(3));
        }
        long rows = ((PGConnection) c).getCopyAPI()
            .copyIn("COPY sold FROM STDIN (FORMAT csv)", new StringReader("1,2\n1,3\n2,4\n"));
        check(rows == 3, rows);
    }

    static void metadata(Connection c) throws Exception {
        DatabaseMetaData m = c.getMetaData();
        check(m.getDatabaseMajorVersion() == 16, m.getDatabaseProductVersion());
        check(column(m.getSchemas(), "TABLE_SCHEM").contains("public"), "schemas");
        check(column(m.getCatalogs(), "TABLE_CAT").equals(List.of("dev")), "catalogs");
        String[] tables = {"TABLE"};
        List<String> names = column(m.getTables(null, "public", "%", tables), "TABLE_NAME");
        check(names.contains("parts") && names.contains("sold") && !names.contains("per_part"), names);
        String[] views = {"VIEW", "MATERIALIZED VIEW"};
        names = column(m.getTables(null, "public", "%", views), "TABLE_NAME");
        check(names.contains("per_part"), names);
        ResultSet r = m.getColumns(null, "public", "parts", "%");
        check(r.next() && r.getString("COLUMN_NAME").equals("id"), "id");
        check(r.getInt("DATA_TYPE") == Types.BIGINT && r.getString("IS_NULLABLE").equals("NO"), "id");
        check(r.next() && r.next() && r.getInt("COLUMN_SIZE") == 10 && r.getInt("DECIMAL_DIGITS") == 2,
            r.getInt("COLUMN_SIZE"));
        List<String> key = column(m.getPrimaryKeys(null, "public", "parts"), "COLUMN_NAME");
        check(key.equals(List.of("id")), key);
        List<String> index = column(m.getIndexInfo(null, "public", "parts", true, false), "INDEX_NAME");
        check(index.equals(List.of("parts_pkey")), index);
        check(column(m.getImportedKeys(null, "public", "parts"), "FKCOLUMN_NAME").isEmpty(), "keys");
        check(column(m.getExportedKeys(null, "public", "parts"), "FKCOLUMN_NAME").isEmpty(), "keys");
        check(column(m.getTypeInfo(), "TYPE_NAME").contains("int8"), "types");
        m.getProcedures(null, "public", "%").close();
        m.getFunctions(null, "public", "%").close();
        m.getTablePrivileges(null, "public", "parts").close();
        m.getTableTypes().close();
        check(m.getMaxColumnNameLength() == 63, m.getMaxColumnNameLength());
        check(c.getSchema().equals("public"), c.getSchema());
        check(c.isValid(5), "valid");
    }

    static void transactions(Connection c) throws Exception {
        c.setAutoCommit(false);
        try (PreparedStatement p = c.prepareStatement("SELECT id FROM parts ORDER BY id")) {
            p.setFetchSize(7);
            check(column(p.executeQuery(), "id").size() == 20, "fetch size");
        }
        try (Statement s = c.createStatement()) {
            s.executeQuery("SELECT nothing FROM parts");
            check(false, "an unknown column was read");
        } catch (SQLException e) {
            check(e.getSQLState().equals("42703"), e.getSQLState());
        }
        try (Statement s = c.createStatement()) {
            s.executeQuery("SELECT 1");
            check(false, "a failed transaction went on");
        } catch (SQLException e) {
            check(e.getSQLState().equals("25P02"), e.getSQLState());
        }
        c.rollback();
        c.setAutoCommit(true);
    }

    static void cancel(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            Thread other = new Thread(() -> {
                try {
                    // Cancelling before the query has begun does nothing, so it is repeated.
                    while (true) {
                        Thread.sleep(200);
                        s.cancel();
                    }
                } catch (Exception e) {
                    // Interrupted: the query is over.
                }
            });
            other.start();
            try {
                s.executeQuery("SELECT count(*) FROM generate_series(1, 100000000) AS a(x)"
                    + " JOIN generate_series(1, 100000000) AS b(y)"
                    + " ON x + y > x * y");
                check(false, "a cancelled query ended");
            } catch (SQLException e) {
                check(e.getSQLState().equals("57014"), e.getSQLState());
            } finally {
                other.interrupt();
                other.join();
            }
        }
    }
}
