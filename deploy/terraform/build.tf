# Continuous deployment: a push to the branch starts cloudbuild.yaml under the build account, which
# may push to the one registry, change the services of this installation, and call them.

locals {
  continuous = var.github_repository != ""
}

resource "google_cloud_run_v2_service_iam_member" "build_releases" {
  for_each = local.services

  name     = google_cloud_run_v2_service.this[each.key].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.build.member
}

# For the smoke tests.
resource "google_cloud_run_v2_service_iam_member" "build_calls" {
  for_each = { for key, service in local.services : key => service if key != "replica" }

  name     = google_cloud_run_v2_service.this[each.key].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.build.member
}

resource "google_cloud_run_v2_job_iam_member" "build_releases" {
  count = var.batch_job ? 1 : 0

  name     = google_cloud_run_v2_job.batch[0].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.build.member
}

# Cloud Build's own agent reads the GitHub token, for the connection only.
resource "google_secret_manager_secret_iam_member" "github_token" {
  count = local.continuous ? 1 : 0

  secret_id = var.github_token_secret
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-cloudbuild.iam.gserviceaccount.com"
}

resource "google_cloudbuildv2_connection" "github" {
  count = local.continuous ? 1 : 0

  name     = "${var.name}-github"
  location = var.region

  github_config {
    app_installation_id = var.github_app_installation_id
    authorizer_credential {
      oauth_token_secret_version = "projects/${var.project_id}/secrets/${var.github_token_secret}/versions/latest"
    }
  }

  depends_on = [
    google_project_service.api,
    google_secret_manager_secret_iam_member.github_token,
  ]
}

resource "google_cloudbuildv2_repository" "this" {
  count = local.continuous ? 1 : 0

  name              = var.name
  location          = var.region
  parent_connection = google_cloudbuildv2_connection.github[0].name
  remote_uri        = "https://github.com/${var.github_repository}.git"
}

resource "google_cloudbuild_trigger" "release" {
  count = local.continuous ? 1 : 0

  name            = "${var.name}-release"
  description     = "Test, build, rehearse and release ${var.branch}"
  location        = var.region
  service_account = google_service_account.build.id
  filename        = "deploy/cloudbuild.yaml"

  repository_event_config {
    repository = google_cloudbuildv2_repository.this[0].id
    push {
      branch = "^${var.branch}$"
    }
  }

  substitutions = local.substitutions
}

locals {
  # What cloudbuild.yaml has to be told, by the trigger or by hand.
  substitutions = {
    _ACCOUNT   = google_service_account.build.email
    _BUCKET    = google_storage_bucket.data.name
    _IMAGE     = local.image_name
    _JOB       = var.batch_job ? google_cloud_run_v2_job.batch[0].name : ""
    _REGION    = var.region
    _REHEARSAL = var.rehearsal ? google_cloud_run_v2_service.this["rehearsal"].name : ""
    _REPLICA   = var.read_replicas > 0 ? google_cloud_run_v2_service.this["replica"].name : ""
    _SERVICE   = google_cloud_run_v2_service.this["writer"].name
  }
}
