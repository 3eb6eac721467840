//! Change data capture from a real PostgreSQL, which each test starts for itself: copies and changes
//! without a gap, whole transactions, every type, changes of tables, and faults of all kinds.

mod changes;
mod faults;
mod large;
pub mod upstream;

use crate::support::Running;
use upstream::Upstream;

impl Running {
    /// Reads tables of a server: `CREATE SOURCE pg`, then `CREATE TABLE name (*)` of each.
    async fn follow(&mut self, upstream: &Upstream, tables: &[&str]) {
        self.sql(&upstream.create_source("pg", "postgres")).await;
        for table in tables {
            self.sql(&format!("create table {table} (*) from pg table 'public.{table}'")).await;
        }
    }

    /// Waits until a query has the answer that the server gives to another.
    async fn same(&mut self, upstream: &Upstream, query: &str) -> Vec<String> {
        for round in 0.. {
            let (theirs, ours) = (upstream.lines(query).await, self.table(query).await);
            if theirs == ours {
                return ours;
            }
            if round == 600 {
                let sources = self.table("show sources").await;
                let errors = self.table("select * from pg_errors").await;
                panic!("{query}\nupstream {theirs:?}\nhere {ours:?}\n{sources:?}\n{errors:?}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        unreachable!()
    }

    /// Waits until a query has an answer.
    pub async fn until(&mut self, query: &str, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
        for round in 0.. {
            let lines = self.table(query).await;
            if holds(&lines) {
                return lines;
            }
            assert!(round < 900, "{query}: {lines:?}\n{:?}", self.table("show sources").await);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        unreachable!()
    }
}
