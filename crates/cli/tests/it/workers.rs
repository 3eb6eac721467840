//! Workers in a consumer group of a real broker: they come, are killed, frozen and stopped while rows
//! come in, and the answers stay those of the rows that were acknowledged.

use super::broker::Broker;
use super::kaplan;
use super::server::Server;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const TRIES: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);
const DEFINITIONS: &str = "
    CREATE STREAM orders (id bigint NOT NULL, who text, amount double precision);
    CREATE TABLE people (who text PRIMARY KEY, city text);
    CREATE MATERIALIZED VIEW per_who AS
      SELECT who, count(*) AS n, sum(id) AS ids, max(amount) AS most FROM orders GROUP BY who;
    CREATE MATERIALIZED VIEW daily WITH (architecture = 'lambda') AS
      SELECT id % 5 AS k, count(*) AS n, min(id) AS first FROM orders GROUP BY 1;
    CREATE MATERIALIZED VIEW large WITH (architecture = 'lambda') AS
      SELECT id, who FROM orders WHERE id % 10 = 0;
    CREATE MATERIALIZED VIEW per_city AS
      SELECT city, count(*) AS n FROM orders JOIN people USING (who) GROUP BY city;
    INSERT INTO people VALUES ('ada', 'Paris'), ('bob', 'Rome')";

struct Site {
    broker: Broker,
    server: Option<Server>,
    port: u16,
    workers: BTreeMap<String, Child>,
    /// Rows that were acknowledged.
    rows: u64,
}

impl Site {
    fn start() -> Option<Self> {
        let broker = Broker::new()?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut site = Self { broker, server: None, port, workers: BTreeMap::new(), rows: 0 };
        site.serve(tempfile::tempdir().unwrap());
        Some(site)
    }

    fn serve(&mut self, dir: tempfile::TempDir) {
        let mut command = kaplan(dir.path());
        command
            .args(["start", "--data-dir", "data", "--postgres", "off", "--log-format", "json"])
            .args(["--http", &format!("127.0.0.1:{}", self.port)])
            .args(["--checkpoint-interval-ms", "700", "--archive-interval-ms", "500"])
            .args(["--log-url", &format!("kafka://127.0.0.1:{}/log", self.broker.port)]);
        self.server = Some(Server::spawn(command, dir));
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn ok(&self, sql: &str) -> String {
        self.server().ok(&["sql", "--format", "csv", "-c", sql])
    }

    fn come(&mut self, name: &str) {
        let dir = std::env::temp_dir();
        let mut command = kaplan(&dir);
        command.args(["worker", "--name", name, "--url", self.server().url()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.workers.insert(name.to_owned(), command.spawn().unwrap());
    }

    fn signal(&self, name: &str, signal: &str) {
        let id = self.workers[name].id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    fn insert(&mut self, commits: u64) {
        for _ in 0..commits {
            let ids = self.rows..self.rows + 7;
            let values = ids.map(|id| {
                let who = ["ada", "bob", "cyd"][(id % 3) as usize];
                format!("({id}, '{who}', {}.5)", id % 11)
            });
            let values = values.collect::<Vec<_>>().join(", ");
            self.ok(&format!("INSERT INTO orders (id, who, amount) VALUES {values}"));
            self.rows += 7;
        }
    }

    /// The answers are those of what was acknowledged, and of the SQL over all rows.
    fn check(&self) {
        let rows = self.rows;
        let sum = rows * rows.saturating_sub(1) / 2;
        for _ in 0..2 {
            let answer = self.ok("SELECT sum(n) AS n, sum(ids) AS ids FROM per_who");
            assert_eq!(answer, format!("n,ids\n{rows},{sum}\n"));
            assert_eq!(self.ok("SELECT sum(n) AS n FROM daily"), format!("n\n{rows}\n"));
        }
        let large = rows.div_ceil(10);
        assert_eq!(self.ok("SELECT count(*) AS n FROM large"), format!("n\n{large}\n"));
        for view in ["per_who", "daily", "large", "per_city"] {
            self.server().ok(&["verify", view]);
        }
    }

    /// Waits until these workers, and no others, have all shares among them and take commits in.
    fn dealt(&self, names: &[&str]) {
        let mut last = String::new();
        for _ in 0..TRIES {
            last = self.server().get("/v1/workers");
            let shown: serde_json::Value =
                serde_json::from_str(last.trim_end_matches(" 200")).unwrap_or_default();
            let workers = shown["workers"].as_array().cloned().unwrap_or_default();
            let there: Vec<&str> = workers.iter().filter_map(|w| w["name"].as_str()).collect();
            let mut shares: Vec<u64> = workers
                .iter()
                .filter(|w| w["since"].is_u64())
                .flat_map(|w| w["shares"].as_array().cloned().unwrap_or_default())
                .filter_map(|share| share.as_u64())
                .collect();
            shares.sort_unstable();
            if there == names && shares == (0..32).collect::<Vec<_>>() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        panic!("{names:?}: {last}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for worker in self.workers.values_mut() {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

#[test]
fn workers_that_come_and_are_killed_change_no_answer() {
    let Some(mut site) = Site::start() else { return };
    site.ok(DEFINITIONS);
    site.insert(3);
    site.come("a");
    site.come("b");
    site.dealt(&["a", "b"]);
    site.insert(9);
    site.check();
    // They take commits in that nobody has asked for yet, and then one of them is killed.
    site.insert(9);
    site.signal("a", "KILL");
    site.insert(4);
    site.check();
    site.dealt(&["b"]);
    // A batch run cuts what they have.
    site.come("c");
    site.insert(5);
    site.ok("REFRESH MATERIALIZED VIEW daily, large");
    site.insert(5);
    site.dealt(&["b", "c"]);
    site.check();
    // One that hangs holds nobody up for long.
    site.insert(5);
    site.signal("b", "STOP");
    site.insert(3);
    site.check();
    site.signal("b", "CONT");
    site.insert(6);
    site.check();
    site.dealt(&["b", "c"]);
    // Definitions change under them.
    site.ok("ALTER STREAM orders ADD COLUMN note text");
    site.insert(4);
    let noted =
        "CREATE MATERIALIZED VIEW noted AS SELECT note, count(*) AS n FROM orders GROUP BY 1";
    site.ok(noted);
    site.insert(6);
    assert_eq!(site.ok("SELECT n FROM noted"), format!("n\n{}\n", site.rows));
    site.ok("DROP MATERIALIZED VIEW noted");
    site.check();
    site.dealt(&["b", "c"]);
    // The server is killed, and workers go on with the next one; one leaves in order.
    site.insert(6);
    let server = site.server.take().unwrap();
    let dir = server.kill_and_keep();
    site.serve(dir);
    site.check();
    site.dealt(&["b", "c"]);
    site.insert(6);
    site.signal("c", "TERM");
    site.check();
    site.insert(3);
    site.dealt(&["b"]);
    site.check();
    site.broker.kill();
    site.broker.start();
    site.insert(6);
    site.check();
    site.dealt(&["b"]);
}

#[test]
fn workers_of_a_log_that_nobody_else_can_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_in(dir);
    let worker = server.run(&["worker"]);
    assert_eq!(worker.status.code(), Some(1));
    let error = super::stderr(&worker);
    assert!(error.contains("not in a Kafka topic") && error.contains("--log-url"), "{error}");
    assert_eq!(server.ok(&["sql", "--format", "csv", "-c", "SHOW WORKERS"]).lines().count(), 1);
}
