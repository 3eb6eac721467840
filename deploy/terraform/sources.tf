# Optional sources of events: a Kafka cluster and a PostgreSQL whose changes can be followed.

resource "google_managed_kafka_cluster" "log" {
  count = var.managed_kafka ? 1 : 0

  cluster_id = var.name
  location   = var.region

  capacity_config {
    vcpu_count   = "3"
    memory_bytes = "3221225472"
  }

  gcp_config {
    access_config {
      network_configs {
        subnet = local.subnetwork
      }
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_managed_kafka_topic" "events" {
  count = var.managed_kafka ? 1 : 0

  topic_id           = var.kafka_topic
  cluster            = google_managed_kafka_cluster.log[0].cluster_id
  location           = var.region
  partition_count    = 3
  replication_factor = 3

  configs = {
    "retention.ms" = "604800000"
  }
}

# Connecting to a cluster is a right on the project: clusters have no policy of their own. What the
# account may do inside is for the cluster's ACLs.
resource "google_project_iam_member" "run_kafka" {
  count = var.managed_kafka ? 1 : 0

  project = var.project_id
  role    = "roles/managedkafka.client"
  member  = google_service_account.run.member
}

resource "google_compute_global_address" "sql" {
  count = var.cdc_source ? 1 : 0

  name          = "${var.name}-sql"
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  prefix_length = 20
  network       = local.network
}

resource "google_service_networking_connection" "sql" {
  count = var.cdc_source ? 1 : 0

  network                 = local.network
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.sql[0].name]
  depends_on              = [google_project_service.api]
}

resource "google_sql_database_instance" "source" {
  count = var.cdc_source ? 1 : 0

  name                = "${var.name}-source"
  region              = var.region
  database_version    = "POSTGRES_16"
  deletion_protection = var.deletion_protection

  settings {
    tier            = var.cdc_tier
    edition         = "ENTERPRISE"
    disk_autoresize = true

    ip_configuration {
      ipv4_enabled    = false
      private_network = local.network
      ssl_mode        = "ENCRYPTED_ONLY"
    }

    backup_configuration {
      enabled                        = true
      point_in_time_recovery_enabled = true
    }

    # Publications and replication slots need it.
    database_flags {
      name  = "cloudsql.logical_decoding"
      value = "on"
    }

    # A replica that stops reading must not fill the disk: past this the slot is given up, visibly.
    database_flags {
      name  = "max_slot_wal_keep_size"
      value = "10240"
    }

    dynamic "database_flags" {
      for_each = toset(["log_checkpoints", "log_connections", "log_disconnections", "log_lock_waits"])
      content {
        name  = database_flags.value
        value = "on"
      }
    }
  }

  depends_on = [google_service_networking_connection.sql]
}

# The replicating user is created by hand, as the README says: a password given here would lie in the
# state file.
resource "google_sql_database" "source" {
  count = var.cdc_source ? 1 : 0

  name     = "app"
  instance = google_sql_database_instance.source[0].name
}
