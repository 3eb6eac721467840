//! Cuts SQL text into statements, without understanding them: it knows quotes, comments and dollar
//! quotes, so that a `;` inside of those does not count. The PostgreSQL wire needs the cut, since
//! each statement of a message has its own answer.

/// The statements of a text, trimmed, without their `;` and without empty ones.
pub(crate) fn split(sql: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut has_code = false;
    while let Some(step) = next(&sql[at..]) {
        match step {
            Step::Code(';', _) => {
                if has_code {
                    statements.push(sql[start..at].trim());
                }
                (start, has_code) = (at + 1, false);
            }
            Step::Code(character, _) => has_code |= !character.is_whitespace(),
            Step::Quoted(_) => has_code = true,
            Step::Comment(_) => {}
        }
        at += step.len();
    }
    if has_code {
        statements.push(sql[start..].trim());
    }
    statements
}

/// The first word in capitals, behind comments and brackets.
pub(crate) fn keyword(sql: &str) -> String {
    let mut at = 0;
    while let Some(step) = next(&sql[at..]) {
        match step {
            Step::Comment(_) => {}
            Step::Code(c, _) if c.is_whitespace() || c == '(' => {}
            _ => break,
        }
        at += step.len();
    }
    sql[at..].chars().take_while(|c| c.is_ascii_alphabetic()).collect::<String>().to_uppercase()
}

/// Whether one of these words, in capitals, stands in the text outside of quotes and comments.
pub(crate) fn has_word(sql: &str, words: &[&str]) -> bool {
    let mut at = 0;
    while let Some(step) = next(&sql[at..]) {
        let text = &sql[at..at + step.len()];
        let is_one = |word: &&str| text.eq_ignore_ascii_case(word);
        if matches!(step, Step::Code(..)) && words.iter().any(is_one) {
            return true;
        }
        at += step.len();
    }
    false
}

/// Puts `value(n)` in the place of each parameter `$n`.
pub(crate) fn substitute<E>(
    sql: &str,
    mut value: impl FnMut(usize) -> Result<String, E>,
) -> Result<String, E> {
    let mut text = String::with_capacity(sql.len());
    let mut at = 0;
    while let Some(step) = next(&sql[at..]) {
        let mut length = step.len();
        let rest = &sql[at..];
        let digits = rest.bytes().skip(1).take_while(u8::is_ascii_digit).count();
        match step {
            Step::Code('$', _) if digits > 0 => {
                length = 1 + digits;
                let number = rest[1..length].parse().unwrap_or(usize::MAX);
                text.push_str(&value(number)?);
            }
            _ => text.push_str(&rest[..length]),
        }
        at += length;
    }
    Ok(text)
}

/// The highest parameter number, 0 without parameters.
pub(crate) fn parameters(sql: &str) -> usize {
    let mut highest = 0;
    let counted = substitute::<std::convert::Infallible>(sql, |n| {
        highest = highest.max(n);
        Ok(String::new())
    });
    match counted {
        Ok(_) => highest,
        Err(never) => match never {},
    }
}

