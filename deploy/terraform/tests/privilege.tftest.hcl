# Who may do what. Applied against the mock, so that every reference has a value.

mock_provider "google" {
  mock_resource "google_cloud_run_v2_service" {
    defaults = { uri = "https://kaplan-abc.example.app" }
  }
  mock_resource "google_service_account" {
    defaults = {
      id     = "projects/demo-project/serviceAccounts/x@demo-project.iam.gserviceaccount.com"
      name   = "projects/demo-project/serviceAccounts/x@demo-project.iam.gserviceaccount.com"
      email  = "x@demo-project.iam.gserviceaccount.com"
      member = "serviceAccount:x@demo-project.iam.gserviceaccount.com"
    }
  }
}

variables {
  project_id = "demo-project"
  region     = "europe-west1"
  image      = "example/kaplan:1"
}

run "three_accounts" {
  assert {
    condition     = google_service_account.run.account_id == "kaplan-run" && google_service_account.build.account_id == "kaplan-build" && google_service_account.scheduler.account_id == "kaplan-scheduler"
    error_message = "each part has an account of its own"
  }
  assert {
    condition     = length(google_service_account.read) == 0 && length(google_storage_bucket_iam_member.read_data) == 0
    error_message = "the fourth comes with read replicas only"
  }
}

run "replicas_read_and_get_no_secrets" {
  variables {
    read_replicas = 2
    secrets       = { KAFKA_PASSWORD = "kafka-password" }
  }

  assert {
    condition     = google_storage_bucket_iam_member.read_data[0].bucket == "demo-project-kaplan" && google_storage_bucket_iam_member.read_data[0].role == "roles/storage.objectViewer"
    error_message = "replicas read the one bucket"
  }
  assert {
    condition = length([
      for env in google_cloud_run_v2_service.this["replica"].template[0].containers[0].env :
      env if env.name == "KAFKA_PASSWORD"
    ]) == 0
    error_message = "replicas run no sources and get no passwords"
  }
  assert {
    condition     = google_service_account_iam_member.build_uses_read[0].role == "roles/iam.serviceAccountUser"
    error_message = "a release replaces replicas too"
  }
}

run "the_scheduler_calls_one_service" {
  assert {
    condition     = length(google_cloud_run_v2_service_iam_member.scheduler) == 1 && google_cloud_run_v2_service_iam_member.scheduler[0].role == "roles/run.invoker" && google_cloud_run_v2_service_iam_member.scheduler[0].name == "kaplan"
    error_message = "the scheduler is an invoker of the writer"
  }
  assert {
    condition     = length(google_cloud_run_v2_job_iam_member.scheduler) == 0
    error_message = "and of nothing else"
  }
  assert {
    condition     = google_cloud_scheduler_job.batch[0].http_target[0].oidc_token[0].audience == google_cloud_run_v2_service.this["writer"].uri
    error_message = "the token is for this service"
  }
  assert {
    condition     = google_cloud_scheduler_job.batch[0].http_target[0].uri == "https://kaplan-abc.example.app/v1/batch/runs"
    error_message = "the schedule asks for a batch run"
  }
}

run "storage_on_one_bucket_only" {
  assert {
    condition     = google_storage_bucket_iam_member.run_data.role == "roles/storage.objectUser" && google_storage_bucket_iam_member.run_data.bucket == "demo-project-kaplan"
    error_message = "the program uses the objects of its bucket"
  }
  assert {
    condition     = google_storage_bucket_iam_member.build_reads_sources.role == "roles/storage.objectViewer" && google_storage_bucket_iam_member.build_reads_sources.bucket == "demo-project-kaplan-build"
    error_message = "builds read uploaded sources, and no data"
  }
}

run "the_project_gets_one_role" {
  assert {
    condition     = google_project_iam_member.build_logs.role == "roles/logging.logWriter"
    error_message = "log writing is the only role on the project"
  }
  assert {
    condition     = length(google_project_iam_member.run_kafka) == 0
    error_message = "the Kafka role comes with the cluster only"
  }
}

run "nobody_else_calls" {
  assert {
    condition     = length(google_cloud_run_v2_service_iam_member.invokers) == 0
    error_message = "the service is private unless invokers are named"
  }
}

run "named_secrets_only" {
  variables {
    secrets = { KAFKA_PASSWORD = "kafka-password", OTHER = "kafka-password" }
  }

  assert {
    condition     = keys(google_secret_manager_secret_iam_member.run) == ["kafka-password"] && google_secret_manager_secret_iam_member.run["kafka-password"].role == "roles/secretmanager.secretAccessor"
    error_message = "the program may read the secrets that are named"
  }
  assert {
    condition = length([
      for env in google_cloud_run_v2_service.this["writer"].template[0].containers[0].env :
      env if env.name == "KAFKA_PASSWORD" && env.value == "" || env.name == "KAFKA_PASSWORD" && env.value == null
    ]) == 1
    error_message = "a secret's value is never an environment variable of the definition"
  }
}
