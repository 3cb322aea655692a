use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers every request without a body with the same text; returns the number of requests.
async fn answer_all(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> usize {
    let mut requests = 0;
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            requests += 1;
            let _hung_up = stream.write_all(answer.as_bytes()).await;
        }
    }
    requests
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, format!("localhost:{port}"))
}

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn connection_is_reused_and_redirect_is_not_followed() {
    let (listener, host) = listen().await;
    let text = answer("302 Found\r\nLocation: http://127.0.0.1:1/", "over there");
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer_all(stream, &text).await
    });
    let http = HttpClient::new();
    for _ in 0..3 {
        let reply = http.send(get(&format!("http://{host}/x")), PATIENCE, 100).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.truncated), (302, false));
        assert_eq!(reply.body, b"over there");
    }
    drop(http);
    assert_eq!(server.await.unwrap(), 3);
}

#[tokio::test]
async fn body_is_truncated_at_the_limit() {
    let (listener, host) = listen().await;
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(5_000));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer_all(stream, &endless).await
    });
    let reply =
        HttpClient::new().send(get(&format!("http://{host}/")), PATIENCE, 1_000).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.truncated, reply.body.len()), (200, true, 1_000));
}

#[tokio::test]
async fn incomplete_response_times_out() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    for text in ["", half] {
        let (listener, host) = listen().await;
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            answer_all(stream, text).await
        });
        let http = HttpClient::new();
        let late = http.send(get(&format!("http://{host}/")), Duration::from_millis(300), 1_000);
        assert_eq!(late.await.unwrap_err(), HttpError::NoResponse("not within 300 ms".to_owned()));
    }
}

#[tokio::test]
async fn unsent_requests_have_their_own_errors() {
    let (listener, host) = listen().await;
    drop(listener);
    let http = HttpClient::new();
    let nobody = http.send(get(&format!("http://{host}/")), PATIENCE, 10).await;
    assert!(matches!(nobody, Err(HttpError::NoConnection(_))), "{nobody:?}");
    for url in ["/path", "ftp://localhost/"] {
        let never = http.send(get(url), PATIENCE, 10).await;
        assert!(matches!(never, Err(HttpError::Unusable(_))), "{never:?}");
    }
}

/// A client that trusts these roots only.
fn trusting(roots: RootCertStore) -> HttpClient {
    let provider = Arc::new(ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider);
    let tls = tls.with_safe_default_protocol_versions().unwrap();
    HttpClient::with(tls.with_root_certificates(roots).with_no_client_auth(), true)
}

#[tokio::test]
async fn certificate_must_be_trusted_and_match_the_name() {
    let (listener, host) = listen().await;
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let tls = tls.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let tls = tls.with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return 0 };
                answer_all(stream, &answer("200 OK", "secret")).await
            });
        }
    });
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let known = trusting(roots);
    let reply = known.send(get(&format!("https://{host}/")), PATIENCE, 10).await.unwrap();
    assert_eq!(reply.body, b"secret");
    let other_name = format!("https://{}/", host.replace("localhost", "127.0.0.1"));
    let by_number = known.send(get(&other_name), PATIENCE, 10).await;
    assert!(matches!(by_number, Err(HttpError::NoConnection(_))), "{by_number:?}");
    let stranger = trusting(RootCertStore::empty());
    let refused = stranger.send(get(&format!("https://{host}/")), PATIENCE, 10).await;
    assert!(matches!(refused, Err(HttpError::NoConnection(_))), "{refused:?}");
}
