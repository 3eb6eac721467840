# Where images lie, and how they leave again.

resource "google_artifact_registry_repository" "images" {
  location      = var.region
  repository_id = var.name
  description   = "Images of Kaplan"
  format        = "DOCKER"

  cleanup_policies {
    id     = "keep-recent"
    action = "KEEP"

    most_recent_versions {
      keep_count = var.images_kept
    }
  }

  # A policy that keeps wins over one that deletes, so the last versions stay however old they are.
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"

    condition {
      tag_state  = "ANY"
      older_than = "2592000s"
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_artifact_registry_repository_iam_member" "build_pushes" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.build.member
}

locals {
  # What the pipeline pushes to, without a tag.
  image_name = "${google_artifact_registry_repository.images.registry_uri}/kaplan"
  image      = var.image != "" ? var.image : "${local.image_name}:first"
}

# The service cannot be created before an image exists, and the registry that holds it is made by the
# same apply. So the first image is built in between, once; `image` names another and skips this.
resource "terraform_data" "first_image" {
  count = var.image == "" ? 1 : 0

  triggers_replace = google_artifact_registry_repository.images.id

  provisioner "local-exec" {
    working_dir = "${path.module}/../.."
    command     = <<-SH
      gcloud builds submit . --project='${var.project_id}' --region='${var.region}' \
        --config=deploy/cloudbuild.image.yaml \
        --service-account='${google_service_account.build.id}' \
        --gcs-source-staging-dir='gs://${google_storage_bucket.sources.name}/source' \
        --substitutions='_IMAGE=${local.image_name},_TAG=first'
    SH
  }

  depends_on = [
    google_artifact_registry_repository_iam_member.build_pushes,
    google_project_iam_member.build_logs,
    google_storage_bucket_iam_member.build_reads_sources,
  ]
}
