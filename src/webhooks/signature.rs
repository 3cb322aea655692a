//! Signatures by Standard Webhooks 1.0: `v1,` and the base64 of HMAC-SHA256 over
//! `id.timestamp.body`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

const PREFIX: &str = "whsec_";
/// Length of a secret in bytes.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const WHAT: &str = "must be whsec_ and 24 to 64 bytes in base64 (`echo whsec_$(openssl rand \
                    -base64 32)` prints one), or several separated by spaces while it is changed";

/// The secrets that the endpoint knows: one, or several during a rotation. `Debug` shows their number
/// only.
#[derive(Clone)]
pub struct Secrets(Vec<hmac::Key>);

impl Secrets {
    /// Reads secrets separated by spaces or commas. The error describes a valid secret and quotes
    /// nothing.
    pub fn parse(text: &str) -> Result<Secrets, String> {
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        let key = |word: &str| {
            let bytes = word.strip_prefix(PREFIX).and_then(|code| STANDARD.decode(code).ok());
            let bytes = bytes.filter(|bytes| BYTES.contains(&bytes.len()));
            bytes.map(|bytes| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        };
        let keys: Option<Vec<_>> = words.map(key).collect();
        let keys = keys.filter(|keys| !keys.is_empty());
        keys.map(Secrets).ok_or_else(|| WHAT.to_owned())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

/// The `webhook-signature` header: one signature per secret, separated by spaces. `seconds` is the
/// `webhook-timestamp` header, the time of the attempt.
pub fn sign(secrets: &Secrets, id: &str, seconds: u64, body: &[u8]) -> String {
    let head = format!("{id}.{seconds}.");
    let one = |key: &hmac::Key| {
        let mut signing = hmac::Context::with_key(key);
        signing.update(head.as_bytes());
        signing.update(body);
        format!("v1,{}", STANDARD.encode(signing.sign()))
    };
    secrets.0.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test vector of the Standard Webhooks libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn signature_matches_the_specification() {
        let secrets = Secrets::parse(SECRET).unwrap();
        assert_eq!(sign(&secrets, ID, 1_614_265_330, br#"{"test": 2432232314}"#), SIGNATURE);
    }

    #[test]
    fn each_secret_signs_during_a_rotation() {
        let other = format!("whsec_{}", STANDARD.encode([9; 32]));
        let both = Secrets::parse(&format!("{other} {SECRET}")).unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = sign(&both, ID, 1_614_265_330, body);
        let alone = sign(&Secrets::parse(&other).unwrap(), ID, 1_614_265_330, body);
        assert_eq!(signed, format!("{alone} {SIGNATURE}"));
        assert_eq!(Secrets::parse(&format!("{other},{SECRET}")).unwrap().0.len(), 2);
    }

    #[test]
    fn invalid_secret_is_refused_and_not_shown() {
        let short = format!("whsec_{}", STANDARD.encode([9; 23]));
        let long = format!("whsec_{}", STANDARD.encode([9; 65]));
        for bad in ["", " ", "sesame", "whsec_!", &short, &long, &format!("{SECRET} sesame")] {
            let error = Secrets::parse(bad).unwrap_err();
            assert!(error.starts_with("must be whsec_") && !error.contains("sesame"), "{error}");
        }
        assert_eq!(format!("{:?}", Secrets::parse(SECRET).unwrap()), "1 secrets");
    }
}
