//! Brokers that demand a password or TLS: what `log_properties` and `properties.*` say reaches the
//! client, and what is wrong with it is said without the secret.

use crate::broker::{Broker, PASSWORD, Sent, USER};
use crate::kafka::until;
use crate::support::Running;
use kaplan_base::SystemClock;
use kaplan_platform::{Code, Platform, Settings};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const WRONG: &str = "a-wrong-guess";

/// Properties of a client, as `log_properties` has them and as a definition has them.
struct Client {
    brokers: String,
    properties: Vec<(&'static str, String)>,
}

impl Client {
    fn sasl(broker: &Broker, mechanism: &str, password: &str) -> Self {
        let properties = [
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", mechanism),
            ("sasl.username", USER),
            ("sasl.password", password),
        ];
        let properties = properties.map(|(name, value)| (name, value.to_owned())).into();
        Self { brokers: broker.sasl(), properties }
    }

    /// `authority` is the property that names the certificate that is trusted.
    fn tls(broker: &Broker, authority: Option<&'static str>) -> Self {
        let trusted = broker.authority().display().to_string();
        let properties = [("security.protocol", "SSL".to_owned())];
        let properties = properties.into_iter().chain(authority.map(|name| (name, trusted)));
        Self { brokers: broker.tls(), properties: properties.collect() }
    }

    fn plain(brokers: String) -> Self {
        Self { brokers, properties: Vec::new() }
    }

    fn settings(&self, topic: &str) -> Settings {
        let properties = self.properties.iter().map(|(name, value)| format!("{name}={value}"));
        Settings {
            log_url: format!("kafka://{}/{topic}", self.brokers),
            log_properties: properties.collect::<Vec<_>>().join(","),
            ..Settings::default()
        }
    }

    fn with(&self, topic: &str) -> String {
        let properties =
            self.properties.iter().map(|(name, value)| format!(", properties.{name} = '{value}'"));
        format!(
            "WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{}'{})",
            self.brokers,
            properties.collect::<String>()
        )
    }

    fn source(&self, name: &str) -> String {
        format!("CREATE SOURCE {name} (id bigint) {} FORMAT PLAIN ENCODE JSON", self.with(name))
    }

