# Alerts on measurements: freshness, the share of errors, and whether it answers at all.

resource "google_monitoring_alert_policy" "freshness" {
  display_name          = "Views are behind (${var.name})"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels

  conditions {
    display_name = "commits take longer than ${var.freshness_alert_s} s to be visible"
    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.freshness.name}\" AND resource.type=\"cloud_run_revision\""
      comparison      = "COMPARISON_GT"
      threshold_value = var.freshness_alert_s
      duration        = "300s"
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_PERCENTILE_99"
        cross_series_reducer = "REDUCE_MAX"
      }
    }
  }

  documentation {
    content   = "`kaplan status` shows which view is behind. Usual causes: more events than the CPUs can take, a large batch run at the same time, memory close to its limit. Give the service more CPU (`cpu`), or run batch runs as a job (`batch_job`)."
    mime_type = "text/markdown"
  }
}

resource "google_monitoring_alert_policy" "error_rate" {
  display_name          = "Requests are answered with errors (${var.name})"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels

  conditions {
    display_name = "more than ${var.error_rate_alert * 100} % of requests are answered with 5xx"
    condition_threshold {
      filter             = "${local.requests} AND metric.labels.response_code_class=\"5xx\""
      denominator_filter = local.requests
      comparison         = "COMPARISON_GT"
      threshold_value    = var.error_rate_alert
      duration           = "300s"
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_RATE"
        cross_series_reducer = "REDUCE_SUM"
      }
      denominator_aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_RATE"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    content   = "429 and 4xx do not count: they are answers to what was sent. 503 for some seconds is what a release looks like, and producers with a sequence repeat safely."
    mime_type = "text/markdown"
  }
}

locals {
  requests = join(" AND ", [
    "resource.type=\"cloud_run_revision\"",
    "resource.labels.service_name=\"${var.name}\"",
    "metric.type=\"run.googleapis.com/request_count\"",
  ])
}

# Asks as Google's monitoring agent, which is an invoker of this one service for it.
resource "google_cloud_run_v2_service_iam_member" "uptime" {
  count = var.uptime_check ? 1 : 0

  name     = google_cloud_run_v2_service.this["writer"].name
  location = var.region
  role     = "roles/run.invoker"
  member   = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-monitoring-notification.iam.gserviceaccount.com"
}

resource "google_monitoring_uptime_check_config" "ready" {
  count = var.uptime_check ? 1 : 0

  display_name = "${var.name} is ready"
  period       = "60s"
  timeout      = "10s"

  # Not /readyz: Google's front keeps some paths that end in z to itself.
  http_check {
    path         = "/ready"
    port         = 443
    use_ssl      = true
    validate_ssl = true
    service_agent_authentication {
      type = "OIDC_TOKEN"
    }
  }

  monitored_resource {
    type = "uptime_url"
    labels = {
      project_id = var.project_id
      host       = trimprefix(google_cloud_run_v2_service.this["writer"].uri, "https://")
    }
  }

  lifecycle {
    precondition {
      condition     = var.ingress == "all"
      error_message = "the uptime check comes from outside: with ingress = \"${var.ingress}\" set uptime_check = false."
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.uptime]
}

resource "google_monitoring_alert_policy" "not_ready" {
  count = var.uptime_check ? 1 : 0

  display_name          = "Not ready (${var.name})"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels

  conditions {
    display_name = "/ready fails from several places for 5 minutes"
    condition_threshold {
      filter = join(" AND ", [
        "metric.type=\"monitoring.googleapis.com/uptime_check/check_passed\"",
        "resource.type=\"uptime_url\"",
        "metric.labels.check_id=\"${google_monitoring_uptime_check_config.ready[0].uptime_check_id}\"",
      ])
      comparison      = "COMPARISON_GT"
      threshold_value = 1
      duration        = "300s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_NEXT_OLDER"
        cross_series_reducer = "REDUCE_COUNT_FALSE"
        group_by_fields      = ["resource.label.host"]
      }
    }
  }

  documentation {
    content   = "Reads and writes are refused. `gcloud run services logs read ${var.name} --region=${var.region}` shows what the program says. A start that takes longer than 240 s is cut off by Cloud Run and tried again."
    mime_type = "text/markdown"
  }
}
