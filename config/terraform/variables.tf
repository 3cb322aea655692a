# The defaults are those of flux's settings of the same names.

variable "queue" {
  description = "The queue's name; FIFO if it ends in .fifo"
  type        = string
  default     = "flux-orders"
}

variable "table" {
  description = "The table of orders; the others are TABLE_items and TABLE_meta"
  type        = string
  default     = "flux"
}

variable "visibility_timeout_ms" {
  description = "How long a delivery stays invisible to other workers without being extended"
  type        = number
  default     = 30000
}

variable "retention_days" {
  description = "How long SQS keeps messages; at most dlq_retention_days"
  type        = number
  default     = 4
}

variable "dlq_retention_days" {
  description = "How long SQS keeps dead letters"
  type        = number
  default     = 14
}

variable "max_receive_count" {
  description = "Receives after which SQS itself moves a message to the dead-letter queue"
  type        = number
  default     = 100
}

variable "expect" {
  description = "Orders a second that the table of orders must take from the start; it can be raised only"
  type        = number
  default     = null
}

variable "webhooks" {
  description = "A shop is told of decisions (webhook_url), by way of two queues more"
  type        = bool
  default     = false
}

variable "valkey" {
  description = "Makes a Valkey for the lock in these subnets; without it, set REDIS_URL yourself or sell without a lock"
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
    node_type          = optional(string, "cache.t4g.small")
  })
  default = null
}
