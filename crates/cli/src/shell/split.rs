//! Cuts SQL text into statements at semicolons, as PostgreSQL reads it: quotes, dollar quotes and
//! comments (nested ones too) hide a semicolon. It checks nothing else; the server parses.

/// One piece of a text: the statements that a semicolon ended, and what remains.
#[derive(Debug, PartialEq, Eq)]
pub struct Pieces<'a> {
    /// Complete statements, without their semicolons, none of them blank.
    pub complete: Vec<&'a str>,
    /// The text after the last semicolon; blank when only comments and spaces are left.
    pub rest: &'a str,
}

/// Splits a text into its statements.
pub fn split(text: &str) -> Pieces<'_> {
    let mut complete = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut blank = true;
    while at < text.len() {
        let tail = &text[at..];
        if tail.starts_with(';') {
            if !blank {
                complete.push(text[start..at].trim());
            }
            at += 1;
            start = at;
            blank = true;
            continue;
        }
        let (length, says_something) = token(tail);
        blank &= !says_something;
        at += length;
    }
    Pieces { complete, rest: if blank { "" } else { text[start..].trim() } }
}

/// The length of the token at the start of the text, and whether it is more than space or comment.
/// A quote that does not end takes the whole rest.
fn token(text: &str) -> (usize, bool) {
    if text.starts_with("--") {
        return (text.find('\n').map_or(text.len(), |end| end + 1), false);
    }
    if text.starts_with("/*") {
        return (comment(text), false);
    }
    let Some(first) = text.chars().next() else { return (0, false) };
    match first {
        'e' | 'E' if text[1..].starts_with('\'') => (escaped(text), true),
        '\'' | '"' => (quoted(text, first), true),
        '$' => (dollar_quoted(text), true),
        c if c.is_alphanumeric() || c == '_' => {
            // A word is one token, so that the `$` of `a$b$` opens no quote.
            let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
            (end.unwrap_or(text.len()), true)
        }
        c => (c.len_utf8(), !c.is_whitespace()),
    }
}

fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// A doubled quote inside is two tokens, which comes to the same.
fn quoted(text: &str, quote: char) -> usize {
    text[1..].find(quote).map_or(text.len(), |end| end + 2)
}

/// `E'..'`, where a backslash keeps the next character from ending it.
fn escaped(text: &str) -> usize {
    let mut backslash = false;
    for (at, byte) in text.bytes().enumerate().skip(2) {
        match byte {
            _ if backslash => backslash = false,
            b'\\' => backslash = true,
            b'\'' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn dollar_quoted(text: &str) -> usize {
    let Some(tag_end) = text[1..].find('$').map(|end| end + 2) else { return 1 };
    let tag = &text[..tag_end];
    let name = &tag[1..tag.len() - 1];
    let is_tag = name.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !is_tag {
        return 1;
    }
    text[tag_end..].find(tag).map_or(text.len(), |end| tag_end + end + tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<&str> {
        let pieces = split(text);
        let rest = Some(pieces.rest).filter(|rest| !rest.is_empty());
        pieces.complete.into_iter().chain(rest).collect()
    }

    #[test]
    fn semicolons_end_statements_outside_of_quotes_and_comments() {
        let text =
            "select 1; select ';', \"a;b\" -- ; no\n from t; /* ; /* ; */ ; */ select 'it''s;'";
        assert_eq!(
            statements(text),
            [
                "select 1",
                "select ';', \"a;b\" -- ; no\n from t",
                "/* ; /* ; */ ; */ select 'it''s;'"
            ]
        );
        assert_eq!(
            statements("select $$a;b$$; select $x$ $$;$x$"),
            ["select $$a;b$$", "select $x$ $$;$x$"]
        );
    }

    #[test]
    fn a_backslash_escapes_in_escape_strings_only() {
        assert_eq!(statements(r"select E'\';'; x"), [r"select E'\';'", "x"]);
        assert_eq!(statements(r"select '\'; x"), [r"select '\'", "x"]);
        assert_eq!(statements("select date'a;b'; x"), ["select date'a;b'", "x"]);
    }

    #[test]
    fn what_is_open_stays_open() {
        assert_eq!(split("select 1").rest, "select 1");
        assert_eq!(split("select 'a;").rest, "select 'a;");
        assert_eq!(split("select $1; x").complete, ["select $1"]);
        assert_eq!(split("select a$b$; y").complete, ["select a$b$"]);
    }

    #[test]
    fn nothing_is_no_statement() {
        let pieces = split(" ; ;; -- comment\n /* another */ ");
        assert_eq!(pieces, Pieces { complete: vec![], rest: "" });
    }

    #[test]
    fn text_of_many_bytes_a_character_is_cut_between_characters() {
        assert_eq!(
            statements("select 'ä€'; select ä; /* € */ x"),
            ["select 'ä€'", "select ä", "/* € */ x"]
        );
    }
}
