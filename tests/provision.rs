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

/// The steps that were told of, and how it ended.
async fn steps(
    aws: &Aws,
    plan: &Plan,
    dry_run: bool,
) -> (Vec<String>, Result<Environment, String>) {
    let mut lines = Vec::new();
    let ended = apply(aws, plan, dry_run, &mut |line| lines.push(line)).await;
    (lines, ended)
}

async fn destroyed(aws: &Aws, plan: &Plan, dry_run: bool) -> Vec<String> {
    let mut lines = Vec::new();
    destroy(aws, plan, dry_run, &mut |line| lines.push(line)).await.unwrap();
    lines
}

/// What each line says of its resource.
async fn said(aws: &Aws, plan: &Plan, dry_run: bool) -> Vec<String> {
    let (lines, ended) = steps(aws, plan, dry_run).await;
    ended.unwrap();
    let said = |line: &String| line.splitn(3, ' ').nth(2).unwrap().to_owned();
    lines.iter().map(said).collect()
}

#[tokio::test]
async fn provisioning_twice_changes_nothing_and_destroying_leaves_nothing() {
    let aws = stand_ins().await;
    for suffix in ["", ".fifo"] {
        let plan = plan(suffix);
        assert_eq!(said(&aws, &plan, true).await, ["would be created"; 6]);
        assert_eq!(
            said(&aws, &plan, true).await,
            ["would be created"; 6],
            "a dry run created something"
        );
        assert_eq!(said(&aws, &plan, false).await, ["created"; 6]);
        assert_eq!(said(&aws, &plan, false).await, ["already exists"; 6]);
        let environment = steps(&aws, &plan, false).await.1.unwrap();
        let names: Vec<&str> = environment.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["AWS_REGION", "SQS_QUEUE_URL", "DYNAMODB_TABLE"]);
        assert!(environment[1].1.ends_with(&plan.queue));

        assert!(destroyed(&aws, &plan, true).await[0].contains("would be deleted"));
        assert_eq!(said(&aws, &plan, true).await, ["already exists"; 6]);
        destroyed(&aws, &plan, false).await;
        let left = destroyed(&aws, &plan, false).await;
        assert!(left.iter().all(|line| line.ends_with("does not exist")), "{left:?}");
    }
}

#[tokio::test]
async fn what_differs_is_brought_up_to_date() {
    let aws = stand_ins().await;
    let plan = plan("");
    said(&aws, &plan, false).await;
    let longer = Plan { visibility: Duration::from_secs(60), ..plan.clone() };
    let mended = "updated";
    let same = "already exists";
    assert_eq!(said(&aws, &longer, false).await, [mended, mended, same, same, same, same]);
    assert_eq!(said(&aws, &longer, false).await, [same; 6]);
    destroyed(&aws, &plan, false).await;
}

#[tokio::test]
async fn the_addresses_in_the_environment_are_used() {
    for variable in ["AWS_REGION", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB"] {
        address(variable);
    }
    let aws = Aws::load(AwsSettings::default(), Arc::default()).await.unwrap();
    let plan = plan("");
    assert_eq!(said(&aws, &plan, false).await, ["created"; 6]);
    assert_eq!(said(&stand_ins().await, &plan, false).await, ["already exists"; 6]);
    destroyed(&aws, &plan, false).await;
}

#[tokio::test]
async fn a_table_that_flux_cannot_use_is_named_with_what_it_has_after_the_steps_that_were_done() {
    let aws = stand_ins().await;
    let key = |name: &str, kind: KeyType| {
        KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap()
    };
    let attribute = |name: &str, kind: ScalarAttributeType| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap()
    };
    let (hash, number) = (KeyType::Hash, ScalarAttributeType::N);
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
        let (lines, ended) = steps(&aws, &plan, false).await;
        let error = ended.unwrap_err();
        assert!(error.contains(&format!("table {table} has the key {expected}")), "{error}");
        assert_eq!(lines.len(), 2 + n, "{lines:?}");
        destroyed(&aws, &plan, false).await;
    }
}
