# The service's account may read the secrets that `secrets` names, each by itself. Their values are
# put into Secret Manager by hand, so that they are in no state file.

resource "google_secret_manager_secret_iam_member" "run" {
  for_each = toset(values(var.secrets))

  secret_id  = each.value
  role       = "roles/secretmanager.secretAccessor"
  member     = google_service_account.run.member
  depends_on = [google_project_service.api]
}
