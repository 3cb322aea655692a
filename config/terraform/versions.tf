terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source = "hashicorp/aws"
      # The first version with warm_throughput.
      version = ">= 6.13"
    }
  }
}
