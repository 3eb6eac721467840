//! Result sets as text: an aligned table for people, one JSON object a line or CSV for programs.
//! Nothing is cut off; a value that spans lines is shown on one, escaped.

use crate::client::ResultSet;
use serde_json::Value;
use std::io::{self, Write};

/// How result sets are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, row count and LSN.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
    /// Comma-separated with a header line; NULL is an empty field.
    Csv,
}

/// Prints one result set.
pub fn print(out: &mut dyn Write, result: &ResultSet, format: Format) -> io::Result<()> {
    match format {
        Format::Table => table(out, result),
        Format::Json => json(out, result),
        Format::Csv => csv(out, result),
    }
}

/// Prints aligned columns under a header; those marked `right` (numbers) to the right.
pub fn grid(
    out: &mut dyn Write,
    header: &[&str],
    right: &[bool],
    rows: &[Vec<String>],
) -> io::Result<()> {
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let aligned = |cells: &[String], right: &[bool]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| {
            if right.get(at) == Some(&true) {
                format!(" {cell:>width$} ")
            } else {
                format!(" {cell:<width$} ")
            }
        });
        padded.collect::<Vec<_>>().join("|").trim_end().to_owned()
    };
    writeln!(out, "{}", aligned(&header, &[]))?;
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    writeln!(out, "{}", rules.join("+"))?;
    for row in rows {
        writeln!(out, "{}", aligned(row, right))?;
    }
    Ok(())
}

fn table(out: &mut dyn Write, result: &ResultSet) -> io::Result<()> {
    let header: Vec<&str> = result.columns.iter().map(|column| column.name.as_str()).collect();
    let right: Vec<bool> = result.columns.iter().map(|c| is_number(&c.kind)).collect();
    let show = |value: &Value| match value {
        Value::Null => "NULL".to_owned(),
        value => one_line(&text(value)),
    };
    let rows: Vec<Vec<String>> =
        result.rows.iter().map(|row| row.iter().map(show).collect()).collect();
    grid(out, &header, &right, &rows)?;
    let count = result.rows.len();
    let rows = if count == 1 { "row" } else { "rows" };
    match result.lsn {
        Some(lsn) => writeln!(out, "({count} {rows} at LSN {lsn})"),
        None => writeln!(out, "({count} {rows})"),
    }
}

/// Written by hand, so that the keys keep the order of the columns.
fn json(out: &mut dyn Write, result: &ResultSet) -> io::Result<()> {
    for row in &result.rows {
        let fields = result.columns.iter().zip(row);
        let fields: Vec<String> = fields
            .map(|(column, value)| format!("{}:{value}", Value::from(column.name.as_str())))
            .collect();
        writeln!(out, "{{{}}}", fields.join(","))?;
    }
    Ok(())
}

fn csv(out: &mut dyn Write, result: &ResultSet) -> io::Result<()> {
    let header: Vec<String> = result.columns.iter().map(|c| csv_field(&c.name)).collect();
    writeln!(out, "{}", header.join(","))?;
    for row in &result.rows {
        let fields: Vec<String> = row
            .iter()
            .map(|value| match value {
                Value::Null => String::new(),
                // Quoted, so that an empty string differs from NULL.
                Value::String(text) if text.is_empty() => "\"\"".to_owned(),
                value => csv_field(&text(value)),
            })
            .collect();
        writeln!(out, "{}", fields.join(","))?;
    }
    Ok(())
}

fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn one_line(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let escape = |c: char| -> String {
        if c.is_control() { c.escape_default().collect() } else { c.to_string() }
    };
    text.chars().map(escape).collect()
}

fn is_number(kind: &str) -> bool {
    const NUMBERS: [&str; 10] = [
        "smallint", "integer", "bigint", "int", "float", "real", "double", "numeric", "decimal",
        "oid",
    ];
    !kind.ends_with(']') && kind != "interval" && NUMBERS.iter().any(|n| kind.starts_with(n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Column;
    use serde_json::json;

    fn printed(format: Format) -> String {
        let column = |name: &str, kind: &str| Column { name: name.into(), kind: kind.into() };
        let result = ResultSet {
            columns: vec![column("carrier", "text"), column("n", "bigint")],
            rows: vec![vec![json!("UA, \"x\"\n"), json!(12)], vec![json!(null), json!(-3)]],
            lsn: Some(7),
        };
        let mut out = Vec::new();
        print(&mut out, &result, format).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tables_are_aligned_and_show_null_count_and_lsn() {
        let lines = [
            r#" carrier   | n"#,
            r#"-----------+----"#,
            r#" UA, "x"\n | 12"#,
            r#" NULL      | -3"#,
            r#"(2 rows at LSN 7)"#,
        ];
        assert_eq!(printed(Format::Table).lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn json_keeps_the_order_of_columns_and_csv_tells_null_from_empty() {
        let expected = "{\"carrier\":\"UA, \\\"x\\\"\\n\",\"n\":12}\n{\"carrier\":null,\"n\":-3}\n";
        assert_eq!(printed(Format::Json), expected);
        assert_eq!(printed(Format::Csv), "carrier,n\n\"UA, \"\"x\"\"\n\",12\n,-3\n");
        assert_eq!(csv_field(""), "");
    }
}
