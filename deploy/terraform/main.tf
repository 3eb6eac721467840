# Kaplan on Google Cloud: what belongs to every part. Each concern has a file of its own:
# identities, registry, storage, service, job, scheduler, build, secrets, network, sources, monitoring.
# README.md one folder up says how to use it; only `project_id` and `region` have to be given.

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7"
    }
  }
}

provider "google" {
  project = var.project_id
  region  = var.region

  default_labels = local.labels
}

locals {
  labels = merge({ app = var.name, managed-by = "terraform" }, var.labels)

  apis = toset(concat(
    [
      "artifactregistry.googleapis.com",
      "cloudbuild.googleapis.com",
      "cloudscheduler.googleapis.com",
      "iam.googleapis.com",
      "iamcredentials.googleapis.com",
      "logging.googleapis.com",
      "monitoring.googleapis.com",
      "run.googleapis.com",
      "secretmanager.googleapis.com",
      "storage.googleapis.com",
    ],
    local.in_vpc ? ["compute.googleapis.com"] : [],
    var.managed_kafka ? ["managedkafka.googleapis.com"] : [],
    var.cdc_source ? ["servicenetworking.googleapis.com", "sqladmin.googleapis.com"] : [],
  ))
}

# The number is part of the names of Google's own service agents.
data "google_project" "this" {
  project_id = var.project_id
}

# Other things in the project may use the same interfaces: destroying this leaves them switched on.
resource "google_project_service" "api" {
  for_each = local.apis

  service            = each.value
  disable_on_destroy = false
}
