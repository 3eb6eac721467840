//! A disk that is really full: the write is refused with what to do, what was acknowledged stays,
//! and after space is freed the server goes on without a restart.
//!
//! Needs root, to mount a small file system in memory; elsewhere it says that it was skipped, which
//! CI does not accept.

use super::server::Server;
use super::{stderr, stdout};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A small file system, unmounted when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=24m", "tmpfs"];
        let done = Command::new("mount").args(mount).arg(dir.path()).output().ok()?;
        done.status.success().then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

const INSERT: &str = "INSERT INTO s SELECT unnest(range(0, 1000)) AS id, repeat('x', 1000) AS t";

/// Asks until the answer is one that is waited for.
fn until(server: &Server, sql: &str, holds: impl Fn(&str) -> bool) -> String {
    let began = Instant::now();
    loop {
        let answer = server.ok(&["sql", "--format", "csv", "-c", sql]);
        if holds(&answer) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{sql}: {answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let Some(mount) = Mount::new() else {
        assert!(std::env::var_os("CI").is_none(), "CI must be able to mount a tmpfs");
        eprintln!("SKIPPED a full disk: mounting a tmpfs needs root");
        return;
    };
    let filler = mount.path().join("filler");
    std::fs::write(&filler, vec![0; 8 << 20]).unwrap();
    let server = Server::start_in(tempfile::tempdir_in(mount.path()).unwrap());
    server.ok(&["sql", "-c", "CREATE STREAM s (id bigint, t text)"]);
    let view = "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s";
    server.ok(&["sql", "-c", view]);
    let folder = tempfile::tempdir().unwrap();
    server.ok(&[
        "sql",
        "-c",
        &format!(
            "CREATE SOURCE files (id bigint, t text) WITH (connector = 'file', path = '{}', \
         match_pattern = '*.json', refresh.interval.sec = 1) FORMAT PLAIN ENCODE JSON",
            folder.path().display()
        ),
    ]);
    let mut rows = 0;
    let refused = loop {
        let output = server.run(&["sql", "-c", INSERT]);
        if !output.status.success() {
            break stderr(&output);
        }
        rows += 1_000;
        assert!(rows < 100_000, "the disk never became full");
    };
    assert!(refused.contains("disk full") && refused.contains("free space"), "{refused}");
    let count =
        ["sql", "--format", "csv", "-c", "SELECT n FROM v", "-c", "SELECT count(*) AS n FROM s"];
    assert_eq!(server.ok(&count), format!("n\n{rows}\nn\n{rows}\n"));

    // A source waits, says why, and goes on by itself.
    let line = format!("{{\"id\":1,\"t\":\"{}\"}}\n", "y".repeat(1_000));
    std::fs::write(folder.path().join("1.json"), line.repeat(2_000)).unwrap();
    let shown = until(&server, "SHOW SOURCES", |shown| shown.contains("retrying"));
    assert!(shown.contains("disk full"), "{shown}");

    std::fs::remove_file(filler).unwrap();
    until(&server, "SELECT count(*) AS n FROM files", |shown| shown == "n\n2000\n");
    until(&server, "SHOW SOURCES", |shown| shown.contains("running"));
    let again = server.run(&["sql", "-c", INSERT]);
    assert!(again.status.success(), "{}{}", stdout(&again), stderr(&again));
    rows += 1_000;
    assert_eq!(server.ok(&count), format!("n\n{rows}\nn\n{rows}\n"));
    let (_, log) = server.stop("KILL");
    assert!(!log.contains("a view stopped"), "{log}");
}
