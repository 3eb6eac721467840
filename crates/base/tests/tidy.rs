//! Rules of the house that no compiler checks: headers, sizes, floors, links. Every violation is
//! reported, each with its file and line, so that one run shows all that must be mended.
//!
//! This test reads the repository and depends on no crate.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 800;
const MAX_LINE_CHARS: usize = 120;

/// The floor of every crate: dependencies point down only.
const FLOORS: [(&str, u8); 16] = [
    ("allocator", 0),
    ("nexmark", 0),
    ("features", 0),
    ("base", 0),
    ("circuit", 1),
    ("store", 1),
    ("log", 2),
    ("lake", 2),
    ("sql", 2),
    ("batch", 3),
    ("speed", 3),
    ("connect", 3),
    ("serving", 4),
    ("platform", 5),
    ("server", 6),
    ("cli", 7),
];

/// Marks of unfinished work, in two halves so that this file does not hold them.
const UNFINISHED: [(&str, &str); 4] = [("TO", "DO"), ("FIX", "ME"), ("dbg", "!("), ("todo", "!(")];
/// Talk about how the text came to be, which its reader cannot use; in lower case.
const TALK: [(&str, &str); 3] = [("issue", " #"), ("in this ses", "sion"), ("as request", "ed")];
/// What the circuit may not touch: it does no IO, reads no clock, draws no random number.
const CIRCUIT_BANS: [&str; 7] =
    ["tokio", "std::fs", "std::net", "SystemTime", "Instant::now", "async fn", "rand::"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every file below `dir` with one of the extensions; build output and hidden folders left out.
fn files(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let skipped = name.starts_with('.')
                || ["target", "node_modules", "kaplan-data"].contains(&name.as_str());
            if path.is_dir() {
                if !skipped {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|e| extensions.contains(&&*e.to_string_lossy()))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Collects violations and fails with all of them.
#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn add(&mut self, path: &Path, line: usize, what: impl Display) {
        let shown = path.strip_prefix(root()).unwrap_or(path).display().to_string();
        self.0.push(format!("{shown}:{line}: {what}"));
    }

    fn finish(self) {
        assert!(self.0.is_empty(), "\n{}\n", self.0.join("\n"));
    }
}

/// Calls `check` with every numbered line of the files below `dir`.
fn each_line(dir: &Path, extensions: &[&str], mut check: impl FnMut(&Path, usize, &str)) {
    for path in files(dir, extensions) {
        for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            check(&path, index + 1, line);
        }
    }
}

#[test]
fn rust_files_keep_the_style() {
    let mut report = Report::default();
    let sources = files(&root(), &["rs"]);
    assert!(sources.len() > 20, "the walk found only {} files", sources.len());
    for path in sources {
        let text = fs::read_to_string(&path).unwrap();
        if !text.starts_with("//!") {
            report.add(&path, 1, "begin with `//!`: what it is, what it keeps, what it refuses");
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            report.add(&path, lines, format!("{lines} lines; past {MAX_LINES} it is two files"));
        }
    }
    each_line(&root(), &["rs"], |path, number, line| {
        if line.chars().count() > MAX_LINE_CHARS {
            report.add(path, number, format!("longer than {MAX_LINE_CHARS} characters"));
        }
        for mark in UNFINISHED.map(|(a, b)| format!("{a}{b}")) {
            if line.contains(&mark) {
                report.add(path, number, format!("`{mark}`"));
            }
        }
    });
    report.finish();
}

#[test]
fn texts_speak_of_the_product_only() {
    let mut report = Report::default();
    each_line(&root(), &["rs", "md", "sh", "toml", "sql"], |path, number, line| {
        let line = line.to_lowercase();
        for talk in TALK.map(|(a, b)| format!("{a}{b}")) {
            if line.contains(&talk) {
                report.add(path, number, format!("`{talk}`"));
            }
        }
    });
    report.finish();
}