    fn sink(&self, name: &str) -> String {
        format!(
            "CREATE SINK {name} AS SELECT id FROM numbers {} FORMAT PLAIN ENCODE JSON \
             (force_append_only = 'true')",
            self.with(name)
        )
    }
}

/// A platform with log, source and sink at such brokers: rows go through, also after a restart.
async fn goes_through(broker: &Broker, log: &Client, source: &Client, sink: &Client, name: &str) {
    let (from, to) = (format!("{name}_in"), format!("{name}_out"));
    broker.create(&from, 1).await;
    broker.create(&to, 1).await;
    let send = async |id: usize| {
        let value = format!("{{\"id\": {id}}}");
        broker.send(&from, &[Sent { partition: 0, key: None, value: Some(&value) }]).await;
    };
    let dir = tempfile::tempdir().unwrap();
    let settings = log.settings(&format!("{name}_log"));
    let mut k = Running::with(dir.path(), settings.clone()).await;
    k.sql(&source.source(&from)).await;
    k.sql(&sink.sink(&to).replace("numbers", &from)).await;
    for round in 1..=2 {
        send(round).await;
        until(&mut k, &format!("SELECT count(*) FROM {from}"), &[&round.to_string()]).await;
        let since = Instant::now();
        while broker.read(&to).len() < round {
            assert!(since.elapsed() < PATIENCE, "{:?}", k.table("SHOW SINKS").await);
        }
        for shown in ["SHOW SOURCES".to_owned(), "SHOW SINKS".into()] {
            let shown = k.table(&shown).await.concat();
            assert!(shown.contains("running") && !shown.contains(PASSWORD), "{shown}");
        }
        let shown = k.table(&format!("SHOW CREATE SOURCE {from}")).await.concat();
        assert!(shown.contains("security.protocol") && !shown.contains(PASSWORD), "{shown}");
        k.platform.close().await.unwrap();
        drop(k);
        k = Running::with(dir.path(), settings.clone()).await;
    }
    let values: Vec<_> = broker.read(&to).into_iter().map(|(_, _, value)| value.unwrap()).collect();
    assert_eq!(values, [r#"{"id":1}"#, r#"{"id":2}"#]);
    k.platform.close().await.unwrap();
}

/// What log, source and sink say of brokers that do not let such a client in.
async fn refused(broker: &Broker, client: &Client, name: &str, why: &str) {
    broker.create(&format!("{name}_in"), 1).await;
    broker.create(&format!("{name}_out"), 1).await;
    let dir = tempfile::tempdir().unwrap();
    let topic = format!("{name}_log");
    let settings = Settings { data_dir: dir.path().into(), ..client.settings(&topic) };
    let error = Platform::open(settings, Arc::new(SystemClock)).await.err().unwrap();
    let text = format!("{error} {error:?}");
    assert_eq!(error.code, Code::InvalidInput, "{text}");
    assert!(text.contains(&topic) && text.contains(why), "{text}");
    assert!(!text.contains(WRONG), "{text}");
    let (_dir, mut k) = Running::start("CREATE STREAM numbers (id bigint)").await;
    k.sql(&client.source(&format!("{name}_in"))).await;
    k.sql(&client.sink(&format!("{name}_out"))).await;
    for show in ["SHOW SOURCES", "SHOW SINKS"] {
        let since = Instant::now();
        let shown = loop {
            let shown = k.table(show).await.concat();
            if shown.contains(why) {
                break shown;
            }
            assert!(since.elapsed() < PATIENCE, "{show}: {shown} does not say {why}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(shown.contains("retrying") && !shown.contains(WRONG), "{shown}");
    }
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_demand_a_password() {
    let Some(broker) = Broker::secure() else { return };
    let [scram, plain] = ["SCRAM-SHA-256", "PLAIN"];
    let client = |mechanism| Client::sasl(&broker, mechanism, PASSWORD);
    goes_through(&broker, &client(scram), &client(plain), &client(scram), "sasl").await;
    goes_through(&broker, &client(plain), &client(scram), &client(plain), "sasl2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_refuse_a_password() {
    let Some(broker) = Broker::secure() else { return };
    for (mechanism, name) in [("SCRAM-SHA-256", "wrong"), ("PLAIN", "wrong2")] {
        let client = Client::sasl(&broker, mechanism, WRONG);
        refused(&broker, &client, name, "SASL authentication error").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_demand_tls() {
    let Some(broker) = Broker::secure() else { return };
    let client = |authority| Client::tls(&broker, Some(authority));
    let java = client("ssl.truststore.location");
    let own = || client("ssl.ca.location");
    goes_through(&broker, &own(), &java, &own(), "tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_nobody_vouches_for() {
    let Some(broker) = Broker::secure() else { return };
    let stranger = Client::tls(&broker, None);
    refused(&broker, &stranger, "stranger", "certificate verify failed").await;
}

/// A client that says nothing of SASL or TLS.
#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_taken_for_open_ones() {
    let Some(broker) = Broker::secure() else { return };
    let opened = async |brokers: String, topic: &str| {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::plain(brokers);
        let settings = Settings { data_dir: dir.path().into(), ..client.settings(topic) };
        let error = Platform::open(settings, Arc::new(SystemClock)).await.err().unwrap();
        assert_eq!(error.code, Code::Unavailable, "{error}");
        assert!(error.message.contains(topic), "{error}");
        assert!(error.message.contains("the property security.protocol"), "{error}");
    };
    tokio::join!(opened(broker.sasl(), "open_sasl"), opened(broker.tls(), "open_tls"));
}
