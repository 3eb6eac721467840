//! The settings of `kaplan start`. Each one has a single name: `archive_interval_ms` in the file,
//! `--archive-interval-ms` as a flag, `KAPLAN_ARCHIVE_INTERVAL_MS` in the environment.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. A
//! key that is not a setting is refused by name rather than ignored.

use anyhow::{Context, bail, ensure};
use clap::{Args, CommandFactory};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Cloud Run kills ten seconds after SIGTERM.
const SHUTDOWN_MS: i64 = 9_000;

/// Settings that are not printed.
const SECRET: [&str; 2] = ["postgres_password", "log_properties"];

/// An address to listen on, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        // `localhost` is what people type; only numeric addresses parse as a socket address.
        let numeric = text.replacen("localhost:", "127.0.0.1:", 1);
        numeric
            .parse()
            .map(|address| Self(Some(address)))
            .map_err(|_| format!("`{text}` is not an address: write 127.0.0.1:8080, or off"))
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
    /// One JSON object an event, as Google's Cloud Logging reads it.
    Gcp,
}

/// Every setting, each of them perhaps absent: what one source (flags and environment, or the
/// file) says. The doc comments are the help texts and the comments of `--print-config`.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sparse {
    /// Where log, lake, batch views, checkpoints and catalog are: a directory, created when absent,
    /// or s3://bucket/prefix or gs://bucket/prefix. Credentials and endpoint of a bucket come from the
    /// usual variables: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, .., GOOGLE_APPLICATION_CREDENTIALS, ..
    #[arg(long, visible_alias = "data", env = "KAPLAN_DATA_DIR", value_name = "DIR|URL")]
    data_dir: Option<PathBuf>,
    /// The log as a topic of Kafka with one partition, created when absent:
    /// kafka://host:9092,host2:9092/topic. Empty: the log is in the data directory or bucket.
    #[arg(long, env = "KAPLAN_LOG_URL", value_name = "URL")]
    log_url: Option<String>,
    /// Further properties of librdkafka for `log_url`, such as
    /// security.protocol=SASL_SSL,sasl.mechanisms=PLAIN,sasl.username=..,sasl.password=.. Better in the
    /// environment than as a flag, which other users of the machine see.
    #[arg(long, env = "KAPLAN_LOG_PROPERTIES", value_name = "LIST", hide_env_values = true)]
    log_properties: Option<String>,
    /// Be a read replica: follow the log that another process writes in the same bucket, and answer
    /// reads only. It takes nothing over and writes nothing, and any number of them may run.
    #[arg(
        long,
        env = "KAPLAN_READ_ONLY",
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    read_only: Option<bool>,
    /// Of a read replica: time between two looks at the log, milliseconds. Shorter: fresher answers,
    /// more requests to the bucket.
    #[arg(long, env = "KAPLAN_FOLLOW_INTERVAL_MS", value_name = "MS")]
    follow_interval_ms: Option<u64>,
    /// Address of the HTTP interface and the status page, or `off`. When the variable PORT is set
    /// and nothing else names an address, it is 0.0.0.0:PORT.
    #[arg(long, env = "KAPLAN_HTTP", value_name = "ADDRESS")]
    http: Option<Listen>,
    /// Address of the PostgreSQL wire, or `off`. Platforms that carry HTTP only, such as Cloud
    /// Run, do not expose it.
    #[arg(long, env = "KAPLAN_POSTGRES", value_name = "ADDRESS")]
    postgres: Option<Listen>,
    /// Certificate chain of the PostgreSQL wire, a PEM file; with `postgres_tls_key` it makes TLS
    /// possible. Clients that do not ask for TLS are still served.
    #[arg(long, env = "KAPLAN_POSTGRES_TLS_CERT", value_name = "FILE")]
    postgres_tls_cert: Option<PathBuf>,
    /// Private key of `postgres_tls_cert`, a PEM file.
    #[arg(long, env = "KAPLAN_POSTGRES_TLS_KEY", value_name = "FILE")]
    postgres_tls_key: Option<PathBuf>,
    /// User who may connect to the PostgreSQL wire, with `postgres_password`; with no user and no
    /// `postgres_users_file`, everybody may, without a password.
    #[arg(long, env = "KAPLAN_POSTGRES_USER", value_name = "NAME")]
    postgres_user: Option<String>,
    /// Password of `postgres_user`, checked by SCRAM-SHA-256. Better in the environment than as a
    /// flag, which other users of the machine see.
    #[arg(long, env = "KAPLAN_POSTGRES_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    postgres_password: Option<String>,
    /// File of more users of the PostgreSQL wire: a line `name:password` for each.
    #[arg(long, env = "KAPLAN_POSTGRES_USERS_FILE", value_name = "FILE")]
    postgres_users_file: Option<PathBuf>,
    /// Log lines as `text`, `json`, or `gcp`: JSON as Google's Cloud Logging reads it, with the trace
    /// of each request; `auto` is text on a terminal and JSON elsewhere.
    #[arg(long, env = "KAPLAN_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Google Cloud project that traces in `gcp` log lines belong to.
    #[arg(long, env = "GOOGLE_CLOUD_PROJECT", value_name = "PROJECT")]
    log_gcp_project: Option<String>,
    /// Least severe log lines to print: error, warn, info, debug or trace, or directives such as
    /// `warn,kaplan_log=debug`.
    #[arg(long, env = "KAPLAN_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    /// Longest stop after SIGTERM or SIGINT, milliseconds: half of it for requests under way, the rest
    /// for the checkpoint. Cloud Run and Kubernetes kill after 10 and 30 seconds.
    #[arg(long, env = "KAPLAN_SHUTDOWN_MS", value_name = "MS")]
    shutdown_ms: Option<u64>,
    /// Issuer of the OIDC identity tokens that HTTP asks of its callers, such as
    /// https://accounts.google.com; none: everybody may call. The probes stay open.
    #[arg(long, env = "KAPLAN_OIDC_ISSUER", value_name = "URL")]
    oidc_issuer: Option<String>,
    /// Audience that identity tokens must name, usually the URL of this service.
    #[arg(long, env = "KAPLAN_OIDC_AUDIENCE", value_name = "AUDIENCE")]
    oidc_audience: Option<String>,
    /// Where the issuer's keys are, where it has no discovery document.
    #[arg(long, env = "KAPLAN_OIDC_JWKS_URL", value_name = "URL")]
    oidc_jwks_url: Option<String>,
    /// Who may call, by `email` or `sub` of the token, with commas between; none: everybody that the
    /// issuer gives a token, which Google does to anybody.
    #[arg(long, env = "KAPLAN_OIDC_CALLERS", value_name = "LIST")]
    oidc_callers: Option<String>,
    /// Proxies in front of HTTP, whose entries of X-Forwarded-For say who calls, for the log: 1 on
    /// Cloud Run, 2 with a load balancer before it. 0: the header is not believed.
    #[arg(long, env = "KAPLAN_TRUSTED_PROXIES", value_name = "N")]
    trusted_proxies: Option<u64>,
    /// Largest body of a write over HTTP, in bytes, after decompression.
    #[arg(long, env = "KAPLAN_MAX_BODY_BYTES", value_name = "BYTES")]
    max_body_bytes: Option<u64>,
    /// Most writes over HTTP under way at once; beyond it they are answered 429.
    #[arg(long, env = "KAPLAN_MAX_IN_FLIGHT", value_name = "N")]
    max_in_flight: Option<u64>,
    /// Wait of the archiver between runs, milliseconds. Shorter: a smaller log tail, and more and
    /// smaller lake files.
    #[arg(long, env = "KAPLAN_ARCHIVE_INTERVAL_MS", value_name = "MS")]
    archive_interval_ms: Option<u64>,
    /// The archiver also runs when the log's tail exceeds this many bytes.
    #[arg(long, env = "KAPLAN_ARCHIVE_BYTES", value_name = "BYTES")]
    archive_bytes: Option<u64>,
    /// Time between checkpoints of the views' state, milliseconds. Shorter: faster restart, more
    /// writing.
    #[arg(long, env = "KAPLAN_CHECKPOINT_INTERVAL_MS", value_name = "MS")]
    checkpoint_interval_ms: Option<u64>,
    /// Most bytes of writes that wait to be committed; beyond it writes are refused with 429.
    #[arg(long, env = "KAPLAN_INGEST_QUEUE_BYTES", value_name = "BYTES")]
    ingest_queue_bytes: Option<u64>,
    /// In a bucket: how long a write waits for others that share its object of the log,
    /// milliseconds. Shorter: faster answers, more and smaller objects.
    #[arg(long, env = "KAPLAN_LOG_LINGER_MS", value_name = "MS")]
    log_linger_ms: Option<u64>,
    /// When the log's tail holds this many bytes that the lake does not have yet, writes are
    /// refused with 429.
    #[arg(long, env = "KAPLAN_LOG_RESERVE_BYTES", value_name = "BYTES")]
    log_reserve_bytes: Option<u64>,
    /// Longest wait of a read for a commit to become visible, milliseconds.
    #[arg(long, env = "KAPLAN_READ_WAIT_MS", value_name = "MS")]
    read_wait_ms: Option<u64>,
    /// Factor on the clock that batch schedules see, for demonstrations: 60 makes an hour a
    /// minute.
    #[arg(long, env = "KAPLAN_SCHEDULE_SPEED", value_name = "FACTOR")]
    schedule_speed: Option<f64>,
    /// Most bytes of one commit; more than the default, 128 MiB, is not possible.
    #[arg(long, env = "KAPLAN_COMMIT_BYTES", value_name = "BYTES")]
    commit_bytes: Option<u64>,
    /// Most bytes of memory, about: half for the state of views, a quarter for queries and batch runs.
    /// What exceeds either goes to files below the data directory, or the temporary directory where the
    /// data is in a bucket. Unless set, 70 percent of what the machine or container has.
    #[arg(long, env = "KAPLAN_MEMORY_LIMIT_BYTES", value_name = "BYTES")]
    memory_limit_bytes: Option<u64>,
    /// Lake files smaller than this many bytes are compacted together.
    #[arg(long, env = "KAPLAN_COMPACT_BYTES", value_name = "BYTES")]
    compact_bytes: Option<u64>,
}

