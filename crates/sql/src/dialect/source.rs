//! The SQL text as tokens, and the way back from a token to its bytes. Before anything is parsed it
//! refuses what would overflow a parser's or a planner's stack: both recurse as deep as the text
//! nests, and once per operator of a chain.

use super::error::{Error, Kind, Result};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use kaplan_base::limits::MAX_SQL_BYTES;

/// Deepest nesting of parentheses and brackets.
pub const MAX_NESTING: usize = 32;
/// Most tokens of one list item at one level of parentheses: a bound on chains such as
/// `a + b + c ..`, whose syntax tree is as deep as the chain is long.
pub const MAX_ITEM_TOKENS: usize = 2_000;
/// Most UNION, EXCEPT, INTERSECT and JOIN in one statement.
pub const MAX_SET_OPERATIONS: usize = 200;

/// `sqlparser` reads every argument of a call twice, so a token inside `n` calls is read `2^n`
/// times. The sum over all tokens that are inside at least [`FREE_CALLS`] may not exceed this.
const MAX_CALL_COST: u64 = 1 << 21;
const FREE_CALLS: u32 = 4;

/// Stands for EMIT, which would be read as the alias of what stands before it.
pub(super) const EMIT_TOKEN: Token = Token::Backslash;

/// The dialect that the tokens and expressions follow.
pub(super) static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// A text and where its tokens lie in it, by index of the token.
pub(super) struct Source<'a> {
    text: &'a str,
    spans: Vec<(usize, usize)>,
    end: Location,
}

impl<'a> Source<'a> {
    /// Cuts `text` into tokens.
    pub(super) fn read(text: &'a str) -> Result<(Self, Vec<TokenWithSpan>)> {
        if text.len() > MAX_SQL_BYTES {
            let message =
                format!("the SQL text has {} bytes, the limit is {MAX_SQL_BYTES}", text.len());
            return Err(Error::new(Kind::TooLarge, message).hint("send the statements one by one"));
        }
        let tokens = Tokenizer::new(&DIALECT, text).tokenize_with_location().map_err(|e| {
            Error::new(Kind::Syntax, e.message).at(e.location.line, e.location.column)
        })?;
        check_shape(&tokens)?;
        let tokens = with_emit_apart(with_keys_as_arguments(without_flink_wrappers(tokens)));
        let tokens = with_asof_in_conditions(with_symmetric_bounds(tokens))?;
        let (spans, end) = byte_spans(text, &tokens);
        Ok((Source { text, spans, end }, tokens))
    }

    /// The text from the token `first` to the token before `end`.
    pub(super) fn slice(&self, first: usize, end: usize) -> &'a str {
        let last = self.spans.get(end.wrapping_sub(1)).or(self.spans.last());
        match (self.spans.get(first), last) {
            (Some((start, _)), Some((_, end))) => self.text.get(*start..*end).unwrap_or_default(),
            _ => "",
        }
    }

    /// The place after the last character.
    pub(super) fn end(&self) -> Location {
        self.end
    }
}

/// The byte range of every token. Locations count characters; the text is walked once.
fn byte_spans(text: &str, tokens: &[TokenWithSpan]) -> (Vec<(usize, usize)>, Location) {
    let mut chars = text.char_indices();
    let (mut at, mut byte) = (Location { line: 1, column: 1 }, 0);
    let mut step = |until: Option<Location>| {
        while until.is_none_or(|until| at < until) {
            let Some((start, c)) = chars.next() else { break };
            byte = start + c.len_utf8();
            if c == '\n' {
                at = Location { line: at.line + 1, column: 1 };
            } else {
                at.column += 1;
            }
        }
        (byte, at)
    };
    let mut spans = Vec::with_capacity(tokens.len());
    for token in tokens {
        let (start, _) = step(Some(token.span.start));
        let (end, _) = step(Some(token.span.end));
        spans.push((start, end));
    }
    let (_, end) = step(None);
    (spans, end)
}

