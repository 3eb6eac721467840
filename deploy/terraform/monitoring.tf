# What is counted out of the log, and who is told when. The messages are those that the program
# writes; a test of the repository holds the two together.

locals {
  service_log = join(" AND ", [
    "resource.type=\"cloud_run_revision\"",
    "resource.labels.service_name=\"${var.name}\"",
  ])
  job_log = join(" AND ", [
    "resource.type=\"cloud_run_job\"",
    "resource.labels.job_name=\"${var.name}-batch\"",
  ])

  # Every event of these kinds is worth a look; the threshold of all of them is one.
  events = {
    batch_failed = {
      title  = "A batch run failed"
      filter = "((${local.service_log} AND jsonPayload.message=\"batch run ended\" AND jsonPayload.state=\"Failed\") OR (${local.job_log} AND severity>=ERROR))"
      advice = "`SHOW BATCH RUNS` says why. The last published batch view is still served. Start the run again with `kaplan batch VIEW`, or `REFRESH MATERIALIZED VIEW v`."
    }
    view_stopped = {
      title  = "A view stopped"
      filter = "${local.service_log} AND (jsonPayload.message=\"a view stopped\" OR jsonPayload.message=\"replay failed\")"
      advice = "`SHOW VIEWS` names the view and `kaplan status` the reason. Other views go on. See 'When a view failed' in docs/operations.md."
    }
    log_failed = {
      title  = "The log takes no more writes"
      filter = "${local.service_log} AND jsonPayload.message=\"the log failed; no more writes are taken\""
      advice = "Either another instance has taken over the log (expected for a moment during a release), or the bucket refuses writes. Nothing acknowledged is lost. See 'Rollback' in deploy/README.md."
    }
    archiving_failed = {
      title  = "Archiving failed"
      filter = "${local.service_log} AND jsonPayload.message=\"archiving failed; the log keeps the rows\""
      advice = "The lake does not grow and the log does. It is tried again by itself; look at the bucket's permissions and at the error in the log line."
    }
    schedule_failed = {
      title  = "The schedule's call failed"
      filter = "resource.type=\"cloud_scheduler_job\" AND resource.labels.job_id=\"${var.name}-batch\" AND severity>=ERROR"
      advice = "No batch run was started by the schedule. The log line has the HTTP status; 403 means that the scheduler's account is not an invoker any more."
    }
  }

  channels = google_monitoring_notification_channel.email[*].id
}

resource "google_monitoring_notification_channel" "email" {
  count = var.alert_email != "" ? 1 : 0

  display_name = "Kaplan (${var.name})"
  type         = "email"
  labels       = { email_address = var.alert_email }
  depends_on   = [google_project_service.api]
}

resource "google_logging_metric" "event" {
  for_each = local.events

  name        = "${var.name}/${each.key}"
  description = each.value.title
  filter      = each.value.filter

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [google_project_service.api]
}

# From the line that the program writes every minute: how long commits take to be visible.
resource "google_logging_metric" "freshness" {
  name            = "${var.name}/freshness"
  description     = "Time from commit to visible, 99th percentile of the last commits"
  filter          = "${local.service_log} AND jsonPayload.message=\"status\" AND jsonPayload.freshness_p99_s>=0"
  value_extractor = "EXTRACT(jsonPayload.freshness_p99_s)"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "s"
  }

  bucket_options {
    exponential_buckets {
      scale              = 0.01
      growth_factor      = 1.5
      num_finite_buckets = 40
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_monitoring_alert_policy" "event" {
  for_each = local.events

  display_name          = "${each.value.title} (${var.name})"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels

  conditions {
    display_name = each.value.title
    condition_threshold {
      filter = join(" AND ", [
        "metric.type=\"logging.googleapis.com/user/${google_logging_metric.event[each.key].name}\"",
        each.key == "schedule_failed" ? "resource.type=\"cloud_scheduler_job\"" : "resource.type=one_of(\"cloud_run_revision\",\"cloud_run_job\")",
      ])
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  alert_strategy {
    auto_close = "86400s"
  }

  documentation {
    content   = each.value.advice
    mime_type = "text/markdown"
  }
}
