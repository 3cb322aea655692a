//! Commands and settings whose feature is not in this build are refused, naming the feature.

use super::Desk;

fn lacks(desk: &Desk, arguments: &str, what: &str, feature: &str) {
    let line = desk.refused(arguments);
    let how = format!("--features {feature}");
    assert!(line.contains(what) && line.contains(&how), "{line}");
}

#[test]
#[cfg(not(feature = "aws"))]
fn aws_backend_needs_feature() {
    let by_url = Desk::new().with("SQS_QUEUE_URL", "http://127.0.0.1:1/flux");
    for command in ["serve", "work", "provision", "audit", "dlq list", "items list"] {
        lacks(&by_url, command, "SQS_QUEUE_URL", "aws");
        lacks(&Desk::new(), &format!("{command} --backend aws"), "backend = aws", "aws");
    }
    lacks(&Desk::new(), "provision --print iam", "aws backend", "aws");
}

#[test]
#[cfg(not(feature = "redis"))]
fn redis_settings_need_feature() {
    let settings = [("redis_url", "redis://127.0.0.1:1"), ("redis_host", "127.0.0.1")];
    for (key, value) in settings {
        let desk = Desk::new().with(&format!("FLUX_{}", key.to_uppercase()), value);
        lacks(&desk, "serve", key, "redis");
    }
}

#[test]
#[cfg(not(feature = "top"))]
fn top_needs_feature() {
    for arguments in ["top", "top --once", "top --target http://127.0.0.1:1 --key-file key"] {
        lacks(&Desk::new(), arguments, "flux top", "top");
    }
}
