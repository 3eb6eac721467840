//! Quarantines belong to their streams by number: a name does not part them, and none is dropped
//! while rows may come.

use crate::support::Running;
use kaplan_platform::Code;

const CHECKED: &str = "CREATE STREAM s (a bigint, CHECK (a < 10) ON VIOLATION QUARANTINE)";

async fn again(k: Running, dir: &std::path::Path) -> Running {
    k.platform.close().await.unwrap();
    drop(k);
    Running::open(dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_goes_after_its_stream() {
    let (_dir, mut k) = Running::start(CHECKED).await;
    for sql in ["DROP STREAM s_quarantine", "DROP STREAM s_quarantine CASCADE"] {
        let error = k.fails(sql).await;
        assert_eq!(error.code, Code::Dependency, "{error}");
        assert!(error.message.contains("rows that s keeps out"), "{error}");
    }
    let error = k.fails("ALTER STREAM s_quarantine ADD COLUMN note text").await;
    assert_eq!(error.code, Code::Dependency, "{error}");
    k.sql("INSERT INTO s VALUES (1), (99)").await;
    assert_eq!(k.table("SELECT row_number FROM s_quarantine").await, ["2"]);
    k.sql("DROP STREAM s").await;
    // The next one of the name takes it over, and has it as firmly.
    k.sql(CHECKED).await;
    k.sql("INSERT INTO s VALUES (98)").await;
    assert_eq!(k.table("SELECT count(*) FROM s_quarantine").await, ["2"]);
    assert_eq!(k.fails("DROP STREAM s_quarantine").await.code, Code::Dependency);
    k.sql("DROP STREAM s, s_quarantine").await;
    k.sql("CREATE SCHEMA x; CREATE STREAM x.s (a bigint, CHECK (a < 10) ON VIOLATION QUARANTINE)")
        .await;
    k.sql("DROP SCHEMA x CASCADE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_of_another_name_goes_on_over_restarts() {
    let (dir, mut k) = Running::start(CHECKED).await;
    k.sql("ALTER STREAM s_quarantine RENAME TO kept_out; INSERT INTO s VALUES (99)").await;
    let mut k = again(k, dir.path()).await;
    k.sql("INSERT INTO s VALUES (98)").await;
    assert_eq!(k.table("SELECT count(*) FROM kept_out").await, ["2"]);
    assert_eq!(k.fails("DROP STREAM kept_out").await.code, Code::Dependency);
    k.sql("ALTER STREAM kept_out RENAME TO r_quarantine").await;
    // It is that of s, whatever its name suggests.
    let error = k.fails("CREATE STREAM r (a int, CHECK (a < 9) ON VIOLATION QUARANTINE)").await;
    assert_eq!(error.code, Code::DuplicateRelation, "{error}");
    k.sql("ALTER STREAM s RENAME TO q; INSERT INTO q VALUES (97)").await;
    let mut k = again(k, dir.path()).await;
    k.sql("INSERT INTO q VALUES (96)").await;
    assert_eq!(k.table("SELECT count(*) FROM r_quarantine").await, ["4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogs_that_know_quarantines_by_name_are_read() {
    let (dir, k) = Running::start(CHECKED).await;
    k.platform.close().await.unwrap();
    drop(k);
    let path = dir.path().join("catalog.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut old = text.clone();
    while let Some(at) = old.find("\"quarantine\":") {
        let end = at + old[at..].find([',', '}']).unwrap();
        let end = if old[end..].starts_with(',') { end + 1 } else { end };
        let at = if old[end..].starts_with('}') { old[..at].rfind(',').unwrap() } else { at };
        old.replace_range(at..end, "");
    }
    assert!(old.len() < text.len(), "{old}");
    std::fs::write(&path, old).unwrap();
    let mut k = Running::open(dir.path()).await;
    k.sql("ALTER STREAM s_quarantine RENAME TO kept_out; INSERT INTO s VALUES (99)").await;
    let mut k = again(k, dir.path()).await;
    k.sql("INSERT INTO s VALUES (98)").await;
    assert_eq!(k.table("SELECT count(*) FROM kept_out").await, ["2"]);
}
