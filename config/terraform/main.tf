# The resources that `flux provision --backend aws` creates. tests/packaging/terraform.rs compares them.

locals {
  fifo         = endswith(var.queue, ".fifo")
  base         = trimsuffix(var.queue, ".fifo")
  dead_letters = local.fifo ? "${local.base}-dlq.fifo" : "${local.base}-dlq"
  # A new on-demand table accepts 4,000 write units a second; an order needs two.
  writes = var.expect == null ? 0 : var.expect * 2
  warm   = local.writes > 4000 ? [local.writes] : []
}

resource "aws_sqs_queue" "dead_letters" {
  name                       = local.dead_letters
  visibility_timeout_seconds = floor(var.visibility_timeout_ms / 1000)
  message_retention_seconds  = var.dlq_retention_days * 24 * 3600
  fifo_queue                 = local.fifo
  deduplication_scope        = local.fifo ? "messageGroup" : null
  fifo_throughput_limit      = local.fifo ? "perMessageGroupId" : null
}

resource "aws_sqs_queue" "orders" {
  name                       = var.queue
  visibility_timeout_seconds = floor(var.visibility_timeout_ms / 1000)
  message_retention_seconds  = var.retention_days * 24 * 3600
  fifo_queue                 = local.fifo
  deduplication_scope        = local.fifo ? "messageGroup" : null
  fifo_throughput_limit      = local.fifo ? "perMessageGroupId" : null
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = var.max_receive_count
  })
}

# Webhooks that are not yet delivered. 14 days is the longest that SQS keeps a message.
resource "aws_sqs_queue" "webhooks_dead_letters" {
  count                      = var.webhooks ? 1 : 0
  name                       = "${local.base}-webhooks-dlq"
  visibility_timeout_seconds = floor(var.visibility_timeout_ms / 1000)
  message_retention_seconds  = 14 * 24 * 3600
}

resource "aws_sqs_queue" "webhooks" {
  count                      = var.webhooks ? 1 : 0
  name                       = "${local.base}-webhooks"
  visibility_timeout_seconds = floor(var.visibility_timeout_ms / 1000)
  message_retention_seconds  = 14 * 24 * 3600
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.webhooks_dead_letters[0].arn
    maxReceiveCount     = 1000
  })
}

resource "aws_dynamodb_table" "orders" {
  name         = var.table
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "order_id"

  attribute {
    name = "order_id"
    type = "S"
  }

  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  dynamic "warm_throughput" {
    for_each = local.warm
    content {
      read_units_per_second  = 12000
      write_units_per_second = warm_throughput.value
    }
  }
}

resource "aws_dynamodb_table" "items" {
  name         = "${var.table}_items"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "item_id"

  attribute {
    name = "item_id"
    type = "S"
  }
}

# Holds the order key, which authenticates order ids. flux generates it, so it is not in the state.
resource "aws_dynamodb_table" "meta" {
  name         = "${var.table}_meta"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "name"

  attribute {
    name = "name"
    type = "S"
  }
}
