//! Tokens (JWT) of users.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flux::http::{AccessRules, KeySet, Keys, TokenRules};
use futures_util::FutureExt;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use ring::{hmac, signature};
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "a secret of at least thirty-two bytes";

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token with this header and these claims, signed by `sign`.
fn token(head: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(head.to_string()), encoded(claims.to_string()));
    let signature = encoded(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn by_secret(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

fn hs256(claims: &Value) -> String {
    token(&json!({ "alg": "HS256" }), claims, by_secret(SECRET.as_bytes()))
}

fn anns() -> Value {
    json!({ "sub": "ann", "exp": now() + 600 })
}

/// The key pairs of an identity provider, and the key set that it publishes.
pub struct Provider {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    random: SystemRandom,
}

impl Provider {
    pub fn new() -> Provider {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ec = ec.as_ref();
        Provider {
            rsa: RsaKeyPair::from_pkcs8(include_bytes!("token_test_key.pk8")).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec, &random).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            random,
        }
    }

    pub fn set(&self) -> Value {
        let RsaPublicKeyComponents { n, e } =
            RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        let (x, y) = self.ec.public_key().as_ref()[1..].split_at(32);
        let ed = encoded(self.ed.public_key());
        json!({ "keys": [
            { "kty": "RSA", "kid": "rsa", "use": "sig", "n": encoded(n), "e": encoded(e) },
            { "kty": "EC", "kid": "ec", "crv": "P-256", "x": encoded(x), "y": encoded(y) },
            { "kty": "OKP", "kid": "ed", "alg": "EdDSA", "crv": "Ed25519", "x": ed },
            { "kty": "oct", "kid": "oct", "alg": "HS256", "k": encoded(SECRET) },
            { "kty": "what no library knows", "kid": 7 },
        ]})
    }

    pub fn token(&self, algorithm: &str, kid: &str, claims: &Value) -> String {
        let sign = |message: &[u8]| match algorithm {
            "RS256" => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                let padding: &dyn signature::RsaEncoding = &RSA_PKCS1_SHA256;
                self.rsa.sign(padding, &self.random, message, &mut signature).unwrap();
                signature
            }
            "ES256" => self.ec.sign(&self.random, message).unwrap().as_ref().to_vec(),
            _ => self.ed.sign(message).as_ref().to_vec(),
        };
        token(&json!({ "alg": algorithm, "kid": kid }), claims, sign)
    }
}

async fn server(tokens: TokenRules) -> TestServer {
    let access = AccessRules { tokens, ..AccessRules::default() };
    TestServer::start_with(Setup { access, ..Setup::default() }).await
}

async fn server_with_secret() -> TestServer {
    server(TokenRules { secret: Some(SECRET.into()), ..TokenRules::default() }).await
}

/// A key set that can change or be unavailable, and the number of fetches.
fn published(
    set: Value,
    pause: Duration,
) -> (Arc<Mutex<Option<Value>>>, Arc<AtomicUsize>, TokenRules) {
    let set = Arc::new(Mutex::new(Some(set)));
    let fetches = Arc::new(AtomicUsize::new(0));
    let source = set.clone();
    let count = fetches.clone();
    let keys = KeySet::new(
        Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let set = source.lock().unwrap().as_ref().map(|set| set.to_string().into_bytes());
            async move { set.ok_or_else(|| "away".to_owned()) }.boxed()
        }),
        pause,
    );
    (set, fetches, TokenRules { keys: Some(keys), ..TokenRules::default() })
}

async fn buys(server: &TestServer, token: &str, user: &str) -> Reply {
    let body = json!({ "user_id": user, "item_id": "ticket_001" }).to_string();
    server.buy(&format!("Authorization: Bearer {token}\r\n"), &body).await
}

#[tokio::test]
async fn subject_with_invisible_characters_is_refused() {
    let server = server_with_secret().await;
    for subject in ["ann\u{2028}", "an\u{200b}n", "\u{202e}nna", " "] {
        let token = hs256(&json!({ "sub": subject, "exp": now() + 600 }));
        let detail = buys(&server, &token, "ann").await.problem(401);
        assert!(detail.contains("subject"), "{subject:?}: {detail}");
    }
}

