# Three accounts, one a part, none with a key: `run` is the program, `build` releases it, `scheduler`
# calls it. With read replicas there is a fourth, `read`, which can write nothing. Nobody gets a role on
# the project but where Google offers no narrower place for it.

resource "google_service_account" "run" {
  account_id   = "${var.name}-run"
  display_name = "Kaplan: the running program"
  depends_on   = [google_project_service.api]
}

resource "google_service_account" "read" {
  count = var.read_replicas > 0 ? 1 : 0

  account_id   = "${var.name}-read"
  display_name = "Kaplan: read replicas"
  depends_on   = [google_project_service.api]
}

resource "google_service_account" "build" {
  account_id   = "${var.name}-build"
  display_name = "Kaplan: builds and releases"
  depends_on   = [google_project_service.api]
}

resource "google_service_account" "scheduler" {
  account_id   = "${var.name}-scheduler"
  display_name = "Kaplan: starts batch runs"
  depends_on   = [google_project_service.api]
}

# A build writes its log. Log writing cannot be given on anything smaller than the project.
resource "google_project_iam_member" "build_logs" {
  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = google_service_account.build.member
}

# A release runs under the service's account, so whoever releases must be allowed to use it.
resource "google_service_account_iam_member" "build_uses_run" {
  service_account_id = google_service_account.run.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.build.member
}

resource "google_service_account_iam_member" "build_uses_read" {
  count = var.read_replicas > 0 ? 1 : 0

  service_account_id = google_service_account.read[0].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.build.member
}

# The smoke test calls private services with an ID token of the build account, which mints it for
# itself and for nobody else.
resource "google_service_account_iam_member" "build_mints_own_id_tokens" {
  service_account_id = google_service_account.build.name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = google_service_account.build.member
}