/// The items of the bracketed list that a text begins with, and what follows it; none when the
/// bracket is never closed.
pub(crate) fn arguments(sql: &str) -> Option<(Vec<&str>, &str)> {
    let mut items = Vec::new();
    let (mut depth, mut at, mut start) = (0_usize, 0, 1);
    while let Some(step) = next(&sql[at..]) {
        match step {
            Step::Code('(' | '[', _) => depth += 1,
            Step::Code(')' | ']', _) if depth == 1 => {
                let last = sql[start..at].trim();
                if !last.is_empty() || !items.is_empty() {
                    items.push(last);
                }
                return Some((items, &sql[at + 1..]));
            }
            Step::Code(')' | ']', _) => depth = depth.checked_sub(1)?,
            Step::Code(',', _) if depth == 1 => {
                items.push(sql[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        at += step.len();
    }
    None
}

enum Step {
    Code(char, usize),
    Quoted(usize),
    Comment(usize),
}

impl Step {
    fn len(&self) -> usize {
        match self {
            Step::Code(_, length) | Step::Quoted(length) | Step::Comment(length) => *length,
        }
    }
}

fn next(sql: &str) -> Option<Step> {
    let first = sql.chars().next()?;
    let until = |end: &str, skip: usize| {
        sql[skip..].find(end).map_or(sql.len(), |at| skip + at + end.len())
    };
    Some(match first {
        '\'' => Step::Quoted(until("'", 1)),
        '"' => Step::Quoted(until("\"", 1)),
        'e' | 'E' if sql[1..].starts_with('\'') => Step::Quoted(escaped(sql)),
        '-' if sql.starts_with("--") => Step::Comment(until("\n", 2)),
        '/' if sql.starts_with("/*") => Step::Comment(block_comment(sql)),
        '$' => match dollar_tag(sql) {
            Some(tag) => Step::Quoted(until(tag, tag.len())),
            None => Step::Code('$', 1),
        },
        // A word is one step, so that the e of `date'..'` does not begin an escape string.
        word if word.is_alphanumeric() || word == '_' => {
            let end = sql.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$');
            Step::Code(word, end.unwrap_or(sql.len()))
        }
        other => Step::Code(other, other.len_utf8()),
    })
}

/// The length of `E'..'`, where a backslash keeps the next character from ending it.
fn escaped(sql: &str) -> usize {
    let mut backslash = false;
    for (at, byte) in sql.bytes().enumerate().skip(2) {
        match byte {
            _ if backslash => backslash = false,
            b'\\' => backslash = true,
            b'\'' => return at + 1,
            _ => {}
        }
    }
    sql.len()
}

/// Block comments nest, as in PostgreSQL.
fn block_comment(sql: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    let bytes = sql.as_bytes();
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") if depth == 1 => return at + 2,
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    sql.len()
}

/// `$$` or `$tag$`.
fn dollar_tag(sql: &str) -> Option<&str> {
    let end = sql[1..].find('$')? + 1;
    let tag = &sql[1..end];
    let named = !tag.starts_with(|c: char| c.is_ascii_digit())
        && tag.chars().all(|c| c.is_alphanumeric() || c == '_');
    named.then(|| &sql[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_in_code_only() {
        let sql = "select ';' ; -- a;b\n/* ; /* ; */ ; */ ;; select \"a;b\", E'\\';', $t$;$t$ ,\
                   date'x;y' as \u{e9};\n insert into t values (1)";
        assert_eq!(
            split(sql),
            [
                "select ';'",
                "select \"a;b\", E'\\';', $t$;$t$ ,date'x;y' as \u{e9}",
                "insert into t values (1)"
            ]
        );
        assert_eq!(split(" ; -- nothing\n"), Vec::<&str>::new());
        assert_eq!(split("select 'open ; never ends"), ["select 'open ; never ends"]);
    }

    #[test]
    fn keywords_stand_behind_comments_and_brackets() {
        assert_eq!(keyword("/* a */ -- b\n ( select 1)"), "SELECT");
        assert_eq!(keyword("begin;"), "BEGIN");
        assert_eq!(keyword(""), "");
    }

    #[test]
    fn words_are_found_in_code_only() {
        let has = |sql| has_word(sql, &["INSERT", "DELETE"]);
        assert!(has("with a as (select 1) insert into t select * from a"));
        assert!(has("explain analyze /* x */ Delete from t"));
        assert!(!has("with a as (select 'insert', \"delete\", inserted /* insert */) select 1"));
    }

    #[test]
    fn parameters_in_code_are_replaced() {
        let replaced = substitute::<()>("a$1 = $1 and b = '$1' or $12", |n| Ok(format!("<{n}>")));
        assert_eq!(replaced.unwrap(), "a$1 = <1> and b = '$1' or <12>");
        assert_eq!(parameters("select $2, '$7'"), 2);
        let foreign =
            substitute::<()>("\u{fc}ber = $1 \u{a0}\u{ab}\u{540d} $2", |n| Ok(n.to_string()));
        assert_eq!(foreign.unwrap(), "\u{fc}ber = 1 \u{a0}\u{ab}\u{540d} 2");
        assert_eq!(parameters("select $$ $9 $$"), 0);
    }
}
