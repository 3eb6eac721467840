//! Who calls: OIDC identity tokens (`Authorization: Bearer ..`), where the settings ask for them.
//!
//! A token counts when one of the issuer's current keys signed it, it names the issuer and the
//! audience, it has not expired, and its caller is one of those named, if any are. Keys are fetched
//! once, again when they are old or a token names one that is not known (at most every
//! [`REFETCH_AFTER`]), and kept while the issuer cannot be reached. Only asymmetric signatures are
//! taken. The probes (`/livez`, `/readyz`) are open to everybody.

use super::App;
use super::error::ApiError;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use kaplan_platform::Code;
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Keys older than this are fetched again.
const KEYS_LIVE: Duration = Duration::from_secs(3_600);
/// A token with an unknown key makes the keys be fetched again at most this often.
const REFETCH_AFTER: Duration = Duration::from_secs(10);
/// Longest wait for the issuer.
const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// How far the clocks of issuer and server may differ, in seconds.
const LEEWAY_SECONDS: u64 = 30;
/// Signatures that need the issuer's private key.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
const OPEN: [&str; 5] = ["/livez", "/live", "/healthz", "/readyz", "/ready"];

/// Whose tokens are taken.
#[derive(Clone, Debug, Default)]
pub struct Oidc {
    /// The issuer, as tokens name it: an `https` URL.
    pub issuer: String,
    /// The audience that tokens must name, usually the URL of this service.
    pub audience: String,
    /// Where the issuer's keys are; empty: where its discovery document says.
    pub jwks_url: String,
    /// The `email` or `sub` of those who may call; empty: everybody with a token.
    pub callers: Vec<String>,
}

/// Checks tokens.
pub(super) struct Callers {
    settings: Oidc,
    /// Or why there is none, such as no certificates on the machine.
    client: Result<reqwest::Client, String>,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    set: Option<JwkSet>,
    /// When they were last asked for, with or without success.
    asked: Option<Instant>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    email: Option<String>,
    #[serde(default)]
    email_verified: Option<bool>,
}

#[derive(Deserialize)]
struct Discovery {
    jwks_uri: String,
}

/// Lets requests pass whose caller may.
pub(super) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    if let Some(callers) = &app.callers
        && !OPEN.contains(&request.uri().path())
        && let Err(refused) = callers.admit(request.headers()).await
    {
        return refused.into_response();
    }
    next.run(request).await
}

fn refused(message: impl Into<String>) -> ApiError {
    ApiError::unauthorized(message)
        .hint("send an OIDC identity token for this service: Authorization: Bearer TOKEN")
}

impl Callers {
    pub(super) fn new(settings: Oidc) -> Self {
        let client = reqwest::Client::builder().timeout(FETCH_LIMIT).build();
        let client = client.map_err(|e| e.to_string());
        Self { settings, client, keys: Mutex::default() }
    }

