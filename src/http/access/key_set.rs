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

/// Keys that are used are looked up again after this time, so that one that was withdrawn is not
/// trusted for ever.
const REFRESH_EVERY: Duration = Duration::from_secs(600);
/// The most keys that are kept of a set.
const KEYS_MAX: usize = 100;

/// Gets the text of the set, within a bounded time and size. The error says why not.
pub type KeySource = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

/// The keys as they were when they were last got. While the source is away the old ones stay.
pub struct KeySet {
    source: KeySource,
    /// The least time between two looks at the source, whatever tokens come.
    pause: Duration,
    keys: ArcSwap<Vec<Arc<PublicKey>>>,
    /// When the source was last asked; held while it is.
    asked: Mutex<Option<Instant>>,
}

/// Good for one algorithm only.
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
    /// Without keys, until [`KeySet::load`] or the first token.
    pub fn new(source: KeySource, pause: Duration) -> Arc<Self> {
        Arc::new(Self { source, pause, keys: ArcSwap::default(), asked: Mutex::default() })
    }

    /// Asks the source; how many keys there are now. After an error it is as before.
    pub async fn load(&self) -> Result<usize, String> {
        let mut asked = self.asked.lock().await;
        *asked = Some(Instant::now());
        let keys = parse(&(self.source)().await?)?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(count)
    }

    /// How many keys are known.
    pub fn count(&self) -> usize {
        self.keys.load().len()
    }

    /// The key with this id; without an id, the only one for the algorithm. A key that is not known
    /// may be new: then the source is asked, and all who wait for it get what it says.
    pub(super) async fn find(
        self: &Arc<Self>,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Option<Arc<PublicKey>> {
        let known = self.known(algorithm, id);
        if known.is_none() {
            // In a task of its own: who hangs up must not leave the next without keys.
            let _ = tokio::spawn(self.clone().refresh(self.pause)).await;
            return self.known(algorithm, id);
        }
        let old = |asked: &Option<Instant>| asked.is_none_or(|at| at.elapsed() > REFRESH_EVERY);
        if self.asked.try_lock().is_ok_and(|asked| old(&asked)) {
            tokio::spawn(self.clone().refresh(REFRESH_EVERY));
        }
        known
    }

    fn known(&self, algorithm: Algorithm, id: Option<&str>) -> Option<Arc<PublicKey>> {
        let keys = self.keys.load();
        let mut fitting = keys.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)).cloned(),
            None => fitting.next().filter(|_| fitting.next().is_none()).cloned(),
        }
    }

    /// Asks the source, unless that was done within `pause`.
    async fn refresh(self: Arc<Self>, pause: Duration) {
        let asked = *self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < pause) {
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

/// The keys that can be used; others, and those for other uses, are passed over.
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
