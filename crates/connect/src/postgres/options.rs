//! The options of `connector = 'postgres-cdc'`, in RisingWave's spelling, as checked data.
//!
//! Refused: options that are not known, names that PostgreSQL would not take for a slot, and
//! settings of Debezium, which has no part in this.

use crate::{Error, Result};
use pgwire_replication::{SslMode, TlsConfig};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The name of the connector.
pub const CONNECTOR: &str = "postgres-cdc";
/// Longest name of a slot, in bytes (PostgreSQL's NAMEDATALEN - 1).
const MAX_SLOT_BYTES: usize = 63;

/// Options of the server and what to read of it, with what they do.
pub const OPTIONS: [(&str, &str); 17] = [
    ("hostname", "host of the server, or the folder of its socket"),
    ("port", "its port; 5432 unless given"),
    ("username", "a role with REPLICATION and SELECT on the tables"),
    ("password", "its password"),
    ("database.name", "the database"),
    ("schema.name", "the schema of tables that are named without one; public unless given"),
    ("table.name", "the table, where CREATE TABLE names the connector itself"),
    ("slot.name", "the replication slot; made if missing; kaplan_<source> unless given"),
    ("publication.name", "the publication; made if missing; kaplan_<source> unless given"),
    ("publication.create.enable", "false: never make or change the publication"),
    ("transactional", "false: a transaction too large for one commit may come in several"),
    ("unknown_fields", "ignore, or evolve: columns that tables have more are added here"),
    ("auto.schema.change", "true: the same as evolve"),
    ("ssl.mode", "disabled, preferred, required, verify-ca or verify-full"),
    ("ssl.root.cert", "file of the certificate authority, for verify-ca and verify-full"),
    ("ssl.cert", "file of the client's certificate"),
    ("ssl.key", "file of the client's key"),
];

/// What a source of this connector was told.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// The server's host.
    pub hostname: String,
    /// Its port.
    pub port: u16,
    /// The role.
    pub username: String,
    /// Its password.
    pub password: String,
    /// The database.
    pub database: String,
    /// The schema of tables that are named without one.
    pub schema: String,
    /// The one table of a source that is a table itself.
    pub table: Option<String>,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Whether the publication may be made and changed.
    pub create_publication: bool,
    /// Whether an upstream transaction is always one commit.
    pub transactional: bool,
    /// Whether columns that tables have more upstream are added here.
    pub evolve: bool,
    /// How the connection is secured.
    pub tls: TlsConfig,
}

/// A password is nothing to show.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}/{}", self.username, self.hostname, self.port, self.database)?;
        write!(f, " slot {} publication {}", self.slot, self.publication)
    }
}

impl Options {
    /// Reads the options of the source `source`.
    ///
    /// # Errors
    /// An option is missing, unknown or has no usable value.
    pub fn read(source: &str, given: &BTreeMap<String, String>) -> Result<Options> {
        if let Some(name) = given.keys().find(|name| !is_known(name)) {
            let hint = match name.starts_with("debezium.") {
                true => "the changes are read without Debezium; leave the option out".to_owned(),
                false => {
                    let known: Vec<&str> = OPTIONS.iter().map(|(name, _)| *name).collect();
                    format!("the options of {CONNECTOR} are {}", known.join(", "))
                }
            };
            return Err(Error::config(format!("{CONNECTOR} has no option {name}")).hint(hint));
        }
        let get = |name: &str| given.get(name).map(String::as_str);
        let need = |name: &str| {
            get(name).map(str::to_owned).ok_or_else(|| {
                Error::config(format!("{CONNECTOR} needs the option {name}"))
                    .hint(format!("write {name} = '..'"))
            })
        };
        let port = get("port").unwrap_or("5432");
        let port = port.parse().map_err(|_| wrong("port", port, "a number from 1 to 65535"))?;
        let ours = default_name(source);
        Ok(Options {
            hostname: need("hostname")?,
            port,
            username: need("username")?,
            password: get("password").unwrap_or_default().to_owned(),
            database: need("database.name")?,
            schema: get("schema.name").unwrap_or("public").to_owned(),
            table: get("table.name").map(str::to_owned),
            slot: slot(get("slot.name").unwrap_or(&ours))?,
            publication: get("publication.name").unwrap_or(&ours).to_owned(),
            create_publication: flag(
                "publication.create.enable",
                get("publication.create.enable"),
            )?,
            transactional: flag("transactional", get("transactional"))?,
            evolve: evolve(get("unknown_fields"), get("auto.schema.change"))?,
            tls: tls(given)?,
        })
    }

