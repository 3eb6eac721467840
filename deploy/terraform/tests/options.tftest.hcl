# What each option adds.

mock_provider "google" {}

variables {
  project_id = "demo-project"
  region     = "europe-west1"
  image      = "example/kaplan:1"
}

run "read_replicas_are_billed_by_request" {
  variables {
    read_replicas = 3
    invokers      = ["group:data@example.com"]
  }

  assert {
    condition     = google_cloud_run_v2_service.this["replica"].template[0].scaling[0].max_instance_count == 3 && google_cloud_run_v2_service.this["replica"].template[0].containers[0].resources[0].cpu_idle
    error_message = "replicas scale with requests"
  }
  assert {
    condition     = google_cloud_run_v2_service.this["replica"].scaling[0].min_instance_count == 0
    error_message = "replicas sleep when nobody reads"
  }
  assert {
    condition     = contains(google_cloud_run_v2_service.this["replica"].template[0].containers[0].args, "--read-only")
    error_message = "a replica must never take the log over"
  }
  assert {
    condition     = google_cloud_run_v2_service.this["replica"].template[0].containers[0].args == tolist(["start", "--read-only", "--data", "gs://demo-project-kaplan/kaplan"]) && google_cloud_run_v2_service.this["writer"].template[0].containers[0].args == tolist(["start", "--data", "gs://demo-project-kaplan/kaplan"])
    error_message = "a replica follows the writer's place"
  }
  assert {
    condition     = google_service_account.read[0].account_id == "kaplan-read" && google_storage_bucket_iam_member.read_data[0].role == "roles/storage.objectViewer"
    error_message = "replicas have an account that can write nothing"
  }
  assert {
    condition     = toset(keys(google_cloud_run_v2_service_iam_member.invokers)) == toset(["replica group:data@example.com", "writer group:data@example.com"])
    error_message = "invokers call the writer and its replicas, not the rehearsal"
  }
}

run "a_job_with_more_memory" {
  variables {
    batch_job    = true
    batch_target = "job"
  }

  assert {
    condition     = google_cloud_run_v2_job.batch[0].template[0].template[0].containers[0].resources[0].limits["memory"] == "16Gi"
    error_message = "the job has memory of its own"
  }
  assert {
    condition     = google_cloud_run_v2_job.batch[0].template[0].template[0].containers[0].args == tolist(["batch", "--data", "gs://demo-project-kaplan/kaplan"])
    error_message = "the job computes by itself, beside the writer of this place"
  }
  assert {
    condition     = google_cloud_scheduler_job.batch[0].http_target[0].oauth_token[0].service_account_email == google_service_account.scheduler.email
    error_message = "Google's interface takes an access token"
  }
  assert {
    condition     = endswith(google_cloud_scheduler_job.batch[0].http_target[0].uri, "/jobs/kaplan-batch:run") && length(google_cloud_run_v2_service_iam_member.scheduler) == 0
    error_message = "the scheduler executes the job, and may not call the service"
  }
  assert {
    condition     = google_cloud_run_v2_job_iam_member.scheduler[0].name == "kaplan-batch"
    error_message = "the scheduler may execute this one job"
  }
}

run "no_schedule" {
  variables {
    batch_schedule = ""
  }

  assert {
    condition     = length(google_cloud_scheduler_job.batch) == 0 && length(google_cloud_run_v2_service_iam_member.scheduler) == 0
    error_message = "without a schedule the scheduler has no right either"
  }
}

run "continuous_deployment" {
  variables {
    github_repository          = "acme/kaplan"
    github_app_installation_id = 17
    github_token_secret        = "github-token"
  }

  assert {
    condition     = google_cloudbuild_trigger.release[0].repository_event_config[0].push[0].branch == "^main$"
    error_message = "main is released"
  }
  assert {
    condition     = alltrue([for key in keys(google_cloudbuild_trigger.release[0].substitutions) : startswith(key, "_")])
    error_message = "Cloud Build takes substitutions of users only with an underscore"
  }
  assert {
    condition     = google_cloudbuild_trigger.release[0].service_account == google_service_account.build.id
    error_message = "builds run under the build account"
  }
  assert {
    condition     = google_secret_manager_secret_iam_member.github_token[0].secret_id == "github-token"
    error_message = "Cloud Build's agent reads the token"
  }
}

run "an_existing_network" {
  variables {
    network    = "projects/demo-project/global/networks/shared"
    subnetwork = "projects/demo-project/regions/europe-west1/subnetworks/shared"
  }

  assert {
    condition     = google_cloud_run_v2_service.this["writer"].template[0].vpc_access[0].egress == "PRIVATE_RANGES_ONLY" && length(google_compute_network.this) == 0
    error_message = "private traffic goes to the network that is there"
  }
}

run "kafka_and_postgres" {
  variables {
    managed_kafka = true
    cdc_source    = true
  }

  assert {
    condition     = google_managed_kafka_topic.events[0].topic_id == "events" && length(google_compute_network.this) == 1
    error_message = "a cluster with a topic, in a network of its own"
  }
  assert {
    condition     = google_sql_database_instance.source[0].settings[0].ip_configuration[0].ipv4_enabled == false && google_sql_database_instance.source[0].settings[0].ip_configuration[0].ssl_mode == "ENCRYPTED_ONLY"
    error_message = "the database has no public address and speaks TLS only"
  }
  assert {
    condition     = anytrue([for flag in google_sql_database_instance.source[0].settings[0].database_flags : flag.name == "cloudsql.logical_decoding" && flag.value == "on"])
    error_message = "changes can be followed"
  }
  assert {
    condition     = contains(keys(google_project_service.api), "managedkafka.googleapis.com") && contains(keys(google_project_service.api), "sqladmin.googleapis.com")
    error_message = "the interfaces of the sources are switched on"
  }
}

run "alerts_reach_somebody" {
  variables {
    alert_email = "oncall@example.com"
  }

  assert {
    condition     = length(google_monitoring_notification_channel.email) == 1
    error_message = "there is a channel"
  }
  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.event : length(policy.notification_channels) == 1]) && length(google_monitoring_alert_policy.freshness.notification_channels) == 1 && length(google_monitoring_alert_policy.error_rate.notification_channels) == 1
    error_message = "and every alert uses it"
  }
  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.event : length(policy.documentation[0].content) > 40])
    error_message = "every alert says what to do"
  }
}

run "two_installations_in_one_project" {
  variables {
    name = "kaplan-test"
  }

  assert {
    condition     = google_storage_bucket.data.name == "demo-project-kaplan-test" && google_service_account.run.account_id == "kaplan-test-run" && google_cloud_run_v2_service.this["writer"].name == "kaplan-test"
    error_message = "all names begin with the name"
  }
  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.this.dashboard_json).mosaicLayout.tiles) == 8
    error_message = "the dashboard has its charts"
  }
}
