//! The public keys of an identity provider (a JSON Web Key Set, RFC 7517).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Maximum age of the keys before a use refreshes them, so that withdrawn keys stop being trusted.
const REFRESH_EVERY: Duration = Duration::from_secs(600);
/// Maximum keys of a set.
const KEYS_MAX: usize = 100;

/// Fetches the text of the set, within bounds of time and size.
pub type KeySource = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

/// The last fetched keys, which stay valid while the source is unavailable.
pub struct KeySet {
    source: KeySource,
    /// Minimum time between two fetches, whatever tokens arrive.
    pause: Duration,
    keys: ArcSwap<Vec<Arc<PublicKey>>>,
    /// Start of the last fetch. Locked during a fetch, so that concurrent callers share it.
    fetched_at: Mutex<Option<Instant>>,
}

/// A key, valid for one algorithm only.
pub(super) struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    pub key: DecodingKey,
}

#[derive(Deserialize)]
struct SetJson {
    keys: Vec<Value>,
}

impl KeySet {
    /// A set without keys until [`KeySet::load`] or the first token.
    pub fn new(source: KeySource, pause: Duration) -> Arc<Self> {
        Arc::new(Self { source, pause, keys: ArcSwap::default(), fetched_at: Mutex::default() })
    }

    /// Fetches the keys and returns their number. After an error the keys are unchanged.
    pub async fn load(&self) -> Result<usize, String> {
        let mut fetched_at = self.fetched_at.lock().await;
        *fetched_at = Some(Instant::now());
        let keys = parse(&(self.source)().await?)?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(count)
    }

    /// Number of known keys.
    pub fn count(&self) -> usize {
        self.keys.load().len()
    }

    /// The key with this id; without an id, the only key for the algorithm. An unknown key may be
    /// new, so the keys are fetched again; all callers that wait for that fetch use its result.
    pub(super) async fn find(
        self: &Arc<Self>,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Option<Arc<PublicKey>> {
        let known = self.known(algorithm, id);
        if known.is_none() {
            // In its own task, because a client that disconnects must not cancel a shared fetch.
            let _ = tokio::spawn(self.clone().refresh(self.pause)).await;
            return self.known(algorithm, id);
        }
        let is_old = |at: &Option<Instant>| at.is_none_or(|at| at.elapsed() > REFRESH_EVERY);
        if self.fetched_at.try_lock().is_ok_and(|at| is_old(&at)) {
            tokio::spawn(self.clone().refresh(REFRESH_EVERY));
        }
        known
    }

    fn known(&self, algorithm: Algorithm, id: Option<&str>) -> Option<Arc<PublicKey>> {
        let keys = self.keys.load();
        let mut matching = keys.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => matching.find(|key| key.id.as_deref() == Some(id)).cloned(),
            None => matching.next().filter(|_| matching.next().is_none()).cloned(),
        }
    }

    /// Fetches the keys, unless a fetch began within the last `pause`.
    async fn refresh(self: Arc<Self>, pause: Duration) {
        let fetched_at = *self.fetched_at.lock().await;
        if fetched_at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        if let Err(e) = self.load().await {
            let count = self.count();
            tracing::warn!("JWKS refresh failed; keeping {count} cached keys: jwt_jwks: {e}");
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.count()).finish_non_exhaustive()
    }
}

/// The usable keys of a set. Keys of other algorithms and for other uses are ignored.
fn parse(text: &[u8]) -> Result<Vec<Arc<PublicKey>>, String> {
    let set: SetJson =
        serde_json::from_slice(text).map_err(|e| format!("no JSON Web Keys: {e}"))?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        let algorithm = algorithm(&jwk)?;
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Arc::new(PublicKey { id: jwk.common.key_id, algorithm, key }))
    });
    let keys: Vec<_> = keys.take(KEYS_MAX).collect();
    if keys.is_empty() {
        return Err("no key for RS256, ES256 or EdDSA in the set".to_owned());
    }
    Ok(keys)
}

fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
    let fits = jwk.common.key_algorithm.is_none_or(|a| a == name);
    (signs && fits).then_some(algorithm)
}