/// Whether `token` is the unquoted word `word`, in any case.
pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// One level of parentheses: the tokens of its current list item, and how many calls enclose it.
#[derive(Clone, Copy, Default)]
struct Level {
    tokens: usize,
    calls: u32,
}

fn check_shape(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut levels = vec![Level::default()];
    let (mut set_operations, mut cost, mut after_word) = (0_usize, 0_u64, false);
    for TokenWithSpan { token, span } in tokens {
        let level = levels.last().copied().unwrap_or_default();
        match token {
            Token::Whitespace(_) => continue,
            Token::LParen | Token::LBracket | Token::LBrace => {
                levels.push(Level { tokens: 0, calls: level.calls + u32::from(after_word) });
            }
            Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => {
                levels.pop();
            }
            Token::SemiColon => (levels, set_operations) = (vec![Level::default()], 0),
            _ => {}
        }
        after_word = matches!(token, Token::Word(_));
        if ["UNION", "EXCEPT", "INTERSECT", "JOIN"].iter().any(|word| is_word(token, word)) {
            set_operations += 1;
        }
        if level.calls >= FREE_CALLS {
            cost = cost.saturating_add(1_u64.checked_shl(level.calls).unwrap_or(u64::MAX));
        }
        let depth = levels.len() - 1;
        let Some(level) = levels.last_mut() else { continue };
        level.tokens = if *token == Token::Comma { 0 } else { level.tokens + 1 };
        if let Some(message) = too_large(depth, level.tokens, set_operations, cost) {
            return Err(Error::new(Kind::TooLarge, message)
                .hint("split it with WITH or into several views")
                .at(span.start.line, span.start.column));
        }
    }
    Ok(())
}

fn too_large(depth: usize, tokens: usize, set_operations: usize, cost: u64) -> Option<String> {
    if depth > MAX_NESTING {
        Some(format!("parentheses are nested more than {MAX_NESTING} deep"))
    } else if cost > MAX_CALL_COST {
        Some("function calls are nested too deeply".to_owned())
    } else if tokens > MAX_ITEM_TOKENS {
        Some(format!("one expression has more than {MAX_ITEM_TOKENS} tokens"))
    } else if set_operations > MAX_SET_OPERATIONS {
        Some(format!("one statement has more than {MAX_SET_OPERATIONS} joins and set operations"))
    } else {
        None
    }
}

