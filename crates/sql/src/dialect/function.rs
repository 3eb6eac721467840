//! `CREATE FUNCTION` and `DROP FUNCTION`: functions of one SQL expression. Calls are replaced by the
//! expression before planning, so a function is no more than a name for it.
//!
//! Refused: other languages, bodies that read tables, OUT and VARIADIC parameters, defaults, several
//! functions of one name, calls with a wrong number of arguments.

use super::cursor::{Cursor, folded, folded_name};
use super::error::{Error, Kind, Result};
use super::source::DIALECT;
use super::statement::Statement;
use super::types::{of_ast, sql_type_of};
use crate::catalog::FunctionDef;
use datafusion::sql::sqlparser::ast::{
    ArgMode, CastKind, CreateFunction, CreateFunctionBody, DataType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, FunctionBehavior, FunctionCalledOnNull, FunctionReturnType,
    Ident, Query, Select, SelectItem, SetExpr, Statement as Ast, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Most nodes of an expression once all its functions are put in.
const MAX_NODES: usize = 10_000;

/// The definitions by name.
pub type Functions = BTreeMap<String, FunctionDef>;

/// `CREATE FUNCTION` and `DROP FUNCTION`; None: another statement.
pub(super) fn statement(cursor: &mut Cursor<'_>) -> Result<Option<Statement>> {
    let words = ["CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", "DROP FUNCTION"];
    let here = |words: &&str| words.split(' ').enumerate().all(|(n, word)| cursor.is_nth(n, word));
    if !words.iter().any(here) {
        return Ok(None);
    }
    let at = cursor.location();
    let parsed = cursor.piece(Parser::parse_statement)?;
    let statement = match parsed {
        Ast::CreateFunction(create) => {
            let or_replace = create.or_replace;
            definition(create).map(|def| Statement::CreateFunction { or_replace, def })
        }
        Ast::DropFunction(drop) => Ok(Statement::DropFunction {
            if_exists: drop.if_exists,
            names: drop.func_desc.iter().map(|f| folded_name(&f.name)).collect(),
        }),
        _ => Err(cursor.expected("CREATE FUNCTION or DROP FUNCTION")),
    };
    statement.map(Some).map_err(|e| e.at(at.line, at.column))
}

fn refused(what: impl std::fmt::Display, hint: &str) -> Error {
    Error::unsupported(format!("{what} is not supported in CREATE FUNCTION")).hint(hint)
}

fn definition(create: CreateFunction) -> Result<FunctionDef> {
    let name = folded_name(&create.name);
    let sql = |l: &Ident| l.value.eq_ignore_ascii_case("sql");
    if let Some(language) = create.language.as_ref().filter(|l| !sql(l)) {
        return Err(refused(
            format!("LANGUAGE {language}"),
            "write LANGUAGE SQL and an expression",
        ));
    }
    if create.temporary || create.if_not_exists || create.or_alter {
        return Err(refused("TEMPORARY or IF NOT EXISTS", "use CREATE OR REPLACE FUNCTION"));
    }
    if matches!(create.behavior, Some(FunctionBehavior::Volatile)) {
        return Err(refused("VOLATILE", "functions are IMMUTABLE: leave it out"));
    }
    let returns = match &create.return_type {
        Some(FunctionReturnType::DataType(data_type)) => sql_type_of(&of_ast(data_type)?),
        Some(FunctionReturnType::SetOf(_)) => {
            return Err(refused("RETURNS SETOF", "a function gives one value"));
        }
        None => return Err(Error::invalid("RETURNS is missing").hint("add RETURNS and a type")),
    };
    let mut params = Vec::new();
    for arg in create.args.iter().flatten() {
        if arg.mode.as_ref().is_some_and(|m| *m != ArgMode::In) || arg.default_expr.is_some() {
            return Err(refused("OUT, INOUT or DEFAULT", "list the arguments with their types"));
        }
        let name = arg.name.as_ref().map(folded);
        if name.is_some() && params.iter().any(|(known, _)| *known == name) {
            let name = name.unwrap_or_default();
            return Err(Error::invalid(format!("the parameter {name} is named twice")));
        }
        params.push((name, sql_type_of(&of_ast(&arg.data_type)?)));
    }
    let strict = matches!(
        create.called_on_null,
        Some(FunctionCalledOnNull::Strict | FunctionCalledOnNull::ReturnsNullOnNullInput)
    );
    let body = body(create.function_body)?.to_string();
    Ok(FunctionDef { name, params, returns, strict, body })
}

/// The one expression of a body.
fn body(body: Option<CreateFunctionBody>) -> Result<Expr> {
    let text = match body {
        Some(CreateFunctionBody::Return(expr)) => return Ok(expr),
        Some(CreateFunctionBody::AsReturnExpr(expr)) => return Ok(expr),
        Some(
            CreateFunctionBody::AsBeforeOptions { body: Expr::Value(text), .. }
            | CreateFunctionBody::AsAfterOptions(Expr::Value(text)),
        ) => match text.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => text,
            Value::DollarQuotedString(text) => text.value,
            _ => return Err(Error::invalid("the body is no text").hint("AS $$ SELECT .. $$")),
        },
        _ => return Err(Error::invalid("the body is missing").hint("AS $$ SELECT .. $$")),
    };
    let text = text.trim().trim_end_matches(';');
    let query = Parser::new(&DIALECT).try_with_sql(text).and_then(|mut p| {
        let query = p.parse_query()?;
        p.expect_token(&datafusion::sql::sqlparser::tokenizer::Token::EOF)?;
        Ok(query)
    })?;
    one_expression(&query).ok_or_else(|| {
        Error::unsupported("this body is not supported")
            .hint("the body is one SELECT of one expression, without FROM")
    })
}