/// What `kaplan start` runs with.
#[derive(Clone, Debug)]
pub struct Effective {
    /// For [`kaplan_platform::Platform::open`].
    pub platform: kaplan_platform::Settings,
    /// For [`kaplan_server::Server::bind`].
    pub server: kaplan_server::Options,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are printed.
    pub log_level: String,
    /// The Google Cloud project of traces; empty where it is not known.
    pub log_gcp_project: String,
    /// Longest stop after a signal.
    pub shutdown: Duration,
    table: toml::Table,
}

/// The settings that belong to the program rather than to the platform.
#[derive(Deserialize)]
struct Program {
    http: Listen,
    postgres: Listen,
    log_format: LogFormat,
    log_level: String,
    log_gcp_project: String,
    shutdown_ms: u64,
    oidc_issuer: String,
    oidc_audience: String,
    oidc_jwks_url: String,
    oidc_callers: String,
    max_body_bytes: usize,
    max_in_flight: usize,
    trusted_proxies: usize,
    postgres_tls_cert: PathBuf,
    postgres_tls_key: PathBuf,
    postgres_user: String,
    postgres_password: String,
    postgres_users_file: PathBuf,
}

impl Program {
    /// Certificate and key, which come together.
    fn tls(&self) -> anyhow::Result<Option<(PathBuf, PathBuf)>> {
        let (cert, key) = (&self.postgres_tls_cert, &self.postgres_tls_key);
        let given = [cert, key].map(|path| !path.as_os_str().is_empty());
        ensure!(
            given[0] == given[1],
            "postgres_tls_cert and postgres_tls_key must be given together"
        );
        Ok(given[0].then(|| (cert.clone(), key.clone())))
    }

