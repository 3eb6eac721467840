//! Random queries over relations, with the class of every column, so that what is generated is
//! well typed and its answer is defined: floats that differ in their last bits between paths are
//! never compared, sorted by or grouped by.

use crate::data::{Class, Table};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// A column that an expression may use: how to name it, and its class.
pub type Col = (String, Class);

/// A relation that a query may read.
#[derive(Clone, Debug)]
pub struct Named {
    pub name: String,
    pub columns: Vec<Col>,
}

/// A generated query.
#[derive(Clone, Debug)]
pub struct Select {
    pub sql: String,
    pub columns: Vec<Col>,
    pub(crate) grouped: bool,
}

const KEYS: [Class; 8] = [
    Class::Int,
    Class::Int,
    Class::Text,
    Class::Bool,
    Class::Decimal,
    Class::Date,
    Class::Timestamp,
    Class::Float,
];

/// The generator of one case.
pub struct Grammar<'a> {
    pub(crate) rng: &'a mut ChaCha8Rng,
    relations: Vec<Named>,
    /// Sums of floats are the same in every order.
    exact: bool,
    names: usize,
    /// Whether DataFusion answers the text itself as Kaplan does (no division, cast or LIMIT).
    pub plain: bool,
    /// The number of joins: more of them want fewer rows.
    pub joins: usize,
    /// The number of subqueries, each of which is a join too.
    pub subqueries: usize,
}

impl<'a> Grammar<'a> {
    pub fn new(rng: &'a mut ChaCha8Rng, tables: &[Table], exact: bool) -> Self {
        let relations = tables
            .iter()
            .map(|t| Named {
                name: t.name.clone(),
                columns: t.columns.iter().map(|c| (c.name.clone(), c.class)).collect(),
            })
            .collect();
        Self { rng, relations, exact, names: 0, plain: true, joins: 0, subqueries: 0 }
    }

    /// Lets later queries read an earlier one as a view.
    pub fn add_view(&mut self, name: &str, select: &Select) {
        self.relations.push(Named { name: name.into(), columns: select.columns.clone() });
    }