fn one_expression(query: &Query) -> Option<Expr> {
    let plain = query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none();
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let bare = plain && select.from.is_empty() && select.selection.is_none();
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] if bare => {
            Some(expr.clone())
        }
        _ => None,
    }
}

/// Puts the functions' expressions in the place of their calls, in a whole tree.
///
/// # Errors
/// A call has the wrong number of arguments, or the expression becomes too large.
pub(crate) fn inline(tree: &mut impl VisitMut, functions: &Functions) -> Result<()> {
    if functions.is_empty() {
        return Ok(());
    }
    match tree.visit(&mut Inliner { functions }) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The functions that a tree calls by name.
pub fn called(tree: &mut impl VisitMut, functions: &Functions) -> BTreeSet<String> {
    let mut names = Names { functions, found: BTreeSet::new() };
    let _ = tree.visit(&mut names);
    names.found
}

/// The definition with the functions that it calls put into its body.
///
/// # Errors
/// As [`parse_expr`](super::parse_expr) and a call inside have them.
pub fn closed(mut def: FunctionDef, functions: &Functions) -> Result<FunctionDef> {
    let mut body = super::parse_expr(&def.body)?;
    inline(&mut body, functions)?;
    let itself = Functions::from([(def.name.clone(), def.clone())]);
    if called(&mut body, &itself).contains(&def.name) {
        return Err(Error::invalid(format!("the function {} calls itself", def.name)));
    }
    def.body = body.to_string();
    Ok(def)
}

struct Names<'a> {
    functions: &'a Functions,
    found: BTreeSet<String>,
}

impl VisitorMut for Names<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            let name = folded_name(&function.name);
            if self.functions.contains_key(&name) {
                self.found.insert(name);
            }
        }
        ControlFlow::Continue(())
    }
}

struct Inliner<'a> {
    functions: &'a Functions,
}

/// Counts expressions.
struct Nodes(usize);

impl VisitorMut for Nodes {
    type Break = ();

