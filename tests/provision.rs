//! Provisioning on AWS.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use flux::adapters::aws::client::{Aws, AwsSettings};
use flux::config::Settings;
use flux::wiring::provision::{Plan, apply, destroy};

use crate::conformance::aws::stand_ins;
use crate::conformance::{address, fresh_name};

fn plan(suffix: &str) -> Plan {
    let settings = Settings { dynamodb_table: fresh_name("sale"), ..Settings::default() };
    Plan::new(&settings, Some(format!("{}{suffix}", fresh_name("sale"))), Some(5_000))
}

type Environment = Vec<(&'static str, String)>;

/// The reported steps, and the result.
async fn steps(
    aws: &Aws,
    plan: &Plan,
    dry_run: bool,
) -> (Vec<String>, Result<Environment, String>) {
    let mut lines = Vec::new();
    let result = apply(aws, plan, dry_run, &mut |line| lines.push(line)).await;
    (lines, result)
}

async fn destroyed(aws: &Aws, plan: &Plan, dry_run: bool) -> Vec<String> {
    let mut lines = Vec::new();
    destroy(aws, plan, dry_run, &mut |line| lines.push(line)).await.unwrap();
    lines
}

/// The reported change of each resource.
async fn changes(aws: &Aws, plan: &Plan, dry_run: bool) -> Vec<String> {
    let (lines, result) = steps(aws, plan, dry_run).await;
    result.unwrap();
    let change = |line: &String| line.splitn(3, ' ').nth(2).unwrap().to_owned();
    lines.iter().map(change).collect()
}

#[tokio::test]
async fn provision_is_idempotent_and_destroy_is_complete() {
    let aws = stand_ins().await;
    for suffix in ["", ".fifo"] {
        let plan = plan(suffix);
        assert_eq!(changes(&aws, &plan, true).await, ["would be created"; 6]);
        assert_eq!(
            changes(&aws, &plan, true).await,
            ["would be created"; 6],
            "a dry run created something"
        );
        assert_eq!(changes(&aws, &plan, false).await, ["created"; 6]);
        assert_eq!(changes(&aws, &plan, false).await, ["already exists"; 6]);
        let environment = steps(&aws, &plan, false).await.1.unwrap();
        let names: Vec<&str> = environment.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["AWS_REGION", "SQS_QUEUE_URL", "DYNAMODB_TABLE"]);
        assert!(environment[1].1.ends_with(&plan.queue));

        assert!(destroyed(&aws, &plan, true).await[0].contains("would be deleted"));
        assert_eq!(changes(&aws, &plan, true).await, ["already exists"; 6]);
        destroyed(&aws, &plan, false).await;
        let left = destroyed(&aws, &plan, false).await;
        assert!(left.iter().all(|line| line.ends_with("does not exist")), "{left:?}");
    }
}

#[tokio::test]
async fn changed_attributes_are_updated() {
    let aws = stand_ins().await;
    let plan = plan("");
    changes(&aws, &plan, false).await;
    let longer = Plan { visibility: Duration::from_secs(60), ..plan.clone() };
    let updated = "updated";
    let same = "already exists";
    assert_eq!(changes(&aws, &longer, false).await, [updated, updated, same, same, same, same]);
    assert_eq!(changes(&aws, &longer, false).await, [same; 6]);
    destroyed(&aws, &plan, false).await;
}

#[tokio::test]
async fn endpoints_of_the_environment_are_used() {
    for variable in ["AWS_REGION", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB"] {
        address(variable);
    }
    let aws = Aws::load(AwsSettings::default(), Arc::default()).await.unwrap();
    let plan = plan("");
    assert_eq!(changes(&aws, &plan, false).await, ["created"; 6]);
    assert_eq!(changes(&stand_ins().await, &plan, false).await, ["already exists"; 6]);
    destroyed(&aws, &plan, false).await;
}

#[tokio::test]
async fn unusable_table_is_an_error_after_the_finished_steps() {
    let aws = stand_ins().await;
    let key = |name: &str, kind: KeyType| {
        KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap()
    };
    let attribute = |name: &str, kind: ScalarAttributeType| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap()
    };
    let hash = KeyType::Hash;
    let number = ScalarAttributeType::N;
    let cases = [
        (
            "",
            vec![("order_id", hash.clone(), number.clone())],
            "order_id (N) and must have order_id (S)",
        ),
        (
            "_items",
            vec![("item_id", hash.clone(), ScalarAttributeType::S), ("at", KeyType::Range, number)],
            "item_id (S) with at (N) and must have item_id (S)",
        ),
        ("_meta", vec![("id", hash, ScalarAttributeType::S)], "id (S) and must have name (S)"),
    ];
    for (n, (suffix, keys, expected)) in cases.into_iter().enumerate() {
        let plan = plan("");
        let table = format!("{}{suffix}", plan.table);
        let mut create = aws.dynamodb().create_table().table_name(&table);
        create = create.billing_mode(BillingMode::PayPerRequest);
        for (name, kind, scalar) in keys {
            create = create.key_schema(key(name, kind));
            create = create.attribute_definitions(attribute(name, scalar));
        }
        create.send().await.unwrap();
        let (lines, result) = steps(&aws, &plan, false).await;
        let error = result.unwrap_err();
        assert!(error.contains(&format!("table {table} has the key {expected}")), "{error}");
        assert_eq!(lines.len(), 2 + n, "{lines:?}");
        destroyed(&aws, &plan, false).await;
    }
}