    async fn admit(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let value = headers.get(header::AUTHORIZATION);
        let token = value
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| refused("the request has no bearer token"))?;
        let head =
            decode_header(token).map_err(|e| refused(format!("the token is no JWT: {e}")))?;
        if !ALGORITHMS.contains(&head.alg) {
            return Err(refused(format!("the token is signed by {:?}", head.alg)));
        }
        let key = self.key(head.kid.as_deref()).await?;
        let mut validation = Validation::new(head.alg);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = decode::<Claims>(token, &key, &validation)
            .map_err(|e| refused(format!("the token is not valid: {e}")))?
            .claims;
        self.may_call(&claims)
    }

    fn may_call(&self, claims: &Claims) -> Result<(), ApiError> {
        let email = claims.email.as_ref().filter(|_| claims.email_verified != Some(false));
        let mut names = email.into_iter().chain(&claims.sub);
        if self.settings.callers.is_empty() || names.any(|n| self.settings.callers.contains(n)) {
            return Ok(());
        }
        let who = claims.email.as_deref().or(claims.sub.as_deref()).unwrap_or("nobody");
        Err(ApiError::forbidden(format!("{who} may not call this service"))
            .hint("add the caller to oidc_callers"))
    }

    /// The key that a token names.
    async fn key(&self, kid: Option<&str>) -> Result<DecodingKey, ApiError> {
        let mut keys = self.keys.lock().await;
        let age = keys.asked.map(|asked| asked.elapsed());
        let known = find(keys.set.as_ref(), kid);
        let stale = age.is_none_or(|age| age > KEYS_LIVE);
        let unknown = known.is_none() && age.is_none_or(|age| age > REFETCH_AFTER);
        if !stale && !unknown {
            return known.ok_or_else(|| refused("the token's key is not one of the issuer's"));
        }
        keys.asked = Some(Instant::now());
        let fetched = match keys.set.is_some() {
            // Meanwhile callers with a known key are let in.
            true => {
                drop(keys);
                let fetched = self.fetch().await;
                keys = self.keys.lock().await;
                fetched
            }
            false => self.fetch().await,
        };
        keys.asked = Some(Instant::now());
        match fetched {
            Ok(set) => keys.set = Some(set),
            Err(reason) if keys.set.is_some() => {
                tracing::warn!(reason, "the issuer's keys cannot be fetched; the old ones stay");
            }
            Err(reason) => {
                keys.asked = None;
                return Err(ApiError::new(
                    Code::Unavailable,
                    format!("the keys of {} cannot be fetched: {reason}", self.settings.issuer),
                ));
            }
        }
        let found = find(keys.set.as_ref(), kid);
        found.ok_or_else(|| refused("the token's key is not one of the issuer's"))
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let mut url = self.settings.jwks_url.clone();
        if url.is_empty() {
            let issuer = self.settings.issuer.trim_end_matches('/');
            let discovery = format!("{issuer}/.well-known/openid-configuration");
            url = self.get::<Discovery>(&discovery).await?.jwks_uri;
        }
        self.get(&url).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let client = self.client.as_ref().map_err(Clone::clone)?;
        let answer = client.get(url).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status);
        let body = answer.map_err(|e| e.to_string())?.bytes().await.map_err(|e| e.to_string())?;
        serde_json::from_slice(&body).map_err(|e| format!("{url}: {e}"))
    }
}