    fn pre_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<()> {
        self.0 += 1;
        if self.0 > MAX_NODES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl VisitorMut for Inliner<'_> {
    type Break = Box<Error>;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        // A column keeps the function's name.
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(Expr::Function(function)) = item
                && self.functions.contains_key(&folded_name(&function.name))
            {
                let alias = Ident::new(folded_name(&function.name));
                let expr = Expr::Function(function.clone());
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let Some(def) = self.functions.get(&folded_name(&function.name)) else {
            return ControlFlow::Continue(());
        };
        match expanded(def, function) {
            Ok(mut new) => {
                if new.visit(&mut Nodes(0)).is_break() {
                    let name = &def.name;
                    let message = format!("a call of {name} has more than {MAX_NODES} parts");
                    let error = Error::new(Kind::TooLarge, message).hint("nest fewer calls");
                    return ControlFlow::Break(Box::new(error));
                }
                *expr = new;
            }
            Err(error) => return ControlFlow::Break(Box::new(error)),
        }
        ControlFlow::Continue(())
    }
}

fn data_type(sql: &str) -> Result<DataType> {
    Ok(Parser::new(&DIALECT).try_with_sql(sql).and_then(|mut p| p.parse_data_type())?)
}

fn cast(expr: Expr, sql_type: &str) -> Result<Expr> {
    let (kind, data_type) = (CastKind::Cast, data_type(sql_type)?);
    Ok(Expr::Cast { kind, expr: Box::new(expr), data_type, array: false, format: None })
}

/// The body with the arguments of a call in the parameters' places.
fn expanded(def: &FunctionDef, call: &Function) -> Result<Expr> {
    let wrong = || {
        let types: Vec<&str> = def.params.iter().map(|(_, t)| t.as_str()).collect();
        Error::invalid(format!("the function {} is called with other arguments", def.name))
            .hint(format!("it takes ({})", types.join(", ")))
    };
    let args: &[FunctionArg] = match &call.args {
        FunctionArguments::List(list) => &list.args,
        FunctionArguments::None => &[],
        FunctionArguments::Subquery(_) => return Err(wrong()),
    };
    if args.len() != def.params.len() || call.over.is_some() || call.filter.is_some() {
        return Err(wrong());
    }
    let mut values = Vec::with_capacity(args.len());
    for (arg, (_, sql_type)) in args.iter().zip(&def.params) {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg else { return Err(wrong()) };
        values.push(cast(expr.clone(), sql_type)?);
    }
    let mut body = super::parse_expr(&def.body)?;
    let parameters = Parameters { def, values: &values };
    let _ = body.visit(&mut { parameters });
    let result = cast(Expr::Nested(Box::new(body)), &def.returns)?;
    if !def.strict || values.is_empty() {
        return Ok(result);
    }
    let condition =
        values.into_iter().map(|value| Expr::IsNotNull(Box::new(value))).reduce(|left, right| {
            Expr::BinaryOp {
                left: Box::new(left),
                op: datafusion::sql::sqlparser::ast::BinaryOperator::And,
                right: Box::new(right),
            }
        });
    let Some(condition) = condition else { return Ok(result) };
    Ok(crate::functions::syntax::when(condition, result))
}

/// Replaces names and `$1` of a body.
struct Parameters<'a> {
    def: &'a FunctionDef,
    values: &'a [Expr],
}

impl Parameters<'_> {
    fn position(&self, name: &str) -> Option<usize> {
        self.def.params.iter().position(|(known, _)| known.as_deref() == Some(name))
    }
}

impl VisitorMut for Parameters<'_> {
    type Break = ();

    // After the inner ones, so that what is put in is not visited.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let at = match expr {
            Expr::Identifier(name) => self.position(&folded(name)),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [function, name] if folded(function) == self.def.name => {
                    self.position(&folded(name))
                }
                _ => None,
            },
            Expr::Value(value) => match &value.value {
                Value::Placeholder(text) => {
                    let number = text.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
                    number.and_then(|n| n.checked_sub(1))
                }
                _ => None,
            },
            _ => None,
        };
        if let Some(value) = at.and_then(|at| self.values.get(at)) {
            *expr = Expr::Nested(Box::new(value.clone()));
        }
        ControlFlow::Continue(())
    }
}
