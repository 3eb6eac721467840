//! Settings from the outside: which source wins, what is refused, and that what `--print-config`
//! prints is a settings file.

use super::{kaplan, stderr, stdout};
use std::fs;
use std::process::Output;
use tempfile::TempDir;

const KEY: &str = "archive_interval_ms";

struct Case {
    dir: TempDir,
    file: Option<String>,
    env: Vec<(&'static str, String)>,
    flags: Vec<String>,
}

impl Case {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), file: None, env: Vec::new(), flags: Vec::new() }
    }

    fn file(mut self, text: &str) -> Self {
        self.file = Some(text.to_owned());
        self
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    fn run(&self) -> Output {
        let mut command = kaplan(self.dir.path());
        command.args(["start", "--print-config"]).args(&self.flags);
        command.envs(self.env.iter().map(|(name, value)| (*name, value)));
        if let Some(text) = &self.file {
            fs::write(self.dir.path().join("kaplan.toml"), text).unwrap();
            command.args(["--config", "kaplan.toml"]);
        }
        command.output().unwrap()
    }

    fn printed(&self) -> toml::Table {
        let output = self.run();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).parse().unwrap()
    }

    fn refused(&self) -> String {
        let output = self.run();
        assert!(!output.status.success(), "{}", stdout(&output));
        stderr(&output)
    }
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let value = |case: Case| case.printed()[KEY].as_integer().unwrap();
    let file = || Case::new().file(&format!("{KEY} = 2"));
    let env = || file().env("KAPLAN_ARCHIVE_INTERVAL_MS", "3");
    assert_eq!(value(Case::new()), 5_000);
    assert_eq!(value(file()), 2);
    assert_eq!(value(env()), 3);
    assert_eq!(value(env().flag("--archive-interval-ms", "4")), 4);
}

#[test]
fn port_binds_every_address_unless_one_is_named() {
    let http = |case: Case| case.printed()["http"].as_str().unwrap().to_owned();
    let port = || Case::new().file("http = '127.0.0.1:1'").env("PORT", "9090");
    assert_eq!(http(Case::new()), "127.0.0.1:8080");
    assert_eq!(http(port()), "0.0.0.0:9090");
    assert_eq!(http(port().env("KAPLAN_HTTP", "127.0.0.1:2")), "127.0.0.1:2");
    assert_eq!(http(port().flag("--http", "localhost:3")), "127.0.0.1:3");
}

#[test]
fn unknown_keys_and_wrong_values_are_refused_by_name() {
    let unknown = Case::new().file("data_dir = 'x'\narchive_intervall = 5\n").refused();
    assert!(unknown.contains("archive_intervall") && unknown.contains("kaplan.toml"), "{unknown}");
    let typed = Case::new().file("read_wait_ms = 'soon'").refused();
    assert!(typed.contains("read_wait_ms"), "{typed}");
    let address = Case::new().file("postgres = 'here'").refused();
    assert!(address.contains("`here` is not an address"), "{address}");
    let zero = Case::new().flag("--compact-bytes", "0").refused();
    assert!(zero.contains("compact_bytes"), "{zero}");
    let missing = Case::new().flag("--config", "nowhere.toml").refused();
    assert!(missing.contains("nowhere.toml"), "{missing}");
}

#[test]
fn what_is_printed_is_a_settings_file() {
    let given = Case::new()
        .flag("--data-dir", "else where")
        .flag("--postgres", "off")
        .flag("--schedule-speed", "60")
        .flag("--log-level", "warn,kaplan_log=debug");
    let first = given.run();
    assert!(first.status.success(), "{}", stderr(&first));
    let again = Case::new().file(&stdout(&first)).run();
    assert_eq!(stdout(&first), stdout(&again));
    assert!(stdout(&first).contains("# Flag --data-dir\ndata_dir = \"else where\""));
    assert!(stdout(&first).contains("postgres = \"off\""));
}
