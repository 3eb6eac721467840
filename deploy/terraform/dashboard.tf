# One page: requests, freshness, resources, and the events that alerts are made of.

locals {
  user_metric = "logging.googleapis.com/user/${var.name}"
  run_metric  = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${var.name}\" AND metric.type=\"run.googleapis.com"

  # Title, filter, how a series is aligned, how series are put together, unit.
  charts = [
    ["Requests a second, by class", "${local.run_metric}/request_count\"", "ALIGN_RATE", "REDUCE_SUM", "metric.label.response_code_class"],
    ["Latency, 99th percentile (ms)", "${local.run_metric}/request_latencies\"", "ALIGN_PERCENTILE_99", "REDUCE_MAX", ""],
    ["From commit to visible, 99th percentile (s)", "resource.type=\"cloud_run_revision\" AND metric.type=\"${local.user_metric}/freshness\"", "ALIGN_PERCENTILE_99", "REDUCE_MAX", ""],
    ["Instances", "${local.run_metric}/container/instance_count\"", "ALIGN_MAX", "REDUCE_SUM", "metric.label.state"],
    ["CPU, 99th percentile", "${local.run_metric}/container/cpu/utilizations\"", "ALIGN_PERCENTILE_99", "REDUCE_MAX", ""],
    ["Memory, 99th percentile", "${local.run_metric}/container/memory/utilizations\"", "ALIGN_PERCENTILE_99", "REDUCE_MAX", ""],
    ["Failed batch runs", "resource.type=\"cloud_run_revision\" AND metric.type=\"${local.user_metric}/batch_failed\"", "ALIGN_DELTA", "REDUCE_SUM", ""],
    ["Bytes in the bucket", "resource.type=\"gcs_bucket\" AND resource.labels.bucket_name=\"${google_storage_bucket.data.name}\" AND metric.type=\"storage.googleapis.com/storage/v2/total_bytes\"", "ALIGN_MEAN", "REDUCE_SUM", "metric.label.type"],
  ]

  tiles = [
    for index, chart in local.charts : {
      width  = 6
      height = 4
      xPos   = (index % 2) * 6
      yPos   = floor(index / 2) * 4
      widget = {
        title = chart[0]
        xyChart = {
          dataSets = [{
            plotType = "LINE"
            timeSeriesQuery = {
              timeSeriesFilter = {
                filter = chart[1]
                aggregation = {
                  alignmentPeriod    = "60s"
                  perSeriesAligner   = chart[2]
                  crossSeriesReducer = chart[3]
                  groupByFields      = chart[4] == "" ? [] : [chart[4]]
                }
              }
            }
          }]
        }
      }
    }
  ]
}

resource "google_monitoring_dashboard" "this" {
  dashboard_json = jsonencode({
    displayName  = "Kaplan (${var.name})"
    mosaicLayout = { columns = 12, tiles = local.tiles }
  })

  depends_on = [google_project_service.api]
}
