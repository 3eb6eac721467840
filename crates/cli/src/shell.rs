//! `kaplan sql`: a shell over HTTP. Statements go to the server one by one, each when its semicolon
//! is reached; what follows a failed one in a file or in `-c` is not run.

mod prompt;
mod split;
pub mod table;

use crate::client::{Answer, Client, Done, ResultSet, Target, identifier};
use anyhow::{Context, bail};
use clap::Args;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Instant;
use table::Format;

/// Arguments of `kaplan sql`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    kaplan sql\n  \
    kaplan sql -c 'SELECT * FROM delays ORDER BY carrier'\n  \
    kaplan sql -f views.sql\n  \
    echo 'SHOW VIEWS' | kaplan sql --format csv")]
pub struct SqlArgs {
    /// Run this SQL, then exit; may be given several times.
    #[arg(short = 'c', long = "command", value_name = "SQL")]
    commands: Vec<String>,
    /// Run the SQL in this file, then exit; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

/// Runs what the arguments name, or a prompt when they name nothing and a terminal is there.
pub async fn run(args: SqlArgs) -> anyhow::Result<()> {
    let mut shell = Shell::new(Client::new(&args.target)?, args.format);
    for command in &args.commands {
        shell.script(command).await?;
    }
    if let Some(file) = &args.file {
        let text = if file.as_os_str() == "-" {
            io::read_to_string(io::stdin())?
        } else {
            std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?
        };
        return shell.script(&text).await;
    }
    if !args.commands.is_empty() {
        return Ok(());
    }
    if io::stdin().is_terminal() {
        return prompt::run(shell).await;
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("standard input is not text")?;
    shell.script(&text).await
}

/// One conversation with a server.
struct Shell {
    client: Client,
    format: Format,
    timing: bool,
    /// The last commit that this conversation made; its reads see at least that.
    last_write: Option<u64>,
    /// The `SET` statements so far. The server's sessions end with each request, so they are sent
    /// again ahead of every statement.
    settings: Vec<String>,
}

/// Whether the conversation goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Quit,
}

const HELP: &str = "\
\\d            streams, tables and views
\\d NAME       the columns of a stream, table or view
\\dv           views
\\format F     results as table, json or csv
\\timing       show how long statements take, or stop showing it
\\q            leave (also Ctrl-D)
\\?            this text
A statement ends with a semicolon and may span lines; Ctrl-C forgets what was typed.";

impl Shell {
    fn new(client: Client, format: Format) -> Self {
        Self { client, format, timing: false, last_write: None, settings: Vec::new() }
    }

    /// Runs a text without a prompt; stops at the first error.
    async fn script(&mut self, text: &str) -> anyhow::Result<()> {
        if text.trim_start().starts_with('\\') {
            return self.command(text.trim()).await.map(|_| ());
        }
        let pieces = split::split(text);
        for statement in pieces.complete {
            self.statement(statement).await?;
        }
        if !pieces.rest.is_empty() {
            self.statement(pieces.rest).await?;
        }
        Ok(())
    }

    /// Runs one statement and prints its answer.
    async fn statement(&mut self, sql: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut prelude = self.settings.clone();
        prelude.extend(self.last_write.map(|lsn| format!("SET kaplan.read_at = {lsn}")));
        let ahead = prelude.len();
        prelude.push(sql.to_owned());
        let answers = self.client.sql(prelude.join(";\n")).await?;
        let took = started.elapsed();
        for answer in answers.iter().skip(ahead) {
            match answer {
                Answer::Rows(rows) => self.show(rows)?,
                Answer::Done(done) => {
                    if ["SET", "RESET"].contains(&done.tag.as_str()) {
                        self.settings.push(sql.to_owned());
                    }
                    self.done(done)?;
                }
            }
        }
        if self.timing {
            eprintln!("Time: {:.1} ms", took.as_secs_f64() * 1e3);
        }
        Ok(())
    }

    fn show(&self, rows: &ResultSet) -> anyhow::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        table::print(&mut out, rows, self.format)?;
        out.flush()?;
        Ok(())
    }

    /// Programs that read JSON or CSV get rows only; tags are for people.
    fn done(&mut self, done: &Done) -> anyhow::Result<()> {
        self.last_write = self.last_write.max(done.lsn);
        let tag = match done.lsn {
            Some(lsn) => format!("{} at LSN {lsn}", done.tag),
            None => done.tag.clone(),
        };
        if self.format == Format::Table {
            writeln!(io::stdout(), "{tag}")?;
        }
        for notice in &done.notices {
            eprintln!("notice: {notice}");
        }
        Ok(())
    }

    /// Runs a backslash command.
    async fn command(&mut self, line: &str) -> anyhow::Result<Next> {
        let mut words = line.trim_end_matches(';').split_whitespace();
        match (words.next().unwrap_or_default(), words.next()) {
            ("\\q", _) => return Ok(Next::Quit),
            ("\\?" | "\\h", _) => writeln!(io::stdout(), "{HELP}")?,
            ("\\timing", _) => {
                self.timing = !self.timing;
                eprintln!("Timing is {}.", if self.timing { "on" } else { "off" });
            }
            ("\\format", Some(name)) => {
                self.format = clap::ValueEnum::from_str(name, true)
                    .map_err(|_| anyhow::anyhow!("\\format takes table, json or csv"))?;
            }
            ("\\d", None) => {
                for sql in ["SHOW TABLES", "SHOW VIEWS"] {
                    self.statement(sql).await?;
                }
            }
            ("\\d", Some(name)) => {
                self.statement(&format!("DESCRIBE {}", identifier(name))).await?;
            }
            ("\\dv", _) => self.statement("SHOW VIEWS").await?,
            (other, _) => bail!("no such command: {other}\nhint: \\? lists the commands"),
        }
        Ok(Next::Go)
    }
}