    /// Schema and name of a table as `CREATE TABLE .. FROM source TABLE 'schema.name'` writes it.
    #[must_use]
    pub fn table_name(&self, written: &str) -> (String, String) {
        match written.split_once('.') {
            Some((schema, name)) => (schema.to_owned(), name.to_owned()),
            None => (self.schema.clone(), written.to_owned()),
        }
    }
}

fn is_known(name: &str) -> bool {
    name == "connector" || OPTIONS.iter().any(|(known, _)| *known == name)
}

fn wrong(name: &str, value: &str, expected: &str) -> Error {
    Error::config(format!("{name} = '{value}' is not possible"))
        .hint(format!("{name} is {expected}"))
}

fn flag(name: &str, value: Option<&str>) -> Result<bool> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("true" | "t" | "on" | "1") => Ok(true),
        Some("false" | "f" | "off" | "0") => Ok(false),
        Some(other) => Err(wrong(name, other, "true or false")),
    }
}

fn evolve(unknown: Option<&str>, auto: Option<&str>) -> Result<bool> {
    let auto = flag("auto.schema.change", auto.or(Some("false")))?;
    match unknown {
        None => Ok(auto),
        Some("ignore") if !auto => Ok(false),
        Some("evolve") => Ok(true),
        Some(other) => Err(wrong("unknown_fields", other, "ignore or evolve")),
    }
}

/// A name for the slot and publication of a source: what slots may have of the source's name.
fn default_name(source: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '_',
    };
    let mut name: String = "kaplan_".chars().chain(source.chars().map(plain)).collect();
    name.truncate(MAX_SLOT_BYTES);
    name
}

fn slot(name: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if name.is_empty() || name.len() > MAX_SLOT_BYTES || !name.bytes().all(plain) {
        let expected = "up to 63 lower-case letters, digits and _, as PostgreSQL has it for slots";
        return Err(wrong("slot.name", name, expected));
    }
    Ok(name.to_owned())
}

fn tls(given: &BTreeMap<String, String>) -> Result<TlsConfig> {
    let file = |name: &str| given.get(name).map(PathBuf::from);
    let mode = given.get("ssl.mode").map_or("disabled", String::as_str);
    let mode = match mode.to_ascii_lowercase().replace('_', "-").as_str() {
        "disabled" | "disable" => SslMode::Disable,
        "preferred" | "prefer" => SslMode::Prefer,
        "required" | "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            let expected = "disabled, preferred, required, verify-ca or verify-full";
            return Err(wrong("ssl.mode", mode, expected));
        }
    };
    Ok(TlsConfig {
        mode,
        ca_pem_path: file("ssl.root.cert"),
        client_cert_pem_path: file("ssl.cert"),
        client_key_pem_path: file("ssl.key"),
        ..TlsConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(options: &[(&str, &str)]) -> BTreeMap<String, String> {
        let least = [("hostname", "h"), ("username", "u"), ("database.name", "d")];
        let all = least.iter().chain(options);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_left_out_has_a_usual_value() {
        let options = Options::read("Shop-1", &given(&[("password", "secret")])).unwrap();
        assert_eq!((options.port, options.slot.as_str()), (5432, "kaplan_shop_1"));
        assert_eq!(options.table_name("orders"), ("public".to_owned(), "orders".to_owned()));
        assert_eq!(options.table_name("a.b"), ("a".to_owned(), "b".to_owned()));
        assert!(options.transactional && options.create_publication);
        assert!(!format!("{options:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (name, value) in [
            ("port", "x"),
            ("slot.name", "Big Slot"),
            ("ssl.mode", "maybe"),
            ("transactional", "2"),
            ("unknown_fields", "capture"),
            ("auto.schema.change", "perhaps"),
            ("debezium.snapshot.mode", "initial"),
            ("sloth.name", "s"),
        ] {
            let error = Options::read("s", &given(&[(name, value)])).unwrap_err();
            assert!(error.message.contains(name) && error.hint.is_some(), "{error:?}");
        }
        let mut missing = given(&[]);
        missing.remove("hostname");
        assert!(Options::read("s", &missing).unwrap_err().message.contains("hostname"));
    }
}
