# The defaults are those of the flux settings with the same names.

variable "queue" {
  description = "Name of the queue; FIFO if it ends in .fifo"
  type        = string
  default     = "flux-orders"
}

variable "table" {
  description = "Name of the order table; the others are TABLE_items and TABLE_meta"
  type        = string
  default     = "flux"
}

variable "visibility_timeout_ms" {
  description = "How long a delivery stays invisible to other workers unless extended, in milliseconds"
  type        = number
  default     = 30000
}

variable "retention_days" {
  description = "How long SQS keeps messages, in days; at most dlq_retention_days"
  type        = number
  default     = 4
}

variable "dlq_retention_days" {
  description = "How long SQS keeps dead letters, in days"
  type        = number
  default     = 14
}

variable "max_receive_count" {
  description = "Number of receives after which SQS moves a message to the dead-letter queue"
  type        = number
  default     = 100
}

variable "expect" {
  description = "Orders per second that the order table must accept from the start; can only be raised"
  type        = number
  default     = null
}

variable "webhooks" {
  description = "Creates the two queues for webhooks (webhook_url)"
  type        = bool
  default     = false
}

variable "valkey" {
  description = "Creates a Valkey in these subnets; without it, set REDIS_URL yourself or run without locks"
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
    node_type          = optional(string, "cache.t4g.small")
  })
  default = null
}
