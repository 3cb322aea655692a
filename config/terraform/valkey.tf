# Holds locks, idempotency fingerprints and notifications. Sales continue without it, so one small
# node is enough.

resource "aws_elasticache_subnet_group" "valkey" {
  count      = var.valkey == null ? 0 : 1
  name       = "${var.table}-valkey"
  subnet_ids = var.valkey.subnet_ids
}

resource "aws_elasticache_replication_group" "valkey" {
  count                      = var.valkey == null ? 0 : 1
  replication_group_id       = "${var.table}-valkey"
  description                = "Locks, idempotency and notifications of flux"
  engine                     = "valkey"
  node_type                  = var.valkey.node_type
  num_cache_clusters         = 1
  port                       = 6379
  subnet_group_name          = aws_elasticache_subnet_group.valkey[0].name
  security_group_ids         = var.valkey.security_group_ids
  at_rest_encryption_enabled = true
  # Its host name has dots, so flux uses TLS whatever the URL's scheme (redis_tls).
  transit_encryption_enabled = true
}
