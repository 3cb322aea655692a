//! Compares the Terraform module with the resources and policies of `flux provision`.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use flux::adapters::aws::client::Aws;
use flux::adapters::aws::dynamodb::setup::warm_throughput;
use flux::adapters::aws::webhook_outbox::queue_names;
use flux::config::Settings;
use flux::wiring::provision::{Plan, apply, destroy, iam};
use hcl::Body;
use hcl::eval::{Context, Evaluate, FuncArgs, FuncDef, ParamType};
use serde_json::{Value, json};

use super::read;
use crate::conformance::aws::stand_ins;
use crate::conformance::fresh_name;

const FOLDER: &str = "config/terraform";
type Attributes = BTreeMap<String, String>;

/// The module with its variables set, evaluated without AWS.
struct Module {
    body: Body,
    context: Context<'static>,
}

impl Module {
    /// `arns` are those of the queue, its dead-letter queue, the tables of orders, items and the order
    /// key, and the webhooks' queue and dead-letter queue.
    fn new(plan: &Plan, arns: &[String; 7]) -> Module {
        let days = |time: Duration| time.as_secs() / (24 * 3600);
        let variables = json!({
            "queue": plan.queue,
            "table": plan.table,
            "visibility_timeout_ms": plan.visibility.as_millis() as u64,
            "retention_days": days(plan.retention),
            "dlq_retention_days": days(plan.dead_letter_retention),
            "max_receive_count": plan.max_receive_count,
            "expect": plan.expect,
            "webhooks": plan.webhooks,
        });
        let mut context = Context::new();
        declare_functions(&mut context);
        let [queue, dead_letters, orders, items, meta, webhooks, webhooks_dead] = arns;
        // With `count` a resource is a list.
        let counted = |arn: &String| if plan.webhooks { json!([{"arn": arn}]) } else { json!([]) };
        declare(&mut context, "var", variables);
        declare(
            &mut context,
            "aws_sqs_queue",
            json!({
                "orders": {"arn": queue},
                "dead_letters": {"arn": dead_letters},
                "webhooks": counted(webhooks),
                "webhooks_dead_letters": counted(webhooks_dead),
            }),
        );
        declare(
            &mut context,
            "aws_dynamodb_table",
            json!({"orders": {"arn": orders}, "items": {"arn": items}, "meta": {"arn": meta}}),
        );
        let files = ["main.tf", "policies.tf"].map(|file| read(&format!("{FOLDER}/{file}")));
        let body = hcl::parse(&files.concat()).unwrap();
        let mut module = Module { body, context };
        module.declare_locals();
        module
    }

    fn declare_locals(&mut self) {
        let mut locals = serde_json::Map::new();
        let blocks = self.body.blocks().filter(|block| block.identifier() == "locals");
        for local in blocks.flat_map(|block| block.body().attributes()) {
            let value = evaluated(local.expr(), &self.context);
            locals.insert(local.key().to_owned(), value);
            declare(&mut self.context, "local", Value::Object(locals.clone()));
        }
    }

    fn resource(&self, kind: &str, name: &str) -> &Body {
        let labelled = |block: &&hcl::Block| {
            let labels: Vec<&str> = block.labels().iter().map(|label| label.as_str()).collect();
            block.identifier() == "resource" && labels == [kind, name]
        };
        self.body.blocks().find(labelled).unwrap_or_else(|| panic!("no {kind} {name}")).body()
    }

    /// The attributes of a block as text, without those that are null.
    fn attributes(&self, body: &Body) -> Attributes {
        let all =
            body.attributes().map(|a| (a.key().to_owned(), evaluated(a.expr(), &self.context)));
        all.filter(|(_, value)| !value.is_null()).map(|(key, value)| (key, plain(&value))).collect()
    }

    fn blocks<'a>(&self, body: &'a Body, name: &str) -> Vec<&'a Body> {
        body.blocks().filter(|b| b.identifier() == name).map(hcl::Block::body).collect()
    }
}

fn declare(context: &mut Context<'static>, name: &str, value: Value) {
    let value: hcl::Value = serde_json::from_value(value).unwrap();
    context.declare_var(name, value);
}

