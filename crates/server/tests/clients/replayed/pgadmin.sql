-- Statements that pgadmin sends when it connects and lists what is there, as recorded in the
-- tests of datafusion-postgres 0.19 (Apache-2.0). Replayed by `replayed.rs`, not run with pgadmin.

SELECT version();

SELECT CASE
        WHEN (SELECT count(extname) FROM pg_catalog.pg_extension WHERE extname='bdr') > 0
        THEN 'pgd'
        WHEN (SELECT COUNT(*) FROM pg_replication_slots) > 0
        THEN 'log'
        ELSE NULL
    END as type;

