# The services: the writer (always one instance), an empty one for rehearsing releases, and read
# replicas. All private: a caller needs roles/run.invoker and a token.

locals {
  ingress = {
    all                               = "INGRESS_TRAFFIC_ALL"
    internal                          = "INGRESS_TRAFFIC_INTERNAL_ONLY"
    internal-and-cloud-load-balancing = "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"
  }

  # The data is named by an argument and not by a variable: a program that does not know it refuses to
  # start, where it would ignore a variable and keep everything in memory.
  services = merge(
    {
      writer = {
        name      = var.name
        args      = ["start", "--data", local.data]
        always_on = true
        max       = 1
      }
    },
    var.rehearsal ? {
      rehearsal = {
        name      = "${var.name}-rehearsal"
        args      = ["start", "--data", "gs://${google_storage_bucket.data.name}/rehearsals/none"]
        always_on = false
        max       = 1
      }
    } : {},
    var.read_replicas > 0 ? {
      replica = {
        name      = "${var.name}-read"
        args      = ["start", "--read-only", "--data", local.data]
        always_on = false
        max       = var.read_replicas
      }
    } : {},
  )

  env = merge(
    {
      # Cloud Run carries HTTP only.
      KAPLAN_POSTGRES   = "off"
      KAPLAN_LOG_FORMAT = "gcp"
      KAPLAN_LOG_LEVEL  = var.log_level
      # Google's front, and the load balancer where callers come through one.
      KAPLAN_TRUSTED_PROXIES = var.ingress == "internal-and-cloud-load-balancing" ? "2" : "1"
      # Traces of log lines belong to it.
      GOOGLE_CLOUD_PROJECT = var.project_id
    },
    var.settings,
  )
}

resource "google_cloud_run_v2_service" "this" {
  for_each = local.services

  name                = each.value.name
  location            = var.region
  ingress             = local.ingress[var.ingress]
  deletion_protection = each.key == "writer" && var.deletion_protection
  labels              = local.labels

  # The minimum belongs to the service and not to its revisions: then only a revision that gets
  # traffic is kept running, and an old one does not hold the log against a new one.
  scaling {
    min_instance_count = each.value.always_on ? 1 : 0
  }

  template {
    service_account                  = each.key == "replica" ? google_service_account.read[0].email : google_service_account.run.email
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    timeout                          = "${var.request_timeout_s}s"
    max_instance_request_concurrency = var.concurrency
    labels                           = local.labels

    scaling {
      max_instance_count = each.value.max
    }

    containers {
      image = local.image
      args  = each.value.args

      ports {
        name           = "http1"
        container_port = 8080
      }

      # Views take in commits, the archiver moves the log into the lake, and batch runs go on whether
      # or not a request is under way: the writer needs its CPU at all times.
      resources {
        cpu_idle          = !each.value.always_on
        startup_cpu_boost = true
        limits = {
          cpu    = var.cpu
          memory = var.memory
        }
      }

      dynamic "env" {
        for_each = local.env
        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        # Sources and sinks run in the writer alone, and so only it needs their passwords.
        for_each = each.key == "replica" ? {} : var.secrets
        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = env.value
              version = "latest"
            }
          }
        }
      }

      # Ready means recovered: 24 times 10 s is the longest that Cloud Run lets a start take.
      startup_probe {
        period_seconds    = 10
        timeout_seconds   = 5
        failure_threshold = 24
        http_get {
          path = "/readyz"
          port = 8080
        }
      }

      # Alive means that the process answers. Being behind or not ready is no reason to kill it: a
      # restart cures neither, and costs a recovery.
      liveness_probe {
        period_seconds    = 20
        timeout_seconds   = 10
        failure_threshold = 6
        http_get {
          path = "/livez"
          port = 8080
        }
      }
    }

    dynamic "vpc_access" {
      for_each = local.in_vpc ? [1] : []
      content {
        egress = "PRIVATE_RANGES_ONLY"
        network_interfaces {
          network    = local.network
          subnetwork = local.subnetwork
        }
      }
    }
  }

  # The pipeline releases images and moves traffic; everything else is changed here.
  lifecycle {
    ignore_changes = [
      client,
      client_version,
      template[0].containers[0].image,
      template[0].containers[0].name,
      template[0].revision,
      traffic,
    ]
  }

  depends_on = [
    google_secret_manager_secret_iam_member.run,
    google_storage_bucket_iam_member.read_data,
    google_storage_bucket_iam_member.run_data,
    terraform_data.first_image,
  ]
}

# Who else may call the writer and its replicas.
resource "google_cloud_run_v2_service_iam_member" "invokers" {
  for_each = {
    for pair in setproduct([for key in keys(local.services) : key if key != "rehearsal"], var.invokers) :
    "${pair[0]} ${pair[1]}" => { service = pair[0], member = pair[1] }
  }

  name     = google_cloud_run_v2_service.this[each.value.service].name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value.member
}