/// The key with this id; without an id, the only one.
fn find(set: Option<&JwkSet>, kid: Option<&str>) -> Option<DecodingKey> {
    let set = set?;
    let jwk = match kid {
        Some(kid) => set.find(kid)?,
        None => set.keys.first().filter(|_| set.keys.len() == 1)?,
    };
    DecodingKey::from_jwk(jwk).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Json;
    use axum::routing::get;
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
    use serde_json::{Value, json};
    use std::sync::Arc;
    use std::sync::Mutex as Plain;

    const AUDIENCE: &str = "https://kaplan.example";

    /// An issuer on loopback, whose keys the test changes.
    struct Issuer {
        url: String,
        keys: Arc<Plain<Vec<Jwk>>>,
    }

    struct Signer {
        kid: &'static str,
        key: EncodingKey,
    }

    impl Signer {
        fn new(kid: &'static str) -> Self {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            Self { kid, key: EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap() }
        }

        fn jwk(&self) -> Jwk {
            let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
            jwk.common.key_id = Some(self.kid.to_owned());
            jwk
        }

        fn token(&self, claims: &Value) -> String {
            let mut header = Header::new(Algorithm::ES256);
            header.kid = Some(self.kid.to_owned());
            encode(&header, claims, &self.key).unwrap()
        }
    }

    impl Issuer {
        async fn start() -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let keys = Arc::<Plain<Vec<Jwk>>>::default();
            let (served, at) = (Arc::clone(&keys), url.clone());
            let discovery =
                move || async move { Json(json!({ "jwks_uri": format!("{at}/keys") })) };
            let set = move || async move { Json(JwkSet { keys: served.lock().unwrap().clone() }) };
            let router = axum::Router::new()
                .route("/.well-known/openid-configuration", get(discovery))
                .route("/keys", get(set));
            tokio::spawn(async move { axum::serve(listener, router).await });
            Self { url, keys }
        }

        fn callers(&self, names: &[&str]) -> Callers {
            Callers::new(Oidc {
                issuer: self.url.clone(),
                audience: AUDIENCE.to_owned(),
                jwks_url: String::new(),
                callers: names.iter().map(|n| (*n).to_owned()).collect(),
            })
        }

        fn claims(&self) -> Value {
            let exp = jsonwebtoken::get_current_timestamp() + 600;
            json!({ "iss": self.url, "aud": AUDIENCE, "exp": exp, "sub": "17", "email": "a@b.c" })
        }
    }

    async fn status(callers: &Callers, token: &str) -> u16 {
        let bearer = format!("Bearer {token}").parse().unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
        let admitted = callers.admit(&headers).await;
        admitted.map_or_else(|refused| refused.into_response().status().as_u16(), |()| 200)
    }

    #[tokio::test]
    async fn a_token_counts_for_its_issuer_audience_time_and_caller() {
        let issuer = Issuer::start().await;
        let signer = Signer::new("one");
        issuer.keys.lock().unwrap().push(signer.jwk());
        let callers = issuer.callers(&["a@b.c"]);
        assert_eq!(status(&callers, &signer.token(&issuer.claims())).await, 200);
        let changes = [
            ("aud", json!("https://other.example"), 401),
            ("iss", json!("https://other.example"), 401),
            ("exp", json!(jsonwebtoken::get_current_timestamp() - 600), 401),
            ("exp", Value::Null, 401),
            ("nbf", json!(jsonwebtoken::get_current_timestamp() + 600), 401),
            ("email", json!("x@y.z"), 403),
            ("email_verified", json!(false), 403),
        ];
        for (name, value, expected) in changes {
            let mut claims = issuer.claims();
            claims[name] = value.clone();
            let found = status(&callers, &signer.token(&claims)).await;
            assert_eq!(found, expected, "{name} = {value}");
        }
        let by_subject = issuer.callers(&["17"]);
        assert_eq!(status(&by_subject, &signer.token(&issuer.claims())).await, 200);
        for nonsense in ["", "x", "a.b.c"] {
            assert_eq!(status(&callers, nonsense).await, 401, "{nonsense}");
        }
        assert!(callers.admit(&HeaderMap::new()).await.is_err());
    }

    #[tokio::test]
    async fn only_the_issuers_keys_sign() {
        let issuer = Issuer::start().await;
        let (signer, forger) = (Signer::new("one"), Signer::new("one"));
        issuer.keys.lock().unwrap().push(signer.jwk());
        let callers = issuer.callers(&[]);
        assert_eq!(status(&callers, &forger.token(&issuer.claims())).await, 401);
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("one".to_owned());
        let public = serde_json::to_vec(&signer.jwk()).unwrap();
        let shared = encode(&header, &issuer.claims(), &EncodingKey::from_secret(&public)).unwrap();
        assert_eq!(status(&callers, &shared).await, 401);
        assert_eq!(status(&callers, &signer.token(&issuer.claims())).await, 200);
    }

    #[tokio::test]
    async fn a_new_key_is_fetched_and_an_old_one_goes() {
        let issuer = Issuer::start().await;
        let (first, second) = (Signer::new("first"), Signer::new("second"));
        *issuer.keys.lock().unwrap() = vec![first.jwk()];
        let callers = issuer.callers(&[]);
        assert_eq!(status(&callers, &first.token(&issuer.claims())).await, 200);
        *issuer.keys.lock().unwrap() = vec![second.jwk()];
        let second = second.token(&issuer.claims());
        assert_eq!(status(&callers, &second).await, 401, "not asked again at once");
        let earlier = Instant::now().checked_sub(REFETCH_AFTER * 2);
        callers.keys.lock().await.asked = earlier;
        assert_eq!(status(&callers, &second).await, 200);
        assert_eq!(status(&callers, &first.token(&issuer.claims())).await, 401);
    }

    #[tokio::test]
    async fn keys_stay_while_the_issuer_cannot_be_reached() {
        let issuer = Issuer::start().await;
        let signer = Signer::new("one");
        issuer.keys.lock().unwrap().push(signer.jwk());
        let token = signer.token(&issuer.claims());
        let mut callers = issuer.callers(&[]);
        assert_eq!(status(&callers, &token).await, 200);
        callers.settings.jwks_url = "http://127.0.0.1:9/keys".to_owned();
        callers.keys.lock().await.asked = Instant::now().checked_sub(KEYS_LIVE * 2);
        assert_eq!(status(&callers, &token).await, 200);
        callers.keys = Mutex::default();
        assert_eq!(status(&callers, &token).await, 503);
    }
}
