//! Commands and settings whose feature is not in this build are refused, naming the feature.

use super::Workdir;

fn lacks(workdir: &Workdir, arguments: &str, what: &str, feature: &str) {
    let line = workdir.refused(arguments);
    let how = format!("--features {feature}");
    assert!(line.contains(what) && line.contains(&how), "{line}");
}

#[test]
#[cfg(not(feature = "aws"))]
fn aws_backend_needs_feature() {
    let by_url = Workdir::new().with("SQS_QUEUE_URL", "http://127.0.0.1:1/flux");
    for command in ["serve", "work", "provision", "audit", "dlq list", "items list"] {
        lacks(&by_url, command, "SQS_QUEUE_URL", "aws");
        lacks(&Workdir::new(), &format!("{command} --backend aws"), "backend = aws", "aws");
    }
    lacks(&Workdir::new(), "provision --print iam", "aws backend", "aws");
}

#[test]
#[cfg(not(feature = "redis"))]
fn redis_settings_need_feature() {
    let settings = [("redis_url", "redis://127.0.0.1:1"), ("redis_host", "127.0.0.1")];
    for (key, value) in settings {
        let workdir = Workdir::new().with(&format!("FLUX_{}", key.to_uppercase()), value);
        lacks(&workdir, "serve", key, "redis");
    }
}

#[test]
#[cfg(not(feature = "top"))]
fn top_needs_feature() {
    for arguments in ["top", "top --once", "top --target http://127.0.0.1:1 --key-file key"] {
        lacks(&Workdir::new(), arguments, "flux top", "top");
    }
}
