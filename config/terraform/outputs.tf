data "aws_region" "here" {}

locals {
  redis_url = [
    for valkey in aws_elasticache_replication_group.valkey :
    "rediss://${valkey.primary_endpoint_address}:6379"
  ]
}

output "environment" {
  description = "Variables that flux needs: terraform output -raw environment"
  value = join("", [
    "AWS_REGION=${data.aws_region.here.region}\n",
    "SQS_QUEUE_URL=${aws_sqs_queue.orders.url}\n",
    "DYNAMODB_TABLE=${aws_dynamodb_table.orders.name}\n",
    join("", [for url in local.redis_url : "REDIS_URL=${url}\n"]),
  ])
}

output "policy_arns" {
  description = "Least-privilege policies by command: serve, work, provision, items, audit, dlq"
  value       = { for role, policy in aws_iam_policy.flux : role => policy.arn }
}
