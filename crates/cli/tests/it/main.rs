//! The program as users run it: a process, its exit code, what it prints.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../platform/tests/it/broker.rs"]
#[allow(dead_code, reason = "the platform's tests share it")]
mod broker;
mod bucket;
mod captured;
mod full_disk;
mod gcs;
mod job;
mod kafka_log;
mod replica;
mod server;
mod settings;
#[path = "../../../platform/tests/it/postgres/upstream.rs"]
mod upstream;
mod workers;

use std::path::Path;
use std::process::{Command, Output};

/// The program with nothing from the environment that it would read.
fn kaplan(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kaplan"));
    for (name, _) in std::env::vars_os() {
        if ["KAPLAN_", "AWS_", "GOOGLE_"].iter().any(|p| name.to_string_lossy().starts_with(p))
            || name == "PORT"
        {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).env("XDG_CACHE_HOME", dir);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_and_version_say_what_this_is() {
    let dir = tempfile::tempdir().unwrap();
    let version = kaplan(dir.path()).arg("--version").output().unwrap();
    assert_eq!(stdout(&version), format!("kaplan {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["start", "sql", "load", "batch", "replay", "verify", "worker", "status", "demo"]
    {
        let help = kaplan(dir.path()).args([command, "--help"]).output().unwrap();
        assert!(help.status.success() && stdout(&help).contains("Usage:"), "{command}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let sql = kaplan(dir.path())
        .args(["sql", "--url", "http://127.0.0.1:9", "-c", "select 1"])
        .output()
        .unwrap();
    assert_eq!(sql.status.code(), Some(1));
    let error = stderr(&sql);
    assert!(error.contains("cannot reach http://127.0.0.1:9"), "{error}");
    assert!(error.contains("kaplan start"), "{error}");
}
