//! Creates, updates and deletes SQS queues.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;

use crate::adapters::aws::Change;
use crate::adapters::aws::client::{Aws, Fault, Refusal, repeat};

/// The desired state of a queue. It is FIFO if its name ends in `.fifo`.
#[derive(Debug, Clone)]
pub struct WantedQueue {
    pub name: String,
    /// Whole seconds, at most 12 hours.
    pub visibility: Duration,
    /// From 1 minute to 14 days.
    pub retention: Duration,
    /// The redrive policy, if the queue has one.
    pub dead_letters: Option<DeadLetters>,
}

/// A redrive policy: after `max_receive_count` receives SQS moves a message to the dead-letter
/// queue.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    pub queue_name: String,
    /// 1 to 1,000.
    pub max_receive_count: u32,
}

/// Sets up queues. Every method is idempotent; an error is one line.
#[derive(Debug)]
pub struct QueueSetup {
    client: Client,
}

/// The region in the URL of a queue; `None` where the host is not one of AWS's that names it.
pub fn region_of(url: &str) -> Option<&str> {
    let host = url.split_once("://")?.1.split(['/', ':']).next()?;
    let aws = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".vpce.amazonaws.com"];
    let (_, name) =
        aws.iter().filter_map(|end| Some((end.len(), host.strip_suffix(*end)?))).max()?;
    match name.split('.').collect::<Vec<_>>().as_slice() {
        // The legacy endpoints `queue.amazonaws.com` and `REGION.queue.amazonaws.com`.
        ["queue"] => Some("us-east-1"),
        [region, "queue"] => Some(*region),
        [.., "sqs" | "sqs-fips", region] => Some(*region),
        _ => None,
    }
}

type Attributes = HashMap<QueueAttributeName, String>;

impl QueueSetup {
    pub fn new(aws: &Aws) -> Self {
        Self { client: aws.sqs() }
    }

