# The clock of batch runs. A call that Cloud Scheduler repeats carries the time for which it was
# meant, and Kaplan answers it with the run that it has started already.

locals {
  scheduled      = var.batch_schedule != ""
  calls_the_job  = local.scheduled && var.batch_target == "job"
  calls_the_http = local.scheduled && var.batch_target == "service"
}

resource "google_cloud_scheduler_job" "batch" {
  count = local.scheduled ? 1 : 0

  name             = "${var.name}-batch"
  description      = "Starts a batch run of every Lambda view"
  region           = var.region
  schedule         = var.batch_schedule
  time_zone        = var.time_zone
  attempt_deadline = "180s"

  retry_config {
    retry_count          = 5
    min_backoff_duration = "10s"
    max_backoff_duration = "300s"
  }

  dynamic "http_target" {
    for_each = local.calls_the_http ? [google_cloud_run_v2_service.this["writer"].uri] : []
    content {
      http_method = "POST"
      uri         = "${http_target.value}/v1/batch/runs"
      headers     = { "Content-Type" = "application/json" }
      body        = base64encode(jsonencode({ mode = "auto" }))

      oidc_token {
        service_account_email = google_service_account.scheduler.email
        audience              = http_target.value
      }
    }
  }

  # Google's own interface takes an access token, and no ID token.
  dynamic "http_target" {
    for_each = local.calls_the_job ? google_cloud_run_v2_job.batch : []
    content {
      http_method = "POST"
      uri         = "https://run.googleapis.com/v2/projects/${var.project_id}/locations/${var.region}/jobs/${http_target.value.name}:run"

      oauth_token {
        service_account_email = google_service_account.scheduler.email
        scope                 = "https://www.googleapis.com/auth/cloud-platform"
      }
    }
  }

  depends_on = [
    google_cloud_run_v2_job_iam_member.scheduler,
    google_cloud_run_v2_service_iam_member.scheduler,
    google_project_service.api,
  ]
}

# The scheduler may call the one thing that it calls.
resource "google_cloud_run_v2_service_iam_member" "scheduler" {
  count = local.calls_the_http ? 1 : 0

  name     = google_cloud_run_v2_service.this["writer"].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.scheduler.member
}

resource "google_cloud_run_v2_job_iam_member" "scheduler" {
  count = local.calls_the_job ? 1 : 0

  name     = google_cloud_run_v2_job.batch[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.scheduler.member
}