fn evaluated(expression: &hcl::Expression, context: &Context<'_>) -> Value {
    let value = expression.evaluate(context).unwrap_or_else(|e| panic!("{expression}: {e}"));
    serde_json::to_value(value).unwrap()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Declares the Terraform functions that the module uses.
fn declare_functions(context: &mut Context<'static>) {
    fn texts(args: &FuncArgs) -> (String, String) {
        (args[0].as_str().unwrap().to_owned(), args[1].as_str().unwrap().to_owned())
    }
    let two = || FuncDef::builder().param(ParamType::String).param(ParamType::String);
    context.declare_func(
        "endswith",
        two().build(|args| {
            let (text, end) = texts(&args);
            Ok(text.ends_with(&end).into())
        }),
    );
    context.declare_func(
        "trimsuffix",
        two().build(|args| {
            let (text, end) = texts(&args);
            Ok(text.strip_suffix(&end).unwrap_or(&text).into())
        }),
    );
    context.declare_func(
        "concat",
        FuncDef::builder().variadic_param(ParamType::Any).build(|args| {
            let lists = args.into_values().into_iter();
            let all = lists.flat_map(|list| list.as_array().cloned().unwrap_or_default());
            Ok(all.collect::<Vec<_>>().into())
        }),
    );
    context.declare_func(
        "floor",
        FuncDef::builder().param(ParamType::Number).build(|args| {
            Ok((args[0].as_number().unwrap().as_f64().unwrap().floor() as u64).into())
        }),
    );
    context.declare_func(
        "jsonencode",
        FuncDef::builder().param(ParamType::Any).build(|args| {
            serde_json::to_string(&args[0]).map(hcl::Value::from).map_err(|e| e.to_string())
        }),
    );
}

/// An existing queue, with the attribute names of Terraform.
async fn queue(aws: &Aws, name: &str) -> (Attributes, String) {
    let client = aws.sqs();
    let url = client.get_queue_url().queue_name(name).send().await.unwrap().queue_url.unwrap();
    let request = client.get_queue_attributes().queue_url(url);
    let response = request.attribute_names(QueueAttributeName::All).send().await.unwrap();
    let found = response.attributes.unwrap();
    let mut attributes = Attributes::from([("name".to_owned(), name.to_owned())]);
    for (aws_name, name) in [
        (QueueAttributeName::VisibilityTimeout, "visibility_timeout_seconds"),
        (QueueAttributeName::MessageRetentionPeriod, "message_retention_seconds"),
        (QueueAttributeName::FifoQueue, "fifo_queue"),
        (QueueAttributeName::DeduplicationScope, "deduplication_scope"),
        (QueueAttributeName::FifoThroughputLimit, "fifo_throughput_limit"),
        (QueueAttributeName::RedrivePolicy, "redrive_policy"),
    ] {
        if let Some(value) = found.get(&aws_name) {
            attributes.insert(name.to_owned(), value.clone());
        }
    }
    (comparable(attributes), found[&QueueAttributeName::QueueArn].clone())
}

/// Normalizes a queue's attributes. For a standard queue AWS has no `fifo_queue` and Terraform has
/// `false`. The redrive policy is JSON whose count is a text or a number.
fn comparable(mut queue: Attributes) -> Attributes {
    queue.retain(|key, value| key != "fifo_queue" || value == "true");
    if let Some(policy) = queue.get_mut("redrive_policy") {
        let read: BTreeMap<String, Value> = serde_json::from_str(policy).unwrap();
        let read: Attributes =
            read.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
        *policy = format!("{read:?}");
    }
    queue
}

/// An existing table: its attributes as in Terraform, the types of its keys, and its TTL attribute.
async fn table(aws: &Aws, name: &str) -> (Attributes, Vec<(String, String)>, Option<String>) {
    let client = aws.dynamodb();
    let found = client.describe_table().table_name(name).send().await.unwrap().table.unwrap();
    let [key] = found.key_schema() else { panic!("more than a hash key") };
    assert_eq!(key.key_type().as_str(), "HASH");
    let billing = found.billing_mode_summary().unwrap().billing_mode().unwrap().as_str();
    assert!(
        found.global_secondary_indexes().is_empty() && found.local_secondary_indexes().is_empty()
    );
    let attributes = Attributes::from([
        ("name".to_owned(), name.to_owned()),
        ("hash_key".to_owned(), key.attribute_name().to_owned()),
        ("billing_mode".to_owned(), billing.to_owned()),
    ]);
    let types = found.attribute_definitions().iter();
    let types =
        types.map(|d| (d.attribute_name().to_owned(), d.attribute_type().as_str().to_owned()));
    let expiry = client.describe_time_to_live().table_name(name).send().await.unwrap();
    let expiry = expiry.time_to_live_description.and_then(|d| d.attribute_name);
    (attributes, types.collect(), expiry)
}

fn plans() -> [Plan; 3] {
    let table = |settings: Settings| Settings { dynamodb_table: fresh_name("sale"), ..settings };
    let other = Settings {
        visibility_timeout_ms: 61_900,
        retention_days: 5,
        dlq_retention_days: 7,
        max_receive_count: 9,
        webhook_url: Some("https://shop.example/hook".into()),
        ..Settings::default()
    };
    let name = |suffix: &str| Some(format!("{}{suffix}", fresh_name("sale")));
    [
        Plan::new(&table(Settings::default()), name(""), None),
        Plan::new(&table(other), name(".fifo"), Some(5_000)),
        Plan::new(&table(Settings::default()), name(""), Some(1_500)),
    ]
}

#[tokio::test]
async fn module_has_the_resources_of_provision() {
    let aws = stand_ins().await;
    for plan in plans() {
        apply(&aws, &plan, false, &mut |_| {}).await.unwrap();
        let (orders_queue, queue_arn) = queue(&aws, &plan.queue).await;
        let (dlq, dead_arn) = queue(&aws, &plan.dead_letter_queue()).await;
        let mut queues = vec![("orders", orders_queue), ("dead_letters", dlq)];
        let mut webhook_arns = [String::new(), String::new()];
        if plan.webhooks {
            for (n, name) in ["webhooks", "webhooks_dead_letters"].into_iter().enumerate() {
                let (attributes, arn) = queue(&aws, &queue_names(&plan.queue)[n]).await;
                webhook_arns[n] = arn;
                queues.push((name, attributes));
            }
        }
        let [webhooks, webhooks_dead] = webhook_arns;
        let none = String::new();
        let tables = [none.clone(), none.clone(), none];
        let [orders, items, meta] = tables;
        let arns = [queue_arn, dead_arn, orders, items, meta, webhooks, webhooks_dead];
        let module = Module::new(&plan, &arns);
        for (name, created) in queues {
            let mut declared = module.attributes(module.resource("aws_sqs_queue", name));
            assert!(declared.remove("count").is_none_or(|count| count == "1"));
            assert_eq!(comparable(declared), created, "queue {name}");
        }
        for (name, of) in [
            ("orders", plan.table.clone()),
            ("items", format!("{}_items", plan.table)),
            ("meta", format!("{}_meta", plan.table)),
        ] {
            let body = module.resource("aws_dynamodb_table", name);
            let (created, types, expiry) = table(&aws, &of).await;
            assert_eq!(module.attributes(body), created, "table {name}");
            let declared = module.blocks(body, "attribute").into_iter();
            let declared = declared.map(|block| module.attributes(block));
            let declared: Vec<_> =
                declared.map(|a| (a["name"].clone(), a["type"].clone())).collect();
            assert_eq!(declared, types, "table {name}");
            let ttl = module.blocks(body, "ttl").into_iter().map(|b| module.attributes(b));
            let ttl: Vec<_> = ttl.inspect(|ttl| assert_eq!(ttl["enabled"], "true")).collect();
            assert_eq!(ttl.first().map(|ttl| ttl["attribute_name"].clone()), expiry);
        }
        destroy(&aws, &plan, false, &mut |_| {}).await.unwrap();
        assert_warm(&module, &plan);
    }
}

/// Compares the warm throughput with the one that provision requests, because the stand-in has none.
fn assert_warm(module: &Module, plan: &Plan) {
    assert!(module.blocks(module.resource("aws_dynamodb_table", "items"), "dynamic").is_empty());
    let orders = module.resource("aws_dynamodb_table", "orders");
    let dynamic = module.blocks(orders, "dynamic")[0];
    let each = dynamic.attributes().find(|a| a.key() == "for_each").unwrap();
    let values = evaluated(each.expr(), &module.context);
    let declared = values.as_array().unwrap().iter().map(|value| {
        let mut context = module.context.clone();
        declare(&mut context, "warm_throughput", json!({"value": value}));
        let content = module.blocks(dynamic, "content")[0].attributes();
        let units: BTreeMap<String, Value> =
            content.map(|a| (a.key().to_owned(), evaluated(a.expr(), &context))).collect();
        (units["read_units_per_second"].as_i64(), units["write_units_per_second"].as_i64())
    });
    let expected = warm_throughput(plan.expect).map(|(reads, writes)| (Some(reads), Some(writes)));
    assert_eq!(declared.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
}

#[test]
fn module_has_the_policies_of_provision() {
    for plan in plans() {
        let printed = iam::policies(&plan, "eu-central-1");
        let arn = |statement: usize| {
            let resource = &printed["work"]["Statement"][statement]["Resource"];
            resource.as_str().unwrap_or_default().to_owned()
        };
        let module = Module::new(&plan, &[arn(0), arn(1), arn(2), arn(3), arn(4), arn(5), arn(6)]);
        let resource = module.resource("aws_iam_policy", "flux");
        let each = resource.attributes().find(|a| a.key() == "for_each").unwrap();
        let roles = evaluated(each.expr(), &module.context);
        let policy = resource.attributes().find(|a| a.key() == "policy").unwrap();
        let mut declared = serde_json::Map::new();
        for (role, statements) in roles.as_object().unwrap() {
            let mut context = module.context.clone();
            declare(&mut context, "each", json!({"key": role, "value": statements}));
            let text = plain(&evaluated(policy.expr(), &context));
            declared.insert(role.clone(), serde_json::from_str(&text).unwrap());
        }
        assert_eq!(Value::Object(declared), printed);
    }
}

#[test]
fn module_has_the_defaults_of_the_settings() {
    let body = hcl::parse(&read(&format!("{FOLDER}/variables.tf"))).unwrap();
    let plan = Plan::new(&Settings::default(), None, None);
    for variable in body.blocks() {
        let name = variable.labels()[0].as_str();
        let default = variable.body().attributes().find(|a| a.key() == "default").unwrap();
        let default = plain(&evaluated(default.expr(), &Context::new()));
        let wanted = match name {
            "queue" => plan.queue.clone(),
            "webhooks" => plan.webhooks.to_string(),
            "table" => plan.table.clone(),
            "expect" | "valkey" => "null".to_owned(),
            key => super::number(key).to_string(),
        };
        assert_eq!(default, wanted, "{name}");
    }
}