    /// The queue's URL; `None` if it does not exist.
    pub async fn url(&self, name: &str) -> Result<Option<String>, String> {
        let asked = repeat(|| {
            let request = self.client.get_queue_url().queue_name(name);
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        match asked.await {
            Ok(answer) => Ok(answer.queue_url),
            Err(Fault::Refused(Refusal::NotFound, _)) => Ok(None),
            Err(fault) => Err(failed(name, fault)),
        }
    }

    /// Creates the queue or updates its attributes. Without `apply` it only reports the change. With
    /// `apply` the dead-letter queue must exist.
    pub async fn ensure(&self, wanted: &WantedQueue, apply: bool) -> Result<Change, String> {
        let attributes = self.attributes(wanted).await?;
        let Some(url) = self.url(&wanted.name).await? else {
            if apply {
                self.create(wanted, attributes).await?;
            }
            return Ok(Change::Made);
        };
        let found = self.found(&wanted.name, &url).await?;
        let differs = |(name, value): &(QueueAttributeName, String)| {
            found.get(name).is_none_or(|found| !same(found, value))
        };
        let changed: Attributes = attributes.into_iter().filter(differs).collect();
        if changed.is_empty() {
            return Ok(Change::Unchanged);
        }
        if apply {
            self.change(&wanted.name, &url, changed).await?;
        }
        Ok(Change::Changed)
    }

    /// Deletes the queue with its messages, or only checks for it without `apply`. `false` if it does
    /// not exist.
    pub async fn delete(&self, name: &str, apply: bool) -> Result<bool, String> {
        let Some(url) = self.url(name).await? else { return Ok(false) };
        if apply {
            let deleted = repeat(|| {
                let request = self.client.delete_queue().queue_url(&url);
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            deleted.await.map_err(|fault| failed(name, fault))?;
        }
        Ok(true)
    }

    async fn attributes(&self, wanted: &WantedQueue) -> Result<Attributes, String> {
        let seconds = |time: Duration| time.as_secs().to_string();
        let mut attributes = HashMap::from([
            (QueueAttributeName::VisibilityTimeout, seconds(wanted.visibility)),
            (QueueAttributeName::MessageRetentionPeriod, seconds(wanted.retention)),
        ]);
        if wanted.name.ends_with(".fifo") {
            // Quotas and de-duplication per item, not per queue (Amazon SQS Developer Guide, "High
            // throughput for FIFO queues").
            for (name, value) in [
                (QueueAttributeName::FifoQueue, "true"),
                (QueueAttributeName::DeduplicationScope, "messageGroup"),
                (QueueAttributeName::FifoThroughputLimit, "perMessageGroupId"),
            ] {
                attributes.insert(name, value.to_owned());
            }
        }
        if let Some(DeadLetters { queue_name, max_receive_count }) = &wanted.dead_letters {
            let target = match self.url(queue_name).await? {
                None => queue_name.clone(),
                Some(url) => {
                    let mut found = self.found(queue_name, &url).await?;
                    found.remove(&QueueAttributeName::QueueArn).unwrap_or_default()
                }
            };
            let policy = serde_json::json!({
                "deadLetterTargetArn": target,
                "maxReceiveCount": max_receive_count.to_string(),
            });
            attributes.insert(QueueAttributeName::RedrivePolicy, policy.to_string());
        }
        Ok(attributes)
    }

    async fn found(&self, name: &str, url: &str) -> Result<Attributes, String> {
        let asked = repeat(|| {
            let request = self.client.get_queue_attributes().queue_url(url);
            let request = request.attribute_names(QueueAttributeName::All);
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        let answer = asked.await.map_err(|fault| failed(name, fault))?;
        Ok(answer.attributes.unwrap_or_default())
    }

    async fn create(&self, wanted: &WantedQueue, attributes: Attributes) -> Result<(), String> {
        let created = repeat(|| {
            let request = self.client.create_queue().queue_name(&wanted.name);
            let request = request.set_attributes(Some(attributes.clone()));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        created.await.map(|_| ()).map_err(|fault| failed(&wanted.name, fault))
    }

    async fn change(&self, name: &str, url: &str, changed: Attributes) -> Result<(), String> {
        let set = repeat(|| {
            let request = self.client.set_queue_attributes().queue_url(url);
            let request = request.set_attributes(Some(changed.clone()));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        set.await.map(|_| ()).map_err(|fault| failed(name, fault))
    }
}

/// Compares two attributes, JSON by its content; a number equals its text.
fn same(found: &str, wanted: &str) -> bool {
    let read = |text: &str| {
        let value = serde_json::from_str::<HashMap<String, serde_json::Value>>(text).ok()?;
        let plain = |value: serde_json::Value| value.to_string().trim_matches('"').to_owned();
        Some(value.into_iter().map(|(k, v)| (k, plain(v))).collect::<HashMap<_, _>>())
    };
    found == wanted || read(found).is_some_and(|found| Some(found) == read(wanted))
}

fn failed(name: &str, fault: Fault) -> String {
    format!("SQS queue {name}: {}", fault.into_text())
}

#[cfg(test)]
mod tests {
    use super::region_of;

    #[test]
    fn queue_url_contains_its_region() {
        for (host, region) in [
            ("sqs.eu-central-1.amazonaws.com", Some("eu-central-1")),
            ("sqs.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("sqs-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("sqs.us-east-1.api.aws", Some("us-east-1")),
            ("vpce-1-a.sqs.eu-west-1.vpce.amazonaws.com", Some("eu-west-1")),
            ("eu-west-3.queue.amazonaws.com", Some("eu-west-3")),
            ("queue.amazonaws.com", Some("us-east-1")),
            ("sqs.eu-west-1.localhost.localstack.cloud:4566", None),
            ("127.0.0.1:4566", None),
        ] {
            assert_eq!(region_of(&format!("https://{host}/123456789012/orders")), region, "{host}");
        }
        assert_eq!(region_of("orders"), None);
    }
}