#[tokio::test]
async fn token_buys_and_reads_only_for_its_subject() {
    let server = server_with_secret().await;
    let ann = hs256(&anns());
    let bob = hs256(&json!({ "sub": "bob", "exp": now() + 600 }));
    let order = buys(&server, &ann, "ann").await.json();
    buys(&server, &ann, "bob").await.problem(403);
    buys(&server, &bob, "ann").await.problem(403);
    server.buy("", r#"{"user_id":"ann","item_id":"a"}"#).await.problem(401);

    let path = format!("/orders/{}", order["order_id"].as_str().unwrap());
    let see = async |token: &str, path: &str| {
        server.ask("GET", path, &format!("Authorization: Bearer {token}\r\n"), "").await
    };
    assert_eq!(see(&ann, &path).await.json()["user_id"], "ann");
    assert_eq!(see(ADMIN_KEY, &path).await.json()["user_id"], "ann");
    let none = see(&bob, &format!("/orders/{}", "0".repeat(32))).await;
    let hidden = see(&bob, &path).await;
    assert_eq!((hidden.problem(404), &hidden.body), (none.problem(404), &none.body));
    see(&bob, &format!("{path}/events")).await.problem(404);
    see(&ann, "/inventory").await.problem(403);
}

#[tokio::test]
async fn foreign_order_looks_like_a_missing_one() {
    for backend in ["embedded", "aws"] {
        let access = AccessRules {
            tokens: TokenRules { secret: Some(SECRET.into()), ..TokenRules::default() },
            ..AccessRules::default()
        };
        let server = TestServer::start_with(Setup { access, backend, ..Setup::default() }).await;
        let order = buys(&server, &hs256(&anns()), "ann").await.json();
        let path = format!("/orders/{}", order["order_id"].as_str().unwrap());
        let none = format!("/orders/{}", "0".repeat(32));
        let bob = hs256(&json!({ "sub": "bob", "exp": now() + 600 }));
        let headers = format!("Authorization: Bearer {bob}\r\n");
        for state in ["queued", "decided"] {
            for query in ["", "?wait=30", "/events"] {
                // No worker runs at first, so a wait would exceed the client's timeout.
                let hidden = server.ask("GET", &format!("{path}{query}"), &headers, "").await;
                let missing = server.ask("GET", &format!("{none}{query}"), &headers, "").await;
                assert_eq!(hidden.problem(404), missing.problem(404), "{backend} {state} {query}");
                assert_eq!(hidden.body, missing.body);
            }
            server.start_worker();
            let anns = format!("Authorization: Bearer {}\r\n", hs256(&anns()));
            server.ask("GET", &format!("{path}?wait=20"), &anns, "").await;
        }
    }
}

#[tokio::test]
async fn stream_ends_when_its_token_expires() {
    let server = server_with_secret().await;
    let order = buys(&server, &hs256(&anns()), "ann").await.json();
    let path = format!("/orders/{}/events", order["order_id"].as_str().unwrap());
    // With the tolerance of 30 s this token is valid for 2 s to 3 s more.
    let short = hs256(&json!({ "sub": "ann", "exp": now() - 28 }));
    let mut events = server.events(&path, &format!("Authorization: Bearer {short}\r\n")).await;
    assert_eq!(events.next().await.unwrap().1["user_id"], "ann");
    assert_eq!(events.next().await, None, "no last event, because the order is undecided");
}

#[tokio::test]
async fn invalid_tokens_do_not_delay_valid_credentials() {
    let provider = Provider::new();
    let (_, _, tokens) = published(provider.set(), Duration::from_secs(600));
    let tokens = TokenRules { secret: Some(SECRET.into()), ..tokens };
    let buy_keys = Keys::parse(&"the key of the shop".into());
    let access = AccessRules { tokens, buy_keys, ..AccessRules::default() };
    let server = TestServer::start_with(Setup { access, ..Setup::default() }).await;
    let expired = hs256(&json!({ "sub": "ann", "exp": now() - 600 }));
    let forged = Provider::new().token("ES256", "ec", &anns());
    let good = [
        "the key of the shop".to_owned(),
        ADMIN_KEY.to_owned(),
        hs256(&anns()),
        provider.token("ES256", "ec", &anns()),
        provider.token("RS256", "rsa", &anns()),
    ];
    let mut refused = 0;
    for n in 0..400 {
        let bad = if n % 2 == 0 { &expired } else { &forged };
        let reply = buys(&server, bad, "ann").await;
        assert!([401, 429].contains(&reply.status), "{}", reply.head);
        refused += usize::from(reply.status == 429);
        if n % 20 == 19 {
            for credential in &good {
                assert_eq!(
                    buys(&server, credential, "ann").await.status,
                    202,
                    "after {n} invalid ones"
                );
            }
        }
    }
    assert!(refused > 0, "invalid tokens are limited");
}

#[tokio::test]
async fn only_intact_current_tokens_are_accepted() {
    let server = server_with_secret().await;
    let none = token(&json!({ "alg": "none" }), &anns(), |_| Vec::new());
    let unsigned = token(&json!({ "alg": "HS256" }), &anns(), |_| Vec::new());
    let other = token(&json!({ "alg": "HS256" }), &anns(), by_secret(b"another secret"));
    let longer = token(&json!({ "alg": "HS512" }), &anns(), by_secret(SECRET.as_bytes()));
    let critical = json!({ "alg": "HS256", "crit": ["exp"] });
    let critical = token(&critical, &anns(), by_secret(SECRET.as_bytes()));
    let good = hs256(&anns());
    let other_claims = hs256(&json!({ "sub": "bob", "exp": now() + 600 }));
    let mixed = {
        let signature = good.rsplit('.').next().unwrap();
        format!("{}.{signature}", other_claims.rsplit_once('.').unwrap().0)
    };
    let mut bad = vec![none, unsigned, other, longer, critical, mixed, format!("{good}.")];
    bad.extend([good.rsplit_once('.').unwrap().0.to_owned(), "..".to_owned(), String::new()]);
    for claims in [
        json!({ "sub": "ann" }),
        json!({ "sub": "ann", "exp": null }),
        json!({ "sub": "ann", "exp": "tomorrow" }),
        json!({ "sub": "ann", "exp": now() - 60 }),
        json!({ "sub": "ann", "exp": now() + 600, "nbf": now() + 300 }),
        json!({ "sub": "ann", "exp": now() + 600, "nbf": "yesterday" }),
        json!({ "exp": now() + 600 }),
        json!({ "sub": 7, "exp": now() + 600 }),
        json!({ "sub": "", "exp": now() + 600 }),
        json!({ "sub": "an\nn", "exp": now() + 600 }),
    ] {
        bad.push(hs256(&claims));
    }
    for token in bad {
        buys(&server, &token, "ann").await.problem(401);
    }
    assert!(
        buys(&server, &hs256(&json!({ "sub": "ann", "exp": 1 })), "ann")
            .await
            .problem(401)
            .contains("expired")
    );
    assert_eq!(buys(&server, &good, "ann").await.status, 202);
    assert_eq!(server.get("/stats").await.json()["accepted"], 1);
}

#[tokio::test]
async fn issuer_and_audience_are_checked_if_configured() {
    let rules = TokenRules {
        secret: Some(SECRET.into()),
        issuer: Some("https://id.example".to_owned()),
        audience: Some("tickets".to_owned()),
        ..TokenRules::default()
    };
    let strict = server(rules).await;
    let claims = |iss: Value, aud: Value| {
        hs256(&json!({ "sub": "ann", "exp": now() + 600, "iss": iss, "aud": aud }))
    };
    let iss = || json!("https://id.example");
    for aud in [json!("tickets"), json!(["news", "tickets"])] {
        assert_eq!(buys(&strict, &claims(iss(), aud), "ann").await.status, 202);
    }
    for (iss, aud) in [
        (json!("https://id.example/"), json!("tickets")),
        (Value::Null, json!("tickets")),
        (iss(), json!("news")),
        (iss(), json!([])),
        (iss(), Value::Null),
    ] {
        buys(&strict, &claims(iss, aud), "ann").await.problem(401);
    }
    let open = server_with_secret().await;
    assert_eq!(buys(&open, &claims(iss(), json!("news")), "ann").await.status, 202);
}

#[tokio::test]
async fn published_key_is_valid_for_one_algorithm() {
    let provider = Provider::new();
    let (_, _, mut rules) = published(provider.set(), Duration::from_secs(600));
    let server_of_keys =
        server(TokenRules { keys: rules.keys.clone(), ..TokenRules::default() }).await;
    for (algorithm, kid) in [("RS256", "rsa"), ("ES256", "ec"), ("EdDSA", "ed")] {
        let good = provider.token(algorithm, kid, &anns());
        assert_eq!(buys(&server_of_keys, &good, "ann").await.status, 202, "{algorithm}");
        let other = Provider::new();
        if algorithm != "RS256" {
            buys(&server_of_keys, &other.token(algorithm, kid, &anns()), "ann").await.problem(401);
        }
        for (algorithm, kid) in [(algorithm, "none"), ("ES384", kid), ("HS256", kid)] {
            let bad = provider.token(algorithm, kid, &anns());
            buys(&server_of_keys, &bad, "ann").await.problem(401);
        }
    }
    // A token without a key id uses the only key for the algorithm.
    let plain = token(&json!({ "alg": "EdDSA" }), &anns(), |m| provider.ed.sign(m).as_ref().into());
    assert_eq!(buys(&server_of_keys, &plain, "ann").await.status, 202);
    // A published key is not accepted as an HS256 secret, with and without a configured secret.
    rules.secret = Some("another secret of thirty-two bytes".into());
    let server_of_both = server(rules).await;
    let set = provider.set();
    let modulus = URL_SAFE_NO_PAD.decode(set["keys"][0]["n"].as_str().unwrap()).unwrap();
    let public: [&[u8]; 4] = [
        &modulus,
        provider.rsa.public().as_ref(),
        provider.ed.public_key().as_ref(),
        SECRET.as_bytes(),
    ];
    for public in public {
        for kid in ["rsa", "ed", "oct"] {
            let head = json!({ "alg": "HS256", "kid": kid });
            let forged = token(&head, &anns(), by_secret(public));
            buys(&server_of_keys, &forged, "ann").await.problem(401);
            buys(&server_of_both, &forged, "ann").await.problem(401);
        }
    }
}

#[tokio::test]
async fn new_keys_are_fetched_at_a_bounded_rate() {
    let provider = Provider::new();
    let pause = Duration::from_millis(500);
    let (set, fetches, rules) = published(json!({ "keys": [] }), pause);
    let server = server(rules).await;
    let good = provider.token("ES256", "ec", &anns());
    buys(&server, &good, "ann").await.problem(401);
    assert_eq!(fetches.load(Ordering::Relaxed), 1);

    *set.lock().unwrap() = Some(provider.set());
    tokio::time::sleep(pause).await;
    // All requests that arrive during a fetch use its result.
    let many = futures_util::future::join_all((0..20).map(|_| buys(&server, &good, "ann"))).await;
    assert!(many.iter().all(|reply| reply.status == 202), "{many:?}");
    assert_eq!(fetches.load(Ordering::Relaxed), 2);

    *set.lock().unwrap() = None;
    tokio::time::sleep(pause).await;
    for n in 0..20 {
        let unknown = provider.token("ES256", &format!("kid {n}"), &anns());
        buys(&server, &unknown, "ann").await.problem(401);
    }
    assert!(fetches.load(Ordering::Relaxed) < 20, "fetches are bounded");
    assert_eq!(buys(&server, &good, "ann").await.status, 202, "the old keys stay valid");
}
