# Two buckets: the data (log, lake, batch views, checkpoints), and what builds by hand upload.

locals {
  prefix = "kaplan"
  data   = "gs://${google_storage_bucket.data.name}/${local.prefix}"
}

resource "google_storage_bucket" "data" {
  name     = "${var.project_id}-${var.name}"
  location = var.region

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  # What is deleted or replaced stays as an older version for some days. Soft delete would keep, and
  # bill, the same bytes a second time.
  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = var.trimmed_days
      matches_prefix             = ["${local.prefix}/log/"]
      with_state                 = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = var.noncurrent_days
      with_state                 = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }

  # Rehearsals of releases, each below a prefix of its own.
  lifecycle_rule {
    condition {
      age            = 1
      matches_prefix = ["rehearsals/"]
      with_state     = "ANY"
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  depends_on = [google_project_service.api]
}

# Reads, writes and deletes objects of this bucket; may change neither its settings nor its policy.
resource "google_storage_bucket_iam_member" "run_data" {
  bucket = google_storage_bucket.data.name
  role   = "roles/storage.objectUser"
  member = google_service_account.run.member
}

# A replica that went wrong could not change what the writer has.
resource "google_storage_bucket_iam_member" "read_data" {
  count = var.read_replicas > 0 ? 1 : 0

  bucket = google_storage_bucket.data.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.read[0].member
}

resource "google_storage_bucket" "sources" {
  name     = "${var.project_id}-${var.name}-build"
  location = var.region

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true

  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      age = 3
    }
    action {
      type = "Delete"
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_storage_bucket_iam_member" "build_reads_sources" {
  bucket = google_storage_bucket.sources.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.build.member
}
