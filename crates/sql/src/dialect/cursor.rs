//! Reading tokens one after the other: the words and names of Kaplan's own statements, with the
//! pieces that SQL shares with everyone (types, expressions, queries) left to `sqlparser`. A name
//! that is not quoted folds to lower case; a refused token is reported with its place.

use super::error::{Error, Kind, Result};
use super::source::{DIALECT, Source, is_word};
use datafusion::sql::sqlparser::ast::{DataType, Expr, Ident, ObjectName, Query};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use kaplan_base::limits::MAX_NAME_BYTES;

/// A place in the tokens of a text.
pub(super) struct Cursor<'a> {
    parser: Parser<'a>,
    source: &'a Source<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a Source<'a>, tokens: Vec<TokenWithSpan>) -> Self {
        Cursor { parser: Parser::new(&DIALECT).with_tokens_with_locations(tokens), source }
    }

    /// The next token.
    pub(super) fn peek(&self) -> &Token {
        &self.parser.peek_token_ref().token
    }

    /// The token behind the next `n`.
    pub(super) fn peek_nth(&self, n: usize) -> &Token {
        &self.parser.peek_nth_token_ref(n).token
    }

    /// Whether the text or the statement ends here.
    pub(super) fn at_end(&self) -> bool {
        matches!(self.peek(), Token::EOF | Token::SemiColon)
    }

    /// Whether the text ends here.
    pub(super) fn at_eof(&self) -> bool {
        *self.peek() == Token::EOF
    }

    /// Whether the token `n` places ahead is the word `word`.
    pub(super) fn is_nth(&self, n: usize, word: &str) -> bool {
        is_word(&self.parser.peek_nth_token_ref(n).token, word)
    }

    /// Whether the next token is the word `word`.
    pub(super) fn is(&self, word: &str) -> bool {
        self.is_nth(0, word)
    }

    /// Whether the token `n` places ahead is this symbol.
    pub(super) fn is_symbol(&self, n: usize, symbol: &Token) -> bool {
        self.parser.peek_nth_token_ref(n).token == *symbol
    }

    /// Whether `(name, ..)` and then the word `word` come next.
    pub(super) fn is_name_list_before(&self, word: &str) -> bool {
        if !self.is_symbol(0, &Token::LParen) {
            return false;
        }
        let mut at = 1;
        while matches!(self.parser.peek_nth_token_ref(at).token, Token::Word(_)) {
            match &self.parser.peek_nth_token_ref(at + 1).token {
                Token::Comma => at += 2,
                Token::RParen => return self.is_nth(at + 2, word),
                _ => return false,
            }
        }
        false
    }

    /// Skips the next token.
    pub(super) fn skip(&mut self) {
        self.parser.advance_token();
    }

    /// Takes the words, or nothing.
    pub(super) fn accept(&mut self, words: &str) -> bool {
        let found = words.split(' ').enumerate().all(|(n, word)| self.is_nth(n, word));
        if found {
            words.split(' ').for_each(|_| self.skip());
        }
        found
    }

    /// Takes one of the words and gives its position in the list.
    pub(super) fn accept_one(&mut self, words: &[&str]) -> Option<usize> {
        words.iter().position(|word| self.accept(word))
    }

    /// Takes the words.
    pub(super) fn expect(&mut self, words: &str) -> Result<()> {
        for word in words.split(' ') {
            if !self.accept(word) {
                return Err(self.expected(words));
            }
        }
        Ok(())
    }

    /// Takes a symbol, or nothing.
    pub(super) fn accept_symbol(&mut self, symbol: &Token) -> bool {
        self.parser.consume_token(symbol)
    }

    /// Takes a symbol.
    pub(super) fn expect_symbol(&mut self, symbol: &Token) -> Result<()> {
        if self.accept_symbol(symbol) { Ok(()) } else { Err(self.expected(&symbol.to_string())) }
    }

    /// `IF NOT EXISTS`.
    pub(super) fn if_not_exists(&mut self) -> bool {
        self.accept("IF NOT EXISTS")
    }

    /// Reads items until there is no comma.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.accept_symbol(&Token::Comma) {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// `( item, .. )`.
    pub(super) fn parenthesized<T>(
        &mut self,
        item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.expect_symbol(&Token::LParen)?;
        let items = self.list(item)?;
        self.expect_symbol(&Token::RParen)?;
        Ok(items)
    }

    /// A name, folded.
    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        if !matches!(self.peek(), Token::Word(_)) {
            return Err(self.expected(what));
        }
        let ident = self.piece(Parser::parse_identifier)?;
        let name = folded(&ident);
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
            return Err(Error::invalid(format!(
                "the {what} \"{}\" has {} bytes; names \
                 have 1 to {MAX_NAME_BYTES} and no control characters",
                name.escape_debug(),
                name.len()
            )));
        }
        Ok(name)
    }

    /// The name of a stream, table or view: `t`, or `s.t` in another schema than `public`, which is
    /// dropped.
    pub(super) fn relation(&mut self) -> Result<String> {
        let name = self.name("name of a stream or view")?;
        if !self.accept_symbol(&Token::Period) {
            return Ok(name);
        }
        let rest = self.name("name of a stream or view")?;
        if *self.peek() == Token::Period {
            return Err(self.here(
                Error::invalid(format!("the name {name}.{rest} has more than two parts"))
                    .hint("write schema.name: there is one database"),
            ));
        }
        Ok(if name == "public" { rest } else { format!("{name}.{rest}") })
    }

    /// A string in single quotes.
    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_) => {
                self.piece(Parser::parse_literal_string)
            }
            _ => Err(self.expected(&format!("{what} in single quotes"))),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn number(&mut self) -> Result<u64> {
        self.piece(Parser::parse_literal_uint)
    }

    /// A type.
    pub(super) fn data_type(&mut self) -> Result<DataType> {
        if self.is("STRUCT") && self.parser.peek_nth_token_ref(1).token == Token::Lt {
            return self.structure();
        }
        self.piece(Parser::parse_data_type)
    }

    /// `STRUCT<name type, ..>`, which is not of PostgreSQL's grammar.
    fn structure(&mut self) -> Result<DataType> {
        let (first, mut depth) = (self.mark(), 0_usize);
        self.skip();
        loop {
            match self.peek() {
                Token::Lt => depth += 1,
                Token::Gt => depth = depth.saturating_sub(1),
                Token::ShiftRight => depth = depth.saturating_sub(2),
                Token::EOF | Token::SemiColon => return Err(self.expected(">")),
                _ => {}
            }
            self.skip();
            if depth == 0 {
                break;
            }
        }
        let (text, at) = (self.text_from(first).to_owned(), self.location());
        let parsed = Parser::new(&GenericDialect {}).try_with_sql(&text);
        let parsed = parsed.and_then(|mut parser| parser.parse_data_type());
        parsed.map_err(|e| Error::from(e).at(at.line, at.column))
    }

    /// An expression.
    pub(super) fn expr(&mut self) -> Result<Expr> {
        self.piece(Parser::parse_expr)
    }

    /// A query.
    pub(super) fn query(&mut self) -> Result<Box<Query>> {
        self.piece(Parser::parse_query)
    }

    /// Runs one of `sqlparser`'s own parsers; its errors get a place.
    pub(super) fn piece<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>,
    ) -> Result<T> {
        let end = self.source.end();
        parse(&mut self.parser).map_err(|e| Error::from(e).at(end.line, end.column))
    }

    /// The index of the next token.
    pub(super) fn mark(&self) -> usize {
        let mut index = self.parser.index();
        while matches!(self.parser.token_at(index).token, Token::Whitespace(_)) {
            index += 1;
        }
        index
    }

    /// The text from the token at `first` to the last one taken.
    pub(super) fn text_from(&self, first: usize) -> &'a str {
        let mut end = self.parser.index();
        while end > first
            && matches!(self.parser.token_at(end - 1).token, Token::Whitespace(_) | Token::EOF)
        {
            end -= 1;
        }
        if end > first { self.source.slice(first, end) } else { "" }
    }

    /// The place of the next token.
    pub(super) fn location(&self) -> Location {
        let start = self.parser.peek_token_ref().span.start;
        if start.line == 0 { self.source.end() } else { start }
    }

    /// The same error at the next token.
    pub(super) fn here(&self, mut error: Error) -> Error {
        let at = self.location();
        error.near = Some(near(self.peek()));
        error.at(at.line, at.column)
    }

    /// A syntax error at the next token.
    pub(super) fn expected(&self, what: &str) -> Error {
        let message = format!("expected {what}, found {}", near(self.peek()));
        self.here(Error::new(Kind::Syntax, message))
    }
}

fn near(token: &Token) -> String {
    match token {
        Token::EOF => "end of input".to_owned(),
        token => token.to_string(),
    }
}

/// The name that an identifier means: unquoted ones fold to lower case.
pub(super) fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// A dotted name, folded part by part.
pub(super) fn folded_name(name: &ObjectName) -> String {
    let parts: Vec<String> = name
        .0
        .iter()
        .map(|part| part.as_ident().map_or_else(|| part.to_string(), folded))
        .collect();
    parts.join(".")
}