    /// Whose identity tokens are asked for.
    fn oidc(&self) -> anyhow::Result<Option<kaplan_server::Oidc>> {
        let callers = self.oidc_callers.split(',').map(str::trim).filter(|c| !c.is_empty());
        let oidc = kaplan_server::Oidc {
            issuer: self.oidc_issuer.clone(),
            audience: self.oidc_audience.clone(),
            jwks_url: self.oidc_jwks_url.clone(),
            callers: callers.map(str::to_owned).collect(),
        };
        ensure!(
            oidc.issuer.is_empty() == oidc.audience.is_empty(),
            "oidc_issuer and oidc_audience must be given together"
        );
        if oidc.issuer.is_empty() {
            ensure!(
                oidc.jwks_url.is_empty() && oidc.callers.is_empty(),
                "oidc_jwks_url and oidc_callers need oidc_issuer and oidc_audience"
            );
            return Ok(None);
        }
        ensure!(
            !oidc.issuer.contains("accounts.google.com") || !oidc.callers.is_empty(),
            "oidc_callers must name who may call: Google gives anybody a token for any audience"
        );
        Ok(Some(oidc))
    }

    /// The users of the PostgreSQL wire.
    fn users(&self) -> anyhow::Result<Vec<(String, String)>> {
        let (user, password) = (&self.postgres_user, &self.postgres_password);
        ensure!(
            user.is_empty() == password.is_empty(),
            "postgres_user and postgres_password must be given together"
        );
        let mut users = Vec::new();
        if !user.is_empty() {
            users.push((user.clone(), password.clone()));
        }
        let path = &self.postgres_users_file;
        if path.as_os_str().is_empty() {
            return Ok(users);
        }
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read postgres_users_file {shown}"))?;
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, password) = line
                .split_once(':')
                .filter(|(name, password)| !name.is_empty() && !password.is_empty())
                .with_context(|| format!("{shown}, line {}: write name:password", number + 1))?;
            users.push((name.to_owned(), password.to_owned()));
        }
        ensure!(!users.is_empty(), "postgres_users_file {shown} names no user");
        Ok(users)
    }
}

