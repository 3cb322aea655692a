# The policies that `flux provision --print iam` prints, for this account only. Attach `serve` and
# `work` to the roles that run them (`flux serve --workers N` needs both), and each of the others to
# the users of that command.

locals {
  queue_setup = [
    "sqs:CreateQueue",
    "sqs:DeleteQueue",
    "sqs:GetQueueUrl",
    "sqs:GetQueueAttributes",
    "sqs:SetQueueAttributes",
  ]

  # Reads the order key, or stores a new one. Before storing one, flux scans orders and items for a
  # row.
  first = ["dynamodb:GetItem", "dynamodb:PutItem"]

  policies = {
    serve = [
      {
        resource = aws_sqs_queue.orders.arn
        actions  = ["sqs:SendMessage", "sqs:GetQueueAttributes"]
      },
      {
        resource = aws_sqs_queue.dead_letters.arn
        actions  = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes"]
      },
      {
        resource = aws_dynamodb_table.orders.arn
        actions  = ["dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Scan"]
      },
      {
        resource = aws_dynamodb_table.items.arn
        actions  = ["dynamodb:GetItem", "dynamodb:Scan", "dynamodb:PutItem"]
      },
      {
        resource = aws_dynamodb_table.meta.arn
        actions  = local.first
      },
    ]

    work = concat([
      {
        resource = aws_sqs_queue.orders.arn
        actions = [
          "sqs:ReceiveMessage",
          "sqs:DeleteMessage",
          "sqs:ChangeMessageVisibility",
          "sqs:GetQueueAttributes",
        ]
      },
      {
        resource = aws_sqs_queue.dead_letters.arn
        actions  = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:SendMessage"]
      },
      {
        resource = aws_dynamodb_table.orders.arn
        actions = [
          "dynamodb:GetItem",
          "dynamodb:BatchGetItem",
          "dynamodb:Scan",
          "dynamodb:PutItem",
        ]
      },
      {
        resource = aws_dynamodb_table.items.arn
        actions  = ["dynamodb:GetItem", "dynamodb:Scan", "dynamodb:PutItem"]
      },
      {
        resource = aws_dynamodb_table.meta.arn
        actions  = local.first
      },
      ], [for queue in aws_sqs_queue.webhooks : {
        resource = queue.arn
        actions = [
          "sqs:SendMessage",
          "sqs:ReceiveMessage",
          "sqs:DeleteMessage",
          "sqs:ChangeMessageVisibility",
          "sqs:GetQueueAttributes",
        ]
      }], [for queue in aws_sqs_queue.webhooks_dead_letters : {
        resource = queue.arn
        actions  = ["sqs:SendMessage", "sqs:GetQueueAttributes"]
    }])

    provision = concat([
      {
        resource = aws_sqs_queue.orders.arn
        actions  = local.queue_setup
      },
      {
        resource = aws_sqs_queue.dead_letters.arn
        actions  = local.queue_setup
      },
      {
        resource = aws_dynamodb_table.orders.arn
        actions = [
          "dynamodb:CreateTable",
          "dynamodb:DeleteTable",
          "dynamodb:DescribeTable",
          "dynamodb:UpdateTable",
          "dynamodb:DescribeTimeToLive",
          "dynamodb:UpdateTimeToLive",
          "dynamodb:GetItem",
          "dynamodb:Scan",
        ]
      },
      {
        resource = aws_dynamodb_table.items.arn
        actions = [
          "dynamodb:CreateTable",
          "dynamodb:DeleteTable",
          "dynamodb:DescribeTable",
          "dynamodb:UpdateTable",
          "dynamodb:GetItem",
          "dynamodb:Scan",
          "dynamodb:PutItem",
        ]
      },
      {
        resource = aws_dynamodb_table.meta.arn
        actions = [
          "dynamodb:CreateTable",
          "dynamodb:DeleteTable",
          "dynamodb:DescribeTable",
          "dynamodb:GetItem",
          "dynamodb:PutItem",
        ]
      },
      ], [for queue in aws_sqs_queue.webhooks : {
        resource = queue.arn
        actions  = local.queue_setup
      }], [for queue in aws_sqs_queue.webhooks_dead_letters : {
        resource = queue.arn
        actions  = local.queue_setup
    }])

    items = [
      {
        resource = aws_sqs_queue.orders.arn
        actions  = ["sqs:GetQueueAttributes"]
      },
      {
        resource = aws_sqs_queue.dead_letters.arn
        actions  = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes"]
      },
      {
        resource = aws_dynamodb_table.orders.arn
        actions  = ["dynamodb:GetItem", "dynamodb:Scan"]
      },
      {
        resource = aws_dynamodb_table.items.arn
        actions  = ["dynamodb:GetItem", "dynamodb:Scan", "dynamodb:PutItem"]
      },
      {
        resource = aws_dynamodb_table.meta.arn
        actions  = local.first
      },
    ]

    audit = [
      {
        resource = aws_sqs_queue.orders.arn
        actions  = ["sqs:GetQueueAttributes"]
      },
      {
        resource = aws_sqs_queue.dead_letters.arn
        actions  = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes"]
      },
      {
        resource = aws_dynamodb_table.orders.arn
        actions  = ["dynamodb:GetItem", "dynamodb:Scan"]
      },
      {
        resource = aws_dynamodb_table.items.arn
        actions  = ["dynamodb:GetItem", "dynamodb:Scan"]
      },
      {
        resource = aws_dynamodb_table.meta.arn
        actions  = ["dynamodb:GetItem"]
      },
    ]

    dlq = concat([
      {
        resource = aws_sqs_queue.orders.arn
        actions  = ["sqs:GetQueueAttributes", "sqs:SendMessage"]
      },
      {
        resource = aws_sqs_queue.dead_letters.arn
        actions = [
          "sqs:GetQueueUrl",
          "sqs:GetQueueAttributes",
          "sqs:ReceiveMessage",
          "sqs:DeleteMessage",
          "sqs:ChangeMessageVisibility",
          "sqs:SendMessage",
        ]
      },
      {
        resource = aws_dynamodb_table.orders.arn
        actions  = ["dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:PutItem"]
      },
      {
        resource = aws_dynamodb_table.items.arn
        actions  = ["dynamodb:GetItem"]
      },
      {
        resource = aws_dynamodb_table.meta.arn
        actions  = ["dynamodb:GetItem"]
      },
      ], [for queue in aws_sqs_queue.webhooks : {
        resource = queue.arn
        actions  = ["sqs:SendMessage"]
    }])
  }
}

resource "aws_iam_policy" "flux" {
  for_each = local.policies

  name = "${var.table}-${each.key}"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for s in each.value : {
      Effect   = "Allow"
      Action   = s.actions
      Resource = s.resource
    }]
  })
}
