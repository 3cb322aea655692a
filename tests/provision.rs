//! Provisioning on AWS.

use std::sync::Arc;
use std::time::Duration;

use flux::config::Settings;
use flux::core::connection::aws::{Aws, AwsSettings};
use flux::wiring::provision::{Plan, apply, destroy};

use crate::conformance::aws::stand_ins;
use crate::conformance::{address, fresh_name};

fn plan(suffix: &str) -> Plan {
    let settings = Settings { dynamodb_table: fresh_name("sale"), ..Settings::default() };
    Plan::new(&settings, Some(format!("{}{suffix}", fresh_name("sale"))), Some(5_000))
}

/// What each line says of its resource.
async fn said(aws: &Aws, plan: &Plan, dry_run: bool) -> Vec<String> {
    let lines = apply(aws, plan, dry_run).await.unwrap().lines;
    lines
        .iter()
        .map(|l| l.split_once(' ').unwrap().1.split_once(' ').unwrap().1.to_owned())
        .collect()
}

#[tokio::test]
async fn provisioning_twice_changes_nothing_and_destroying_leaves_nothing() {
    let aws = stand_ins().await;
    for suffix in ["", ".fifo"] {
        let plan = plan(suffix);
        assert_eq!(said(&aws, &plan, true).await, ["would be made"; 6]);
        assert_eq!(said(&aws, &plan, true).await, ["would be made"; 6], "a dry run made something");
        assert_eq!(said(&aws, &plan, false).await, ["made"; 6]);
        assert_eq!(said(&aws, &plan, false).await, ["is there already"; 6]);
        let environment = apply(&aws, &plan, false).await.unwrap().environment;
        let names: Vec<&str> = environment.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["AWS_REGION", "SQS_QUEUE_URL", "DYNAMODB_TABLE"]);
        assert!(environment[1].1.ends_with(&plan.queue));

        assert!(destroy(&aws, &plan, true).await.unwrap()[0].contains("would be deleted"));
        assert_eq!(said(&aws, &plan, true).await, ["is there already"; 6]);
        destroy(&aws, &plan, false).await.unwrap();
        let left = destroy(&aws, &plan, false).await.unwrap();
        assert!(left.iter().all(|line| line.ends_with("is not there")), "{left:?}");
    }
}

#[tokio::test]
async fn what_differs_is_brought_up_to_date() {
    let aws = stand_ins().await;
    let plan = plan("");
    apply(&aws, &plan, false).await.unwrap();
    let longer = Plan { visibility: Duration::from_secs(60), ..plan.clone() };
    let mended = "brought up to date";
    let same = "is there already";
    assert_eq!(said(&aws, &longer, false).await, [mended, mended, same, same, same, same]);
    assert_eq!(said(&aws, &longer, false).await, [same; 6]);
    destroy(&aws, &plan, false).await.unwrap();
}

#[tokio::test]
async fn the_addresses_in_the_environment_are_used() {
    for variable in ["AWS_REGION", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB"] {
        address(variable);
    }
    let aws = Aws::load(AwsSettings::default(), Arc::default()).await.unwrap();
    let plan = plan("");
    assert_eq!(said(&aws, &plan, false).await, ["made"; 6]);
    assert_eq!(said(&stand_ins().await, &plan, false).await, ["is there already"; 6]);
    destroy(&aws, &plan, false).await.unwrap();
}
