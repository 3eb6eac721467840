//! The prompt of the shell: line editing, history, statements over several lines. An error is
//! printed and the conversation goes on.

use super::{Next, Shell, split};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::path::PathBuf;

/// Entries that the history file keeps.
const HISTORY_ENTRIES: usize = 2_000;

/// Reads and runs statements until the user leaves.
pub async fn run(mut shell: Shell) -> anyhow::Result<()> {
    let config = rustyline::Config::builder().max_history_size(HISTORY_ENTRIES)?.build();
    let mut editor = DefaultEditor::with_config(config)?;
    let history = history_file();
    if let Some(path) = &history {
        // There is none before the first conversation.
        let _ = editor.load_history(path);
    }
    eprintln!(
        "kaplan {} at {}. \\? lists commands, \\q leaves.",
        env!("CARGO_PKG_VERSION"),
        shell.client.address()
    );
    let mut typed = String::new();
    loop {
        let prompt = if typed.is_empty() { "kaplan=> " } else { "kaplan-> " };
        match tokio::task::block_in_place(|| editor.readline(prompt)) {
            Ok(line) => {
                typed.push_str(&line);
                typed.push('\n');
            }
            Err(ReadlineError::Interrupted) => {
                typed.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
        if take(&mut shell, &mut editor, &mut typed).await == Next::Quit {
            break;
        }
    }
    if let Some(path) = &history
        && let Err(error) = save(&mut editor, path)
    {
        eprintln!("warning: the history was not saved to {}: {error:#}", path.display());
    }
    Ok(())
}

/// Runs what is complete of the typed text and leaves the rest.
async fn take(shell: &mut Shell, editor: &mut DefaultEditor, typed: &mut String) -> Next {
    if typed.trim_start().starts_with('\\') {
        let line = std::mem::take(typed);
        let _ = editor.add_history_entry(line.trim());
        return shell.command(line.trim()).await.unwrap_or_else(|error| {
            crate::report(&error);
            Next::Go
        });
    }
    let pieces = split::split(typed);
    for statement in &pieces.complete {
        let _ = editor.add_history_entry(format!("{statement};"));
        if let Err(error) = shell.statement(statement).await {
            crate::report(&error);
            break;
        }
    }
    *typed = match pieces.rest {
        "" => String::new(),
        rest => format!("{rest}\n"),
    };
    Next::Go
}

fn save(editor: &mut DefaultEditor, path: &std::path::Path) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    Ok(editor.save_history(path)?)
}

fn history_file() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("kaplan/history"))
}
