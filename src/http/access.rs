//! Who may do what.

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use secrecy::{ExposeSecret, SecretString};

use super::problem::Problem;
use super::server::Server;

impl Server {
    /// Lets the holder of the admin key in, and nobody while there is none.
    pub fn admit_admin(&self, head: &request::Parts) -> Result<(), Problem> {
        if self.api.admin_key.is_none() {
            let what = "closed: no admin_key is configured";
            return Err(Problem::new(StatusCode::FORBIDDEN, what));
        }
        if self.is_admin(head) {
            return Ok(());
        }
        let what = "send the admin key: Authorization: Bearer ...";
        let problem = Problem::new(StatusCode::UNAUTHORIZED, what);
        Err(problem.with_header(header::WWW_AUTHENTICATE, "Bearer"))
    }

    /// Whether the request carries the admin key.
    pub fn is_admin(&self, head: &request::Parts) -> bool {
        self.api.admin_key.as_ref().is_some_and(|key| bearer(head).is_some_and(|b| is(key, b)))
    }
}

fn bearer(head: &request::Parts) -> Option<&[u8]> {
    let given = head.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes)?;
    let (scheme, key) = given.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
}

/// Compares in a time that tells nothing but the key's length.
fn is(secret: &SecretString, given: &[u8]) -> bool {
    let secret = secret.expose_secret().as_bytes();
    let differences =
        secret.iter().zip(given).fold(0, |d, (a, b)| std::hint::black_box(d | (a ^ b)));
    secret.len() == given.len() && differences == 0
}
