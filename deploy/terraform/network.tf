# Private traffic of the service: to the network that is named, to a new one when a source needs it,
# or none at all.

locals {
  new_network = var.network == "" && (var.managed_kafka || var.cdc_source)
  in_vpc      = var.network != "" || local.new_network
  network     = local.new_network ? google_compute_network.this[0].id : var.network
  subnetwork  = local.new_network ? google_compute_subnetwork.this[0].id : var.subnetwork
}

resource "google_compute_network" "this" {
  count = local.new_network ? 1 : 0

  name                    = var.name
  auto_create_subnetworks = false
  depends_on              = [google_project_service.api]
}

resource "google_compute_subnetwork" "this" {
  count = local.new_network ? 1 : 0

  name                     = var.name
  region                   = var.region
  network                  = google_compute_network.this[0].id
  ip_cidr_range            = "10.84.0.0/24"
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}
