//! The least privileges of each command, as IAM policies.
//!
//! A transaction needs the permissions of the actions in it, here `dynamodb:PutItem` (Amazon
//! DynamoDB Developer Guide, "IAM with DynamoDB transactions").

use serde_json::{Value, json};

use super::Plan;
use crate::adapters::aws::dynamodb::items_table;
use crate::adapters::aws::dynamodb::order_key::meta_table;
use crate::adapters::aws::webhook_outbox::queue_names as webhook_queues;

/// Accepts orders and serves the API. `serve --workers N` needs the policy of work as well, and the
/// dead letters of the API need that of dlq.
const SERVE: Grants<'_> = Grants {
    queue: &["sqs:SendMessage", "sqs:GetQueueAttributes"],
    dead_letters: &["sqs:GetQueueUrl", "sqs:GetQueueAttributes"],
    orders: &["dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Scan"],
    items: &["dynamodb:GetItem", "dynamodb:Scan", "dynamodb:PutItem"],
    meta: STORE_KEY,
    webhooks: [&[], &[]],
};

/// Decides orders.
const WORK: Grants<'_> = Grants {
    queue: &[
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:ChangeMessageVisibility",
        "sqs:GetQueueAttributes",
    ],
    dead_letters: &["sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:SendMessage"],
    orders: &["dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Scan", "dynamodb:PutItem"],
    items: &["dynamodb:GetItem", "dynamodb:Scan", "dynamodb:PutItem"],
    meta: STORE_KEY,
    webhooks: [
        &[
            "sqs:SendMessage",
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:GetQueueAttributes",
        ],
        &["sqs:SendMessage", "sqs:GetQueueAttributes"],
    ],
};

/// Reads the order key, or stores one if there is none. The scan of the other tables finds out whether
/// an earlier version has sold there.
const STORE_KEY: &[&str] = &["dynamodb:GetItem", "dynamodb:PutItem"];

/// Checks that the sale exists, as every command does.
const CHECK: Grants<'_> = Grants {
    queue: &["sqs:GetQueueAttributes"],
    dead_letters: &["sqs:GetQueueUrl", "sqs:GetQueueAttributes"],
    orders: &["dynamodb:GetItem"],
    items: &["dynamodb:GetItem"],
    meta: &["dynamodb:GetItem"],
    webhooks: [&[], &[]],
};

/// Reads everything.
const AUDIT: Grants<'_> = Grants {
    orders: &["dynamodb:GetItem", "dynamodb:Scan"],
    items: &["dynamodb:GetItem", "dynamodb:Scan"],
    ..CHECK
};

/// Lists, closes, opens and restocks items.
const ITEMS: Grants<'_> = Grants {
    orders: &["dynamodb:GetItem", "dynamodb:Scan"],
    items: &["dynamodb:GetItem", "dynamodb:Scan", "dynamodb:PutItem"],
    meta: STORE_KEY,
    ..CHECK
};

/// Lists, redrives and drops dead letters, and decides dropped orders.
const DLQ: Grants<'_> = Grants {
    queue: &["sqs:GetQueueAttributes", "sqs:SendMessage"],
    dead_letters: &[
        "sqs:GetQueueUrl",
        "sqs:GetQueueAttributes",
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:ChangeMessageVisibility",
        "sqs:SendMessage",
    ],
    orders: &["dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:PutItem"],
    webhooks: [&["sqs:SendMessage"], &[]],
    ..CHECK
};

const QUEUE_SETUP: &[&str] = &[
    "sqs:CreateQueue",
    "sqs:DeleteQueue",
    "sqs:GetQueueUrl",
    "sqs:GetQueueAttributes",
    "sqs:SetQueueAttributes",
];

/// Creates and deletes queues, tables and items.
const PROVISION: Grants<'_> = Grants {
    queue: QUEUE_SETUP,
    dead_letters: QUEUE_SETUP,
    orders: &[
        "dynamodb:CreateTable",
        "dynamodb:DeleteTable",
        "dynamodb:DescribeTable",
        "dynamodb:UpdateTable",
        "dynamodb:DescribeTimeToLive",
        "dynamodb:UpdateTimeToLive",
        "dynamodb:GetItem",
        "dynamodb:Scan",
    ],
    items: &[
        "dynamodb:CreateTable",
        "dynamodb:DeleteTable",
        "dynamodb:DescribeTable",
        "dynamodb:UpdateTable",
        "dynamodb:GetItem",
        "dynamodb:Scan",
        "dynamodb:PutItem",
    ],
    meta: &[
        "dynamodb:CreateTable",
        "dynamodb:DeleteTable",
        "dynamodb:DescribeTable",
        "dynamodb:GetItem",
        "dynamodb:PutItem",
    ],
    webhooks: [QUEUE_SETUP, QUEUE_SETUP],
};

/// Allowed actions on each resource.
struct Grants<'a> {
    queue: &'a [&'a str],
    dead_letters: &'a [&'a str],
    orders: &'a [&'a str],
    items: &'a [&'a str],
    /// The table of the order key.
    meta: &'a [&'a str],
    /// The outbox's queue and its dead-letter queue, if webhooks are used.
    webhooks: [&'a [&'a str]; 2],
}

/// The policies `{"serve": ..., "work": ..., ...}` for a plan's resources in a region, in
/// whichever account they are attached.
pub fn policies(plan: &Plan, region: &str) -> Value {
    let policies = [
        ("serve", SERVE),
        ("work", WORK),
        ("provision", PROVISION),
        ("items", ITEMS),
        ("audit", AUDIT),
        ("dlq", DLQ),
    ];
    policies.iter().map(|(command, grants)| (*command, policy(grants, plan, region))).collect()
}

fn policy(grants: &Grants<'_>, plan: &Plan, region: &str) -> Value {
    let partition = match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    let queue = |name: &str| format!("arn:{partition}:sqs:{region}:*:{name}");
    let table = |name: &str| format!("arn:{partition}:dynamodb:{region}:*:table/{name}");
    let webhooks = grants.webhooks.into_iter().zip(webhook_queues(&plan.queue));
    let webhooks = webhooks.filter(|(actions, _)| plan.webhooks && !actions.is_empty());
    let statements: Vec<Value> = [
        (grants.queue, queue(&plan.queue)),
        (grants.dead_letters, queue(&plan.dead_letter_queue())),
        (grants.orders, table(&plan.table)),
        (grants.items, table(&items_table(&plan.table))),
        (grants.meta, table(&meta_table(&plan.table))),
    ]
    .into_iter()
    .chain(webhooks.map(|(actions, name)| (actions, queue(&name))))
    .map(|(actions, arn)| json!({"Effect": "Allow", "Action": actions, "Resource": arn}))
    .collect();
    json!({"Version": "2012-10-17", "Statement": statements})
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;

    use super::*;

    #[test]
    fn policies_name_the_plans_resources_only() {
        let settings = Settings { dynamodb_table: "sale".to_owned(), ..Settings::default() };
        let plan = Plan::new(&settings, Some("sale.fifo".to_owned()), None);
        let policies = policies(&plan, "eu-central-1");
        for role in ["serve", "work", "provision", "items", "audit", "dlq"] {
            for statement in policies[role]["Statement"].as_array().unwrap() {
                let arn = statement["Resource"].as_str().unwrap();
                let own = [
                    "sale.fifo",
                    "sale-dlq.fifo",
                    "table/sale",
                    "table/sale_items",
                    "table/sale_meta",
                ];
                assert!(own.iter().any(|name| arn.ends_with(name)), "{arn}");
                assert!(!statement["Action"].to_string().contains('*'));
            }
        }
    }
}
