//! The cost of a sale on AWS: the counted operations, multiplied by a table of prices.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::core::ports::usage::{Operations, Service, Usage};

/// The price table compiled into flux.
const BUILT_IN: &str = include_str!("../../config/prices.toml");

/// A dated table of prices in US dollars.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    pub region: String,
    /// Date of the prices.
    pub as_of: String,
    usd_per_million: PerMillion,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PerMillion {
    sqs_standard_requests: f64,
    /// Added for messages with a group id on a standard queue, which all of flux's messages have.
    sqs_fair_queue_surcharge: f64,
    sqs_fifo_requests: f64,
    dynamodb_write_units: f64,
    dynamodb_read_units: f64,
}

impl Prices {
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("config/prices.toml is parsed by a test")
    }

    /// Parses a table like `config/prices.toml`. The error is one line of text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let prices: Self = toml::from_str(text).map_err(|e| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            format!("line {line}: {}; see config/prices.toml", e.message().replace('\n', " "))
        })?;
        let PerMillion {
            sqs_standard_requests,
            sqs_fair_queue_surcharge,
            sqs_fifo_requests,
            dynamodb_write_units,
            dynamodb_read_units,
        } = prices.usd_per_million;
        let all = [
            sqs_standard_requests,
            sqs_fair_queue_surcharge,
            sqs_fifo_requests,
            dynamodb_write_units,
            dynamodb_read_units,
        ];
        if all.iter().any(|price| !price.is_finite() || *price < 0.0) {
            return Err("a price must be a number of dollars, 0 or more".to_owned());
        }
        Ok(prices)
    }
}

/// The operations from the first send to the last acknowledgement, and their price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// AWS region of the prices.
    pub region: String,
    pub as_of: String,
    pub operations: Vec<OperationUsage>,
    pub per_1000_orders: PerThousand,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationUsage {
    pub service: Service,
    pub operation: String,
    #[serde(flatten)]
    pub usage: Usage,
}

/// Per 1,000 accepted orders.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct PerThousand {
    /// As billed: one per started 64 KiB.
    pub sqs_requests: f64,
    pub dynamodb_write_units: f64,
    pub dynamodb_read_units: f64,
    /// Not priced, because Redis is billed by the hour.
    pub redis_commands: f64,
    pub sqs_usd: f64,
    pub dynamodb_usd: f64,
    pub usd: f64,
}

impl Cost {
    /// `fifo`: whether the queue is a FIFO queue.
    pub fn of(operations: &Operations, orders: u64, prices: &Prices, fifo: bool) -> Self {
        let total = |service: Service| {
            let mut sum = Usage::default();
            let usages = operations.iter().filter(|((of, _), _)| *of == service);
            usages.for_each(|(_, usage)| sum += *usage);
            sum
        };
        let sqs = total(Service::Sqs);
        let dynamodb = total(Service::Dynamodb);
        let price = &prices.usd_per_million;
        let request = match fifo {
            true => price.sqs_fifo_requests,
            false => price.sqs_standard_requests + price.sqs_fair_queue_surcharge,
        };
        let thousands = orders.max(1) as f64 / 1_000.0;
        let millions = 1e6 * thousands;
        let sqs_usd = sqs.requests as f64 * request / millions;
        let dynamodb_usd = (dynamodb.write_units * price.dynamodb_write_units
            + dynamodb.read_units * price.dynamodb_read_units)
            / millions;
        let per_1000_orders = PerThousand {
            sqs_requests: sqs.requests as f64 / thousands,
            dynamodb_write_units: dynamodb.write_units / thousands,
            dynamodb_read_units: dynamodb.read_units / thousands,
            redis_commands: total(Service::Redis).requests as f64 / thousands,
            sqs_usd,
            dynamodb_usd,
            usd: sqs_usd + dynamodb_usd,
        };
        let operations = operations.iter().map(|((service, operation), usage)| OperationUsage {
            service: *service,
            operation: operation.clone(),
            usage: *usage,
        });
        Self {
            region: prices.region.clone(),
            as_of: prices.as_of.clone(),
            operations: operations.collect(),
            per_1000_orders,
        }
    }
}

/// Two lines of text.
impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = &self.per_1000_orders;
        write!(f, "per 1,000    SQS {:.1} requests, DynamoDB ", per.sqs_requests)?;
        write!(f, "{:.0} write units, ", per.dynamodb_write_units)?;
        write!(f, "{:.1} read units, ", per.dynamodb_read_units)?;
        writeln!(f, "Redis {:.1} commands", per.redis_commands)?;
        write!(f, "orders       ${:.6}: SQS ${:.6}, ", per.usd, per.sqs_usd)?;
        write!(
            f,
            "DynamoDB ${:.6} (prices of {}, {}); ",
            per.dynamodb_usd, self.region, self.as_of
        )?;
        writeln!(f, "Redis is billed by the hour")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations() -> Operations {
        let usage = |requests, read_units, write_units| Usage {
            round_trips: 1,
            requests,
            read_units,
            write_units,
        };
        Operations::from([
            ((Service::Sqs, "SendMessageBatch".to_owned()), usage(30, 0.0, 0.0)),
            ((Service::Sqs, "ReceiveMessage".to_owned()), usage(20, 0.0, 0.0)),
            ((Service::Dynamodb, "TransactWriteItems".to_owned()), usage(21, 0.0, 4_040.0)),
            ((Service::Dynamodb, "GetItem".to_owned()), usage(2, 8.0, 0.0)),
            ((Service::Redis, "EVAL acquire".to_owned()), usage(3, 0.0, 0.0)),
        ])
    }

    fn prices() -> Prices {
        let text = "region = 'r'\nas_of = 'd'\n[usd_per_million]\nsqs_standard_requests = 0.4\n\
            sqs_fair_queue_surcharge = 0.1\nsqs_fifo_requests = 0.7\ndynamodb_write_units = 0.625\n\
            dynamodb_read_units = 0.125";
        Prices::parse(text).unwrap()
    }

    fn assert_close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-12, "{actual} is not {expected}");
    }

    #[test]
    fn units_times_prices_per_thousand_orders() {
        let cost = Cost::of(&operations(), 2_000, &prices(), false).per_1000_orders;
        assert_close(cost.sqs_requests, 25.0);
        assert_close(cost.dynamodb_write_units, 2_020.0);
        assert_close(cost.dynamodb_read_units, 4.0);
        assert_close(cost.redis_commands, 1.5);
        assert_close(cost.sqs_usd, 25.0 * 0.5e-6);
        assert_close(cost.dynamodb_usd, 2_020.0 * 0.625e-6 + 4.0 * 0.125e-6);
        assert_close(cost.usd, cost.sqs_usd + cost.dynamodb_usd);
        let fifo = Cost::of(&operations(), 2_000, &prices(), true).per_1000_orders;
        assert_close(fifo.sqs_usd, 25.0 * 0.7e-6);
    }

    #[test]
    fn incomplete_or_unknown_price_is_refused() {
        assert_eq!(Prices::built_in().region, "us-east-1");
        let wrong = [
            ("sqs_fifo_requests", "sqs_fifo", "unknown field"),
            ("sqs_fifo_requests = 0.50", "", "missing field"),
            ("= 0.625", "= -1.0", "0 or more"),
            ("= 0.625", "= nan", "0 or more"),
            ("= 0.625", "= \"x\"", "line 19: invalid type"),
        ];
        for (text, replacement, message) in wrong {
            let error = Prices::parse(&BUILT_IN.replace(text, replacement)).unwrap_err();
            assert!(error.contains(message) && !error.contains('\n'), "{error}");
        }
    }
}
