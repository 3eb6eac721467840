//! More of the grammar: subqueries, windows, set operations, grouping sets and aggregates in order.
//! Order within ties is Kaplan's own choice, so texts that depend on it are not compared with what
//! plain DataFusion makes of them.

use crate::data::{Class, Table};
use crate::grammar::{Col, Grammar, Select};
use crate::truth::AS_OF_NOW;
use rand::Rng;
use rand::seq::IndexedRandom;

/// Classes whose values sort and group alike on every path.
const SORTABLE: [Class; 6] =
    [Class::Int, Class::Int, Class::Text, Class::Bool, Class::Decimal, Class::Timestamp];

impl Grammar<'_> {
    /// Rows of a stream, perhaps only some of them, with one or two tables as of processing time.
    pub fn as_of_now(&mut self, tables: &[Table]) -> Select {
        let streams: Vec<&Table> = tables.iter().filter(|t| t.append_only).collect();
        let keyed: Vec<&Table> = tables.iter().filter(|t| t.keyed).collect();
        let named = |alias: &str, table: &Table| -> Vec<Col> {
            table.columns.iter().map(|c| (format!("{alias}.{}", c.name), c.class)).collect()
        };
        let Some(stream) = streams.choose(self.rng) else { return self.view() };
        let mut cols = named("l", stream);
        let mut from = format!("{} AS l", stream.name);
        if self.one_in(3) {
            let bare: Vec<Col> = stream.columns.iter().map(|c| (c.name.clone(), c.class)).collect();
            let condition = self.expr(&bare, Class::Bool, 1);
            from = format!("(SELECT * FROM {} WHERE {condition}) AS l", stream.name);
        }
        for alias in ["a", "b"].into_iter().take(self.rng.random_range(1..=2)) {
            let Some(table) = keyed.choose(self.rng) else { break };
            let theirs = named(alias, table);
            let depth = usize::from(self.one_in(4));
            let key = self.expr(&cols, theirs[0].1, depth);
            cols.extend(theirs.iter().cloned());
            let residual = match self.one_in(3) {
                true => format!(" AND {}", self.expr(&cols, Class::Bool, 1)),
                false => String::new(),
            };
            let (left, name) = (self.pick(&["", "LEFT "]), &table.name);
            let on = format!("{key} = {}{residual}", theirs[0].0);
            from = format!("{from} {left}JOIN {name}{AS_OF_NOW} AS {alias} ON {on}");
        }
        let (mut items, mut columns) = (Vec::new(), Vec::new());
        for (name, class) in cols.iter().filter(|(name, _)| !name.starts_with('l')) {
            self.item(name.clone(), *class, &mut items, &mut columns);
        }
        for _ in 0..self.rng.random_range(0..=3) {
            let class = cols.choose(self.rng).map_or(Class::Int, |c| c.1);
            let expr = self.expr(&cols, class, 1);
            self.item(expr, class, &mut items, &mut columns);
        }
        let condition = match self.one_in(3) {
            true => format!(" WHERE {}", self.expr(&cols, Class::Bool, 1)),
            false => String::new(),
        };
        let sql = format!("SELECT {} FROM {from}{condition}", items.join(", "));
        Select { sql, columns, grouped: false }
    }

    /// A condition with a subquery.
    pub fn subquery_condition(&mut self, cols: &[Col]) -> String {
        let (from, theirs) = self.item_from(0);
        let correlated = self.correlation(cols, &theirs);
        let place = if correlated.is_empty() || self.one_in(3) {
            let own = self.expr(&theirs, Class::Bool, 1);
            if correlated.is_empty() {
                format!(" WHERE {own}")
            } else {
                format!(" WHERE {correlated} AND {own}")
            }
        } else {
            format!(" WHERE {correlated}")
        };
        let not = self.pick(&["", "NOT "]);
        let text = match self.rng.random_range(0..8) {
            0 | 1 => format!("{not}EXISTS (SELECT 1 FROM {from}{place})"),
            2 | 3 => {
                let class = *SORTABLE.choose(self.rng).unwrap_or(&Class::Int);
                self.plain &= not.is_empty();
                let (x, y) = (self.column(cols, class), self.column(&theirs, class));
                format!("({x}) {not}IN (SELECT {y} FROM {from}{place})")
            }
            6 => {
                let class = *SORTABLE.choose(self.rng).unwrap_or(&Class::Int);
                let (x, y) = (self.column(cols, class), self.column(&theirs, class));
                self.plain = false;
                format!("{x} = (SELECT {y} FROM {from}{place})")
            }
            7 => {
                let (x, y) = (self.column(cols, Class::Int), self.column(&theirs, Class::Int));
                let order = self.sortable(&theirs).unwrap_or("1 + 1".into());
                let direction = self.pick(&["", " DESC"]);
                self.plain = false;
                format!(
                    "{x} >= (SELECT {y} FROM {from}{place} ORDER BY {order}{direction} LIMIT 1)"
                )
            }
            4 => {
                let (x, y) = (self.column(cols, Class::Int), self.column(&theirs, Class::Int));
                let (call, op) = (self.pick(&["max", "min", "sum"]), self.pick(&["=", "<", ">="]));
                format!("{x} {op} (SELECT {call}({y}) FROM {from}{place})")
            }
            _ => {
                let op = self.pick(&["=", ">", "<"]);
                format!("{} {op} (SELECT count(*) FROM {from}{place})", self.rng.random_range(0..3))
            }
        };
        match self.rng.random_range(0..4) {
            0 => {
                self.plain = false;
                format!("({text} OR {})", self.expr(cols, Class::Bool, 1))
            }
            1 => format!("({text} AND {})", self.expr(cols, Class::Bool, 1)),
            _ => text,
        }
    }

    /// Equality of a column of each side, or nothing.
    fn correlation(&mut self, ours: &[Col], theirs: &[Col]) -> String {
        if self.one_in(3) {
            return String::new();
        }
        let fits = |c: &Class| !matches!(c, Class::Float | Class::Approx);
        let pairs: Vec<(&Col, &Col)> = ours
            .iter()
            .flat_map(|l| theirs.iter().map(move |r| (l, r)))
            .filter(|(l, r)| l.1 == r.1 && fits(&l.1))
            .collect();
        pairs.choose(self.rng).map_or(String::new(), |(l, r)| format!("{} = {}", r.0, l.0))
    }

    /// A column of a class, or something of it.
    fn column(&mut self, cols: &[Col], class: Class) -> String {
        let fitting: Vec<&Col> = cols.iter().filter(|c| c.1 == class).collect();
        match fitting.choose(self.rng) {
            Some(column) => column.0.clone(),
            None => self.literal(class),
        }
    }

    /// Rows with functions over windows, perhaps only the first few of each partition.
    pub fn windowed(&mut self, depth: usize) -> Select {
        let (from, cols) = self.from(depth);
        let (mut items, mut columns) = (Vec::new(), Vec::new());
        for (name, class) in cols.iter().take(2).cloned().collect::<Vec<_>>() {
            self.item(name, class, &mut items, &mut columns);
        }
        let partition = self.sortable(&cols);
        let order = self.sortable(&cols);
        for _ in 0..self.rng.random_range(1..=2) {
            let (call, class) = self.over(&cols, &partition, &order);
            self.item(call, class, &mut items, &mut columns);
        }
        self.plain = false;
        let condition = self.condition(&cols);
        let inner = format!("SELECT {} FROM {from}{condition}", items.join(", "));
        let number = columns.last().filter(|c| c.1 == Class::Int).map(|c| c.0.clone());
        let sql = match number {
            Some(number) if self.one_in(2) => {
                let alias = self.name("w");
                let list: Vec<_> = columns.iter().map(|c| c.0.clone()).collect();
                let list = list.join(", ");
                format!("SELECT {list} FROM ({inner}) AS {alias} WHERE {alias}.{number} <= 2")
            }
            _ => inner,
        };
        Select { sql, columns, grouped: false }
    }

    fn sortable(&mut self, cols: &[Col]) -> Option<String> {
        let fits = |c: &&Col| !matches!(c.1, Class::Float | Class::Approx);
        let fitting: Vec<&Col> = cols.iter().filter(fits).collect();
        if self.one_in(5) {
            return None;
        }
        fitting.choose(self.rng).map(|c| c.0.clone())
    }

    fn over(
        &mut self,
        cols: &[Col],
        by: &Option<String>,
        order: &Option<String>,
    ) -> (String, Class) {
        let class = *SORTABLE.choose(self.rng).unwrap_or(&Class::Int);
        let x = self.column(cols, class);
        let n = self.column(cols, Class::Int);
        let direction = self.pick(&["", " DESC", " NULLS FIRST"]);
        let rows = self.pick(&[
            " ROWS BETWEEN 1 PRECEDING AND CURRENT ROW",
            " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
            " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
            " ROWS BETWEEN 1 FOLLOWING AND 2 FOLLOWING",
        ]);
        let any = if self.one_in(2) { "" } else { rows };
        let (call, class, frame) = match self.rng.random_range(0..12) {
            0 | 1 => ("row_number()".to_string(), Class::Int, ""),
            2 => ("rank()".to_string(), Class::Int, ""),
            3 => ("dense_rank()".to_string(), Class::Int, ""),
            4 => (format!("lag({x})"), class, ""),
            5 => (format!("lead({x}, 2)"), class, ""),
            6 => (format!("first_value({x})"), class, any),
            7 => (format!("last_value({x})"), class, rows),
            8 => ("count(*)".to_string(), Class::Int, any),
            9 => (format!("sum({n})"), Class::Int, any),
            10 => (format!("max({n})"), Class::Int, any),
            _ => (format!("nth_value({x}, 2)"), class, rows),
        };
        let mut window = String::new();
        if let Some(by) = by {
            window += &format!("PARTITION BY {by} ");
        }
        if let Some(order) = order {
            window += &format!("ORDER BY {order}{direction}");
        }
        // Without ORDER BY a frame by peers is the whole partition.
        (format!("{call} OVER ({window}{frame})"), class)
    }

    /// The first row of every key.
    pub fn distinct_on(&mut self, depth: usize) -> Select {
        let (from, cols) = self.from(depth);
        let (mut items, mut columns) = (Vec::new(), Vec::new());
        let key = self.sortable(&cols).unwrap_or("1 + 0".into());
        let order = self.sortable(&cols).unwrap_or("1 + 1".into());
        let fits = |c: &&Col| !matches!(c.1, Class::Approx);
        for (name, class) in cols.iter().filter(fits).take(3).cloned().collect::<Vec<_>>() {
            self.item(name, class, &mut items, &mut columns);
        }
        if items.is_empty() {
            self.item("1".into(), Class::Int, &mut items, &mut columns);
        }
        self.plain = false;
        let direction = self.pick(&["", " DESC", " DESC NULLS LAST"]);
        let condition = self.condition(&cols);
        let sql = format!(
            "SELECT DISTINCT ON ({key}) {} FROM {from}{condition} ORDER BY {key}, {order}{direction}",
            items.join(", ")
        );
        Select { sql, columns, grouped: false }
    }

    /// `INTERSECT` and `EXCEPT`.
    pub fn set_operation(&mut self, depth: usize) -> Select {
        let classes: Vec<Class> = (0..self.rng.random_range(1..=2))
            .filter_map(|_| SORTABLE.choose(self.rng).copied())
            .collect();
        let left = self.typed_projection(depth - 1, &classes);
        let right = self.typed_projection(depth - 1, &classes);
        let op = self.pick(&["INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"]);
        self.plain &= !op.ends_with("ALL");
        let sql = format!("{} {op} {}", left.sql, right.sql);
        Select { sql, columns: left.columns, grouped: false }
    }

    /// Several groupings at once.
    pub fn grouping_sets(&mut self, depth: usize) -> Select {
        let (from, cols) = self.from(depth);
        let fits = |c: &&Col| !matches!(c.1, Class::Approx);
        let mut keys: Vec<Col> = cols.iter().filter(fits).take(3).cloned().collect();
        if keys.is_empty() {
            return self.projection(depth, true);
        }
        let at = self.rng.random_range(0..keys.len());
        keys.rotate_left(at);
        let (mut items, mut columns) = (Vec::new(), Vec::new());
        for (name, class) in keys.clone() {
            self.item(name, class, &mut items, &mut columns);
        }
        let (call, class) = self.aggregate(&cols);
        self.item(call, class, &mut items, &mut columns);
        let names: Vec<_> = keys.iter().map(|k| k.0.clone()).collect();
        let list = names.join(", ");
        let sets = match self.rng.random_range(0..3) {
            0 => format!("ROLLUP ({list})"),
            1 => format!("CUBE ({list})"),
            _ => format!("GROUPING SETS (({list}), ({}))", names[0]),
        };
        self.plain = false;
        let condition = self.condition(&cols);
        let sql = format!("SELECT {} FROM {from}{condition} GROUP BY {sets}", items.join(", "));
        Select { sql, columns, grouped: false }
    }

    /// An aggregate whose answer depends on the order of its input.
    pub fn ordered_call(&mut self, cols: &[Col]) -> (String, Class) {
        self.plain = false;
        let class = *SORTABLE.choose(self.rng).unwrap_or(&Class::Int);
        let (x, y) = (self.column(cols, class), self.sortable(cols));
        let direction = self.pick(&["", " DESC", " NULLS FIRST"]);
        let order = y.map_or(String::new(), |y| format!(" ORDER BY {y}{direction}"));
        match self.rng.random_range(0..6) {
            5 => (format!("nth_value({x}, 2{order})"), class),
            0 => {
                let text = self.column(cols, Class::Text);
                (format!("string_agg({text}, ','{order})"), Class::Text)
            }
            1 => {
                let n = self.column(cols, Class::Int);
                (format!("array_to_string(array_agg({n}{order}), ',')"), Class::Text)
            }
            2 => (format!("first_value({x}{order})"), class),
            3 => (format!("last_value({x}{order})"), class),
            _ => {
                let n = self.column(cols, Class::Int);
                (format!("cardinality(array_agg(DISTINCT {n}))"), Class::Int)
            }
        }
    }
}
