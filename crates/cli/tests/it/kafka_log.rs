//! The log in a topic of Kafka and everything else in a bucket: a process needs no disk, and one
//! that is killed goes on elsewhere. On a real broker and a real S3 server.

use super::broker::Broker;
use super::bucket::{DEFINITIONS, S3, answers, insert, verified};
use super::server::Server;
use super::stderr;

#[test]
fn a_killed_process_goes_on_elsewhere_from_bucket_and_topic() {
    let Some(broker) = Broker::shared() else { return };
    let Some(s3) = S3::start() else { return };
    let log_url = format!("kafka://127.0.0.1:{}/of-a-bucket", broker.port);
    let settings = ["--log-url", &log_url, "--archive-interval-ms", "300"];
    let start = || s3.server_with("topic", &settings);
    let mut server = start();
    server.ok(&["sql", "-c", DEFINITIONS]);
    let customers = "INSERT INTO customers VALUES ('c0', 'Ulm'), ('c1', 'Ulm'), ('c2', 'Bonn')";
    server.ok(&["sql", "-c", customers]);
    for round in 0..3 {
        insert(&server, round * 100, 60);
        if round == 1 {
            server.ok(&["batch", "sales", "--wait"]);
        }
        insert(&server, round * 100 + 60, 40);
        let before = answers(&server);
        // One round ends in order, the others with what the log alone has.
        server.stop(if round == 2 { "TERM" } else { "KILL" });
        server = start();
        verified(&server);
        assert_eq!(answers(&server), before, "round {round}");
        // The keys are known: a repeated event still counts once.
        insert(&server, round * 100, 10);
        assert_eq!(answers(&server), before, "round {round}");
    }
    let total = answers(&server);
    assert!(total.ends_with("rows,total\n300,448500\n"), "{total}");
    let newer = start();
    insert(&newer, 300, 10);
    fenced(&server);
    let (status, log) = newer.stop("TERM");
    assert_eq!(status.code(), Some(0), "{log}");
    // Without the topic the data is not opened: its last commits would be missing.
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["start", "--data", "s3://lake/topic", "--http", "127.0.0.1:0"];
    let refused = s3.command(dir.path(), &arguments).args(["--postgres", "off"]).output().unwrap();
    let error = stderr(&refused);
    assert!(!refused.status.success(), "{error}");
    assert!(error.contains("the log of this data is the Kafka topic of-a-bucket"), "{error}");
}

fn fenced(old: &Server) {
    let refused = old.run(&["sql", "-c", "INSERT INTO orders VALUES (999, 'c0', 1, NULL)"]);
    let error = stderr(&refused);
    assert!(!refused.status.success(), "{error}");
    assert!(error.contains("another instance has taken over"), "{error}");
}
