//! The list of records that fail: `file:line | reason`, a line each. It can only shrink: what is
//! listed must fail for that reason, and what is not listed must pass.

use super::Failures;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const HEADER: &str = "\
# Records that fail, with a part of the reason. Written by `make slt-write`; a record that passes and
# is still listed fails the run, as does one that fails and is not listed.
";

#[derive(Default)]
pub struct Expected(BTreeMap<(String, u32), String>);

impl Expected {
    pub fn load(path: &Path) -> Expected {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut entries = BTreeMap::new();
        for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
            let (place, reason) = line.split_once(" | ").expect("file:line | reason");
            let (file, number) = place.rsplit_once(':').expect("file:line");
            let number = number.parse().expect("a line number");
            entries.insert((file.to_owned(), number), reason.to_owned());
        }
        Expected(entries)
    }

    pub fn add(&mut self, file: &str, line: u32, reason: &str) {
        self.0.insert((file.to_owned(), line), reason.to_owned());
    }

    pub fn save(&self, path: &Path) {
        let mut text = HEADER.to_owned();
        for ((file, line), reason) in &self.0 {
            let _ = writeln!(text, "{file}:{line} | {}", reason.trim());
        }
        std::fs::write(path, text).unwrap();
        println!("slt: {} failures are listed in {}", self.0.len(), path.display());
    }

    /// Where the list and a file's run disagree.
    pub fn judge(&self, file: &str, failures: &Failures) -> Vec<String> {
        let mut problems = Vec::new();
        let listed = |line: u32| self.0.get(&(file.to_owned(), line));
        for (line, reasons) in failures {
            for reason in reasons {
                match listed(*line) {
                    None => problems.push(format!("{file}:{line} fails: {reason}")),
                    Some(part) if !reason.contains(part.as_str()) => problems.push(format!(
                        "{file}:{line} is expected to fail with `{part}`, not with `{reason}`"
                    )),
                    Some(_) => {}
                }
            }
        }
        for (listed_file, line) in self.0.keys() {
            if listed_file == file && !failures.contains_key(line) {
                problems.push(format!("{file}:{line} passes now: take it off the list"));
            }
        }
        problems
    }
}