impl Effective {
    /// Merges the flags and environment (both in `given`), `PORT`, the file, and the defaults.
    pub fn resolve(
        given: &Sparse,
        file: Option<&Path>,
        port: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut table = defaults()?;
        if let Some(path) = file {
            table.extend(toml::Table::try_from(read(path)?)?);
        }
        if let Some(port) = port.filter(|port| !port.is_empty()) {
            let port: u16 =
                port.parse().ok().with_context(|| format!("PORT=`{port}` is not a port"))?;
            table.insert("http".into(), format!("0.0.0.0:{port}").into());
        }
        table.extend(toml::Table::try_from(given)?);
        Self::from_table(table)
    }

    fn from_table(table: toml::Table) -> anyhow::Result<Self> {
        let own = program_defaults()?;
        let (program, platform): (toml::Table, toml::Table) =
            table.clone().into_iter().partition(|(key, _)| own.contains_key(key));
        let program: Program = program.try_into()?;
        let platform: kaplan_platform::Settings = platform.try_into()?;
        check(&table)?;
        Ok(Self {
            platform,
            server: kaplan_server::Options {
                http: program.http.0,
                postgres: program.postgres.0,
                postgres_tls: program.tls()?,
                postgres_users: program.users()?,
                max_body_bytes: program.max_body_bytes,
                max_in_flight: program.max_in_flight,
                trusted_proxies: program.trusted_proxies,
                shutdown_grace: Duration::from_millis(program.shutdown_ms / 2),
                oidc: program.oidc()?,
            },
            shutdown: Duration::from_millis(program.shutdown_ms),
            log_gcp_project: program.log_gcp_project,
            log_format: program.log_format,
            log_level: program.log_level,
            table,
        })
    }

    /// The settings as a TOML file, with what each of them means.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        let mut text = String::from("# Settings of `kaplan start`. Use with --config FILE.\n");
        for argument in Described::command().get_arguments() {
            let key = argument.get_id().as_str();
            let Some(value) = self.table.get(key) else { continue };
            // What is printed may be kept or shown; secrets stay where they were set.
            let set = SECRET.contains(&key) && value.as_str().is_some_and(|v| !v.is_empty());
            let hidden = toml::Value::from("");
            let value = if set { &hidden } else { value };
            let help = argument.get_long_help().or_else(|| argument.get_help());
            text.push('\n');
            for line in wrapped(&help.map(ToString::to_string).unwrap_or_default()) {
                writeln!(text, "# {line}")?;
            }
            writeln!(text, "# Flag --{}", key.replace('_', "-"))?;
            writeln!(text, "{key} = {value}")?;
        }
        Ok(text)
    }
}

/// Gives clap's view of [`Sparse`], from which `--print-config` takes its comments.
#[derive(clap::Parser)]
struct Described {
    #[command(flatten)]
    _settings: Sparse,
}

/// The program's own defaults. PostgreSQL is not on 5432, where a real one may listen.
fn program_defaults() -> anyhow::Result<toml::Table> {
    let server = kaplan_server::Options::default();
    let integer = |n: usize| i64::try_from(n).map(toml::Value::from);
    Ok(toml::Table::from_iter([
        ("http".to_owned(), "127.0.0.1:8080".into()),
        ("postgres".to_owned(), "127.0.0.1:5433".into()),
        ("postgres_tls_cert".to_owned(), "".into()),
        ("postgres_tls_key".to_owned(), "".into()),
        ("postgres_user".to_owned(), "".into()),
        ("postgres_password".to_owned(), "".into()),
        ("postgres_users_file".to_owned(), "".into()),
        ("log_format".to_owned(), "auto".into()),
        ("log_level".to_owned(), "info".into()),
        ("log_gcp_project".to_owned(), "".into()),
        ("shutdown_ms".to_owned(), SHUTDOWN_MS.into()),
        ("oidc_issuer".to_owned(), "".into()),
        ("oidc_audience".to_owned(), "".into()),
        ("oidc_jwks_url".to_owned(), "".into()),
        ("oidc_callers".to_owned(), "".into()),
        ("max_body_bytes".to_owned(), integer(server.max_body_bytes)?),
        ("max_in_flight".to_owned(), integer(server.max_in_flight)?),
        ("trusted_proxies".to_owned(), integer(server.trusted_proxies)?),
    ]))
}