/// The Kaplan crates that a manifest names in any of its dependency sections, with the line.
fn kaplan_dependencies(manifest: &str) -> Vec<(usize, String)> {
    let mut section = "";
    let mut found = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies")
            && let Some(rest) = line.trim().strip_prefix("kaplan-")
        {
            let name = rest.split(['.', ' ', '=']).next().unwrap_or_default();
            found.push((index + 1, name.to_owned()));
        }
    }
    found
}

#[test]
fn dependencies_point_down() {
    let mut report = Report::default();
    let floor = |name: &str| FLOORS.iter().find(|(n, _)| *n == name).map(|(_, floor)| *floor);
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let path = entry.unwrap().path().join("Cargo.toml");
        if !path.exists() {
            continue;
        }
        let name = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let Some(own) = floor(&name) else {
            report.add(&path, 1, format!("crate `{name}` has no floor: add it to FLOORS"));
            continue;
        };
        for (line, other) in kaplan_dependencies(&fs::read_to_string(&path).unwrap()) {
            match floor(&other) {
                Some(below) if below < own => {}
                Some(same) if same == own => {
                    report.add(&path, line, format!("`{name}` and `{other}` share floor {own}"));
                }
                _ => report.add(&path, line, format!("`{other}` is not below `{name}`")),
            }
        }
    }
    report.finish();
}

#[test]
fn batch_and_speed_do_not_know_each_other() {
    let mut report = Report::default();
    for (layer, other) in [("batch", "kaplan_speed"), ("speed", "kaplan_batch")] {
        let dir = root().join("crates").join(layer);
        each_line(&dir, &["rs", "toml"], |path, number, line| {
            if line.replace('-', "_").contains(other) {
                report.add(path, number, format!("`{layer}` names `{other}`"));
            }
        });
    }
    report.finish();
}

#[test]
fn the_circuit_does_no_io() {
    let mut report = Report::default();
    let circuit = root().join("crates/circuit");
    let mut check = |path: &Path, number: usize, line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        for ban in CIRCUIT_BANS.iter().filter(|ban| code.contains(*ban)) {
            report.add(path, number, format!("`{ban}` in the circuit"));
        }
    };
    each_line(&circuit.join("src"), &["rs"], &mut check);
    let manifest = circuit.join("Cargo.toml");
    for (index, line) in fs::read_to_string(&manifest).unwrap().lines().enumerate() {
        check(&manifest, index + 1, line);
    }
    report.finish();
}

/// The targets of `[text](target)` in one line of Markdown.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

#[test]
fn markdown_links_lead_somewhere() {
    let mut report = Report::default();
    let mut in_code = false;
    each_line(&root(), &["md"], |path, number, line| {
        in_code = (in_code && number > 1) ^ line.trim_start().starts_with("```");
        for link in links(line).filter(|_| !in_code) {
            let target = link.split(['#', ' ']).next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !outside && !path.with_file_name(target).exists() {
                report.add(path, number, format!("`{target}` does not exist"));
            }
        }
    });
    report.finish();
}

#[test]
fn the_readme_says_how_to_start() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    for command in ["make demo", "make test"] {
        assert!(readme.contains(command), "README.md does not mention `{command}`");
    }
}

#[test]
fn every_dependency_has_its_line() {
    let mut report = Report::default();
    let documented = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let manifest = root().join("Cargo.toml");
    let mut named = 0;
    let mut inside = false;
    for (index, line) in fs::read_to_string(&manifest).unwrap().lines().enumerate() {
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        }
        let Some((name, _)) = line.split_once(" = ").filter(|_| inside) else { continue };
        named += 1;
        if !name.starts_with("kaplan-") && !documented.contains(&format!("| `{name}` |")) {
            report.add(
                &manifest,
                index + 1,
                format!("`{name}` has no line in docs/dependencies.md"),
            );
        }
    }
    assert!(named > 20, "found only {named} dependencies");
    report.finish();
}
