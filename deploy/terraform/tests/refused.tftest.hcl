# What is refused before anything is created.

mock_provider "google" {}

variables {
  project_id = "demo-project"
  region     = "europe-west1"
  image      = "example/kaplan:1"
}

run "a_zone" {
  command = plan
  variables {
    region = "europe-west1-b"
  }
  expect_failures = [var.region]
}

run "a_project_number" {
  command = plan
  variables {
    project_id = "123456789012"
  }
  expect_failures = [var.project_id]
}

run "everybody" {
  command = plan
  variables {
    invokers = ["allUsers"]
  }
  expect_failures = [var.invokers]
}

run "a_job_that_is_not_there" {
  command = plan
  variables {
    batch_target = "job"
  }
  expect_failures = [var.batch_target]
}

run "half_a_connection" {
  command = plan
  variables {
    github_repository = "acme/kaplan"
  }
  expect_failures = [var.github_repository]
}

run "half_a_network" {
  command = plan
  variables {
    network = "shared"
  }
  expect_failures = [var.network]
}

run "a_password_among_the_settings" {
  command = plan
  variables {
    settings = { PGPASSWORD = "x" }
  }
  expect_failures = [var.settings]
}

run "an_uptime_check_that_cannot_arrive" {
  command = plan
  variables {
    ingress = "internal"
  }
  expect_failures = [google_monitoring_uptime_check_config.ready]
}
