# What is needed after `terraform apply`.

output "service_url" {
  description = "Address of the service."
  value       = google_cloud_run_v2_service.this["writer"].uri
}

output "read_url" {
  description = "Address of the read replicas, or null."
  value       = var.read_replicas > 0 ? google_cloud_run_v2_service.this["replica"].uri : null
}

output "data" {
  description = "Where log, lake, batch views and checkpoints lie."
  value       = local.data
}

output "image_name" {
  description = "What images are pushed to, without a tag."
  value       = local.image_name
}

output "accounts" {
  description = "The three service accounts."
  value = {
    run       = google_service_account.run.email
    build     = google_service_account.build.email
    scheduler = google_service_account.scheduler.email
  }
}

output "release_command" {
  description = "Releases the working copy as the trigger would."
  value = join(" ", [
    "gcloud builds submit --project=${var.project_id} --region=${var.region}",
    "--config=deploy/cloudbuild.yaml --service-account=${google_service_account.build.id}",
    "--gcs-source-staging-dir=gs://${google_storage_bucket.sources.name}/source",
    "--substitutions=${join(",", [for key, value in local.substitutions : "${key}=${value}"])}",
  ])
}

output "kafka_bootstrap" {
  description = "properties.bootstrap.server of the Kafka cluster, or null."
  value = var.managed_kafka ? join(".", [
    "bootstrap.${google_managed_kafka_cluster.log[0].cluster_id}",
    "${var.region}.managedkafka.${var.project_id}.cloud.goog:9092",
  ]) : null
}

output "postgres_host" {
  description = "Private address of the Cloud SQL source, or null."
  value       = var.cdc_source ? google_sql_database_instance.source[0].private_ip_address : null
}