fn defaults() -> anyhow::Result<toml::Table> {
    let mut table = program_defaults()?;
    table.extend(toml::Table::try_from(kaplan_platform::Settings::default())?);
    Ok(table)
}

fn read(path: &Path) -> anyhow::Result<Sparse> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read settings {shown}"))?;
    toml::from_str(&text).map_err(|error| {
        anyhow::anyhow!(
            "{shown} is refused: {}\n`kaplan start --print-config` prints every setting",
            error.to_string().trim_end()
        )
    })
}

/// Refuses values that parse but make no sense.
fn check(table: &toml::Table) -> anyhow::Result<()> {
    for (key, value) in table {
        // No proxy is what most have.
        let least = if key == "trusted_proxies" { 0 } else { 1 };
        if value.as_integer().is_some_and(|n| n < least) {
            bail!("{key} = {value} is refused: it must be above 0");
        }
    }
    let speed = table.get("schedule_speed").and_then(toml::Value::as_float).unwrap_or(1.0);
    ensure!(
        speed.is_finite() && speed > 0.0,
        "schedule_speed = {speed} is refused: it must be above 0 (1.0 is real time)"
    );
    Ok(())
}

/// Cuts a help text into comment lines.
fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 90;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].len() + word.len() >= WIDTH {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field added to the platform's settings needs its flag, or the file would refuse it.
    #[test]
    fn every_platform_setting_has_a_flag() {
        let command = Described::command();
        let flags: Vec<&str> = command.get_arguments().map(|a| a.get_id().as_str()).collect();
        for key in defaults().unwrap().keys() {
            assert!(flags.contains(&key.as_str()), "no flag for {key}");
        }
    }

    #[test]
    fn print_config_round_trips() {
        let given = Sparse {
            http: Some(Listen(None)),
            schedule_speed: Some(60.0),
            archive_bytes: Some(7),
            ..Sparse::default()
        };
        let first = Effective::resolve(&given, None, None).unwrap();
        let text = first.to_toml().unwrap();
        let sparse: Sparse = toml::from_str(&text).unwrap();
        let second = Effective::resolve(&sparse, None, None).unwrap();
        assert_eq!(first.table, second.table);
        assert_eq!(second.platform.archive_bytes, 7);
        assert_eq!(second.server.http, None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let given = Sparse {
            log_url: Some("kafka://a:9092/log".into()),
            log_properties: Some("sasl.password=secret".into()),
            postgres_user: Some("ann".into()),
            postgres_password: Some("secret".into()),
            ..Sparse::default()
        };
        let effective = Effective::resolve(&given, None, None).unwrap();
        assert_eq!(effective.platform.log_properties, "sasl.password=secret");
        let text = effective.to_toml().unwrap();
        assert!(text.contains("kafka://a:9092/log") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn passwords_and_certificates_come_in_pairs() {
        let alone = Sparse { postgres_user: Some("ann".into()), ..Sparse::default() };
        let error = Effective::resolve(&alone, None, None).unwrap_err().to_string();
        assert!(error.contains("postgres_password"), "{error}");
        let cert = Some(PathBuf::from("a.pem"));
        let alone = Sparse { postgres_tls_cert: cert, ..Sparse::default() };
        let error = Effective::resolve(&alone, None, None).unwrap_err().to_string();
        assert!(error.contains("postgres_tls_key"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# users\nann:a:b\n\nbob:c\n").unwrap();
        let path = Some(file.path().to_owned());
        let both = Sparse { postgres_users_file: path, ..Sparse::default() };
        let users = Effective::resolve(&both, None, None).unwrap().server.postgres_users;
        assert_eq!(users, [("ann".into(), "a:b".into()), ("bob".into(), "c".into())]);
        std::fs::write(file.path(), "ann\n").unwrap();
        assert!(Effective::resolve(&both, None, None).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn senseless_values_are_refused_by_name() {
        let zero = Sparse { read_wait_ms: Some(0), ..Sparse::default() };
        let error = Effective::resolve(&zero, None, None).unwrap_err().to_string();
        assert!(error.contains("read_wait_ms"), "{error}");
        let still = Sparse { schedule_speed: Some(0.0), ..Sparse::default() };
        let error = Effective::resolve(&still, None, None).unwrap_err().to_string();
        assert!(error.contains("schedule_speed"), "{error}");
        let error = Effective::resolve(&Sparse::default(), None, Some("http")).unwrap_err();
        assert!(error.to_string().contains("PORT"), "{error}");
    }
}
