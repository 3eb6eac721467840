# Batch runs in a container of their own, with memory that the service does not have to hold. The job
# reads the lake and hands the writer what it computed, through objects in the bucket; it calls nobody and
# never writes to the log.

resource "google_cloud_run_v2_job" "batch" {
  count = var.batch_job ? 1 : 0

  name                = "${var.name}-batch"
  location            = var.region
  deletion_protection = false
  labels              = local.labels

  template {
    task_count  = 1
    parallelism = 1
    labels      = local.labels

    template {
      service_account       = google_service_account.run.email
      execution_environment = "EXECUTION_ENVIRONMENT_GEN2"
      timeout               = "21600s"
      max_retries           = 1

      containers {
        image = local.image
        args  = ["batch", "--data", local.data]

        resources {
          limits = {
            cpu    = var.batch_job_cpu
            memory = var.batch_job_memory
          }
        }

        dynamic "env" {
          for_each = local.env
          content {
            name  = env.key
            value = env.value
          }
        }
      }

      dynamic "vpc_access" {
        for_each = local.in_vpc ? [1] : []
        content {
          egress = "PRIVATE_RANGES_ONLY"
          network_interfaces {
            network    = local.network
            subnetwork = local.subnetwork
          }
        }
      }
    }
  }

  lifecycle {
    ignore_changes = [
      client,
      client_version,
      template[0].template[0].containers[0].image,
      template[0].template[0].containers[0].name,
    ]
  }

  depends_on = [
    google_storage_bucket_iam_member.run_data,
    terraform_data.first_image,
  ]
}
