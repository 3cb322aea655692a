use flux::config::Backend;
use serde_norway::Value;

use super::{assert_valid, read, root, settings};

/// The instructions of the container file, as name and rest of the line.
fn instructions() -> Vec<(String, String)> {
    let text = read("Containerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = lines.map(|line| line.split_once(' ').unwrap());
    split.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

/// The arguments of an instruction in exec form; in shell form the shell would not forward signals.
fn exec(form: &str) -> Vec<String> {
    serde_json::from_str(form).unwrap_or_else(|_| panic!("{form} is not the exec form"))
}

fn one<'a>(stage: &'a [(String, String)], name: &str) -> &'a str {
    let mut found = stage.iter().filter(|(n, _)| n == name).map(|(_, rest)| rest.as_str());
    let rest = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "{name} twice");
    rest
}

#[test]
fn image_runs_flux_unprivileged_with_a_health_check() {
    let all = instructions();
    let last = all.iter().rposition(|(name, _)| name == "FROM").unwrap();
    let (build, image) = all.split_at(last);
    let user = one(image, "USER");
    assert!(user.split(':').all(|id| id.parse::<u32>().unwrap() >= 1_000), "{user}");
    assert_eq!(one(image, "STOPSIGNAL"), "SIGTERM");
    assert_eq!(exec(one(image, "ENTRYPOINT")), ["flux"]);
    assert_valid(exec(one(image, "CMD")).iter().map(String::as_str));
    let (_, health) = one(image, "HEALTHCHECK").split_once(" CMD ").unwrap();
    assert_eq!(exec(health)[0], "flux");
    assert_valid(exec(health)[1..].iter().map(String::as_str));

    let variables: Vec<(String, String)> = one(image, "ENV")
        .split(' ')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let settings = settings(&variables);
    assert_eq!(settings.listen, format!("0.0.0.0:{}", one(image, "EXPOSE")));
    assert!(settings.data.starts_with(one(image, "VOLUME")), "the store is in the volume");

    for (_, from) in all.iter().filter(|(name, _)| name == "FROM") {
        let release = from.split_once(':').unwrap().1;
        assert!(release.contains("bookworm"), "{from} is not pinned, or not the same release");
    }
    let toml: toml::Table = read("Cargo.toml").parse().unwrap();
    let rust = toml["package"]["rust-version"].as_str().unwrap();
    assert!(one(build, "FROM").contains(&format!("rust:{rust}-")), "the Rust of Cargo.toml");
}

#[test]
fn sources_of_the_image_exist_and_are_not_ignored() {
    let ignored = read(".containerignore");
    assert_eq!(ignored, read(".dockerignore"), "docker reads one, podman the other");
    let let_in: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for (_, copy) in instructions().iter().filter(|(name, _)| name == "COPY") {
        if copy.starts_with("--from=") {
            continue;
        }
        let (sources, _) = copy.rsplit_once(' ').unwrap();
        for source in sources.split(' ') {
            assert!(root().join(source).exists(), "there is no {source}");
            assert!(let_in.contains(&source), "{source} is ignored");
        }
    }
}

fn services() -> Vec<(String, Value)> {
    let mut file: Value = serde_norway::from_str(&read("compose.yaml")).unwrap();
    file.apply_merge().unwrap();
    let services = file["services"].as_mapping().unwrap();
    services.iter().map(|(name, s)| (name.as_str().unwrap().to_owned(), s.clone())).collect()
}

fn words(list: &Value) -> Vec<&str> {
    list.as_sequence().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn compose_file_runs_a_sale_with_valid_settings() {
    let all = services();
    let service = |name: &str| &all.iter().find(|(n, _)| n == name).unwrap().1;
    let hosts: Vec<String> = all.iter().map(|(name, _)| name.clone()).collect();
    for name in ["serve", "work", "provision"] {
        let service = service(name);
        assert_valid(words(&service["command"]));
        let variables: Vec<(String, String)> = service["environment"]
            .as_mapping()
            .unwrap()
            .iter()
            .map(|(n, v)| (n.as_str().unwrap().to_owned(), v.as_str().unwrap().to_owned()))
            .collect();
        let settings = settings(&variables);
        assert_eq!(settings.backend(), Backend::Aws);
        assert!(hosts.contains(settings.redis_host.as_ref().unwrap()));
        for url in [&settings.aws_endpoint_url_sqs, &settings.aws_endpoint_url_dynamodb] {
            let host = url.as_ref().unwrap().split(['/', ':']).nth(3).unwrap().to_owned();
            assert!(hosts.contains(&host), "{host} is not a service");
        }
        // Only the server has a health check.
        assert_eq!(service["healthcheck"]["disable"].as_bool(), (name != "serve").then_some(true));
    }
    for name in ["serve", "work"] {
        let provisioned = &service(name)["depends_on"]["provision"]["condition"];
        assert_eq!(provisioned.as_str(), Some("service_completed_successfully"), "{name}");
    }
    assert_eq!(service("work")["deploy"]["replicas"].as_u64(), Some(2));
    assert_eq!(words(&service("serve")["ports"]), ["127.0.0.1:5000:5000"]);
    for (name, service) in &all {
        let image = service["image"].as_str().unwrap();
        let own = service.get("build").is_some();
        assert!(own || image.contains(':'), "{name}: {image} is not pinned");
    }
}
