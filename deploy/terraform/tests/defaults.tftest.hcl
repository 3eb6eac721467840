# With nothing but project and region: everything can be planned, and is private and protected.

mock_provider "google" {}

variables {
  project_id = "demo-project"
  region     = "europe-west1"
}

run "one_writer_that_never_sleeps" {
  command = plan

  assert {
    condition     = google_cloud_run_v2_service.this["writer"].scaling[0].min_instance_count == 1
    error_message = "the writer must always run"
  }
  assert {
    condition     = google_cloud_run_v2_service.this["writer"].template[0].scaling[0].max_instance_count == 1
    error_message = "there must be one writer"
  }
  assert {
    condition     = google_cloud_run_v2_service.this["writer"].template[0].scaling[0].min_instance_count == null
    error_message = "a minimum on the revision would keep old writers alive"
  }
  assert {
    condition     = google_cloud_run_v2_service.this["writer"].template[0].containers[0].resources[0].cpu_idle == false
    error_message = "the writer needs its CPU between requests"
  }
  assert {
    condition     = google_cloud_run_v2_service.this["writer"].deletion_protection
    error_message = "the writer must be protected"
  }
}

run "probes" {
  command = plan

  assert {
    condition = alltrue([
      for service in google_cloud_run_v2_service.this :
      service.template[0].containers[0].startup_probe[0].http_get[0].path == "/readyz"
      && service.template[0].containers[0].liveness_probe[0].http_get[0].path == "/livez"
    ])
    error_message = "started means ready, alive means answering"
  }
  assert {
    condition = alltrue([
      for service in google_cloud_run_v2_service.this :
      service.template[0].containers[0].startup_probe[0].period_seconds * service.template[0].containers[0].startup_probe[0].failure_threshold <= 240
    ])
    error_message = "Cloud Run refuses startup probes of more than 240 s"
  }
}

run "the_bucket_is_private_and_keeps_versions" {
  command = plan

  assert {
    condition     = google_storage_bucket.data.uniform_bucket_level_access && google_storage_bucket.data.public_access_prevention == "enforced"
    error_message = "the bucket must be private"
  }
  assert {
    condition     = google_storage_bucket.data.versioning[0].enabled && !google_storage_bucket.data.force_destroy
    error_message = "objects must survive a mistake"
  }
  assert {
    condition = alltrue([
      for rule in google_storage_bucket.data.lifecycle_rule :
      anytrue([
        try(one(rule.action[*].type) == "AbortIncompleteMultipartUpload", false),
        rule.condition[0].days_since_noncurrent_time != null,
        try(contains(rule.condition[0].matches_prefix, "rehearsals/"), false),
      ])
    ])
    error_message = "a lifecycle rule may delete rehearsals and older versions, and nothing else"
  }
}

run "nothing_optional" {
  command = plan

  assert {
    condition     = length(google_cloud_run_v2_job.batch) == 0 && length(google_managed_kafka_cluster.log) == 0 && length(google_sql_database_instance.source) == 0
    error_message = "what costs extra must be asked for"
  }
  assert {
    condition     = length(google_cloudbuild_trigger.release) == 0 && length(google_compute_network.this) == 0
    error_message = "no trigger without a repository, no network without a use"
  }
  assert {
    condition     = length(terraform_data.first_image) == 1
    error_message = "without an image the first one is built"
  }
  assert {
    condition     = keys(google_cloud_run_v2_service.this) == ["rehearsal", "writer"]
    error_message = "a writer and a rehearsal, no replicas"
  }
}

run "the_data_is_an_argument" {
  command = plan

  variables {
    image = "example/kaplan:1"
  }

  assert {
    condition     = slice(google_cloud_run_v2_service.this["writer"].template[0].containers[0].args, 0, 2) == tolist(["start", "--data"])
    error_message = "a program that does not know --data must refuse to start, not write to memory"
  }
  assert {
    condition     = length(terraform_data.first_image) == 0
    error_message = "an image that is given is not built"
  }
}