    /// Lets later queries read an earlier one and nothing else.
    pub fn only_view(&mut self, name: &str, select: &Select) {
        self.relations.clear();
        self.add_view(name, select);
    }

    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    pub(crate) fn pick<'t>(&mut self, list: &[&'t str]) -> &'t str {
        list.choose(self.rng).copied().unwrap_or("")
    }

    pub(crate) fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// A whole view.
    pub fn view(&mut self) -> Select {
        let mut select = self.select(2);
        // Under a LIMIT, DataFusion takes a constant of one UNION branch for one of all branches,
        // and a key of one row for a constant of all its grouping sets.
        let sortable = select.columns.iter().all(|(_, c)| *c != Class::Approx)
            && !["UNION", "INTERSECT", "EXCEPT", "ORDER BY", "ROLLUP", "CUBE", "GROUPING SETS"]
                .iter()
                .any(|w| select.sql.contains(w));
        if sortable && self.one_in(6) {
            self.plain = false;
            let mut order: Vec<String> = (1..=select.columns.len())
                .filter(|_| self.rng.random_bool(0.4))
                .map(|c| format!("{c} {}", if c % 2 == 0 { "DESC" } else { "ASC NULLS FIRST" }))
                .collect();
            if select.grouped && self.one_in(2) {
                order.insert(0, "count(*) DESC".into());
            }
            if !order.is_empty() {
                select.sql += &format!(" ORDER BY {}", order.join(", "));
            }
            let rows = self.rng.random_range(0..6);
            if self.one_in(3) {
                select.sql += " OFFSET 1";
            }
            select.sql += &match !order.is_empty() && self.one_in(3) {
                true => format!(" FETCH FIRST {rows} ROWS WITH TIES"),
                false => format!(" LIMIT {rows}"),
            };
        }
        select
    }

    fn select(&mut self, depth: usize) -> Select {
        match self.rng.random_range(0..100) {
            0..18 => self.projection(depth, false),
            18..24 => self.projection(depth, true),
            24..30 if depth > 0 => self.union(depth),
            30..36 if depth > 0 => self.set_operation(depth),
            36..46 => self.windowed(depth),
            46..51 => self.distinct_on(depth),
            51..56 => self.grouping_sets(depth),
            _ => self.aggregation(depth),
        }
    }

    fn union(&mut self, depth: usize) -> Select {
        let classes: Vec<Class> = (0..self.rng.random_range(1..=3))
            .filter_map(|_| KEYS.choose(self.rng).copied())
            .collect();
        let sides: Vec<Select> =
            (0..2).map(|_| self.typed_projection(depth - 1, &classes)).collect();
        let op = self.pick(&["UNION ALL", "UNION ALL", "UNION"]);
        if op == "UNION" && classes.contains(&Class::Float) {
            self.plain = false;
        }
        let sql = format!("{} {op} {}", sides[0].sql, sides[1].sql);
        Select { sql, columns: sides[0].columns.clone(), grouped: false }
    }

    pub(crate) fn projection(&mut self, depth: usize, distinct: bool) -> Select {
        let (from, cols) = self.from(depth);
        let mut items = Vec::new();
        let mut columns = Vec::new();
        for _ in 0..self.rng.random_range(1..=4) {
            let class = cols.choose(self.rng).map_or(Class::Int, |c| c.1);
            if class == Class::Approx && distinct {
                continue;
            }
            let expr = self.expr(&cols, class, 2);
            self.item(expr, class, &mut items, &mut columns);
        }
        if items.is_empty() {
            self.item("1".into(), Class::Int, &mut items, &mut columns);
        }
        if distinct && columns.iter().any(|c| c.1 == Class::Float) {
            self.plain = false;
        }
        let condition = self.condition(&cols);
        let distinct = if distinct { "DISTINCT " } else { "" };
        let sql = format!("SELECT {distinct}{} FROM {from}{condition}", items.join(", "));
        Select { sql, columns, grouped: false }
    }

    pub(crate) fn typed_projection(&mut self, depth: usize, classes: &[Class]) -> Select {
        let (from, cols) = self.from(depth);
        let (mut items, mut columns) = (Vec::new(), Vec::new());
        for class in classes {
            let expr = self.expr(&cols, *class, 1);
            self.item(expr, *class, &mut items, &mut columns);
        }
        let condition = self.condition(&cols);
        let sql = format!("SELECT {} FROM {from}{condition}", items.join(", "));
        Select { sql, columns, grouped: false }
    }

    pub(crate) fn item(
        &mut self,
        expr: String,
        class: Class,
        items: &mut Vec<String>,
        cols: &mut Vec<Col>,
    ) {
        let name = self.name("o");
        items.push(format!("{expr} AS {name}"));
        cols.push((name, class));
    }

    pub(crate) fn condition(&mut self, cols: &[Col]) -> String {
        if self.one_in(2) {
            return String::new();
        }
        if self.one_in(40) {
            let (from, _) = self.from(0);
            return format!(" WHERE (SELECT count(*) FROM {from}) > 2");
        }
        let times: Vec<String> = cols
            .iter()
            .filter(|c| matches!(c.1, Class::Timestamp | Class::Timestamptz | Class::Date))
            .map(|c| c.0.clone())
            .collect();
        if let Some(time) = times.choose(self.rng).cloned()
            && self.one_in(6)
        {
            self.plain = false;
            let clock = self.pick(&[
                "now()",
                "now() - INTERVAL '1 hour'",
                "now() - INTERVAL '20 minutes'",
                "now() + INTERVAL '10 minutes'",
                "date_trunc('hour', now())",
            ]);
            let op = self.pick(&["<", "<=", ">", ">="]);
            return match self.rng.random_range(0..4) {
                0 => format!(" WHERE {clock} {op} {time}"),
                1 => format!(" WHERE {time} BETWEEN now() - INTERVAL '1 hour' AND {clock}"),
                2 => format!(" WHERE {time} {op} {clock} AND {}", self.expr(cols, Class::Bool, 1)),
                _ => format!(" WHERE {time} {op} {clock}"),
            };
        }
        if self.subqueries < 2 && self.one_in(3) {
            self.subqueries += 1;
            return format!(" WHERE {}", self.subquery_condition(cols));
        }
        format!(" WHERE {}", self.expr(cols, Class::Bool, 2))
    }

    fn aggregation(&mut self, depth: usize) -> Select {
        let (from, cols) = self.from(depth);
        let (mut items, mut columns, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rng.random_range(0..=3) {
            let class = self.key_class(&cols);
            let key = self.expr(&cols, class, 1);
            if class == Class::Float {
                self.plain = false;
            }
            keys.push(key.clone());
            self.item(key, class, &mut items, &mut columns);
        }
        let groups = columns.len();
        for _ in 0..self.rng.random_range(1..=4) {
            let (call, class) = self.aggregate(&cols);
            self.item(call, class, &mut items, &mut columns);
        }
        let condition = self.condition(&cols);
        let mut sql = format!("SELECT {} FROM {from}{condition}", items.join(", "));
        if groups > 0 {
            let ordinals = (1..=groups).map(|i| i.to_string()).collect();
            // A bare literal in GROUP BY would be an ordinal.
            let list: Vec<String> = if self.one_in(2) { ordinals } else { keys };
            sql += &format!(" GROUP BY {}", list.join(", "));
        }
        if self.one_in(4) {
            sql += &format!(" HAVING {}", self.having(&cols));
        }
        Select { sql, columns, grouped: groups > 0 }
    }

    fn key_class(&mut self, cols: &[Col]) -> Class {
        match cols.choose(self.rng) {
            Some((_, class)) if *class != Class::Approx => *class,
            _ => KEYS.choose(self.rng).copied().unwrap_or(Class::Int),
        }
    }

    fn having(&mut self, cols: &[Col]) -> String {
        let n = self.rng.random_range(0..5);
        match self.rng.random_range(0..6) {
            0 | 1 => format!("count(*) > {n}"),
            2 => format!("count(*) <> {n} AND count(*) < 9"),
            3 => format!("max({}) IS NOT NULL", self.expr(cols, Class::Text, 1)),
            4 if self.one_in(5) => {
                let (from, _) = self.from(0);
                format!("count(*) > (SELECT count(*) FROM {from})")
            }
            _ => format!("sum({}) > {n}", self.expr(cols, Class::Int, 1)),
        }
    }

    pub(crate) fn aggregate(&mut self, cols: &[Col]) -> (String, Class) {
        if self.one_in(9) {
            return self.ordered_call(cols);
        }
        let (call, class) = self.call(cols);
        if self.one_in(5) {
            let condition = self.expr(cols, Class::Bool, 1);
            return (format!("{call} FILTER (WHERE {condition})"), class);
        }
        match class {
            Class::Int if self.one_in(8) => (format!("{call} + count(*)"), class),
            Class::Int if self.one_in(12) => (format!("coalesce({call}, -1)"), class),
            _ => (call, class),
        }
    }

    fn call(&mut self, cols: &[Col]) -> (String, Class) {
        let summed = if self.exact { Class::Float } else { Class::Approx };
        match self.rng.random_range(0..16) {
            0 | 1 => ("count(*)".into(), Class::Int),
            2 => {
                let class = self.key_class(cols);
                (format!("count({})", self.expr(cols, class, 1)), Class::Int)
            }
            3 | 4 => (format!("sum({})", self.expr(cols, Class::Int, 1)), Class::Int),
            5 => (format!("sum({})", self.expr(cols, Class::Decimal, 1)), Class::Decimal),
            6 => (format!("sum({})", self.expr(cols, Class::Float, 1)), summed),
            7 => (format!("avg({})", self.expr(cols, Class::Int, 1)), Class::Approx),
            8 => (format!("avg({})", self.expr(cols, Class::Decimal, 1)), Class::Decimal),
            9 | 10 => {
                let class = self.key_class(cols);
                let function = self.pick(&["min", "max"]);
                if class == Class::Float {
                    // DataFusion's own depends on where a NaN stands.
                    self.plain = false;
                }
                let result = if class == Class::Float { Class::Approx } else { class };
                (format!("{function}({})", self.expr(cols, class, 1)), result)
            }
            11 => {
                let function = self.pick(&["stddev", "stddev_pop", "var_pop", "var_samp", "avg"]);
                let class = *[Class::Int, Class::Float].choose(self.rng).unwrap_or(&Class::Int);
                let x = self.expr(cols, class, 1);
                // DataFusion's variance of a lone NaN is 0 or NaN, as the rows are divided.
                let call = match class {
                    Class::Float => {
                        format!("{function}(CASE WHEN abs({x}) < 1000000.0 THEN {x} END)")
                    }
                    _ => format!("{function}({x})"),
                };
                (call, Class::Approx)
            }
            12 | 13 => {
                let class = self.key_class(cols);
                if class == Class::Float {
                    self.plain = false;
                }
                (format!("count(DISTINCT {})", self.expr(cols, class, 1)), Class::Int)
            }
            14 => {
                let class = *[Class::Int, Class::Decimal].choose(self.rng).unwrap_or(&Class::Int);
                let function = self.pick(&["median(", "median(", "sum(DISTINCT "]);
                (format!("{function}{})", self.expr(cols, class, 1)), class)
            }
            _ => {
                let function = self.pick(&["bool_and", "bool_or"]);
                (format!("{function}({})", self.expr(cols, Class::Bool, 1)), Class::Bool)
            }
        }
    }

    /// What stands after FROM, and the columns that it has.
    pub(crate) fn from(&mut self, depth: usize) -> (String, Vec<Col>) {
        if depth > 0 && self.joins < 2 && self.one_in(4) {
            return self.join(depth);
        }
        self.item_from(depth)
    }

    pub(crate) fn item_from(&mut self, depth: usize) -> (String, Vec<Col>) {
        let alias = self.name("a");
        let (mut sql, mut columns) = if depth > 0 && self.one_in(4) {
            let inner = self.select(depth - 1);
            let mut text = inner.sql;
            if self.one_in(25) {
                self.plain = false;
                text += " LIMIT 3";
            }
            (format!("({text})"), inner.columns)
        } else {
            let last = self.relations.len() - 1;
            let at = if self.one_in(2) { last } else { self.rng.random_range(0..=last) };
            (self.relations[at].name.clone(), self.relations[at].columns.clone())
        };
        let times: Vec<String> =
            columns.iter().filter(|c| c.1 == Class::Timestamp).map(|c| c.0.clone()).collect();
        if !sql.starts_with('(')
            && !columns.iter().any(|c| c.0.starts_with("window"))
            && let Some(ts) = times.choose(self.rng)
            && self.rng.random_bool(0.3)
        {
            let keys: Vec<&String> = columns
                .iter()
                .filter(|c| !matches!(c.1, Class::Float | Class::Approx | Class::Timestamp))
                .map(|c| &c.0)
                .collect();
            sql = match self.rng.random_range(0..4) {
                3 => {
                    let by = keys.choose(self.rng).map(|k| format!(" PARTITION BY {k}"));
                    let by = by.unwrap_or_default();
                    format!("SESSION({sql}{by}, {ts}, INTERVAL '40 minutes')")
                }
                0 => format!("TUMBLE({sql}, {ts}, INTERVAL '1 hour')"),
                1 => {
                    self.plain = false;
                    format!("TUMBLE({sql}, {ts}, INTERVAL '1 day', INTERVAL '6 hours')")
                }
                _ => format!("HOP({sql}, {ts}, INTERVAL '30 minutes', INTERVAL '1 hour')"),
            };
            columns.push(("window_start".into(), Class::Timestamp));
            columns.push(("window_end".into(), Class::Timestamp));
        }
        let columns = columns.into_iter().map(|(n, c)| (format!("{alias}.{n}"), c)).collect();
        (format!("{sql} AS {alias}"), columns)
    }

    fn join(&mut self, depth: usize) -> (String, Vec<Col>) {
        self.joins += 1;
        let (left, mut columns) = self.item_from(depth);
        let (right, theirs) = if self.joins < 2 && self.one_in(4) {
            let (inner, columns) = self.join(depth);
            (format!("({inner})"), columns)
        } else {
            self.item_from(depth - 1)
        };
        let mut on = Vec::new();
        for _ in 0..self.rng.random_range(1..=2) {
            if let Some(pair) = self.equal_pair(&columns, &theirs) {
                on.push(pair);
            }
        }
        if self.one_in(8)
            && let Some(times) = self.times(&columns, &theirs)
        {
            self.plain = false;
            on.retain(|pair| !pair.contains('+'));
            on.push(times);
            columns.extend(theirs);
            let kind = self.pick(&["ASOF JOIN", "ASOF LEFT JOIN"]);
            return (format!("{left} {kind} {right} ON {}", on.join(" AND ")), columns);
        }
        columns.extend(theirs);
        if on.is_empty() || self.one_in(5) {
            on.push(self.expr(&columns, Class::Bool, 1));
        }
        let kind = self.pick(&["JOIN", "JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        (format!("{left} {kind} {right} ON {}", on.join(" AND ")), columns)
    }

    /// Which of two columns is later.
    fn times(&mut self, ours: &[Col], theirs: &[Col]) -> Option<String> {
        let fits = |c: &Class| matches!(c, Class::Int | Class::Timestamp | Class::Date);
        let pairs: Vec<(&Col, &Col)> = ours
            .iter()
            .flat_map(|l| theirs.iter().map(move |r| (l, r)))
            .filter(|(l, r)| l.1 == r.1 && fits(&l.1))
            .collect();
        let (l, r) = pairs.choose(self.rng)?;
        let op = self.pick(&[">=", ">=", ">", "<=", "<"]);
        Some(match self.one_in(3) {
            true => format!("{} {op} {}", r.0, l.0),
            false => format!("{} {op} {}", l.0, r.0),
        })
    }

    fn equal_pair(&mut self, ours: &[Col], theirs: &[Col]) -> Option<String> {
        let pairs: Vec<(&Col, &Col)> = ours
            .iter()
            .flat_map(|l| theirs.iter().map(move |r| (l, r)))
            .filter(|(l, r)| l.1 == r.1 && l.1 != Class::Approx)
            .collect();
        let (l, r) = pairs.choose(self.rng)?;
        if l.1 == Class::Float {
            self.plain = false;
        }
        if l.1 == Class::Int && self.one_in(6) {
            return Some(format!("{} + 1 = {}", l.0, r.0));
        }
        Some(format!("{} = {}", l.0, r.0))
    }

    /// An expression of a class over these columns.
    pub fn expr(&mut self, cols: &[Col], class: Class, depth: usize) -> String {
        let fitting: Vec<&Col> = cols.iter().filter(|c| c.1 == class).collect();
        if (depth == 0 || self.one_in(2))
            && let Some(column) = fitting.choose(self.rng)
        {
            return column.0.clone();
        }
        if depth == 0 {
            return match cols.choose(self.rng) {
                Some((name, _)) if class == Class::Bool => format!("({name} IS NOT NULL)"),
                _ => self.literal(class),
            };
        }
        let d = depth - 1;
        if class != Class::Approx && self.one_in(8) {
            let (a, b) = (self.expr(cols, class, d), self.expr(cols, class, d));
            return match self.rng.random_range(0..3) {
                0 => format!("coalesce({a}, {b})"),
                1 => {
                    let condition = self.expr(cols, Class::Bool, d);
                    format!("CASE WHEN {condition} THEN {a} ELSE {b} END")
                }
                _ => format!("nullif({a}, {b})"),
            };
        }
        match class {
            Class::Int => self.int(cols, d),
            Class::Float => self.float(cols, d),
            Class::Approx => self.approx(cols, d),
            Class::Decimal => self.decimal(cols, d),
            Class::Text => self.text(cols, d),
            Class::Bool => self.boolean(cols, d),
            Class::Date | Class::Timestamp | Class::Timestamptz => self.time(cols, class, d),
        }
    }

    pub(crate) fn literal(&mut self, class: Class) -> String {
        match class {
            Class::Int => self.pick(&["CAST(1 AS bigint)", "CAST(0 AS bigint)", "(2 - 4)"]),
            Class::Float | Class::Approx => {
                self.pick(&["CAST(0.5 AS double precision)", "CAST(2 AS double precision)"])
            }
            Class::Decimal => {
                self.pick(&["CAST(1.25 AS numeric(10,2))", "CAST(-3 AS numeric(10,2))"])
            }
            Class::Text => self.pick(&["'a'", "''", "'zz'"]),
            Class::Bool => self.pick(&["(1 = 1)", "(1 = 1)", "(1 = 0)", "CAST(NULL AS boolean)"]),
            Class::Date => self.pick(&["DATE '2024-02-29'", "DATE '1969-12-31'"]),
            Class::Timestamp => self.pick(&["TIMESTAMP '2024-02-29 10:00:00'"]),
            Class::Timestamptz => self.pick(&["CAST('2024-02-29T10:00:00Z' AS timestamptz)"]),
        }
        .to_string()
    }

    fn int(&mut self, cols: &[Col], d: usize) -> String {
        match self.rng.random_range(0..9) {
            0..3 => {
                let op = self.pick(&["+", "-", "*"]);
                format!(
                    "({} {op} {})",
                    self.expr(cols, Class::Int, d),
                    self.expr(cols, Class::Int, d)
                )
            }
            3 => {
                self.plain = false;
                let op = self.pick(&["/", "%"]);
                format!(
                    "({} {op} {})",
                    self.expr(cols, Class::Int, d),
                    self.expr(cols, Class::Int, d)
                )
            }
            4 => {
                self.plain = false;
                let target = self.pick(&["smallint", "integer", "bigint"]);
                format!("CAST({} AS {target})", self.expr(cols, Class::Text, d))
            }
            5 => format!("length({})", self.expr(cols, Class::Text, d)),
            6 => {
                let field = self.pick(&["year", "month", "hour", "dow"]);
                format!("extract({field} FROM {})", self.expr(cols, Class::Timestamp, d))
            }
            7 => {
                self.plain = false;
                let class =
                    *[Class::Float, Class::Decimal].choose(self.rng).unwrap_or(&Class::Float);
                format!("CAST({} AS integer)", self.expr(cols, class, d))
            }
            _ => self.literal(Class::Int),
        }
    }

    fn float(&mut self, cols: &[Col], d: usize) -> String {
        match self.rng.random_range(0..6) {
            0 | 1 => {
                let op = self.pick(&["+", "-", "*"]);
                let (a, b) = (self.expr(cols, Class::Float, d), self.expr(cols, Class::Float, d));
                format!("({a} {op} {b})")
            }
            2 if !self.exact => {
                self.plain = false;
                let (a, b) = (self.expr(cols, Class::Float, d), self.expr(cols, Class::Float, d));
                format!("({a} / {b})")
            }
            3 => {
                self.plain = false;
                format!("CAST({} AS double precision)", self.expr(cols, Class::Text, d))
            }
            4 => format!("CAST({} AS double precision)", self.expr(cols, Class::Int, d)),
            _ => self.literal(Class::Float),
        }
    }

    fn approx(&mut self, cols: &[Col], d: usize) -> String {
        match self.rng.random_range(0..3) {
            0 => format!("({} * 2.0)", self.expr(cols, Class::Approx, d)),
            1 => format!("({} + 1)", self.expr(cols, Class::Approx, d)),
            _ => self.literal(Class::Approx),
        }
    }

    fn decimal(&mut self, cols: &[Col], d: usize) -> String {
        match self.rng.random_range(0..6) {
            0 | 1 => {
                let op = self.pick(&["+", "-"]);
                let (a, b) =
                    (self.expr(cols, Class::Decimal, d), self.expr(cols, Class::Decimal, d));
                format!("({a} {op} {b})")
            }
            2 => format!("({} * 2)", self.expr(cols, Class::Decimal, d)),
            3 => {
                self.plain = false;
                let (a, b) = (self.expr(cols, Class::Decimal, d), self.expr(cols, Class::Int, d));
                format!("({a} / CAST({b} AS integer))")
            }
            4 => {
                self.plain = false;
                let class = *[Class::Text, Class::Int].choose(self.rng).unwrap_or(&Class::Int);
                format!("CAST({} AS numeric(10,2))", self.expr(cols, class, d))
            }
            _ => self.literal(Class::Decimal),
        }
    }

    fn text(&mut self, cols: &[Col], d: usize) -> String {
        let a = self.expr(cols, Class::Text, d);
        match self.rng.random_range(0..9) {
            0 => format!("({a} || {})", self.expr(cols, Class::Text, d)),
            1 => format!("upper({a})"),
            2 => format!("lower({a})"),
            3 => format!("substr({a}, 1, 2)"),
            4 => format!("trim({a})"),
            5 => format!("replace({a}, 'a', 'bb')"),
            6 => format!("concat({a}, '-', {})", self.expr(cols, Class::Text, d)),
            7 => {
                self.plain = false;
                let class =
                    *[Class::Int, Class::Date, Class::Bool].choose(self.rng).unwrap_or(&Class::Int);
                format!("CAST({} AS text)", self.expr(cols, class, d))
            }
            _ => self.literal(Class::Text),
        }
    }

    fn boolean(&mut self, cols: &[Col], d: usize) -> String {
        let class = self.key_class(cols);
        let a = self.expr(cols, class, d);
        match self.rng.random_range(0..10) {
            0..4 => {
                let op = self.pick(&["<", ">", "=", "<>", "<=", ">="]);
                format!("({a} {op} {})", self.expr(cols, class, d))
            }
            4 => format!("({a} IS {}NULL)", self.pick(&["", "NOT "])),
            5 => {
                let op = self.pick(&["AND", "OR"]);
                let (l, r) = (self.expr(cols, Class::Bool, d), self.expr(cols, Class::Bool, d));
                format!("({l} {op} {r})")
            }
            6 => format!("(NOT {})", self.expr(cols, Class::Bool, d)),
            7 => {
                let text = self.expr(cols, Class::Text, d);
                format!("({text} LIKE '{}')", self.pick(&["a%", "%", "%b", "_"]))
            }
            8 => format!("({} IN (0, 1, 7))", self.expr(cols, Class::Int, d)),
            _ => format!("({a} IS DISTINCT FROM {})", self.expr(cols, class, d)),
        }
    }

    fn time(&mut self, cols: &[Col], class: Class, d: usize) -> String {
        let name = match class {
            Class::Date => "date",
            Class::Timestamp => "timestamp",
            _ => "timestamptz",
        };
        match self.rng.random_range(0..5) {
            0 => {
                self.plain = false;
                format!("CAST({} AS {name})", self.expr(cols, Class::Text, d))
            }
            1 if class == Class::Date => {
                self.plain = false;
                format!("CAST({} AS date)", self.expr(cols, Class::Timestamp, d))
            }
            1 | 2 if class != Class::Date => {
                let unit = self.pick(&["hour", "day", "month", "minute"]);
                if unit == "month" || class == Class::Timestamptz {
                    self.plain = false;
                }
                format!("date_trunc('{unit}', {})", self.expr(cols, class, d))
            }
            3 if class != Class::Date => {
                let interval = self.pick(&["1 hour", "1 month", "3 days"]);
                format!("({} + INTERVAL '{interval}')", self.expr(cols, class, d))
            }
            _ => self.literal(class),
        }
    }
}
