//! The beginning of a connection: passwords by SCRAM-SHA-256 when the server has users, the
//! parameters that the client is told, the key by which it may cancel.

use super::{settings, sqlstate};
use async_trait::async_trait;
use futures::{FutureExt, Sink};
use pgwire::api::auth::sasl::SASLAuthStartupHandler;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramAuth, gen_salted_password};
use pgwire::api::auth::{
    AuthSource, LoginInfo, Password, ServerParameterProvider, StartupHandler,
    finish_authentication, protocol_negotiation, save_startup_parameters_to_metadata,
};
use pgwire::api::{
    ClientInfo, ConnectionGuard, ConnectionHandle, ConnectionManager, METADATA_USER,
    PidSecretKeyGenerator,
};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// The users' salted passwords.
pub(super) struct Users {
    passwords: BTreeMap<String, (Vec<u8>, Vec<u8>)>,
    /// For users that do not exist: nobody can tell them by the answer.
    decoy: Vec<u8>,
}

impl Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("count", &self.passwords.len()).finish()
    }
}

impl Users {
    /// Salts the passwords; it takes some milliseconds for each.
    pub fn new(users: &[(String, String)]) -> Self {
        let random = || uuid::Uuid::new_v4().into_bytes().to_vec();
        let salted = |password: &str| {
            let salt = random();
            let salted = gen_salted_password(password, &salt, SCRAM_ITERATIONS);
            (salt, salted)
        };
        let passwords = users.iter().map(|(user, password)| (user.clone(), salted(password)));
        Self { passwords: passwords.collect(), decoy: random() }
    }
}

#[async_trait]
impl AuthSource for Users {
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        let known = login.user().and_then(|user| self.passwords.get(user));
        let (salt, password) = match known {
            Some((salt, password)) => (salt.clone(), password.clone()),
            None => {
                let name = login.user().unwrap_or_default();
                let salt =
                    self.decoy.iter().zip(name.bytes().cycle().chain([0].into_iter().cycle()));
                let salt = salt.map(|(d, n)| d.wrapping_add(n)).collect();
                (salt, uuid::Uuid::new_v4().into_bytes().repeat(2))
            }
        };
        Ok(Password::new(Some(salt), password))
    }
}

/// What the client is told at the start.
struct Parameters;

impl ServerParameterProvider for Parameters {
    fn server_parameters<C: ClientInfo>(&self, client: &C) -> Option<HashMap<String, String>> {
        let variables = settings::at_startup(client.metadata().iter()).unwrap_or_default();
        let mut told: HashMap<String, String> = settings::REPORTED
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), settings::value(name, &variables)?)))
            .collect();
        let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
        told.insert("session_authorization".to_owned(), user);
        Some(told)
    }
}

/// How one connection begins.
pub(super) struct Startup {
    manager: Arc<ConnectionManager>,
    keys: Arc<dyn PidSecretKeyGenerator>,
    passwords: Option<SASLAuthStartupHandler<Parameters>>,
    /// Why the connection is refused, SQLSTATE and sentence.
    refusal: Option<(&'static str, String)>,
}

impl Startup {
    pub fn new(
        manager: Arc<ConnectionManager>,
        keys: Arc<dyn PidSecretKeyGenerator>,
        users: Option<&Arc<Users>>,
    ) -> Self {
        let passwords = users.map(|users| {
            let users: Arc<dyn AuthSource> = Arc::<Users>::clone(users);
            SASLAuthStartupHandler::new(Arc::new(Parameters))
                .with_scram(ScramAuth::new(users))
                .with_pid_secret_key_generator(Arc::clone(&keys))
                .with_connection_manager(Arc::clone(&manager))
        });
        Self { manager, keys, passwords, refusal: None }
    }

    /// Answers any start with an error.
    pub fn refuse(mut self, code: &'static str, why: String) -> Self {
        self.refusal = Some((code, why));
        self
    }
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(
        &self,
        client: &mut C,
        message: PgWireFrontendMessage,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if let PgWireFrontendMessage::Startup(startup) = &message {
            if let Some((code, why)) = &self.refusal {
                return Err(PgWireError::UserError(Box::new(sqlstate::fatal(code, why.as_str()))));
            }
            settings::at_startup(startup.parameters.iter())?;
        }
        if let Some(passwords) = &self.passwords {
            // A message whose lengths do not fit makes the library's decoder panic.
            let step = AssertUnwindSafe(passwords.on_startup(client, message)).catch_unwind();
            let broken = |_| sqlstate::user("08P01", "the password message is malformed");
            return step.await.unwrap_or_else(|panic| Err(broken(panic)));
        }
        let PgWireFrontendMessage::Startup(startup) = message else { return Ok(()) };
        protocol_negotiation(client, &startup).await?;
        save_startup_parameters_to_metadata(client, &startup);
        let (pid, key) = self.keys.generate(client);
        client.set_pid_and_secret_key(pid, key.clone());
        let (handle, guard) = self.manager.register(pid, key);
        client.session_extensions().insert::<Arc<ConnectionHandle>>(handle);
        client.session_extensions().insert::<ConnectionGuard>(guard);
        finish_authentication(client, &Parameters).await
    }
}
