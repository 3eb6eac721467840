//! TLS, passwords, limits and cancelling on the PostgreSQL wire.

use crate::wire::{Wire, field, first_row, kinds};
use crate::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn certificate(directory: &std::path::Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

async fn psql(running: &Running, ssl: &str, password: &str) -> Result<String, String> {
    let mut command = std::process::Command::new("psql");
    command.env("PGHOST", "127.0.0.1").env("PGPORT", running.postgres.port().to_string());
    command.env("PGUSER", "ann").env("PGDATABASE", "dev").env("PGSSLMODE", ssl);
    command.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "10");
    command.args(["-X", "-A", "-t", "-w", "-c", "SELECT 1", "-c", "\\conninfo"]);
    tokio::task::spawn_blocking(move || crate::clients::run(&mut command)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_passwords() {
    let installed = || crate::clients::run(std::process::Command::new("psql").arg("--version"));
    if crate::clients::ready("psql", installed).await.is_none() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let users = vec![("ann".to_owned(), "secret".to_owned())];
    let tls = Some(certificate(files.path()));
    let options = Options { postgres_tls: tls, postgres_users: users, ..Options::default() };
    let running = start_with(options).await;
    let text = psql(&running, "require", "secret").await.unwrap();
    assert!(text.starts_with("1\n") && text.contains("TLSv1.3"), "{text}");
    let text = psql(&running, "disable", "secret").await.unwrap();
    assert!(text.starts_with("1\n") && !text.contains("TLS"), "{text}");
    for wrong in ["Secret", ""] {
        let refused = psql(&running, "require", wrong).await.unwrap_err();
        let said = refused.to_lowercase();
        assert!(said.contains("password"), "{refused}");
    }
    running.stop().await;
}

/// What the server sends to a client that begins like this, until it ends the connection.
async fn said(running: &Running, messages: &[&[u8]]) -> Vec<u8> {
    let mut socket = TcpStream::connect(running.postgres).await.unwrap();
    for message in messages {
        // The end may come before all of it is sent.
        let _ = socket.write_all(message).await;
    }
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(20), read).await.expect("an end");
    answer
}

fn startup(parameters: &[&str]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for text in parameters {
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    [&(body.len() as u32 + 4).to_be_bytes(), &body[..]].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

#[tokio::test]
async fn nobody_asks_before_having_shown_who_it_is() {
    let users = vec![("ann".to_owned(), "secret".to_owned())];
    let running = start_with(Options { postgres_users: users, ..Options::default() }).await;
    let create = message(b'Q', b"CREATE STREAM stolen (a bigint)\0");
    // A start that is refused for what it sets, and a password that is none.
    let odd = startup(&["user", "ann", "client_encoding", "LATIN1"]);
    let plain = startup(&["user", "ann"]);
    let junk = message(b'p', b"junk");
    for begin in [vec![&odd[..]], vec![&plain[..], &junk[..]]] {
        let answer = said(&running, &[&begin[..], &[&create[..]]].concat()).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("FATAL") && !text.contains("CREATE STREAM"), "{text:?}");
        assert!(!answer.windows(6).any(|w| w == [b'Z', 0, 0, 0, 5, b'I']), "{text:?}");
    }
    assert!(running.platform.stream_schema("stolen").is_err());
    running.stop().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() {
    let files = tempfile::tempdir().unwrap();
    let (cert, _) = certificate(files.path());
    let missing = files.path().join("missing.pem");
    let postgres_tls = Some((cert, missing.clone()));
    let any = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let options = Options { http: None, postgres: any, postgres_tls, ..Options::default() };
    let error = Server::bind(options).await.err().unwrap().to_string();
    assert!(error.contains("missing.pem") && error.contains("postgres_tls_key"), "{error}");
}

#[tokio::test]
async fn tls_that_is_not_configured_is_declined() {
    let running = start().await;
    let mut socket = TcpStream::connect(running.postgres).await.unwrap();
    socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    assert_eq!(socket.read_u8().await.unwrap(), b'N');
    running.stop().await;
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_connection() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let messages = client.announce('Q', 1 << 30).await;
    assert_eq!(field(&messages, 'E', 'C').as_deref(), Some("08P01"));
    let message = field(&messages, 'E', 'M').unwrap();
    assert!(message.contains("16777216"), "{message}");
    running.stop().await;
}

#[tokio::test]
async fn an_error_stops_the_transaction_until_it_ends() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    client.query("BEGIN").await;
    assert_eq!(client.status, 'T');
    client.query("INSERT INTO flights (id) VALUES (1)").await;
    client.query("SELECT nothing FROM flights").await;
    assert_eq!(client.status, 'E');
    let refused = client.query("INSERT INTO flights (id) VALUES (2)").await;
    assert_eq!(field(&refused, 'E', 'C').as_deref(), Some("25P02"));
    let ended = client.query("COMMIT").await;
    assert_eq!((kinds(&ended).as_str(), client.status), ("C", 'I'));
    assert_eq!(ended[0].1, b"ROLLBACK\0");
    assert_eq!(first_row(&client.query("SELECT count(*) FROM flights").await), ["0"]);
    running.stop().await;
}

#[tokio::test]
async fn types_of_parameters_and_columns_are_known_before_execution() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    for (sql, parameters, columns) in [
        ("SELECT id, at FROM flights WHERE id = $1 AND carrier = $2", "20 25", "20 1184"),
        ("INSERT INTO flights (carrier, id) VALUES ($1, $2)", "25 20", ""),
        ("SELECT $1::int, dep_delay FROM flights LIMIT $2", "23 20", "23 23"),
        ("SELECT $1", "25", "25"),
    ] {
        let (given, described) = client.describe(sql).await;
        assert_eq!((given.as_str(), described.as_str()), (parameters, columns), "{sql}");
    }
    let notices = client.query("SET application_name = 'me'").await;
    assert_eq!(kinds(&notices), "SC");
    assert_eq!(first_row(&client.query("SHOW server_version_num").await), ["160000"]);
    let refused = client.query("SET client_encoding = 'LATIN1'").await;
    assert_eq!(field(&refused, 'E', 'C').as_deref(), Some("0A000"));
    running.stop().await;
}

#[tokio::test]
async fn a_statement_ends_at_its_timeout() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    client.query("SET statement_timeout = 100").await;
    let long = "SELECT count(*) FROM generate_series(1, 100000000) AS a(x) \
                JOIN generate_series(1, 100000000) AS b(y) ON x + y > x * y";
    let ended = client.query(long).await;
    assert_eq!(field(&ended, 'E', 'C').as_deref(), Some("57014"));
    assert_eq!(first_row(&client.query("SELECT 1").await), ["1"]);
    running.stop().await;
}