/// Turns Flink's `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), ..))` into `TUMBLE(t, ts, ..)`.
fn without_flink_wrappers(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let words: Vec<usize> =
        (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    let token = |at: usize| words.get(at).map_or(&Token::EOF, |index| &tokens[*index].token);
    let mut dropped = Vec::new();
    for start in 0..words.len() {
        let is_window = is_word(token(start), "TABLE")
            && *token(start + 1) == Token::LParen
            && ["TUMBLE", "HOP", "SESSION"].iter().any(|name| is_word(token(start + 2), name))
            && *token(start + 3) == Token::LParen
            && is_word(token(start + 4), "TABLE");
        if !is_window {
            continue;
        }
        dropped.extend([start, start + 1, start + 4]);
        let mut depth = 2;
        for at in start + 5..words.len() {
            match token(at) {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                word if is_word(word, "DESCRIPTOR")
                    && *token(at + 1) == Token::LParen
                    && *token(at + 3) == Token::RParen =>
                {
                    dropped.extend([at, at + 1, at + 3]);
                }
                _ => {}
            }
            if depth == 0 {
                dropped.push(at);
                break;
            }
        }
    }
    if dropped.is_empty() {
        return tokens;
    }
    let dropped: std::collections::BTreeSet<usize> =
        dropped.into_iter().filter_map(|at| words.get(at).copied()).collect();
    let keep = |(index, token)| (!dropped.contains(&index)).then_some(token);
    tokens.into_iter().enumerate().filter_map(keep).collect()
}

/// Turns `BETWEEN SYMMETRIC a AND b`, which `sqlparser` does not read, into
/// `BETWEEN kaplan_symmetric(a) AND b`.
fn with_symmetric_bounds(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if !tokens.iter().any(|t| is_word(&t.token, "SYMMETRIC")) {
        return tokens;
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len() + 2);
    // The depth of brackets that each open bound stands at, and the BETWEENs inside it.
    let (mut open, mut depth): (Vec<(usize, usize)>, usize) = (Vec::new(), 0);
    let mut between = false;
    for mut token in tokens {
        let at = |token: Token, place: Location| TokenWithSpan {
            token,
            span: datafusion::sql::sqlparser::tokenizer::Span::new(place, place),
        };
        let (start, end) = (token.span.start, token.span.end);
        match &token.token {
            Token::Whitespace(_) => {
                out.push(token);
                continue;
            }
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        if between && is_word(&token.token, "SYMMETRIC") {
            token.token = Token::make_word(crate::functions::syntax::SYMMETRIC, None);
            out.extend([token, at(Token::LParen, end)]);
            open.push((depth, 0));
            between = false;
            continue;
        }
        between = is_word(&token.token, "BETWEEN");
        if let Some((_, inside)) = open.last_mut().filter(|(level, _)| *level == depth) {
            if between {
                *inside += 1;
            } else if is_word(&token.token, "AND") {
                match inside.checked_sub(1) {
                    Some(left) => *inside = left,
                    None => {
                        out.push(at(Token::RParen, start));
                        open.pop();
                    }
                }
            }
        }
        out.push(token);
    }
    out
}

/// Turns `ASOF [LEFT] JOIN r ON condition` into `[LEFT] JOIN r ON kaplan_asof(true) AND condition`. A
/// `MATCH_CONDITION (times)` before `ON`, as Snowflake writes it, is a part of the condition. Refuses one
/// without a condition, which would be read as an alias. `JOIN t FOR SYSTEM_TIME AS OF PROCTIME() ON condition`
/// becomes `JOIN t ON kaplan_temporal(true) AND condition`; other times are refused.
fn with_asof_in_conditions(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    if !tokens.iter().any(|t| is_word(&t.token, "ASOF") || is_word(&t.token, "SYSTEM_TIME")) {
        return Ok(tokens);
    }
    let words: Vec<usize> =
        (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    let is =
        |at: usize, word: &str| words.get(at).is_some_and(|i| is_word(&tokens[*i].token, word));
    let (mut dropped, mut marked, mut joined) = (Vec::new(), Vec::new(), Vec::new());
    for at in (0..words.len()).filter(|at| is(*at, "FOR") && is(at + 1, "SYSTEM_TIME")) {
        let Some(on) = condition_as_of_now(&tokens, &words, at) else {
            let place = tokens[words[at]].span.start;
            return Err(Error::unsupported("this FOR SYSTEM_TIME AS OF is not supported")
                .hint(
                    "write l JOIN t FOR SYSTEM_TIME AS OF PROCTIME() AS r ON l.key = r.key, or for a time of \
                     the rows ASOF JOIN .. ON l.key = r.key AND l.at >= r.at",
                )
                .at(place.line, place.column));
        };
        dropped.extend(&words[at..at + AS_OF_NOW]);
        marked.push((on, crate::functions::TEMPORAL));
    }
    for start in (0..words.len()).filter(|at| is(*at, "ASOF")) {
        let joins = ["JOIN", "LEFT", "INNER", "RIGHT", "FULL"];
        if !joins.iter().any(|word| is(start + 1, word)) {
            continue;
        }
        dropped.push(words[start]);
        let known = marked.len();
        let (mut depth, mut matched) = (0_usize, false);
        for at in start + 1..words.len() {
            match &tokens[words[at]].token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => break,
                Token::RParen => depth -= 1,
                _ if depth > 0 => {}
                Token::Comma | Token::SemiColon => break,
                _ if is(at, "WHERE") || is(at, "ASOF") => break,
                _ if is(at, "MATCH_CONDITION") && !matched => {
                    marked.push((words[at], crate::functions::ASOF));
                    matched = true;
                }
                _ if is(at, "ON") => {
                    match matched {
                        true => joined.push(words[at]),
                        false => marked.push((words[at], crate::functions::ASOF)),
                    }
                    break;
                }
                _ => {}
            }
        }
        if marked.len() == known {
            let place = tokens[words[start]].span.start;
            return Err(Error::unsupported("an ASOF JOIN without ON is not supported")
                .hint("write ASOF JOIN r ON l.key = r.key AND l.at >= r.at")
                .at(place.line, place.column));
        }
    }
    let mut out = Vec::with_capacity(tokens.len() + 5 * marked.len());
    for (index, mut token) in tokens.into_iter().enumerate() {
        let end = token.span.end;
        if dropped.contains(&index) {
            continue;
        } else if joined.contains(&index) {
            token.token = Token::make_word("AND", None);
        } else if let Some((_, marker)) = marked.iter().find(|(at, _)| *at == index) {
            token.token = Token::make_word("ON", None);
            out.push(token);
            let words = [
                Token::make_word(marker, None),
                Token::LParen,
                Token::make_word("true", None),
                Token::RParen,
                Token::make_word("AND", None),
            ];
            let span = datafusion::sql::sqlparser::tokenizer::Span::new(end, end);
            out.extend(words.map(|token| TokenWithSpan { token, span }));
            continue;
        }
        out.push(token);
    }
    Ok(out)
}

/// How many words `FOR SYSTEM_TIME AS OF PROCTIME()` has.
const AS_OF_NOW: usize = 7;

/// The `ON` of a join whose right side is as of processing time; `words` are the tokens that count, `at`
/// the place of `FOR` among them. None: it is another time, or no such join.
fn condition_as_of_now(tokens: &[TokenWithSpan], words: &[usize], at: usize) -> Option<usize> {
    let token = |at: usize| words.get(at).map(|index| &tokens[*index].token);
    let is = |at: usize, word: &str| token(at).is_some_and(|token| is_word(token, word));
    let now = is(at + 2, "AS") && is(at + 3, "OF") && is(at + 4, "PROCTIME");
    let call = token(at + 5) == Some(&Token::LParen) && token(at + 6) == Some(&Token::RParen);
    let alias = |at: usize| {
        let word = matches!(token(at), Some(Token::Word(_)));
        word && !["ON", "USING", "JOIN", "LEFT", "INNER", "CROSS", "WHERE"]
            .iter()
            .any(|w| is(at, w))
    };
    let mut next = at + AS_OF_NOW;
    next += usize::from(is(next, "AS"));
    next += usize::from(alias(next));
    (now && call && is(next, "ON")).then(|| words[next])
}

/// Turns `SESSION(t PARTITION BY key, ts, gap)`, which is no call that `sqlparser` reads, into
/// `SESSION(t, key, ts, gap)`.
fn with_keys_as_arguments(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let words: Vec<usize> =
        (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    let mut dropped = Vec::new();
    for (start, window) in words.windows(2).enumerate() {
        if !is_word(&tokens[window[0]].token, "SESSION") || tokens[window[1]].token != Token::LParen
        {
            continue;
        }
        let mut depth = 1;
        for pair in words[start + 2..].windows(2) {
            match &tokens[pair[0]].token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                word if depth == 1
                    && is_word(word, "PARTITION")
                    && is_word(&tokens[pair[1]].token, "BY") =>
                {
                    tokens[pair[0]].token = Token::Comma;
                    dropped.push(pair[1]);
                    break;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    for at in dropped.into_iter().rev() {
        tokens.remove(at);
    }
    tokens
}

/// Puts [`EMIT_TOKEN`] in the place of the first word of `EMIT ON WINDOW CLOSE`.
fn with_emit_apart(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let words: Vec<usize> =
        (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    for four in words.windows(4) {
        let is = |n: usize, word: &str| is_word(&tokens[four[n]].token, word);
        if is(0, "EMIT") && is(1, "ON") && is(2, "WINDOW") && is(3, "CLOSE") {
            tokens[four[0]].token = EMIT_TOKEN;
        }
    }
    tokens
}
